"""A Ray cluster of one head and two nodes on this machine. A line on standard input adds a node; its end ends all.

Each node has a key of its own, so that a provider knows which one asks.
"""

import json
import os
import sys
from typing import Any

from tests.bulk.executors.ray.ground import SETTINGS, hurry

SMALL = {"include_dashboard": False, "object_store_memory": 80_000_000}


def tell(what: Any) -> None:
    sys.stdout.write(f"{json.dumps(what)}\n")
    sys.stdout.flush()


def main() -> None:
    os.environ.update(SETTINGS)
    hurry()
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **SMALL})
    nodes = [_node(cluster, number) for number in (1, 2)]
    cluster.wait_for_nodes()
    tell({"address": cluster.address, "raylets": nodes})
    for number, _ in enumerate(sys.stdin, start=3):
        tell({"raylet": _node(cluster, number)})
    cluster.shutdown()


def _node(cluster: Any, number: int) -> int:
    env = {"OPENAI_API_KEY": f"sk-test-of-node-{number}"}
    node = cluster.add_node(num_cpus=1, env_vars=env, wait=False, **SMALL)
    return int(node.all_processes["raylet"][0].process.pid)


if __name__ == "__main__":
    main()
