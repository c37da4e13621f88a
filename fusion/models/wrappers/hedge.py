"""Hedged: a call that takes long is asked a second time, of the next model of the chain; the first answer wins."""

import asyncio
import time
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from contextvars import copy_context
from decimal import Decimal
from typing import Any, Final, Protocol

from fusion.core import budget
from fusion.core.events import AttemptCharged, EventBase, HedgeSent, emit, span
from fusion.core.statistics import quantile
from fusion.core.types import Deltas, Reply, Request, Usage
from fusion.models.attempt import Departure, clock, departure
from fusion.models.base import Model, ModelInfo, ModelWrapper

_KEPT: Final = 200
_ENOUGH: Final = 10
"""Replies of a stage from which on their latencies are taken for known."""
_LATE: Final = 0.95
_USUAL: Final = 0.9
_TIMES_USUAL: Final = 2.0
"""Times the 90th percentile that are late in any case: a tail of twentieths blurs the 95th."""
_TIMES_MIDDLE: Final = 1.5
"""Times the median below which no reply is late: where all take the same time, the last twentieth is no tail."""
_LEAST: Final = 0.1
"""Seconds below which no reply is late."""
_SHARE: Final = 0.05
"""Part of the spend so far that hedges may add."""
_FREE: Final = 5
"""Hedges of a process beyond that part, since late calls come in clusters."""
_RUNS: Final = 1_000
_NOTHING: Final = Decimal(0), 0


class Habit:
    """Latencies of the last replies of one model in one stage, and what they used."""

    def __init__(self) -> None:
        self.replies = 0
        self._seconds: deque[float] = deque(maxlen=_KEPT)
        self._used = Usage()
        self._late: float | None = None

    def add(self, seconds: float, usage: Usage | None = None) -> None:
        """Record a reply; without a usage, one that was given up after so many seconds."""
        self._seconds.append(seconds)
        self._late = None
        if usage is not None:
            self.replies += 1
            self._used += usage

    @property
    def late(self) -> float | None:
        """The seconds after which a reply is late; None while too few are known."""
        if self._late is None and len(self._seconds) >= _ENOUGH:
            middle, usual = (quantile(self._seconds, share) for share in (0.5, _USUAL))
            late = min(quantile(self._seconds, _LATE), _TIMES_USUAL * usual)
            self._late = max(_LEAST, _TIMES_MIDDLE * middle, late)
        return self._late

    def mean(self) -> Usage:
        """Return the mean usage of a reply."""
        return Usage(input=self._used.input // self.replies, output=self._used.output // self.replies)


class Hedging:
    """Latencies by stage and model, and the allowance of hedges: 5% of what their runs spent, and five."""

    def __init__(self) -> None:
        self._habits: dict[tuple[str, str], Habit] = {}
        self._spent: dict[str, tuple[Decimal, int]] = {}
        self._lost: dict[str, tuple[Decimal, int]] = {}
        self._extra = _NOTHING

    def habit(self, stage: str, model: str) -> Habit:
        """Return the latencies of a model in a stage."""
        return self._habits.setdefault((stage, model), Habit())

    def spend(self) -> None:
        """Take in what the current run has spent so far, hedges aside."""
        here, level = span.get(), budget.current.get()
        if here is None or level is None:
            return
        while level.parent is not None:
            level = level.parent
        usd, tokens = self._lost.get(here.run_id, _NOTHING)
        if len(self._spent) > _RUNS:
            self._spent, self._lost = {"": _sum(self._spent.values())}, {}
        self._spent[here.run_id] = (level.spent.usd or Decimal(0)) - usd, level.spent.tokens - tokens

    def lose(self, charged: AttemptCharged) -> None:
        """Take in the charge of an attempt that a hedge has beaten: it is no base of further hedges."""
        before = self._lost.get(charged.run_id, _NOTHING)
        self._lost[charged.run_id] = _sum([before, (charged.cost or Decimal(0), charged.usage.total)])

    def allows(self, usage: Usage, *infos: ModelInfo) -> bool:
        """Book a hedge of so many tokens, in dollars if all prices are known; False if it is beyond the allowance."""
        prices = [info.price for info in infos]
        usd = max([price.of(usage) for price in prices if price is not None], default=Decimal(0))
        extra_usd, extra_tokens = self._extra[0] + usd, self._extra[1] + usage.total
        spent_usd, spent_tokens = _sum(self._spent.values())
        if usd and None not in prices:
            within = float(extra_usd - _FREE * usd) <= _SHARE * float(spent_usd)
        else:
            within = extra_tokens - _FREE * usage.total <= _SHARE * spent_tokens
        if within:
            self._extra = extra_usd, extra_tokens
        return within


def _sum(amounts: Iterable[tuple[Decimal, int]]) -> tuple[Decimal, int]:
    usd, tokens = Decimal(0), 0
    for one in amounts:
        usd, tokens = usd + one[0], tokens + one[1]
    return usd, tokens


class Rival(Protocol):
    """Another model of the chain."""

    @property
    def info(self) -> ModelInfo: ...

    @property
    def primary(self) -> Model: ...

    @property
    def is_ready(self) -> bool:
        """True if the model would take a call now."""


class Hedged(ModelWrapper):
    """A model whose late calls are asked a second time: of the first of `rivals` that is ready, else of `itself`.

    A call is late once it takes longer than the 95th percentile of the stage's last replies, counted from the moment
    it is sent. The first usable answer wins; the other attempt is cancelled and charged, with an AttemptCharged event
    marked as `hedge`. Of a streamed reply, the first chunk wins. A call is hedged at most once, and only within the
    allowance of its Hedging. `asked` is the model named as requested in replies.
    """

    def __init__(
        self, inner: Model, *, rivals: Sequence[Rival], itself: Model, stage: str, asked: ModelInfo, hedging: Hedging
    ) -> None:
        super().__init__(inner)
        self._rivals = rivals
        self._itself = itself
        self._stage = stage
        self._asked = asked
        self._hedging = hedging
        self._habit = hedging.habit(stage, inner.info.id)

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        late = self._habit.late
        if late is None or (on_delta is not None and on_delta.committed):
            reply = await self.inner.complete(request, on_delta)
            self._habit.add(reply.latency, reply.usage)
        else:
            reply = await self._raced(request, on_delta, late)
        self._hedging.spend()
        return reply

    async def _raced(self, request: Request, on_delta: Deltas | None, late: float) -> Reply:
        race = _Race(request, on_delta)
        first = race.start(self.inner, self.inner.info)
        try:
            if await first.is_late(late) and (rival := self._rival()) is not None:
                emit(HedgeSent, model=self.info.id, rival=rival[1].id, after=round(late, 3))
                race.start(*rival)
            winner, reply = await race.winner()
        finally:
            await race.end()
        self._learn(race, winner, reply)
        if winner.info.id == self.info.id:
            return reply
        return reply.model_copy(update={"asked": self._asked.id, "by": winner.info.id})

    def _rival(self) -> tuple[Model, ModelInfo] | None:
        """Return the model to ask too; None if the allowance is used up."""
        ready = next((one for one in self._rivals if one.is_ready), None)
        model, info = (self._itself, self.info) if ready is None else (ready.primary, ready.info)
        self._hedging.spend()
        return (model, info) if self._hedging.allows(self._habit.mean(), self.info, info) else None

    def _learn(self, race: "_Race", winner: "_Lane", reply: Reply) -> None:
        first = race.lanes[0]
        for lane in race.lanes:
            for charged in lane.charged:
                self._hedging.lose(charged)
        if winner is first:
            self._habit.add(reply.latency, reply.usage)
            return
        self._habit.add(first.seconds)
        self._hedging.habit(self._stage, winner.info.id).add(reply.latency, reply.usage)
        here = clock.get()
        if here is not None:
            here.failed += max(0.0, first.seconds - reply.latency)


class _Race:
    """One call on its way to one model, and maybe to a second one."""

    def __init__(self, request: Request, to: Deltas | None) -> None:
        self.lanes: list[_Lane] = []
        self._request = request
        self._to = to
        self._claimed: _Lane | None = None

    def start(self, model: Model, info: ModelInfo) -> "_Lane":
        """Send the call to a model."""
        deltas = None if self._to is None else _LaneDeltas(self, len(self.lanes), self._to)
        lane = _Lane(model.complete(self._request, deltas), info, deltas)
        self.lanes.append(lane)
        return lane

    def claims(self, number: int) -> bool:
        """Return True if the chunks of this lane are those to show: it is the first to have one."""
        lane = self.lanes[number]
        if self._claimed is None:
            self._claimed = lane
            for other in self.lanes:
                if other is not lane:
                    other.lose()
        return self._claimed is lane

    async def winner(self) -> tuple["_Lane", Reply]:
        """Return the first lane with a reply. Raises the error of the first lane if none has one."""
        pending = {lane.task: lane for lane in self.lanes}
        while pending:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=list(pending).index):
                lane = pending.pop(task)
                if not task.cancelled() and task.exception() is None:
                    for other in self.lanes:
                        if other is not lane:
                            other.lose()
                    return lane, task.result()
        failed = [lane for lane in self.lanes if not lane.lost] or self.lanes
        return failed[0], await failed[0].task

    async def end(self) -> None:
        """Cancel what is under way, and charge a second reply that no one reads."""
        for lane in self.lanes:
            lane.task.cancel()
        await asyncio.wait([lane.task for lane in self.lanes])
        for lane in self.lanes:
            if lane.lost:
                lane.charge_reply()


class _Lane:
    """One of the requests of a race: its task, its events, and the time of its sending."""

    def __init__(self, work: Coroutine[Any, Any, Reply], info: ModelInfo, deltas: "_LaneDeltas | None") -> None:
        self.info = info
        self.lost = False
        self.charged: list[AttemptCharged] = []
        self._deltas = deltas
        self._departure = Departure()
        self._ended: float | None = None
        self._span = span.get()
        context = copy_context()
        context.run(departure.set, self._departure)
        if self._span is not None:
            context.run(span.set, self._span._replace(sink=self._take))
        self.task = asyncio.get_running_loop().create_task(work, context=context)

    @property
    def seconds(self) -> float:
        """Seconds from the sending to the end of the lane; 0 if it was not sent."""
        ended = time.perf_counter() if self._ended is None else self._ended
        return 0.0 if self._departure.first is None else ended - self._departure.first

    async def is_late(self, late: float) -> bool:
        """Wait until the request takes too long; False if it ended, or has begun to reply, before."""
        while not self.task.done():
            left = self._departure.left(late)
            if left is not None and left <= 0:
                break
            sent = asyncio.ensure_future(self._departure.sent.wait())
            try:
                waited_for = {self.task} if left is not None else {self.task, sent}
                await asyncio.wait(waited_for, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            finally:
                sent.cancel()
        return not self.task.done() and (self._deltas is None or not self._deltas.any)

    def lose(self) -> None:
        """Cancel the request, since the other one has an answer."""
        if not self.lost:
            self.lost, self._ended = True, time.perf_counter()
            self.task.cancel()

    def charge_reply(self) -> None:
        """Report the cost of a reply that came second."""
        if not self.task.cancelled() and self.task.exception() is None:
            reply = self.task.result()
            emit(AttemptCharged, model=self.info.id, usage=reply.usage, cost=reply.cost, hedge=True)

    def _take(self, event: EventBase) -> None:
        assert self._span is not None
        if self.lost and isinstance(event, AttemptCharged):
            event = event.model_copy(update={"hedge": True})
            self.charged.append(event)
        self._span.sink(event)


class _LaneDeltas:
    """Forwards the chunks of a lane if it is the one to show. `any` is True once it had a chunk."""

    def __init__(self, race: _Race, number: int, to: Deltas) -> None:
        self.any = False
        self._race = race
        self._number = number
        self._to = to

    @property
    def committed(self) -> bool:
        return self.any and self._to.committed

    def add(self, text: str) -> None:
        if self._race.claims(self._number):
            self.any = True
            self._to.add(text)

    def restart(self) -> None:
        if self.any:
            self._to.restart()
