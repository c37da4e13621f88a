"""Pool: the rows of a map on the nodes of a cluster, given to each node as it has room."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from fusion.bulk.executors.base import RowEnd
from fusion.bulk.executors.ray.cluster import Cluster, ClusterNode
from fusion.bulk.executors.ray.member import Ends, LostError, Member
from fusion.bulk.executors.ray.messages import Order
from fusion.core.errors import FusionError, StoreError, UsageError

_LOOK_SECONDS: Final = 2.0
"""Seconds between two looks at the nodes of the cluster."""
_WAIT_SECONDS: Final = 60.0
"""Seconds in which a cluster without a node may get one, and a head that does not answer may answer again."""
_STOP_SECONDS: Final = 15.0
"""Seconds in which actors may record that their rows were interrupted."""
_SUSPECT: Final = 2
"""Deaths of their process after which rows are given out one at a time, to find the one that ends it."""
_DEATHS: Final = 5
"""Deaths of its process after which a row has failed."""
_STUMBLES: Final = 30
"""Failures of the store, one after another, after which the map ends."""


class Portion(NamedTuple):
    """Rows of one call, with the number of processes that died while they ran."""

    numbers: tuple[int, ...]
    deaths: int = 0


class Pool:
    """Runs rows on every node of a cluster, also on those that join later.

    The rows of a node that died are given to others. Locks in the store decide whether they still run.
    """

    def __init__(
        self, cluster: Cluster, order: Order, ended: Callable[[Sequence[RowEnd]], None], note: Callable[[str], None]
    ) -> None:
        self._cluster = cluster
        self._order = order
        self._ended = ended
        self._note = note
        self._members: dict[str, Member] = {}
        self._rows = Rows()
        self._under_way = 0
        self._stumbles = 0
        self._whole = False
        self._changed = asyncio.Event()

    def add(self, numbers: Iterable[int]) -> None:
        """Take rows to run."""
        self._rows.new.extend(numbers)
        self._changed.set()

    def no_more(self) -> None:
        """Let `run` end with the rows that it has."""
        self._whole = True
        self._changed.set()

    async def run(self) -> None:
        """Run all rows. Raises FusionError, in a group, if they cannot run on any node."""
        async with asyncio.TaskGroup() as group:
            services = group.create_task(self._serve())
            while not (self._whole and not self._rows and not self._under_way):
                self._give(group)
                await self._changed.wait()
                self._changed.clear()
            services.cancel()

    async def close(self) -> None:
        """Interrupt the rows that run, and end all actors."""
        closing = [asyncio.ensure_future(member.close()) for member in self._members.values()]
        if closing:
            await asyncio.wait(closing, timeout=_STOP_SECONDS)
            for one in closing:
                one.cancel()
            await asyncio.gather(*closing, return_exceptions=True)
        for member in self._members.values():
            member.end()

    # Rows.

    def _give(self, group: asyncio.TaskGroup) -> None:
        """Give rows to the nodes that have room, to the emptiest one first."""
        while (size := self._order.concurrency - self._under_way) > 0 and (member := self._free()) is not None:
            if (portion := self._rows.take(min(size, member.size, self._share))) is None:
                return
            self._under_way += len(portion.numbers)
            member.rows += len(portion.numbers)
            group.create_task(self._call(member, portion))

    def _free(self) -> Member | None:
        found = [one for one in self._members.values() if one.has_room]
        return min(found, key=lambda one: one.rows, default=None)

    @property
    def _share(self) -> int:
        """The most rows of a call that leave the other nodes as many of those at once, and of the last ones."""
        rows = min(self._order.concurrency, self._under_way + len(self._rows.new))
        return max(1, rows // (2 * sum(one.ready for one in self._members.values())))

    async def _call(self, member: Member, portion: Portion) -> None:
        """Have rows run on a node; those without an end are given out again."""
        ends: Sequence[RowEnd] = ()
        error: FusionError | None = None
        died = False
        try:
            ends, error = await _called(member, portion)
        except LostError:
            died = True
        self._ended(ends)
        self._rows.back(portion, {end.number for end in ends}, died=died)
        self._under_way -= len(portion.numbers)
        member.rows -= len(portion.numbers)
        self._stumbles = 0 if ends else self._stumbles
        if error is not None:
            self._failed(member, error)
        self._changed.set()

    # Nodes.

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as group:
            await self._watch(group.create_task)

    async def _watch(self, start: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        """Add the nodes that join, and drop those that left.

        Raises UsageError if there is none for long, and ConnectionError if the head does not answer for long.
        """
        clock = asyncio.get_running_loop().time
        last = clock()
        while True:
            try:
                nodes = await asyncio.to_thread(self._cluster.nodes)
            except ConnectionError:  # Ray may connect again
                if clock() - last > _WAIT_SECONDS:
                    raise
            else:
                self._compare({one.node_id: one for one in nodes}, start)
                last = clock() if nodes else last
                if clock() - last > _WAIT_SECONDS:
                    raise UsageError(
                        f"the Ray cluster has had no node with CPUs for {_WAIT_SECONDS:g} s; start one with "
                        "`ray start`, then go on with the same command"
                    )
            await asyncio.sleep(_LOOK_SECONDS)

    def _compare(
        self, nodes: Mapping[str, ClusterNode], start: Callable[[Coroutine[Any, Any, None]], object]
    ) -> None:
        for node_id in self._members.keys() - nodes.keys():
            self._drop(self._members.pop(node_id))
        for node_id in nodes.keys() - self._members.keys():
            self._members[node_id] = member = Member(self._cluster, nodes[node_id], self._order)
            start(self._tend(member))

    def _drop(self, member: Member) -> None:
        member.leave()
        self._note(f"node {member.node.name} left the cluster; its rows go to other nodes")

    async def _tend(self, member: Member) -> None:
        """Take a node in each time that its actor is ready; leave it out if it cannot run rows."""
        try:
            while True:
                await member.join()
                self._changed.set()
                await member.lost()
        except LostError:
            return
        except FusionError as error:
            self._leave_out(member, error)

    def _failed(self, member: Member, error: FusionError) -> None:
        """Give a node no more rows for a moment, if its store failed, else at all."""
        if not isinstance(error, StoreError):
            self._leave_out(member, error)
            return
        self._stumbles += 1
        if self._stumbles > _STUMBLES:
            raise error
        member.pause()

    def _leave_out(self, member: Member, error: FusionError) -> None:
        """Give a node no more rows. Raises the error if there is no other node."""
        member.ready, member.fault = False, error
        if all(one.fault is not None for one in self._members.values()):
            raise error
        self._note(f"node {member.node.name} runs no rows: {error}")


class Rows:
    """Rows that are to run: those of dead nodes first, then suspects one at a time, then new ones."""

    def __init__(self) -> None:
        self.new: deque[int] = deque()
        self._returned: deque[Portion] = deque()
        self._suspects: deque[Portion] = deque()
        self._suspected = False

    def __bool__(self) -> bool:
        return bool(self.new or self._returned or self._suspects)

    def take(self, size: int) -> Portion | None:
        """Return the rows of the next call, at most `size` new ones, if there are any."""
        if self._returned:
            return self._returned.popleft()
        if self._suspects and not self._suspected:
            self._suspected = True
            return self._suspects.popleft()
        if not self.new:
            return None
        return Portion(tuple(self.new.popleft() for _ in range(min(size, len(self.new)))))

    def back(self, portion: Portion, ended: set[int], *, died: bool) -> None:
        """Take rows back that have no end."""
        if portion.deaths >= _SUSPECT:
            self._suspected = False
        deaths = portion.deaths + died
        left = tuple(number for number in portion.numbers if number not in ended)
        if left and deaths < _SUSPECT:
            self._returned.append(Portion(left, deaths))
        elif left:
            self._suspects.extend(Portion((number,), deaths) for number in left)


async def _called(member: Member, portion: Portion) -> Ends:
    if portion.deaths < _DEATHS:
        return await member.run(portion.numbers)
    reason = f"{portion.deaths} processes died while this row ran; the logs of Ray on its nodes may say why"
    return await member.give_up(portion.numbers, reason)
