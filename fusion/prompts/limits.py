"""Limits of a render: steps, seconds and size of output."""

import secrets
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from itertools import accumulate
from typing import Any, Literal

from jinja2.exceptions import SecurityError

from fusion.core.bounded import clock
from fusion.core.types import File, Message

MAX_OUTPUT = 10_000_000
MAX_STEPS = 200_000
MAX_WORK = 20_000_000
MAX_MADE = 50_000_000
MAX_SECONDS = 10.0
MAX_REPEAT = 1_000_000
_STEPS_UNCHECKED = 100


class Meter:
    """Counts the resources of renders in its `with` block, and collects their messages."""

    __slots__ = (
        "_checked",
        "_ended",
        "_token",
        "deadline",
        "files",
        "lasts",
        "made",
        "mark",
        "messages",
        "output",
        "steps",
        "work",
    )

    def __init__(self, lasts: Callable[[str, Any], bool] | None = None) -> None:
        self.lasts = lasts
        """Tells if a variable with this value is the same in all renders; None for messages without stable parts."""
        self._ended = False
        self.output = 0
        self.steps = 0
        self.work = 0
        self.made = 0
        self._checked = 0
        self.deadline = time.monotonic() + MAX_SECONDS
        self.messages: list[Message] = []
        self.files: list[File] = []
        self.mark = ""

    def __enter__(self) -> "Meter":
        self._token = current_meter.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        current_meter.reset(self._token)

    def step(self, size: int) -> None:
        self.steps += 1
        self.write(size)
        if self.steps > MAX_STEPS:
            raise SecurityError(f"it takes more than {MAX_STEPS:,} loop steps; is a loop endless?")
        self.check_time()

    def count(self, work: int, made: int) -> None:
        """Count the elements that filters and comparisons go through, and the characters that filters make."""
        self.work += work
        self.made += made
        if self.work > MAX_WORK:
            raise SecurityError(f"it takes more than {MAX_WORK:,} steps in filters and comparisons")
        if self.made > MAX_MADE:
            raise SecurityError(f"its filters make more than {MAX_MADE:,} characters")
        if (done := self.work + self.made // 1_000) - self._checked > _STEPS_UNCHECKED:
            self._checked = done
            self.check_time()

    def check_time(self) -> None:
        """Raise an error after the deadline of the render, or of the work that it is a part of."""
        clock.check()
        if time.monotonic() > self.deadline:
            raise SecurityError(f"it takes longer than {MAX_SECONDS:g} s")

    def write(self, size: int) -> None:
        self.output += size
        if self.output > clock.LIGHT_STEP:  # below, neither check can fail
            check_output(self.output)
            clock.check_light(self.output)

    def place(self, file: File) -> str:
        """Return the placeholder of a file, which is unguessable, until its message is built.

        A message holds each file once, at its first place.
        """
        if any(file.digest == placed.digest for placed in self.files):
            return ""
        self.mark = self.mark or secrets.token_hex(16)
        self.files.append(file)
        return f"\0{self.mark}\0"

    def end_stable(self, values: Iterable[tuple[str, Any]]) -> str:
        """Return the placeholder of the end of the stable part, before the first print of a value that varies."""
        if self.lasts is None or self._ended or all(self.lasts(name, value) for name, value in values):
            return ""
        self._ended = True
        self.mark = self.mark or secrets.token_hex(16)
        return f"\0{self.mark} end\0"

    def message(self, role: Literal["system", "user", "assistant"], text: str) -> Message | None:
        """Return the message of a text, with its files in place; None if it is empty."""
        text, stable = self._without_end(text)
        if not self.files:
            return Message(role=role, content=text, stable=stable) if text else None
        files, self.files = self.files, []
        pieces = text.split(f"\0{self.mark}\0")
        if len(pieces) != len(files) + 1:
            raise SecurityError(
                "a picture or document must be printed by itself, as in {{ inputs.picture }}, without changes"
            )
        if role != "user":
            raise SecurityError(f"a picture or document must be in a message of the user, not of the {role}")
        ends = accumulate(map(len, pieces[:-1]))
        before = text[:stable].count(f"\0{self.mark}\0") * len(f"\0{self.mark}\0")
        placed = tuple(zip(ends, files, strict=True))
        return Message(role=role, content="".join(pieces), files=placed, stable=stable - before)

    def _without_end(self, text: str) -> tuple[str, int]:
        """Return a text without the placeholder of the end of its stable part, stripped, and that part's length."""
        if not self._ended:
            text = text.strip()
            return text, 0 if self.lasts is None else len(text)
        self._ended = False
        stable, _, rest = text.partition(f"\0{self.mark} end\0")
        whole = (stable + rest).strip()
        return whole, min(len(stable.lstrip()), len(whole))

    def take_messages(self) -> list[Message]:
        """Return and forget the messages collected so far."""
        taken, self.messages = self.messages, []
        return taken


current_meter: ContextVar[Meter | None] = ContextVar("fusion_render", default=None)


def count_step(size: int) -> None:
    meter = current_meter.get()
    if meter is not None:
        meter.step(size)


def count_work(steps: int) -> None:
    meter = current_meter.get()
    if meter is not None:
        meter.count(steps, 0)


def count_made(characters: int) -> None:
    meter = current_meter.get()
    if meter is not None:
        meter.count(1, characters)


def check_output(size: int) -> None:
    if size > MAX_OUTPUT:
        raise SecurityError(f"it writes more than {MAX_OUTPUT:,} characters")


def check_size(operator: str, left: Any, right: Any) -> None:
    if operator == "**" and not (isinstance(right, (int, float)) and abs(right) <= 64):
        raise SecurityError("powers above 64 are refused")
    if operator == "%" and isinstance(left, str):
        raise SecurityError("text is not formatted with %; use ~ or a filter")
    if operator == "+" and isinstance(left, (str, list, tuple)) and isinstance(right, (str, list, tuple)):
        check_length(len(left) + len(right))
    if operator == "*":
        _check_product(left, right)
    for number in (left, right):
        if isinstance(number, int) and number.bit_length() > 4096:
            raise SecurityError("numbers above 4096 bits are refused")


def _check_product(left: Any, right: Any) -> None:
    for sequence, times in ((left, right), (right, left)):
        if isinstance(sequence, (str, list, tuple, bytes)) and isinstance(times, int):
            check_length(len(sequence) * times)


def check_length(length: int) -> None:
    if length > MAX_REPEAT:
        raise SecurityError(f"a text or list of more than {MAX_REPEAT:,} elements is refused")
