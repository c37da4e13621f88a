"""Simulation of runs for quotes: seeded draws of lengths, numbers, decisions and placeholder texts."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, NamedTuple

from fusion.core.types import JsonSchema

_BYTES: Final = 4  # of a token
_RARE: Final = 1.6448536269514722  # standard deviations: 5 of 100 are beyond
_OF_RUN, _OF_MODEL, _OF_CALL = math.sqrt(0.35), math.sqrt(0.35), math.sqrt(0.3)
_ODDS: Final = 0.8  # of a decision: standard deviation of their logarithm from run to run
_HALF: Final = math.sqrt(0.5)
_USUAL_LIMIT: Final = 2000  # tokens
_WANTED: Final = 0.3
_MOST_ELEMENTS: Final = 20  # of a list without a bound
_MEANT: Final = 2000  # characters: a larger bound of a text says nothing of its length
_MOST_TRIES: Final = 12
_WORDS: Final = "of the one as it is said in this part that was to be found there and here "

Shares = Mapping[str, Mapping[Any, float]]
"""Probability of each value of a field in an answer; the most expensive value is last."""


class Spread(NamedTuple):
    """A distribution: 5 of 100 are below `low`, half below `likely`, 5 above `high`."""

    low: float
    likely: float
    high: float


Sizes = Mapping[str, Spread]
"""Length of each list in an answer, as a share of its maximum."""

Within = Mapping[str, int | None]
"""Most calls of each inner stage by its name, and of the nested pipeline under ""; None if unknown."""


_CHARACTERS: Final = Spread(12, 80, 600)  # of a text in data without a bound
_OF_BOUND: Final = Spread(0.06, 0.25, 0.8)  # length of any other one, as a share of its bound


class Chance:
    """Random draws of one simulated run. Two of one seed are equal; `worst` always draws the most expensive.

    `lie` is the quantile of this run among all, from 0 to 1, in the length of answers. It is a part of every length;
    the rest depends on the model and on the call. `turn` numbers the worst cases, since the most expensive one is
    unknown: lists have few and long elements in even turns, and as many as possible in odd ones. `way` is the number
    of the way that a route takes.
    """

    def __init__(self, seed: str, *, lie: float = 0.5, worst: bool = False, turn: int = 0) -> None:
        self.worst = worst
        self.turn = turn
        self._seed = seed
        self._random = Random(seed)  # noqa: S311 - guards nothing
        self._lie = _deviation(lie)
        self._models: dict[tuple[str, str], float] = {}
        self._ballots = 0
        self._usual: dict[str, Any] = {}

    @property
    def way(self) -> int:
        return self.turn // 2

    def happens(self, share: float) -> bool:
        """Return True in this share of cases; in the worst case always."""
        return self.worst or self._random.random() < share

    def one_of(self, name: str, shares: Mapping[Any, float]) -> Any:
        """Return one of these values by their shares; the odds of the first one differ from run to run."""
        first, *others = shares
        if self.worst:
            return others[-1] if others else first
        weights = [shares[first] * self._tilt(name), *(shares[other] for other in others)]
        return self._random.choices([first, *others], weights)[0]

    def ballot(self, share: float) -> int:
        """Return a closed answer: the same in about this share of cases, else a new one each time."""
        if not self.worst and self.one_of("ballot", {True: share, False: 1 - share}):
            return 0
        self._ballots += 1
        return self._ballots

    def _tilt(self, name: str) -> float:
        """Return the factor on the odds of the cheapest decision in this run."""
        return math.exp(_ODDS * self._own("odds", name))

    def usual(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what `make` gave when a value of this name was first drawn in this run."""
        if name not in self._usual:
            self._usual[name] = make()
        return self._usual[name]

    def among(self, spread: Spread) -> float:
        """Return a number of this spread."""
        return math.inf if self.worst else _at(spread, self._random.gauss(0, 1))

    def of_model(self, what: str, model: str, spread: Spread) -> float:
        """Return a number of this spread that a model keeps through the run, such as its speed."""
        return spread.likely if self.worst else _at(spread, self._own(what, model))

    def of_field(self, name: str, spread: Spread) -> float:
        """Return a number of this spread; fields of one name share half of its variance through the run."""
        return _at(spread, _HALF * self._own("field", name) + _HALF * self._random.gauss(0, 1))

    def length(self, model: str, spread: Spread, limit: int) -> int:
        """Return the tokens of an answer under `limit`; more than those are truncated.

        `spread` holds for a limit of 2,000; a higher limit lengthens answers by less than in proportion.
        """
        if self.worst:
            return limit
        own = self._own("length", model)
        drawn = _at(spread, _OF_RUN * self._lie + _OF_MODEL * own + _OF_CALL * self._random.gauss(0, 1))
        return max(1, round(drawn * math.pow(limit / _USUAL_LIMIT, _WANTED)))

    def text(self, tokens: int) -> str:
        """Return a text of so many tokens, counted as four bytes each."""
        size = max(tokens, 1) * _BYTES
        begin = f"{self._random.getrandbits(40):x} ".translate(_LETTERS)
        return (begin + _WORDS * (size // len(_WORDS) + 1))[:size]

    def data(self, schema: JsonSchema, estimate: "Estimate", room: int) -> Any:
        """Return data of this schema, in so many tokens if possible."""
        for _ in range(_MOST_TRIES if self.worst else 0):
            made = _Data(self, schema, estimate, room).made()
            if len(json.dumps(made)) <= room * _BYTES:
                return made
            room = room * 2 // 3
        return _Data(self, schema, estimate, room).made()

    def any_of(self, least: int, most: int) -> int:
        """Return a whole number from `least` to `most`, each as likely."""
        return self._random.randint(least, most)

    def _own(self, what: str, model: str) -> float:
        key = what, model
        if key not in self._models:
            self._models[key] = Random(f"{self._seed} {what} {model}").gauss(0, 1)  # noqa: S311
        return self._models[key]


_TEXT: Final = Spread(60, 200, 900)


def plausible(stage: Any, step: str, schema: JsonSchema | None, tokens: int, chance: Chance) -> Any:
    """Return a plausible reply to a call of a stage: text of so many tokens, or data of the schema."""
    if schema is None:
        return chance.text(tokens)
    return chance.data(schema, stage.estimate, tokens)


def _calls(stage: Any, items: int, within: Within | None) -> int | None:
    return None if any(stage.roles()) else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Estimates of a kind of stage, for `fusion quote` and `fusion explain`.

    Its functions take the stage first. A kind sets those that differ from the defaults.
    """

    cost: str = ""
    """Number of its calls, in words."""
    expects: str = ""
    """Assumptions of a quote about its decisions, in words."""
    example: str = ""
    """A pipeline with a stage of this kind, as YAML; its first required input is a text."""
    lengths: Spread = _TEXT
    """Tokens of an answer in text under a limit of 2,000; see Chance.length."""
    shares: Shares = field(default_factory=dict)
    """Probabilities of the values that decide the next step."""
    sizes: Sizes = field(default_factory=dict)
    """Lengths of the lists in an answer, as shares of their maximum."""
    even: frozenset[str] = frozenset()
    """Whole numbers that are drawn evenly from their range."""
    calls: Callable[[Any, int, Within | None], int | None] = _calls
    """(stage, items, within): the most calls for so many items; None if unknown."""
    items: Callable[[Any, int], int | None] = lambda stage, items: None
    """(stage, items): the most items that it hands on, given so many; None if unknown."""
    supposed: Callable[[Any, Chance], Any] = lambda stage, chance: stage
    """(stage, chance): the stage as a quote simulates it, with decisions on an answer's words left to chance."""
    reply: Callable[[Any, str, JsonSchema | None, int, Chance], Any] = plausible
    """(stage, step, schema, tokens, chance): a plausible reply to one call."""


class _Data:
    """Random data of a schema."""

    def __init__(self, chance: Chance, schema: JsonSchema, estimate: Estimate, room: int) -> None:
        self._chance = chance
        self._schema = schema
        self._shares = estimate.shares
        self._sizes = estimate.sizes
        self._even = estimate.even
        self._left = room * _BYTES
        self._many = chance.worst and chance.turn % 2 == 1
        self._part = self._left / max(_texts(schema), 1)
        self._depth = 0
        self._kinds: dict[str, Callable[[str, JsonSchema], Any]] = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "integer": self._integer,
            "number": self._number,
            "boolean": lambda name, schema: chance.happens(0.5),
        }

    def made(self) -> Any:
        return self._value("", self._schema)

    def _value(self, name: str, schema: JsonSchema) -> Any:
        if "$ref" in schema:
            return self._value(name, self._schema["$defs"][schema["$ref"].rpartition("/")[2]])
        if "const" in schema:
            return schema["const"]
        if name in self._shares:
            return self._chance.one_of(name, self._shares[name])
        if "enum" in schema:
            return self._chance.one_of(name, dict.fromkeys(schema["enum"], 1.0))
        if "anyOf" in schema:
            return self._value(name, schema["anyOf"][0])
        kinds = schema.get("type", "null")
        kind = kinds if isinstance(kinds, str) else kinds[0]
        made = self._kinds.get(kind)
        return None if made is None else made(name, schema)

    def _object(self, name: str, schema: JsonSchema) -> dict[str, Any]:
        return {key: self._value(key, one) for key, one in schema.get("properties", {}).items()}

    def _array(self, name: str, schema: JsonSchema) -> list[Any]:
        count = self._count(name, schema)
        made: list[Any] = []
        self._depth += 1
        while len(made) < count:
            made.append(self._value(name, schema.get("items", {})))
            if self._left <= 0 and not self._many and len(made) >= schema.get("minItems", 0):
                break
        self._depth -= 1
        return made

    def _count(self, name: str, schema: JsonSchema) -> int:
        """Return the length of a list; in the worst case the maximum, or the minimum of long elements."""
        least, most = schema.get("minItems", 0), schema.get("maxItems", _MOST_ELEMENTS)
        if self._many:
            return int(least if self._depth else most)
        if name not in self._sizes:
            most = max(least, min(most, _MOST_ELEMENTS))
        share = self._chance.among(self._sizes.get(name, Spread(0.04, 0.2, 0.6)))
        return int(max(least, min(most, round(min(share, 1.0) * most))))

    def _string(self, name: str, schema: JsonSchema) -> str:
        most = schema.get("maxLength", math.inf)
        if self._chance.worst:
            size = min(most, self._part if self._many else self._left)
        elif most <= _MEANT:
            size = min(self._chance.of_field(name, _OF_BOUND), 1.0) * most
        else:
            size = self._chance.of_field(name, _CHARACTERS)
        whole = max(schema.get("minLength", 1), round(size))
        self._left -= whole
        return self._chance.text(whole // _BYTES + 1)[:whole]

    def _integer(self, name: str, schema: JsonSchema) -> int:
        if name in self._even:
            return self._chance.any_of(schema["minimum"], schema["maximum"])
        return round(self._number(name, schema))

    def _number(self, name: str, schema: JsonSchema) -> float:
        wished: float = self._chance.one_of(name, {7: 0.7, 8: 0.3})
        return float(max(schema.get("minimum", wished), min(schema.get("maximum", wished), wished)))


def _texts(schema: JsonSchema) -> int:
    """Return the most texts that data of a schema has."""
    parts = [*schema.get("properties", {}).values(), *schema.get("anyOf", ())]
    listed = schema.get("maxItems", _MOST_ELEMENTS) * _texts(schema["items"]) if schema.get("items") else 0
    return int(sum(map(_texts, parts)) + listed + (schema.get("type") == "string" and "enum" not in schema))


def _at(spread: Spread, deviations: float) -> float:
    """Return the number so many standard deviations from the likely one, each side on a log scale."""
    towards = spread.high if deviations > 0 else spread.low
    if spread.likely <= 0 or towards <= 0:
        return max(0.0, spread.likely + (towards - spread.likely) * abs(deviations) / _RARE)
    return float(spread.likely * (towards / spread.likely) ** (abs(deviations) / _RARE))


def _deviation(lie: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(min(max(lie, 0.001), 0.999))


def evenly(count: int, random: Random) -> Sequence[float]:
    """Return `count` numbers from 0 to 1, one in each of `count` equal parts, shuffled."""
    places = [(at + random.random()) / count for at in range(count)]
    random.shuffle(places)
    return places


_LETTERS: Final = str.maketrans("0123456789", "ghijklmnop")
