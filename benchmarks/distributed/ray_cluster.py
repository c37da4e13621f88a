"""A test cluster of Ray: a head without CPUs, and nodes whose raylets have processes of their own.

    python -m benchmarks.distributed.ray_cluster CONFIG NODES

prints its address. `kill` on standard input kills a node and its children; `close`, or its end, ends the cluster.
"""

import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "240",  # a busy machine starts slowly
    "RAY_worker_register_timeout_seconds": "240",
}
_SMALL: dict[str, Any] = {"object_store_memory": 80_000_000, "include_dashboard": False}


def main(config: str, count: int) -> None:
    """Serve until `close`."""
    os.environ.update(_SETTINGS, FUSION_CONFIG=config)

    from ray.cluster_utils import Cluster

    logging.getLogger("ray").setLevel(logging.ERROR)
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # prints of Ray
    try:
        cluster: Any = Cluster(initialize_head=True, connect=False, head_node_args={"num_cpus": 0, **_SMALL})
        members = [cluster.add_node(num_cpus=1, wait=False, **_SMALL) for _ in range(count)]
    except Exception:
        for pid in _children(os.getpid()):
            os.kill(pid, signal.SIGKILL)
        raise
    print(cluster.address, file=out)
    for line in sys.stdin:
        if line.strip() == "kill":
            _kill(members.pop())
            print("killed", file=out)
        else:
            break
    cluster.shutdown()


def _kill(member: Any) -> None:
    """Kill the raylet of a node and what it has started."""
    (raylet,) = (info.process for info in member.all_processes["raylet"])
    for pid in [raylet.pid, *_children(raylet.pid)]:
        os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    own = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*own, *(below for one in own for below in _children(one))]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
