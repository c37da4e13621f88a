"""Critical path: splits the time of a run by the calls that its end waited for, and tells what reused calls saved."""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
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

_Spent = tuple[float, ...]
_CAUSES: Final = tuple(Waited.model_fields)
_NOTHING: Final[_Spent] = (0.0,) * (1 + len(_CAUSES))


class _Open(NamedTuple):
    """A call under way: its start, its start had reused calls taken their time, and the times of the calls before."""

    begun: float
    late: float
    before: _Spent


class _Ends(NamedTuple):
    """The last end of some calls, and the last one had reused calls taken their time."""

    real: float
    late: float

    def later(self, other: "_Ends") -> "_Ends":
        return _Ends(max(self.real, other.real), max(self.late, other.late))


_NEVER: Final = _Ends(float("-inf"), float("-inf"))


class CriticalPath:
    """The chain of calls behind the end of a run: each call is preceded by the one that ended last before it began.

    The time of a call is the latency of its model and its waits. All other time of the run is its own. Moments are
    seconds since 1970.

    The saved time supposes that a call begins after the calls of the stages that its own depends on, by item where
    items flow, and after those of its own stage that ended before it, other items excepted.
    """

    def __init__(self, upstreams: Upstreams) -> None:
        self._upstreams = upstreams
        self._open: dict[Place, _Open] = {}
        self._last = _NOTHING
        self._ends: dict[_Group, _Ends] = {}
        self._end = _NEVER
        self._reuses = False

    def begin(self, place: Place, at: float) -> None:
        """Begin a call."""
        late = at + self._delay(_top(place), place[1]) if self._reuses else at
        self._open[place] = _Open(at, late, self._last)

    def finish(
        self, place: Place, at: float, waited: Waited | None, latency: float | None, *, reused: bool = False
    ) -> None:
        """End a call. Without a latency, all its time but the waits is the model's; a reused call had it once."""
        call = self._open.pop(place, None)
        if call is None:
            return
        took = max(0.0, at - call.begun)
        self._last = _sum(call.before, _split(took, waited, latency))
        missing = max(0.0, latency - took) if reused and latency is not None else 0.0
        self._reuses = self._reuses or missing > 0
        ends = _Ends(at, call.late + took + missing)
        stage = _top(place)
        for group in (stage, (stage, place[1])):
            self._ends[group] = ends.later(self._ends.get(group, _NEVER))
        self._end = ends.later(self._end)

    def times(self, seconds: float) -> Times:
        """Return the split of so many seconds."""
        model, *waits = self._last
        own = max(0.0, seconds - sum(self._last))
        return Times(model=model, own=own, **dict(zip(_CAUSES, waits, strict=True)))

    @property
    def saved(self) -> float:
        """The seconds that the run would have taken longer had its reused calls taken their time."""
        return max(0.0, self._end.late - self._end.real) if self._reuses else 0.0

    def _delay(self, stage: str, item: int | None) -> float:
        """Return the seconds by which a call would have begun later."""
        ends = _NEVER
        for group in self._before(stage, item):
            ends = ends.later(self._ends.get(group, _NEVER))
        return 0.0 if ends is _NEVER or ends == _NEVER else max(0.0, ends.late - ends.real)

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
    return place[0].partition("/")[0]


def _split(took: float, waited: Waited | None, latency: float | None) -> _Spent:
    """Return the seconds of the model and of each wait, in so many seconds of a call."""
    waits = _NOTHING[1:] if waited is None else tuple(getattr(waited, cause) for cause in _CAUSES)
    total = sum(waits)
    if total > took:
        waits, total = tuple(wait * took / total for wait in waits), took
    model = took - total if latency is None else min(latency, took - total)
    return (model, *waits)


def _sum(one: _Spent, other: _Spent) -> _Spent:
    return tuple([a + b for a, b in zip(one, other, strict=True)])
