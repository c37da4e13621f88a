"""Token counts of a reply in OpenAI's format; counts that cannot be right become estimates."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fusion.core.types import Request, Usage
from fusion.models.base import estimate_request, estimate_tokens, input_bound

_CLASSES: Final = {
    "prompt_tokens": "input",
    "input_tokens": "input",
    "completion_tokens": "output",
    "output_tokens": "output",
    "total_tokens": "total",
    "cache_read_input_tokens": "cached_read",
    "cache_creation_input_tokens": "cache_write",
    "reasoning_tokens": "reasoning",
}
"""The class of tokens that each field of a report counts."""
_DETAILS: Final = {
    "prompt_tokens_details": {
        "cached_tokens": "cached_read",
        "cache_creation_tokens": "cache_write",
        "cache_write_tokens": "cache_write",
    },
    "completion_tokens_details": {"reasoning_tokens": "reasoning"},
}
_TIMES: Final = 4
_UNSEEN: Final = 100_000
"""A count is absurd beyond four times what the request asks for, plus what a server may add: searches, reasoning."""


@dataclass
class Counts:
    """The counts reported so far: of each class the highest, since reports are running totals or single classes.

    A count is None until reported. `spoiled` holds the classes with a report that is no count of tokens.
    """

    input: int | None = None
    output: int | None = None
    cached_read: int = 0
    cache_write: int = 0
    reasoning: int = 0
    total: int | None = None
    spoiled: set[str] = field(default_factory=set)

    def add(self, given: Any) -> None:
        """Add a report: parsed JSON, or an object of litellm."""
        self._take(given, _CLASSES)
        for name, classes in _DETAILS.items():
            details = part(given, name)
            if details is not None:
                self._take(details, classes)

    def usage(self, request: Request, answer: str, thoughts: int) -> Usage:
        """Return the usage, measured or estimated; `thoughts` are the characters of thoughts beside the answer."""
        taken = self._input(request)
        given = self._output(taken, request, bool(answer.strip()))
        measured = taken is not None and given is not None
        taken = estimate_request(request) if taken is None else taken
        given = estimate_tokens(answer) + thoughts // 4 if given is None else given
        read, written = (min(self.cached_read, taken), self.cache_write) if measured else (0, 0)
        return Usage(
            input=taken,
            cached_read=read,
            cache_write=min(written, taken - read),
            output=given,
            reasoning=min(self.reasoning, given),
            source="measured" if measured else "estimated",
        )

    def _input(self, request: Request) -> int | None:
        if "input" in self.spoiled or not self.input:
            return None
        cached = self.cached_read + self.cache_write
        found = self.input + cached if cached > self.input else self.input  # some count cached tokens apart
        return found if found <= _TIMES * input_bound(request) + _UNSEEN else None

    def _output(self, taken: int | None, request: Request, answered: bool) -> int | None:
        """Return the output with all reasoning, which some gateways leave out of it but not out of the total."""
        if "output" in self.spoiled or self.output is None or (answered and not self.output):
            return None
        found = self.output
        if self.reasoning > found:
            found += self.reasoning
        elif self.total is not None and taken is not None and "total" not in self.spoiled:
            found = max(found, self.total - taken)
        return found if found <= _TIMES * request.max_tokens + _UNSEEN else None

    def _take(self, given: Any, classes: Mapping[str, str]) -> None:
        for field_name, name in classes.items():
            one = part(given, field_name)
            if one is None:
                continue
            if (count := _count(one)) is None:
                self.spoiled.add(name)
            else:
                setattr(self, name, max(getattr(self, name) or 0, count))


def part(given: Any, name: str) -> Any:
    """Return a field of parsed JSON or of an object of litellm; None if it has none."""
    return given.get(name) if isinstance(given, dict) else getattr(given, name, None)


def _count(given: Any) -> int | None:
    """Return a count of tokens; None for anything else, such as a negative number, a fraction or a text."""
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 <= given < 10**15:
        return None
    return int(given) if given == int(given) else None
