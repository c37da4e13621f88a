"""Settings: environment and fusion.toml, read once, then passed down. Nothing else on the lower floors reads them."""

import os
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator

from fusion.core.errors import Problem, UsageError
from fusion.core.params import Defaults, RoleSpec
from fusion.core.paths import read_text, user_path
from fusion.core.types import Money, Value
from fusion.core.validation import Authored, Mistake, keys_at, misread, mistakes
from fusion.core.yaml import Place

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


_SECRET: Final = re.compile(
    r"_API_KEY$|_TOKEN$|^(?:AWS|AZURE)_.*(?:KEY|TOKEN|SECRET|PASSWORD|CONNECTION_STRING)(?!.*_FILE$)"
)
"""Variables whose values nobody may see; a region, an address or a version is none."""


class StoreSettings(StoreTable):
    """How runs are kept, and `path`, the file that holds them."""

    path: Path = Field(default_factory=lambda: _state_path())


class Settings(Value):
    """What the environment and fusion.toml say.

    `profile_from` says where the profile's name stands; `file` is the fusion.toml, if there is one. `keys` holds the
    names of variables that look like a provider's key and are not empty; their values stay in the environment.
    `models_dir` is where weights lie; `models_sources` where they may be fetched from, in order. `store` says how
    runs are kept, and where.
    """

    profile: str | None = None
    profile_from: str = "FUSION_PROFILE:"
    file: Path | None = None
    endpoints: dict[str, Endpoint] = Field(default={})
    roles: dict[str, RoleSpec] = Field(default={})
    prices: dict[str, Tariff] = Field(default={})
    defaults: Defaults = Defaults()
    models_dir: Path
    models_sources: tuple[str, ...] = ("hub",)
    local_threads: int = Field(gt=0)
    library_dir: Path
    keys: frozenset[str] = frozenset()
    store: StoreSettings = Field(default_factory=StoreSettings)

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] | None = None, *, start: Path | None = None
    ) -> "Settings":
        """Read fusion.toml, names of keys, and FUSION_ with PROFILE, MODELS_DIR, MODELS_SOURCE, LOCAL_THREADS, STORE.

        The file is looked for from `start` upwards (by default the working directory), then in the user's folder.
        Raises UsageError for what cannot be used.
        """
        env = os.environ if environment is None else environment
        user = _folder(None, "config")
        file = find(start or working_directory() or user, user)
        given, marks = (SettingsFile(), {}) if file is None else load(file)
        profile, source = env.get("FUSION_PROFILE") or None, "FUSION_PROFILE:"
        if profile is None and given.profile is not None:
            profile, source = given.profile, ":".join(map(str, (file, *marks[("profile",)])))
        key_names = {endpoint.key_env for endpoint in given.endpoints.values()}
        return cls(
            profile=profile,
            profile_from=source,
            file=file,
            endpoints=given.endpoints,
            roles=given.roles,
            prices=given.prices,
            defaults=given.defaults,
            models_dir=_folder(env.get("FUSION_MODELS_DIR"), "cache"),
            models_sources=_names(env.get("FUSION_MODELS_SOURCE"), ("hub",)),
            local_threads=_threads(env.get("FUSION_LOCAL_THREADS")),
            library_dir=user,
            store=_store(env.get("FUSION_STORE"), given.store, file),
            keys=frozenset(name for name, value in env.items() if value and (name in key_names or _is_key(name))),
        )


def secret(name: str) -> str | None:
    """The value of a variable that holds a key, for whoever sends it; it is kept nowhere."""
    return os.environ.get(name) or None


def secrets(named: Collection[str] = ()) -> dict[str, str]:
    """The variables that hold keys just now, those `named` among them, for whoever takes keys out of a text."""
    names = [name for name in os.environ if name in named or _SECRET.search(name)]
    return {name: os.environ.get(name, "") for name in names}


def _is_key(name: str) -> bool:
    """Whether a variable holds a provider's key, or something else without which its models cannot be reached."""
    return name.endswith(("_API_KEY", "_TOKEN")) or name.startswith(("AWS_", "AZURE_"))


def working_directory() -> Path | None:
    """The working directory; None where it was removed meanwhile."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None


def _folder(given: str | None, kind: str) -> Path:
    if given:
        return user_path(given)
    import platformdirs

    if kind == "cache":
        return platformdirs.user_cache_path("fusion", appauthor=False) / "models"
    return platformdirs.user_config_path("fusion", appauthor=False)


def _state_path() -> Path:
    import platformdirs

    return platformdirs.user_state_path("fusion", appauthor=False) / "runs.db"


def _store(named: str | None, given: StoreTable, file: Path | None) -> StoreSettings:
    """What the file says of the store; a path in it is seen from its own folder."""
    said = given.model_dump(exclude_unset=True)
    if named:
        said["path"] = user_path(named)
    elif given.path is not None and file is not None:
        said["path"] = file.parent / user_path(str(given.path))
    return StoreSettings(**said)


def _names(given: str | None, default: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(name.strip() for name in (given or "").split(",") if name.strip())
    return names or default


def _threads(given: str | None) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not given:
        return cores
    try:
        wanted = int(given)
    except ValueError:
        wanted = 0
    if wanted < 1:
        raise UsageError(f"FUSION_LOCAL_THREADS is {given!r}: give a whole number from 1 to {cores}, or unset it")
    return min(wanted, cores)
