"""Follower: passes events of a run to viewers on a thread of its own, so that no call waits for a terminal."""

import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

from fusion.core.events import EventBase, MapFinished, RunFinished


class Viewer(ABC):
    """A view of events. `refresh` is the interval of `tick` in seconds, None for no ticks."""

    refresh: float | None = None

    @abstractmethod
    def show(self, event: EventBase) -> None:
        """Show an event."""

    def tick(self) -> None:  # noqa: B027 - a view without ticks has nothing to redraw
        """Redraw."""

    def close(self) -> None:  # noqa: B027 - most views hold no resource
        """End the view."""


class Follower:
    """Takes events from any thread and shows them in order, up to `last`. A viewer that fails is dropped."""

    def __init__(
        self, viewers: Sequence[Viewer], *, last: type[RunFinished] | type[MapFinished] = RunFinished
    ) -> None:
        self._last = last
        self.faults: list[Exception] = []
        self._viewers = list(viewers)
        self._events: queue.SimpleQueue[EventBase | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._follow, name="fusion-view", daemon=True)
        self._thread.start()

    def take(self, event: EventBase) -> None:
        self._events.put(event)

    def close(self) -> None:
        """Show the remaining events, then close every viewer. A second call does nothing."""
        self._events.put(None)
        self._thread.join()

    def _follow(self) -> None:
        refresh = min((v.refresh for v in self._viewers if v.refresh is not None), default=None)
        due = time.monotonic()
        over = False
        while True:
            event = self._next(refresh, due)
            if isinstance(event, EventBase) and not over:
                self._each("show", event)
                over = isinstance(event, self._last)
            elif event is None:
                break
            if refresh is not None and time.monotonic() >= due:
                self._each("tick")
                due = time.monotonic() + refresh
        self._each("close")

    def _next(self, refresh: float | None, due: float) -> EventBase | str | None:
        try:
            return self._events.get(timeout=None if refresh is None else max(due - time.monotonic(), 0.001))
        except queue.Empty:
            return "tick"

    def _each(self, what: str, *arguments: EventBase) -> None:
        for viewer in list(self._viewers):
            try:
                getattr(viewer, what)(*arguments)
            except Exception as error:  # noqa: BLE001 - the border between run and view
                self._viewers.remove(viewer)
                self.faults.append(error)
