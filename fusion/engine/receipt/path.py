"""Critical path: splits the time of a run by the calls that its end waited for, and tells what reused calls saved."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from operator import attrgetter
from typing import Final, NamedTuple

from fusion.core.result import Times
from fusion.core.types import Waited
from fusion.pipeline.dataflow import Dataflow

Place = tuple[str, int | None, str]
"""Stage, item and step of a call."""
_Group = tuple[str, int | None] | str
"""The calls of a stage, or those of one of its items."""


class Upstream(NamedTuple):
    """The stages that a stage depends on; with `by_item`, each of its items depends on the same item of those."""

    stages: frozenset[str]
    by_item: bool


Upstreams = Callable[[], Mapping[str, Upstream]]

_CAUSES: Final = tuple(Waited.model_fields)
_WAITS: Final = attrgetter(*_CAUSES)
_NO_WAITS: Final = (0.0,) * len(_CAUSES)
_NEVER: Final = float("-inf")
_KEPT: Final = 1_000
"""Ends that are kept, to find the one before the start of a tool."""

_Spent = tuple[float, float, tuple[float, ...]]
"""Seconds of models, of tools, and of each wait."""
_START: Final[_Spent] = 0.0, 0.0, _NO_WAITS
_Open = tuple[float, float, _Spent]
"""The start of a call, its start had reused calls taken their time, and the times of the calls before it."""


class CriticalPath:
    """The chain of calls behind the end of a run: each call is preceded by the one that ended last before it began.

    The time of a call is the latency of its model and its waits. Calls of tools and commands are links of the chain
    too, unless they made calls of models themselves. All other time of the run is its own. Moments are seconds since
    1970.

    The saved time supposes that a call begins after the calls of the stages that its own depends on, by item where
    items flow, and after those of its own stage that ended before it, other items excepted.
    """

    def __init__(self, upstreams: Upstreams) -> None:
        self._upstreams = upstreams
        self._open: dict[Place, _Open] = {}
        self._last = _START
        self._past: deque[tuple[float, _Spent]] = deque(maxlen=_KEPT)
        self._latest: dict[tuple[str, int | None], float] = {}
        """Start of the call of a model that ended last, by stage and item."""
        self._end = self._late_end = _NEVER
        self._ends: dict[_Group, float] = {}
        self._late_ends: dict[_Group, float] = {}
        """Ends of calls had reused calls taken their time, where they differ."""

    def begin(self, place: Place, at: float) -> None:
        """Begin a call."""
        late = at + self._delay(_top(place), place[1]) if self._late_ends else at
        self._open[place] = at, late, self._last

    def finish(
        self, place: Place, at: float, waited: Waited | None, latency: float | None, *, reused: bool = False
    ) -> None:
        """End a call. Without a latency, all its time but the waits is the model's; a reused call had it once."""
        call = self._open.pop(place, None)
        if call is None:
            return
        begun, late, before = call
        took = max(0.0, at - begun)
        self._last = _sum(before, took, waited, latency)
        self._past.append((at, self._last))
        stage = _top(place)
        self._latest[stage, place[1]] = begun
        self._ends[stage] = self._ends[stage, place[1]] = self._end = max(at, self._end)
        late += took
        if reused and latency is not None:
            late += max(0.0, latency - took)
        if late > at or self._late_ends:
            for group in (stage, (stage, place[1])):
                self._late_ends[group] = max(late, self._late_ends.get(group, at))
            self._late_end = max(late, self._late_end)

    def act(self, stage: str, item: int | None, at: float, seconds: float) -> None:
        """Count a call of a tool, or a command, that ended after so many seconds."""
        begun = at - seconds
        if self._latest.get((_top_of(stage), item), _NEVER) >= begun:
            return  # a pipeline as a tool, whose calls are links of their own
        model, tools, waits = next((one for end, one in reversed(self._past) if end <= begun), _START)
        self._last = model, tools + seconds, waits
        self._past.append((at, self._last))

    def times(self, seconds: float) -> Times:
        """Return the split of so many seconds."""
        model, tools, waits = self._last
        own = max(0.0, seconds - model - tools - sum(waits))
        return Times(model=model, tools=tools, own=own, **dict(zip(_CAUSES, waits, strict=True)))

    @property
    def saved(self) -> float:
        """The seconds that the run would have taken longer had its reused calls taken their time."""
        return max(0.0, self._late_end - self._end) if self._late_ends else 0.0

    def _delay(self, stage: str, item: int | None) -> float:
        """Return the seconds by which a call would have begun later."""
        real = late = _NEVER
        for group in self._before(stage, item):
            end = self._ends.get(group, _NEVER)
            real, late = max(real, end), max(late, self._late_ends.get(group, end))
        return 0.0 if real == _NEVER else max(0.0, late - real)

    def _before(self, stage: str, item: int | None) -> Iterator[_Group]:
        """Yield the calls that a call begins after."""
        yield from [stage] if item is None else [(stage, item), (stage, None)]
        upstream = self._upstream.get(stage)
        if upstream is None:
            return
        for name in upstream.stages:
            one_by_one = upstream.by_item and item is not None and (name, item) in self._ends
            yield from [(name, item), (name, None)] if one_by_one else [name]

    @cached_property
    def _upstream(self) -> Mapping[str, Upstream]:
        return self._upstreams()


def upstreams(dataflow: Dataflow) -> dict[str, Upstream]:
    """Return the stages before each stage of a pipeline."""
    above: dict[str, frozenset[str]] = {}
    for name in dataflow.order:
        near = dataflow.wirings[name].before & above.keys()
        above[name] = frozenset(near).union(*(above[one] for one in near))
    return {name: Upstream(stages, bool(dataflow.wirings[name].flows)) for name, stages in above.items()}


def _top(place: Place) -> str:
    """Return the stage of the pipeline itself that makes a call, or that contains the one that does."""
    return _top_of(place[0])


def _top_of(stage: str) -> str:
    return stage.partition("/")[0]


def _sum(before: _Spent, took: float, waited: Waited | None, latency: float | None) -> _Spent:
    """Return the seconds of models, tools and waits, with so many seconds of a call."""
    model, tools, waits = before
    left = took
    if waited is not None:
        own = _WAITS(waited)
        total = sum(own)
        share = min(1.0, took / total) if total else 0.0
        waits = tuple([one + wait * share for one, wait in zip(waits, own, strict=True)])
        left -= total * share
    return model + (left if latency is None else min(latency, left)), tools, waits
