"""Plain view of a map: lines on standard error at intervals, for files, pipes and terminals that cannot redraw."""

import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Final

from fusion.cli.terminal import complain
from fusion.cli.views.live.follow import Viewer
from fusion.cli.views.maps.lines import MapIncidents, first_line, progress_line
from fusion.cli.views.maps.progress import MapProgress
from fusion.core.events import EventBase, MapFinished, MapStarted

_FIRST: Final = 3.0
_MOST: Final = 30.0
"""Seconds to the first line, and the most between two; they double from one to the next."""


class PlainMap(Viewer):
    """The first line, incidents, and the progress at growing intervals."""

    refresh = 0.5

    def __init__(
        self,
        progress: MapProgress,
        *,
        verbose: bool,
        cap: Decimal | None,
        settings: tuple[Path, ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress = progress
        self._cap = cap
        self._settings = settings
        self._clock = clock
        self._incidents = MapIncidents(verbose=verbose)
        self._pause = _FIRST
        self._due = clock() + _FIRST
        self._said = -1

    def show(self, event: EventBase) -> None:
        if isinstance(event, MapStarted):
            complain(first_line(event, self._settings))
            return
        for line in self._incidents.counts() if isinstance(event, MapFinished) else self._incidents.lines(event):
            complain(line)

    def tick(self) -> None:
        self._progress.sample()
        if self._clock() < self._due or self._progress.over:
            return
        self._pause = min(_MOST, 2 * self._pause)
        self._due = self._clock() + self._pause
        if self._progress.done != self._said:
            self._said = self._progress.done
            complain(progress_line(self._progress, self._cap))
