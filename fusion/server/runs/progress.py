"""Progress: events of the runs of this process that no store keeps, added up for pages that watch them."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from fusion.core.events import (
    CallCancelled,
    CallFailed,
    CallFinished,
    CallStarted,
    Delta,
    EventBase,
    ItemFinished,
    Restarted,
    RunFinished,
    RunStarted,
    StageGrew,
)

_ENDED_AT_MOST: Final = 100
_TITLES_AT_MOST: Final = 300


@dataclass
class StageProgress:
    """A stage of a run under way: `done` of `known` items, and the calls in flight."""

    known: int | None = None
    final: bool = False
    done: int = 0
    failed: int = 0
    flying: int = 0


@dataclass
class RunProgress:
    """A run under way. `pieces` are those of the answer so far, `restarts` counts its new beginnings.

    `titles` are those of a plan's subtasks. `kinds` are the kinds of the stages.
    """

    kinds: dict[str, str] = field(default_factory=dict)
    stages: dict[str, StageProgress] = field(default_factory=dict)
    titles: list[str] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    restarts: int = 0
    over: bool = False

    def stage(self, path: str) -> StageProgress:
        """Return a stage, new if need be."""
        return self.stages.setdefault(path, StageProgress())


class Progress:
    """The runs of this process, by id. `take` is the sink of their events, safe on any thread.

    Ended ones are kept for a while, so that a page that connects late reads the same as one that was there.
    """

    def __init__(self) -> None:
        self._runs: OrderedDict[str, RunProgress] = OrderedDict()

    def of(self, run_id: str) -> RunProgress | None:
        """Return a run of this process; None for one of another."""
        return self._runs.get(run_id)

    def take(self, event: EventBase) -> None:
        """Receive an event of any run."""
        if isinstance(event, RunStarted):
            self._runs[event.run_id] = RunProgress(kinds=dict(event.stages))
            self._forget()
        elif (run := self._runs.get(event.run_id)) is not None and (entry := _ENTRIES.get(type(event))) is not None:
            entry(run, event)

    def _forget(self) -> None:
        over = [run_id for run_id, run in self._runs.items() if run.over]
        for run_id in over[: max(0, len(over) - _ENDED_AT_MOST)]:
            del self._runs[run_id]


def _begin(run: RunProgress, event: CallStarted) -> None:
    run.stage(event.stage).flying += 1


def _end(run: RunProgress, event: EventBase) -> None:
    run.stage(event.stage).flying -= 1


def _grow(run: RunProgress, event: StageGrew) -> None:
    stage = run.stage(event.stage)
    stage.known, stage.final = event.known, event.final
    if event.title and len(run.titles) < _TITLES_AT_MOST:
        run.titles.append(event.title)


def _item(run: RunProgress, event: ItemFinished) -> None:
    stage = run.stage(event.stage)
    stage.done += 1
    stage.failed += event.failure is not None


def _add(run: RunProgress, event: Delta) -> None:
    run.pieces.append(event.text)


def _restart(run: RunProgress, event: Restarted) -> None:
    run.pieces, run.restarts = [], run.restarts + 1


def _over(run: RunProgress, event: RunFinished) -> None:
    run.over = True
    for stage in run.stages.values():
        stage.flying = 0


_ENTRIES: Final[dict[type[EventBase], Callable[..., None]]] = {
    CallStarted: _begin,
    CallFinished: _end,
    CallFailed: _end,
    CallCancelled: _end,
    StageGrew: _grow,
    ItemFinished: _item,
    Delta: _add,
    Restarted: _restart,
    RunFinished: _over,
}
