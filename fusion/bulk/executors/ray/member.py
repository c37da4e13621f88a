"""Member: one node of a cluster with its actor, from its first greeting until it leaves."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from fusion import __version__
from fusion.bulk.executors.base import RowEnd
from fusion.bulk.executors.ray.cluster import ROWS, Cluster, ClusterNode
from fusion.bulk.executors.ray.messages import Order
from fusion.core.errors import FusionError, UnfitError

_PAUSE: Final = 1.0
"""Seconds between two tries to reach an actor."""
_STARTS: Final = 3
"""Actors that may die as they start before their node is left out."""
_CALL_SECONDS: Final = 0.5
"""Seconds that a call should take: the rows of a call are as many as end in that time."""
_FIRST, _MOST = 10, 100
"""Rows of the first call to a node, and of the largest one."""
Ends = tuple[Sequence[RowEnd], FusionError | None]
"""Ends of the rows of a call, and the error that kept the others from ending."""


class LostError(Exception):
    """The process or the node of a call died, or cannot be reached."""


class Member:
    """One node of a cluster with its actor.

    `ready` is True while rows may be given to it, `rows` is the number of those that it has, `size` the number of
    rows of its next call. `fault` is the reason why it can run none.
    """

    def __init__(self, cluster: Cluster, node: ClusterNode, order: Order) -> None:
        self.node = node
        self.ready = False
        self.rows = 0
        self.size = _FIRST
        self.fault: FusionError | None = None
        self._cluster = cluster
        self._order = order
        self._actor: Any = None
        self._lost = asyncio.Event()
        self._left: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def has_room(self) -> bool:
        """True if more rows should wait in the actor: enough for two calls behind the rows that run."""
        return self.ready and self.rows < min(ROWS, self._order.concurrency) + 2 * self.size

    async def join(self) -> None:
        """Wait until the actor can run rows. Raises UnfitError if it cannot, LostError if the node is gone."""
        from ray.exceptions import ActorDiedError, RayError

        starts = 0
        while not self._left.done():
            if self._actor is None:
                starts += 1
                self._actor = self._cluster.actor(self.node, self._order)
            try:
                error = await self._actor.hello.remote()
            except ActorDiedError as died:
                if starts >= _STARTS or "No module named" in str(died):
                    raise UnfitError(_reason(self.node, died)) from died
                self._actor = None
            except RayError:
                await asyncio.sleep(_PAUSE)
            else:
                if error is not None:
                    raise error
                self._lost.clear()
                self.ready = True
                return
        raise LostError

    async def lost(self) -> None:
        """Wait until the actor cannot be reached, and for a moment then."""
        await self._lost.wait()
        await asyncio.sleep(0 if self._left.done() else _PAUSE)

    async def run(self, numbers: tuple[int, ...]) -> Ends:
        """Have rows run. Raises LostError."""
        clock = asyncio.get_running_loop().time
        began, rows = clock(), self.rows
        ends, error = await self._answer(self._actor.run, numbers)
        if ends:
            speed = rows / max(clock() - began, 1e-3)
            self.size = max(1, min(_MOST, round((self.size + speed * _CALL_SECONDS) / 2)))
        return ends, error

    async def give_up(self, numbers: tuple[int, ...], reason: str) -> Ends:
        """End rows as failed. Raises LostError."""
        return await self._answer(self._actor.give_up, numbers, reason)

    def pause(self) -> None:
        """Take no more rows until the actor answers again."""
        self.ready = False
        self._lost.set()

    def leave(self) -> None:
        """Give up the calls to a node that has left the cluster."""
        self._left.set_result(None)
        self.pause()

    async def close(self) -> None:
        """Interrupt the rows that run; the actor can be ended then."""
        if self._actor is not None and self.ready:
            self.ready = False
            await self._actor.close.remote()

    def end(self) -> None:
        """End the actor."""
        if self._actor is not None:
            self._cluster.kill(self._actor)

    async def _answer(self, method: Any, *arguments: Any) -> Ends:
        """Call the actor. The call ends by itself, also if its answer is no longer awaited."""
        from ray.exceptions import RayError, RayTaskError

        if self._left.done():
            raise LostError
        call = asyncio.ensure_future(_awaited(method.remote(*arguments)))
        call.add_done_callback(_noticed)
        either: list[asyncio.Future[Any]] = [call, self._left]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not call.done():
            raise LostError
        try:
            return call.result()
        except RayTaskError:
            raise  # an internal error
        except RayError as error:
            self.pause()
            raise LostError from error


async def _awaited(call: Any) -> Ends:
    return await call  # type: ignore[no-any-return]  # as RayNode has it


def _noticed(call: "asyncio.Task[Ends]") -> None:
    """Mark the error of a call as seen: its waiter may have left."""
    if not call.cancelled():
        call.exception()


def _reason(node: ClusterNode, died: Exception) -> str:
    said = " ".join(str(died).split())
    if "No module named" in said:
        missing = said.partition("No module named")[2].split()[0].strip("'\\n")
        return (
            f"{node.name} has no module {missing}: install `compound-fusion[ray,postgres]=={__version__}` there, as "
            "on every node"
        )
    return f"{node.name} cannot start an actor: {said[-500:]}"
