"""Outbox: holds the events of a run back until their rows are on disk."""

from collections import deque

from fusion.core.events import CallFinished, EventBase, Sink


class Outbox:
    """Delivers events in order. A finished call, and each event after it, waits for `deliver`.

    A call answered from an earlier session is on disk already. `count` is the number of events held back so far.
    """

    def __init__(self) -> None:
        self.sink: Sink = lambda event: None
        self.count = 0
        self._events: deque[EventBase] = deque()

    def take(self, event: EventBase) -> bool:
        """Deliver an event, or hold it back; return True if it is held back."""
        held = bool(self._events) or (isinstance(event, CallFinished) and event.reused != "journal")
        if held:
            self._events.append(event)
            self.count += 1
        else:
            self.sink(event)
        return held

    def deliver(self, count: int) -> None:
        """Deliver the first `count` events ever held back, those still here; then raise the sink's first error."""
        fault: Exception | None = None
        while self._events and self.count - len(self._events) < count:
            try:
                self.sink(self._events.popleft())
            except Exception as error:  # noqa: BLE001 - a fault of the sink, which still gets the later events
                fault = fault or error
        if fault is not None:
            raise fault
