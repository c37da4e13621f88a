"""Plain view of a run: lines on standard error, for files, pipes and terminals that cannot redraw."""

from collections.abc import Sequence
from pathlib import Path

from fusion.cli.terminal import complain
from fusion.cli.views.lines import Incidents, first_line, milestone, reply_line, title_line
from fusion.cli.views.live.follow import Viewer
from fusion.cli.views.live.progress import Progress, batch_line
from fusion.core.events import EventBase, RunStarted


class Plain(Viewer):
    """One line for each stage's start and end, subtask and failure; `verbose` adds every call."""

    def __init__(self, *, verbose: bool, settings: Sequence[Path] = ()) -> None:
        self._verbose = verbose
        self._settings = settings
        self._progress = Progress()
        self._incidents = Incidents(verbose=verbose)
        self._held: list[str] | None = None

    def show(self, event: EventBase) -> None:
        self._progress.take(event)
        if isinstance(event, RunStarted):
            self._say(first_line(event, self._settings))
            return
        stage = self._progress.stages.get(event.stage)
        items, failed = (stage.done or stage.known, stage.failed) if stage else (0, 0)
        for line in self._incidents.lines(event):
            self._say(line)
        told = milestone(event, items, failed) or title_line(event) or batch_line(event)
        told = told or (reply_line(event) if self._verbose else None)
        if told is not None:
            self._say(told)

    def hold(self) -> None:
        """Hold lines back while the answer is written to the same terminal."""
        self._held = self._held or []

    def release(self) -> None:
        """Print the lines held back."""
        for line in self._held or ():
            complain(line)
        self._held = None

    def _say(self, line: str) -> None:
        if self._held is None:
            complain(line)
        else:
            self._held.append(line)
