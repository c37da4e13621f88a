"""Cluster: the connection of a process to a Ray cluster, and the nodes of it that run rows."""

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from fusion.bulk.executors.ray.actor import RayNode
from fusion.bulk.executors.ray.messages import Order
from fusion.core.errors import UsageError

_CLIENT: Final = "ray://"
_CLIENT_PORT: Final = 10001
_ANSWER_SECONDS: Final = 5.0
ROWS: Final = 100
"""Rows at once on a node, at most."""
_CPUS: Final = 0.01
"""CPUs of a node that its actor reserves: rows wait for models, and other work of the cluster keeps its place."""
_CALLS: Final = 1000
"""Calls of an actor at once; the rows that run at once are limited by its node."""


class ClusterNode(NamedTuple):
    """A live node of a cluster: its id in Ray, and its name."""

    node_id: str
    name: str


class Cluster:
    """A connection to a Ray cluster, one a process. It ends with `close`, or with the process."""

    def __init__(self, address: str | None) -> None:
        """Join the cluster at this address, or the one of this machine; start one here if there is none.

        Raises UsageError.
        """
        import ray

        self.address = _found(address)
        try:
            ray.init(
                self.address,
                namespace="fusion",
                log_to_driver=False,
                logging_level="ERROR",
                include_dashboard=False if self.address == "local" else None,
            )
        except Exception as error:  # Ray raises errors of many kinds
            raise UsageError(_advice(self.address, error)) from error

    def nodes(self) -> list[ClusterNode]:
        """Return the live nodes that have CPUs: a head without any is for the cluster's own work."""
        import ray

        found = [one for one in ray.nodes() if one["Alive"] and one["Resources"].get("CPU", 0) > 0]
        return [ClusterNode(one["NodeID"], one["NodeManagerHostname"] or one["NodeManagerAddress"]) for one in found]

    def actor(self, node: ClusterNode, order: Order) -> Any:
        """Return a new actor on a node. It stays there: restarted with its process, and gone with its node."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        kind = ray.remote(RayNode).options(
            num_cpus=_CPUS,
            max_restarts=-1,
            max_task_retries=0,  # the rows of a lost call go to another node, and not to this one
            max_concurrency=_CALLS,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False),
        )
        return kind.remote(order.terms, order.place, min(ROWS, order.concurrency))

    def kill(self, actor: Any) -> None:
        """End an actor, with the rows that still run in it."""
        import ray

        with suppress(Exception):  # it is gone, or its cluster
            ray.kill(actor)

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        import ray

        with suppress(Exception):  # the cluster is gone
            ray.shutdown()


def _found(address: str | None) -> str:
    """Return the address to give to Ray. Raises UsageError if no cluster answers there.

    Ray itself would wait for minutes.
    """
    given = address or os.environ.get("RAY_ADDRESS") or ""
    if given in ("", "auto"):
        last = _last_of_machine()
        if last is None or not _answers(last):
            if given == "auto":
                raise UsageError(
                    "no Ray cluster runs on this machine, as RAY_ADDRESS says: `ray start --head` starts one"
                )
            return "local"
        return last
    if given != "local" and not _answers(given):
        raise UsageError(
            f"no Ray cluster answers at {given}: check the address, and that the head runs there (`ray status`); "
            f"the port of {_CLIENT} is {_CLIENT_PORT} unless it was set, and a plain address is that of the GCS, 6379"
        )
    return given


def _last_of_machine() -> str | None:
    """Return the address of the cluster that was started last on this machine, from the file that Ray keeps of it."""
    try:
        return (Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster").read_text().strip()  # noqa: S108
    except OSError:
        return None


def _answers(address: str) -> bool:
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        port = parts.port or _CLIENT_PORT
        with socket.create_connection((parts.hostname or "", port), timeout=_ANSWER_SECONDS):
            return True
    except (OSError, ValueError):
        return False


def _advice(address: str, error: Exception) -> str:
    """Return what is wrong with a connection, and what to do."""
    said = " ".join(str(error).split())
    place = "a Ray cluster cannot be started here" if address == "local" else f"the Ray cluster at {address} refused"
    if "mismatch" in said or "versions differ" in said:
        return f"{place}: {said}; Ray and Python must have the same versions everywhere: install those of the cluster"
    if "oken" in said:
        return f"{place}: {said}; give this machine the token of the cluster (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN)"
    return f"{place}: {said}"
