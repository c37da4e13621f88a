"""fusion.toml: the user's own endpoints, roles, prices, defaults and store; every mistake in it at its line."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator

from fusion.errors import Problem, UsageError
from fusion.library import read_text
from fusion.mistakes import Authored, Mistake, keys_at, misread, mistakes
from fusion.positions import Place
from fusion.terms import Defaults, RoleSpec
from fusion.types import Money

NAME: Final = "fusion.toml"
_ENDPOINT: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_KEY: Final = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_KEYS: Final = rf"{_KEY}(?:\s*\.\s*{_KEY})*"
_TABLE: Final = re.compile(rf"\s*\[\[?\s*({_KEYS})\s*\]")
_PAIR: Final = re.compile(rf"\s*({_KEYS})\s*=")
_INLINE: Final = re.compile(rf"[{{,]\s*({_KEYS})\s*=")
_PART: Final = re.compile(_KEY)
_WHERE: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")

Mark = tuple[int, int]


class Tariff(Authored):
    """What a model costs, in dollars for a million tokens; nothing for both is free."""

    input: Money = Field(ge=0, description="Dollars for a million tokens in.")
    output: Money = Field(ge=0, description="Dollars for a million tokens out.")


class Endpoint(Authored):
    """A server of the user's own that speaks as OpenAI does: vLLM, llama.cpp, Ollama, and many more."""

    model: str = Field(min_length=1, description="The name under which the server knows the model.")
    api_base: str = Field(description="Where the server is: http://localhost:8000/v1.")
    key_env: str | None = Field(default=None, min_length=1, description="The variable that holds the server's key.")
    context: int | None = Field(default=None, gt=0, description="Tokens that the model reads and writes in one call.")
    price: Tariff | None = Field(default=None, description="What it costs; unknown where nothing is said.")
    concurrency: int | None = Field(default=None, ge=1, description="Calls that the server takes at once.")

    @field_validator("api_base")
    @classmethod
    def _is_an_address(cls, given: str) -> str:
        if not re.fullmatch(r"https?://[^\s/@]+(/\S*)?", given):
            raise ValueError(f"{given!r} is no address such as http://localhost:8000/v1")
        return given


class StoreTable(Authored):
    """Where runs are kept, how much of them, and how long."""

    path: Path | None = Field(default=None, description="The file; by default `runs.db` in the user's state folder.")
    content: Literal["full", "digest", "off"] = Field(
        default="full", description="What is kept of prompts and replies: texts, digests, or nothing."
    )
    retention: int | None = Field(default=None, ge=1, description="Days; by default runs are kept until removed.")
    synchronous: Literal["NORMAL", "FULL"] = Field(
        default="NORMAL", description="FULL waits for the disk at every write: for machines that lose power."
    )
    cache_mb: int = Field(default=500, ge=0, description="Megabytes of replies in the cache.")

    @field_validator("path", mode="before")
    @classmethod
    def _is_a_path(cls, given: object) -> object:
        if isinstance(given, str) and (not given or "\0" in given):
            raise ValueError(f"{given!r} is no path of a file")
        return given

    @property
    def cache_bytes(self) -> int:
        return self.cache_mb * 1_000_000


def _endpoint_name(name: str) -> str:
    if not _ENDPOINT.fullmatch(name):
        raise ValueError(f"{name!r} is no name of an endpoint: letters, digits, '-', '_' and '.', a letter first")
    return name


def _priced(model: str) -> str:
    if model.startswith(("local/", "local:")):
        raise ValueError(f"{model!r} is an embedded model, which costs nothing")
    return model


class SettingsFile(Authored):
    """What stands in a fusion.toml."""

    profile: str | None = Field(default=None, min_length=1, description="The profile to use.")
    endpoints: dict[Annotated[str, AfterValidator(_endpoint_name)], Endpoint] = Field(
        default={}, description="The user's own servers, by name."
    )
    roles: dict[str, RoleSpec] = Field(default={}, description="The models of roles, by name.")
    prices: dict[Annotated[str, AfterValidator(_priced)], Tariff] = Field(
        default={}, description="What models cost, by id."
    )
    defaults: Defaults = Field(default=Defaults(), description="What holds for every call that says nothing else.")
    store: StoreTable = Field(default=StoreTable(), description="Where and how runs are kept.")


def find(start: Path, user: Path) -> Path | None:
    """The nearest fusion.toml from a folder upwards, else the one in the user's folder."""
    folders = (start, *start.parents, user)
    return next((path for folder in folders if (path := folder / NAME).is_file()), None)


def load(path: Path) -> tuple[SettingsFile, dict[Place, Mark]]:
    """What a fusion.toml says, and where each key of it stands. Raises UsageError with every mistake in it."""
    text = read_text(path)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(str(_unreadable(path, text, str(error)))) from error
    marks = dict(_marks(text))
    found: list[Mistake] = []
    try:
        settings = SettingsFile.model_validate(data, by_alias=True, by_name=False)
        found += misread(data, settings)
    except ValidationError as error:
        found += mistakes(error, data, lambda place: keys_at(SettingsFile, place))
    if found:
        problems = sorted(_problem(path, mistake, marks) for mistake in found)
        raise UsageError("\n".join(str(problem) for problem in problems))
    return settings, marks


def _unreadable(path: Path, text: str, words: str) -> Problem:
    where = _WHERE.search(words)
    line, column = (int(where[1]), int(where[2])) if where and where[1] else (text.count("\n") + 1, 1)
    said = _WHERE.sub("", words)
    return Problem(str(path), line, column, "", f"no TOML: {said[:1].lower()}{said[1:]}")


def _problem(path: Path, mistake: Mistake, marks: dict[Place, Mark]) -> Problem:
    place = mistake.place
    while place and place not in marks:
        place = place[:-1]
    line, column = marks.get(place, (1, 1))
    return Problem(str(path), line, column, ".".join(map(str, mistake.place)), mistake.message)


def _marks(text: str) -> Iterator[tuple[Place, Mark]]:
    """Every key of a TOML text, and its line and column; what stands within a text of several lines is none."""
    table: Place = ()
    ends: str | None = None
    for number, line in enumerate(text.split("\n"), 1):
        if ends is not None:
            ends = None if ends in line else ends
        elif found := _TABLE.match(line):
            table = _parts(found[1])
            yield table, (number, found.start(1) + 1)
        elif found := _PAIR.match(line):
            place = table + _parts(found[1])
            yield place, (number, found.start(1) + 1)
            for inner in _INLINE.finditer(line, found.end()):
                yield place + _parts(inner[1]), (number, inner.start(1) + 1)
            ends = next((quotes for quotes in ('"""', "'''") if line.count(quotes) % 2), None)


def _parts(keys: str) -> Place:
    return tuple(part.strip("\"'") for part in _PART.findall(keys))
