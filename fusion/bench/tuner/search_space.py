"""What a file leaves open: `{any: [a, b, c]}` in place of any value, and the file with one of them in each place."""

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from fusion.core.errors import Problem
from fusion.core.validation import Authored, Mistake, misread, mistakes
from fusion.core.yaml import Place, Positions

_ANY: Final = "any"


class Source(NamedTuple):
    """A file as it was read: its data, and where everything in it stands."""

    file: str
    data: Any
    positions: Positions

    def problem(self, place: Place, message: str, *, of_key: bool = False) -> Problem:
        """A mistake at a place of the file."""
        mark = self.positions.key(place) if of_key else self.positions.at(place)
        return Problem(self.file, *mark, ".".join(map(str, place)), message)


class Open(NamedTuple):
    """A place that is left open, and the values that it may have."""

    place: Place
    values: tuple[Any, ...]


class Choice(NamedTuple):
    """The value that an open place has: the one of this number."""

    open: Open
    number: int

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.open.place))}={_short(self.open.values[self.number])}"


class Variant(NamedTuple):
    """The data of a file with a value in every place, and which those are."""

    data: Any
    choices: tuple[Choice, ...]

    def checked(self, model: type[Authored], source: Source, *, at: Place = ()) -> tuple[Any, list[Problem]]:
        """The value that the data describes, and every mistake in it where the author wrote it.

        `at` is the place of the data in its file.
        """
        try:
            made = model.model_validate(self.data, by_alias=True, by_name=False)
            found = list(misread(self.data, made))
        except ValidationError as error:
            made = None
            found = mistakes(error, self.data, lambda place: model.keys_within(self.data, place))
        return made, [self._problem(one, source, at) for one in found]

    def _problem(self, mistake: Mistake, source: Source, at: Place) -> Problem:
        place = (*at, *mistake.place)
        for choice in self.choices:
            whole = choice.open.place
            if place[: len(whole)] == whole:
                place = (*whole, _ANY, choice.number, *place[len(whole) :])
        return source.problem(place, mistake.message, of_key=mistake.of_key)


def left_open(source: Source, *, at: Place = ()) -> tuple[list[Open], list[Problem]]:
    """Every open place at or below a place of a file, and what is wrong with them."""
    data = source.data
    for part in at:
        data = data[part]
    found = list(_open(data, at))
    problems = [source.problem(place, why) for place, value in found if (why := _wrong(value)) is not None]
    return ([Open(place, tuple(value[_ANY])) for place, value in found] if not problems else []), problems


def size(places: Sequence[Open]) -> int:
    """How many variants there are."""
    return math.prod(len(one.values) for one in places)


def variants(data: Any, places: Sequence[Open], *, at: Place = ()) -> Iterator[Variant]:
    """The data, which stands at a place of its file, with each combination of values."""
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
        return "`any` stands alone: what it is beside belongs into each of its values"
    if not isinstance(given, list) or len(given) < 2:
        return "`any` is a list of two or more values, as in {any: [a, b]}"
    if len({json.dumps(one, sort_keys=True) for one in given}) < len(given):
        return "a value stands in `any` twice"
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


def _short(value: Any) -> str:
    """A value on a line; of a recorded model its name."""
    if isinstance(value, str):
        return value.rpartition("#")[2] if value.startswith("replay:") else value
    return json.dumps(value, ensure_ascii=False)
