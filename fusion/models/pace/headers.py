"""Headers: the limits that a response tells of, and the allowances that they leave."""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, Literal, NamedTuple

Unit = Literal["requests", "tokens", "input", "output"]

_NAMES: Final[tuple[tuple[Unit, str], ...]] = (
    ("requests", "x-ratelimit-{}-requests"),
    ("tokens", "x-ratelimit-{}-tokens"),
    ("requests", "anthropic-ratelimit-requests-{}"),
    ("tokens", "anthropic-ratelimit-tokens-{}"),
    ("input", "anthropic-ratelimit-input-tokens-{}"),
    ("output", "anthropic-ratelimit-output-tokens-{}"),
    ("requests", "ratelimit-{}"),
)
_HEADERS: Final = tuple(
    (unit, name.format("remaining"), name.format("limit"), name.format("reset")) for unit, name in _NAMES
)
_PARTS: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|[dhms])")
_WHOLE: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|us|µs|ns|[dhms]))+")
_SECONDS: Final = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_ITEM: Final = re.compile(r";\s*([rtqw])\s*=\s*(\d+)")
_EPOCH: Final = 1e9
_PATIENCE: Final = 60.0
"""Longest wait in seconds for a reset that no refusal has confirmed."""


class Told(NamedTuple):
    """A limit as one response tells it. `reset` is in seconds from the response."""

    unit: Unit
    limit: float | None
    remaining: float
    reset: float


def told(headers: Mapping[str, str]) -> Iterator[Told]:
    """Yield the limits in the headers of a response, looked up by lower-case names.

    Read are OpenAI's `x-ratelimit-…-requests` and `-tokens`, which many servers send, Anthropic's
    `anthropic-ratelimit-…`, and the fields of the IETF's draft (draft-ietf-httpapi-ratelimit-headers), `ratelimit`
    and the older `ratelimit-remaining`. A limit without the time of its reset is left out.
    """
    for unit, remaining, limit, reset in _HEADERS:
        if remaining in headers:
            left, seconds = _number(headers[remaining]), seconds_until(headers.get(reset, ""), headers)
            if left is not None and seconds is not None:
                yield Told(unit, _number(headers.get(limit, "")), left, seconds)
    if "ratelimit" in headers:
        yield from _draft(headers)


def _draft(headers: Mapping[str, str]) -> Iterator[Told]:
    """Yield the limit of the draft's fields: `"default";r=50;t=30` with the policy `"default";q=100;w=60`."""
    found = dict(_ITEM.findall(headers["ratelimit"].partition(",")[0]))
    policy = dict(_ITEM.findall(headers.get("ratelimit-policy", "").partition(",")[0]))
    if "r" in found and "t" in found:
        yield Told("requests", _number(policy.get("q", "")), float(found["r"]), float(found["t"]))


def seconds_until(given: str, headers: Mapping[str, str]) -> float | None:
    """Return the seconds until a reset: `1s`, `6m0s`, `120ms`, a number of seconds, a time of Unix, or RFC 3339."""
    text = given.strip()
    if _WHOLE.fullmatch(text):
        return sum(float(number) * _SECONDS[unit] for number, unit in _PARTS.findall(text))
    number = _number(text)
    if number is None:
        then = _moment(text)
        return None if then is None else max(0.0, then - _now(headers))
    if number < _EPOCH:
        return number
    return max(0.0, (number / 1000 if number > 1000 * _EPOCH else number) - _now(headers))


def _moment(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except (ValueError, OverflowError):
        return None


def _now(headers: Mapping[str, str]) -> float:
    """Return the time by the server's clock, where it gives it."""
    try:
        return parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError, OverflowError):
        return datetime.now(UTC).timestamp()


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None


class Allowance:
    """The units that a server lets pass until a reset, as it told last.

    A bucket refills all the time, and its reset is the time until it is full; a window gives all back at its reset.
    The headers look alike: with each use a bucket's reset moves away, and a window's does not. Until that is seen, it
    counts as a window.
    """

    __slots__ = ("_limit", "_number", "_refill", "_reset_at", "_seen_at", "left")

    def __init__(self) -> None:
        self.left = float("inf")
        self._limit: float | None = None
        self._number = -1
        self._refill: float | None = None
        self._reset_at = 0.0
        self._seen_at = 0.0

    def see(self, seen: Told, number: int, now: float, since: float) -> None:
        """Take in what a response tells; `since` are the units of requests sent after its own."""
        if number < self._number and now < self._reset_at:
            return  # an older request, answered late
        reset_at = now + seen.reset
        self._refill = self._refill_of(seen, now, reset_at)
        self.left, self._limit, self._number = seen.remaining - since, seen.limit, number
        self._reset_at, self._seen_at = reset_at, now

    def take(self, units: float) -> None:
        self.left -= units

    def delay(self, now: float, units: float = 1.0) -> float:
        """Return the seconds until so many units may pass."""
        if self.left >= min(units, self._limit or units):
            return 0.0
        if now >= self._reset_at:
            self.left = float("inf") if self._limit is None else self._limit
            return 0.0
        wait = self._reset_at - now
        if self._refill:
            wait = min(wait, self._seen_at + (units - self.left) / self._refill - now)
        longest = self._seen_at + _PATIENCE - now
        if min(wait, longest) <= 0:
            self.left = units
        return max(0.0, min(wait, longest))

    def _refill_of(self, seen: Told, now: float, reset_at: float) -> float | None:
        """Return the units a second that come back, where it shows that they do."""
        if seen.limit is None or seen.remaining >= seen.limit or not seen.reset:
            return self._refill
        rate = (seen.limit - seen.remaining) / seen.reset
        used, drift = self.left - seen.remaining, reset_at - self._reset_at
        if self._number < 0 or self.left == float("inf") or seen.remaining > self.left:
            return rate if self._refill else None
        expected = max(used, 0.0) / rate + now - self._seen_at
        if expected < 0.05:
            return rate if self._refill else None
        return rate if abs(drift - expected) < abs(drift) else None
