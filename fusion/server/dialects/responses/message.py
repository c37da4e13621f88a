"""Message: the answer of a streamed response, in pieces."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from fusion.server.dialects.responses.pieces import Pieces
from fusion.server.dialects.responses.response import message_item, text_part
from fusion.server.dialects.responses.writer import Frame, Writer

_PART: Final = 0


class Message:
    """Writes the answer as it comes.

    An answer that begins again goes on where the former one was, if it has the same words; else the message ends as
    `incomplete`, and another one follows. `number` is that of the last message, from 1.
    """

    def __init__(self, run_id: str, writer: Writer) -> None:
        self.number = 0
        self._run_id = run_id
        self._writer = writer
        self._pieces = Pieces()
        self._again: str | None = None
        self._place = 0
        self._open = False

    @property
    def is_open(self) -> bool:
        """True once a message was begun."""
        return self._open

    def add(self, text: str) -> Iterator[Frame]:
        """Write the pieces that are whole with this text."""
        if self._again is not None:
            self._again += text
            if self._pieces.text.startswith(self._again):
                return
            yield from self._go_on()
        else:
            yield from self._write(self._pieces.add(text))

    def restart(self) -> None:
        """Take the text from here on as the answer from its beginning."""
        self._pieces.restart()
        self._again = "" if self.is_open else None

    def lose(self) -> None:
        """Leave a message whose text is unknown, and write the answer into a new one."""
        self.number += 1
        self._writer.item()
        self._writer.leap()
        self._pieces, self._again = Pieces(), None
        self._open = False

    def end(self, status: str) -> Iterator[Frame]:
        """Write the rest of the answer, and the end of its message."""
        if self._again is not None:
            yield from self._go_on()
        yield from self._write(self._pieces.end())
        if not self.is_open:
            yield from self._begin()
        yield from self._close(status)

    def _go_on(self) -> Iterator[Frame]:
        """Write what the former answer lacks of the one that began again, or all of it in a new message."""
        text, sent, self._again = self._again or "", self._pieces.text, None
        if not text.startswith(sent):
            yield from self._close("incomplete")
            self._pieces, sent = Pieces(), ""
            yield from self._begin()
        yield from self._write(self._pieces.add(text[len(sent) :]))

    def _write(self, pieces: Iterable[str]) -> Iterator[Frame]:
        for piece in pieces:
            if not self.is_open:
                yield from self._begin()
            yield self._of_part("response.output_text.delta", delta=piece, logprobs=[])

    def _begin(self) -> Iterator[Frame]:
        self.number += 1
        self._open = True
        self._place = self._writer.item()
        yield self._writer.event(
            "response.output_item.added", output_index=self._place, item=self._item("", "in_progress")
        )
        yield self._of_part("response.content_part.added", part=text_part(""))

    def _close(self, status: str) -> Iterator[Frame]:
        text = self._pieces.text
        yield self._of_part("response.output_text.done", text=text, logprobs=[])
        yield self._of_part("response.content_part.done", part=text_part(text))
        yield self._writer.event("response.output_item.done", output_index=self._place, item=self._item(text, status))

    def _of_part(self, kind: str, **fields: Any) -> Frame:
        item_id = self._item("", "in_progress")["id"]
        return self._writer.event(kind, item_id=item_id, output_index=self._place, content_index=_PART, **fields)

    def _item(self, text: str, status: str) -> dict[str, Any]:
        return message_item(self._run_id, self.number, text, status)
