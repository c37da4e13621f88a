"""Log: the events of a live run, kept compactly for readers that join at any time."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from fusion.core.events import Delta, EventBase


@dataclass(slots=True)
class _Text:
    """Consecutive pieces of the answer. A reader gets those that it lacks as one event."""

    first: Delta
    pieces: list[str]

    def since(self, number: int) -> Delta:
        return self.first.model_copy(update={"text": "".join(self.pieces[number:])})


@dataclass(slots=True)
class Place:
    """The place of a reader: the number of the entry, and of the piece within it."""

    entry: int = 0
    piece: int = 0


@dataclass(slots=True)
class EventLog:
    """Events of a run in order; the pieces of its answer take the room of their text alone."""

    _entries: list[EventBase | _Text] = field(default_factory=list)

    def append(self, event: EventBase) -> None:
        """Add an event."""
        if not isinstance(event, Delta):
            self._entries.append(event)
        elif self._entries and isinstance(last := self._entries[-1], _Text):
            last.pieces.append(event.text)
        else:
            self._entries.append(_Text(event, [event.text]))

    def since(self, place: Place) -> Iterator[EventBase]:
        """Yield the events after a place, and move it on."""
        while place.entry < len(self._entries):
            entry = self._entries[place.entry]
            if not isinstance(entry, _Text):
                place.entry += 1
                yield entry
            elif place.piece < len(entry.pieces):
                piece, place.piece = place.piece, len(entry.pieces)
                yield entry.since(piece)
            elif place.entry + 1 < len(self._entries):
                place.entry, place.piece = place.entry + 1, 0
            else:
                return  # the text may grow
