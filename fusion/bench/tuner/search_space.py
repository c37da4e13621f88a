"""Search space: the open values of a file, `{any: [a, b, c]}` in place of any value, and all its variants."""

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from fusion.bench.arms.base import short_name
from fusion.bench.suite import AuthoredT, Document, validate
from fusion.core.errors import Problem
from fusion.core.validation import Mistake
from fusion.core.yaml import Place

_ANY: Final = "any"


class Open(NamedTuple):
    """An open place, and its possible values."""

    place: Place
    values: tuple[Any, ...]


class Choice(NamedTuple):
    """The chosen value of an open place, by its number."""

    open: Open
    number: int

    def __str__(self) -> str:
        value = self.open.values[self.number]
        shown = short_name(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return f"{'.'.join(map(str, self.open.place))}={shown}"


class Variant(NamedTuple):
    """The data of a file with a value in every open place, and the choices."""

    data: Any
    choices: tuple[Choice, ...]

    def validate(
        self, model: type[AuthoredT], source: Document, *, at: Place = ()
    ) -> tuple[AuthoredT | None, list[Problem]]:
        """Return the value of the data, if valid, and every mistake at its position in the author's file.

        `at` is the place of the data in its file.
        """
        value, found = validate(model, self.data)
        return value, self.problems(found, source, at=at)

    def problems(self, found: Iterable[Mistake], source: Document, *, at: Place = ()) -> list[Problem]:
        """Return mistakes in the data at their positions in the author's file."""
        return [source.problem(self._authored((*at, *one.place)), one.message, of_key=one.of_key) for one in found]

    def _authored(self, place: Place) -> Place:
        """Return the place of a value in the author's file, which may be within an `any`."""
        for choice in self.choices:
            whole = choice.open.place
            if place[: len(whole)] == whole:
                place = (*whole, _ANY, choice.number, *place[len(whole) :])
        return place


def open_places(source: Document, *, at: Place = ()) -> tuple[list[Open], list[Problem]]:
    """Return the open places at or below a place of a file, and the mistakes in them."""
    data = source.data
    for part in at:
        data = data[part]
    found = list(_open(data, at))
    problems = [source.problem(place, why) for place, value in found if (why := _wrong(value)) is not None]
    return ([Open(place, tuple(value[_ANY])) for place, value in found] if not problems else []), problems


def size(places: Sequence[Open]) -> int:
    """Return the number of variants."""
    return math.prod(len(one.values) for one in places)


def variants(data: Any, places: Sequence[Open], *, at: Place = ()) -> Iterator[Variant]:
    """Yield the data with each combination of values. `at` is its place in the file."""
    for indexes in itertools.product(*(range(len(one.values)) for one in places)):
        choices = tuple(Choice(one, index) for one, index in zip(places, indexes, strict=True))
        yield Variant(_filled(data, at, {one.open.place: one.open.values[one.number] for one in choices}), choices)


def _open(data: Any, place: Place) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    if isinstance(data, Mapping):
        if _ANY in data:
            yield place, data
            return
        for key, value in data.items():
            yield from _open(value, (*place, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _open(value, (*place, index))


def _wrong(value: Mapping[str, Any]) -> str | None:
    given = value[_ANY]
    if len(value) > 1:
        return "`any` must be the only key; move the other keys into each of its values"
    if not isinstance(given, list) or len(given) < 2:
        return "`any` is a list of two or more values, as in {any: [a, b]}"
    if len({json.dumps(one, sort_keys=True) for one in given}) < len(given):
        return "`any` has a value twice"
    if any(True for one in given for _ in _open(one, ())):
        return "an `any` within an `any`; write all values in one list"
    return None


def _filled(data: Any, place: Place, values: Mapping[Place, Any]) -> Any:
    if place in values:
        return values[place]
    if isinstance(data, Mapping):
        return {key: _filled(value, (*place, key), values) for key, value in data.items()}
    if isinstance(data, list):
        return [_filled(value, (*place, index), values) for index, value in enumerate(data)]
    return data
