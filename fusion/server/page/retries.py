"""Retries: the attempts of the calls of a run, and the events about them, found by call."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final

from fusion.client.history.run_types import CallDetails
from fusion.core.events import AttemptFailed, EventBase, FallbackTaken, HedgeSent, Paused
from fusion.store.base import Store
from fusion.store.lookup import kept_events
from fusion.store.rows import Attempt, AttemptEnd

_KINDS: Final = (AttemptFailed, FallbackTaken, HedgeSent, Paused)
_LEEWAY: Final = 0.005
"""Seconds between two readings of the clock for one moment."""


class Retries:
    """The attempts and their events of one run, read once."""

    def __init__(self, store: Store, run_id: str) -> None:
        self._attempts: defaultdict[Any, list[tuple[Attempt, AttemptEnd | None]]] = defaultdict(list)
        for one, end in store.attempts(run_id):
            self._attempts[one.stage, one.item, one.step].append((one, end))
        self._events: defaultdict[Any, list[EventBase]] = defaultdict(list)
        for event in kept_events(store, run_id):
            if isinstance(event, _KINDS):
                self._events[event.stage, event.item].append(event)

    def attempts(self, call: CallDetails) -> Iterator[dict[str, Any]]:
        """Yield the attempts of a call, each with its worst case and its cost."""
        begin, end = _times(call)
        for one, ended in self._attempts[call.stage, call.item, call.step]:
            if begin <= one.opened <= end:
                yield _attempt(one, ended)

    def events(self, call: CallDetails) -> Iterator[EventBase]:
        """Yield the retries, fallbacks, hedges and pauses of the item of a call while it was under way."""
        begin, end = _times(call)
        for event in self._events[call.stage, call.item]:
            if begin <= event.at.timestamp() <= end:
                yield event


def _attempt(one: Attempt, ended: AttemptEnd | None) -> dict[str, Any]:
    return {
        "model": one.model,
        "opened": one.opened,
        "worst_usd": None if one.usd is None else str(one.usd),
        "worst_tokens": one.tokens,
        "state": "open" if ended is None else ended.state,
        "closed": None if ended is None else ended.closed,
        "usd": None if ended is None or ended.usd is None else str(ended.usd),
        "tokens": None if ended is None else ended.tokens,
    }


def _times(call: CallDetails) -> tuple[float, float]:
    begin = call.started.timestamp()
    return begin - _LEEWAY, begin + call.seconds + _LEEWAY
