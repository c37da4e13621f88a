"""Decoder of a response body: a JSON document, or a stream of server-sent events.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

_BOM: Final = b"\xef\xbb\xbf"
_LINE: Final = re.compile(rb"\r\n|\n|\r(?!\Z)")
"""A line end; a CR at the end of what has arrived may be half of one."""
_SHOWN: Final = 120
_DIGITS: Final = 18
_FIELDS: Final = (b"data:", b"event:", b"id:", b"retry:", b":")
_KEEP_ALIVE: Final = re.compile(r"[\w\s.:,-]{0,80}")
"""Data without JSON: `ping`, `null`, `OPENROUTER PROCESSING`."""
_LONGEST_LINE: Final = 2**20
_CHUNK: Final = b'"choices"'
END_MARK: Final = "[DONE]"


class MalformedError(Exception):
    """A body that is neither JSON nor an event stream; the message shows its beginning."""


class OversizedError(Exception):
    """A reply larger than its request's `max_tokens` can explain."""


@dataclass(frozen=True)
class Payload:
    """One JSON value of a body, of `size` bytes or characters.

    `event` is the name of its event; `whole` is True for a body without events.
    """

    data: Any
    event: str = ""
    whole: bool = False
    size: int = 0


class EventDecoder:
    """Turns the blocks of a body into payloads.

    A body whose first character opens a JSON value is one document, whatever its content type. Any other body is an
    event stream. `ended` is True after the end mark.
    """

    def __init__(self) -> None:
        self.ended = False
        self._sniffed = False
        self._document: list[bytes] | None = None
        self._rest = b""
        self._data: list[str] = []
        self._event = ""
        self._known = False
        self._beginning = b""

    def feed(self, block: bytes) -> Iterator[Payload]:
        """Yield the payloads completed by a block. Raises MalformedError."""
        if len(self._beginning) < _SHOWN:
            self._beginning += block[:_SHOWN]
        if not self._sniffed:
            block = self._sniff(block)
        if self._document is not None:
            self._document.append(block)
            return
        *lines, self._rest = _lines(self._rest, block)
        if len(self._rest) > _LONGEST_LINE:
            raise OversizedError("an event of more than a megabyte")
        for line in lines:
            yield from self._line(line)

    def end(self) -> Iterator[Payload]:
        """Yield what the end of the body completes. Raises MalformedError."""
        if self._document is None and not self._sniffed:
            self._sniffed = True
        if self._document is not None:
            document = b"".join(self._document)
            yield Payload(_json(document), whole=True, size=len(document))
            return
        yield from self._line(self._rest.removesuffix(b"\r"))
        yield from self._dispatch()
        if not self._known:
            raise MalformedError(self._unknown())

    def _sniff(self, block: bytes) -> bytes:
        """Tell a document from a stream by the first character; return the bytes not yet read."""
        block = self._rest + block
        if _BOM.startswith(block) or not (begun := block.removeprefix(_BOM).lstrip()):
            self._rest = block[-len(_BOM) :] if _BOM.startswith(block) else b""
            return b""
        self._rest, self._sniffed = b"", True
        if begun[:1] in b"{[":
            self._document = []
        return begun

    def _line(self, line: bytes) -> Iterator[Payload]:
        if self.ended:
            return
        if not line:
            yield from self._dispatch()
            return
        self._known = self._known or line.startswith(_FIELDS)
        name, _, value = line.partition(b":")
        if name == b"data":
            yield from self._datum(_text(value.removeprefix(b" ")))
        elif name == b"event":
            self._event = _text(value).strip()
        elif name not in (b"", b"id", b"retry") or _CHUNK in value:
            yield from self._stray(line)

    def _datum(self, text: str) -> Iterator[Payload]:
        """Yield a line of data that is complete by itself at once; collect others up to the end of their event."""
        if not self._data and (found := self._complete(text)) is not None:
            yield found
        elif text.strip() == END_MARK:
            yield from self._dispatch()
            self.ended = True
        else:
            self._data.append(text)

    def _complete(self, text: str) -> Payload | None:
        if not text.rstrip().endswith(("}", "]")):
            return None
        try:
            data = _parsed(text)
        except ValueError:
            return None
        self._known = True
        return Payload(data, self._event, size=len(text))

    def _dispatch(self) -> Iterator[Payload]:
        text, event = "\n".join(self._data).strip(), self._event
        self._data, self._event = [], ""
        if text and event == "error" and not text.startswith("{"):
            yield Payload({"error": text}, event)
        elif not _KEEP_ALIVE.fullmatch(text):
            yield Payload(_json(text.encode()), event, size=len(text))

    def _stray(self, line: bytes) -> Iterator[Payload]:
        """Read a line that no event has: an error that a gateway wrote into a stream, or a broken line."""
        if line.startswith(b"{"):
            self._known = True
            yield Payload(_json(line), self._event)
        elif (self._known or _CHUNK in line) and not _KEEP_ALIVE.fullmatch(_text(line)):
            raise MalformedError(f"a stream with a broken line: {_shown(line)!r}")

    def _unknown(self) -> str:
        shown = _shown(self._beginning)
        return f"its body is no completion and no stream; it begins: {shown!r}" if shown else "its body is empty"


def _lines(rest: bytes, block: bytes) -> list[bytes]:
    """Split at line ends; the last part has none yet."""
    if rest and b"\n" not in block and b"\r" not in block and not rest.endswith(b"\r"):
        return [rest + block]
    return _LINE.split(rest + block)


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise MalformedError(f"bytes that are not UTF-8, at {_shown(raw[max(0, error.start - 20) :])!r}") from error


def _json(raw: bytes) -> Any:
    text = _text(raw)
    try:
        return _parsed(text)
    except ValueError as error:
        said = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise MalformedError(f"malformed JSON ({said}); it begins: {_shown(raw)!r}") from error


def _parsed(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _whole(digits: str) -> float:
    """Return a whole number; a float for one of more digits than any count has."""
    return int(digits) if len(digits) <= _DIGITS else float(digits)


_DECODER: Final = json.JSONDecoder(parse_int=_whole)


def _shown(raw: bytes) -> str:
    text = " ".join(raw[: 4 * _SHOWN].decode(errors="replace").split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
