"""Policy: rules of the machine, the user and the project on models and on kept content. Rules only tighten."""

import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from fusion.core.errors import close_names
from fusion.core.types import Money, Value
from fusion.core.validation import Authored

Kept = Literal["full", "digest", "off"]
_STRICTNESS: Final = ("full", "digest", "off")
_KINDS: Final = ("model", "provider", "family", "region")
_ID_KINDS: Final = ("local",)
"""Words before a colon that are part of a model's id."""
_PREFIX: Final = re.compile(r"([A-Za-z_]+):")
_YOURS: Final = "use another model, or change that line"
_THEIRS: Final = "use another model, or ask the owner of that file"


def check_pattern(text: str) -> str:
    """Return a pattern of models. Raises ValueError for an empty one, or one of an unknown kind."""
    if not text.strip():
        raise ValueError("an empty pattern; write a model's id, such as openai/*, or provider:openai")
    found = _PREFIX.match(text)
    if found and found[1] not in (*_KINDS, *_ID_KINDS):
        near = close_names(found[1], _KINDS)
        raise ValueError(
            f"unknown kind {found[1]!r} of the pattern {text!r}{near} (an id with a colon: model:{text})"
        )
    if found and found[1] in _KINDS and not text[found.end() :].strip():
        raise ValueError(f"the pattern {text!r} names no {found[1]}")
    return text


def _listed(given: Any) -> Any:
    return (given,) if isinstance(given, str) else given


Patterns = Annotated[
    tuple[Annotated[str, AfterValidator(check_pattern)], ...],
    BeforeValidator(_listed),
    WithJsonSchema({"type": ["string", "array"], "items": {"type": "string"}}),
]


class PriceLimit(Authored):
    """The highest list price of a model, in dollars per million tokens."""

    input: Money | None = Field(default=None, ge=0, description="Most dollars per million input tokens.")
    output: Money | None = Field(default=None, ge=0, description="Most dollars per million output tokens.")


class PolicyTable(Authored):
    """Rules on models and on kept content."""

    allow: Patterns | None = Field(
        default=None,
        description="Patterns of the only models that may be called: `openai/*`, `provider:`, `family:`, `region:`.",
    )
    deny: Patterns = Field(default=(), description="Patterns of models that are refused.")
    max_price: PriceLimit | None = Field(default=None, description="Price above which a model is refused.")
    unknown_price: Literal["allow", "deny"] = Field(
        default="allow", description="Models of unknown price: allowed or refused."
    )
    content: Kept = Field(
        default="full",
        description="Most content that a store may keep: texts (full), digests (digest) or nothing (off).",
    )


class Subject(NamedTuple):
    """The facts of a model that rules look at. `seat` is the country of its provider, `region` where it computes.

    `prices` are all known prices, each for a million input and output tokens.
    """

    ids: tuple[str, ...]
    providers: frozenset[str] = frozenset()
    family: str | None = None
    region: str | None = None
    seat: str | None = None
    prices: tuple[tuple[Decimal, Decimal], ...] = ()

    @property
    def words(self) -> str:
        """The model with its provider, family and region, for messages."""
        seat = self.seat if self.seat != self.region else None
        facts = {"provider": min(self.providers, default=None), "family": self.family, "region": self.region}
        known = [f"{name} {value}" for name, value in {**facts, "seat": seat}.items() if value is not None]
        return repr(self.ids[0]) + (f" ({', '.join(known)})" if known else "")


def matches(pattern: str, subject: Subject, *, strict: bool) -> bool:
    """Return True if a pattern names a model.

    With `strict`, as for denials, a region also names the models of providers seated there, and a bare name those of
    every provider.
    """
    found = _PREFIX.match(pattern)
    kind, wanted = (found[1], pattern[found.end() :]) if found and found[1] in _KINDS else ("", pattern)
    return any(_equal(wanted, name) for name in _names(kind, wanted, subject, strict=strict))


def _names(kind: str, wanted: str, subject: Subject, *, strict: bool) -> Iterator[str]:
    if kind in ("", "model"):
        yield from subject.ids
        if strict and "/" not in wanted:
            yield from (name.rpartition("/")[2] for name in subject.ids)
    if kind == "provider" or (not kind and "/" not in wanted):
        yield from subject.providers
    if kind == "family":
        yield from _families(wanted, subject, strict=strict)
    if kind == "region":
        places = (subject.region, subject.seat) if strict else (subject.region,)
        yield from (place for place in places if place is not None)


def _families(wanted: str, subject: Subject, *, strict: bool) -> Iterator[str]:
    """Yield the family; where it is unknown, a denied one that the id has in its name."""
    if subject.family is not None:
        yield subject.family
    elif strict and wanted.strip().casefold() in subject.ids[0].casefold():
        yield wanted


def _equal(pattern: str, name: str) -> bool:
    return fnmatchcase(name.strip().casefold(), pattern.strip().casefold())


class Refusal(NamedTuple):
    """The reason why a model is refused, and the way on. `place` is the file and line of the rule."""

    place: str
    reason: str
    advice: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}; {self.advice}"

    @property
    def note(self) -> str:
        """The reason without advice."""
        return f"{self.place}: {self.reason}"


class Rules(Value):
    """The rules of one file. `lines` has the line of each key, and `text` the file, to find a pattern's own line."""

    path: Path
    table: PolicyTable
    lines: dict[str, int] = Field(default={})
    text: str = ""
    machine_wide: bool = False

    def refusal(self, subject: Subject) -> Refusal | None:
        """Return the reason why these rules refuse a model; None if they allow it."""
        return next(self._refusals(subject), None)

    def place(self, key: str, pattern: str | None = None) -> str:
        """Return the file and line of a key, or of a pattern in its list."""
        line = self.lines.get(key, 1)
        if pattern is not None:
            below = enumerate(self.text.split("\n")[line - 1 :], line)
            quoted = (f'"{pattern}"', f"'{pattern}'")
            line = next((number for number, text in below if any(one in text for one in quoted)), line)
        return f"{self.path}:{line}"

    def _refusals(self, subject: Subject) -> Iterator[Refusal]:
        table, model = self.table, subject.words
        for pattern in table.deny:
            if matches(pattern, subject, strict=True):
                others = ", …" if len(table.deny) > 1 else ""
                yield self._refused("deny", f'deny = ["{pattern}"{others}] forbids {model}', pattern)
        if table.allow is not None and not any(matches(one, subject, strict=False) for one in table.allow):
            allowed = ", ".join(f'"{pattern}"' for pattern in table.allow[:3])
            others = ", …" if len(table.allow) > 3 else ""
            yield self._refused("allow", f"allow = [{allowed}{others}] forbids {model}")
        for name, limit, prices in self._limits(subject):
            if limit is not None and prices and max(prices) > limit:
                told = f"${max(prices).normalize():f} for a million {name} tokens"
                yield self._refused("max_price", f"max_price = {{{name} = {limit}}} forbids {model}, at {told}")
        if table.unknown_price == "deny" and not subject.prices:
            yield self._refused("unknown_price", f'unknown_price = "deny" forbids {model}, whose price is unknown')

    def _limits(self, subject: Subject) -> Iterator[tuple[str, Decimal | None, list[Decimal]]]:
        limit = self.table.max_price or PriceLimit()
        yield "input", limit.input, [given for given, _ in subject.prices]
        yield "output", limit.output, [answered for _, answered in subject.prices]

    def _refused(self, key: str, reason: str, pattern: str | None = None) -> Refusal:
        return Refusal(self.place(key, pattern), reason, _THEIRS if self.machine_wide else _YOURS)


class Policy(Value):
    """The rules of all files: a model must pass each of them, and the strictest `content` counts."""

    rules: tuple[Rules, ...] = ()

    def refusal(self, subject: Subject) -> Refusal | None:
        """Return the first reason why a model is refused; None if it is allowed."""
        return next((found for one in self.rules if (found := one.refusal(subject)) is not None), None)

    @property
    def limits_prices(self) -> bool:
        """True if a rule looks at prices."""
        return any(one.table.max_price is not None for one in self.rules)

    @property
    def content(self) -> Kept:
        """The most content that a store may keep."""
        return strictest(one.table.content for one in self.rules)

    def kept(self, asked: Kept) -> tuple[Kept, str | None]:
        """Return the content that is kept where `asked` is wanted, and a note if it is less."""
        most = self.content
        if strictest([asked, most]) == asked:
            return asked, None
        place = next(one.place("content") for one in self.rules if one.table.content == most)
        return most, f'{place}: content = "{most}" allows a store to keep no more, in place of {asked!r}'


def strictest(contents: Iterable[Kept]) -> Kept:
    """Return the content that keeps least; "full" of none."""
    return max(contents, key=_STRICTNESS.index, default="full")
