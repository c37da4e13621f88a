"""Cluster: the connection of a process to a Ray cluster, and the nodes of it that run rows."""

from contextlib import suppress
from typing import Any, Final, NamedTuple

from fusion.bulk.executors.ray.actor import RayNode
from fusion.bulk.executors.ray.address import LOCAL, advice, found, may_pass
from fusion.bulk.executors.ray.messages import Order
from fusion.core.errors import UsageError

_TRIES: Final = 3
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

        place = found(address)
        for left in reversed(range(_TRIES)):
            try:
                ray.init(
                    place.given,
                    namespace="fusion",
                    log_to_driver=False,
                    logging_level="ERROR",
                    include_dashboard=False if place.given == LOCAL else None,
                )
            except Exception as error:  # Ray raises errors of many kinds
                if not (left and may_pass(error)):
                    raise UsageError(advice(place.shown, error)) from error
            else:
                return

    def nodes(self) -> list[ClusterNode]:
        """Return the live nodes that have CPUs: a head without any is for the cluster's own work.

        Raises ConnectionError if the head does not answer.
        """
        import ray

        try:
            nodes = ray.nodes()
        except Exception as error:  # Ray raises errors of many kinds
            raise ConnectionError(str(error)) from error
        found = [one for one in nodes if one["Alive"] and one["Resources"].get("CPU", 0) > 0]
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
