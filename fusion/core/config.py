"""Settings of the user, read once from the environment and fusion.toml, then passed down."""

import os
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator

from fusion.core.errors import Problem, UsageError
from fusion.core.params import Defaults, RoleSpec
from fusion.core.paths import read_text, user_path, working_directory
from fusion.core.types import Money, Value
from fusion.core.validation import Authored, Mistake, keys_at, misread, mistakes
from fusion.core.yaml import Place

_NAME: Final = "fusion.toml"
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
    """The price of a model in dollars per million tokens; zero for both is free."""

    input: Money = Field(ge=0, description="Dollars per million input tokens.")
    output: Money = Field(ge=0, description="Dollars per million output tokens.")


class Endpoint(Authored):
    """An OpenAI-compatible server of the user: vLLM, llama.cpp, Ollama and others."""

    model: str = Field(min_length=1, description="Name of the model on the server.")
    api_base: str = Field(description="Base URL of the server: http://localhost:8000/v1.")
    key_env: str | None = Field(
        default=None, min_length=1, description="Environment variable that holds the key of the server."
    )
    context: int | None = Field(default=None, gt=0, description="Context window in tokens.")
    price: Tariff | None = Field(default=None, description="Price; unknown if unset.")
    concurrency: int | None = Field(default=None, ge=1, description="Concurrent calls to the server.")
    thinks: bool | None = Field(
        default=None,
        description="Replies begin with thoughts that only a closing `</think>` ends; unset finds that out.",
    )

    @field_validator("api_base")
    @classmethod
    def _is_an_address(cls, given: str) -> str:
        if not re.fullmatch(r"https?://[^\s/@]+(/\S*)?", given):
            raise ValueError(f"invalid URL {given!r}; write it as http://localhost:8000/v1")
        return given


class StoreTable(Authored):
    """Storage of runs: file, content, retention."""

    path: Path | None = Field(
        default=None, description="File of the store; by default `runs.db` in the user's state folder."
    )
    content: Literal["full", "digest", "off"] = Field(
        default="full",
        description="Content stored of prompts and replies: texts (full), digests (digest) or nothing (off).",
    )
    retention: int | None = Field(default=None, ge=1, description="Days to keep runs; by default until removed.")
    synchronous: Literal["NORMAL", "FULL"] = Field(
        default="NORMAL", description="FULL syncs the disk at every commit, against power loss."
    )
    cache_mb: int = Field(default=500, ge=0, description="Size of the reply cache in megabytes.")

    @field_validator("path", mode="before")
    @classmethod
    def _is_a_path(cls, given: object) -> object:
        if isinstance(given, str) and (not given or "\0" in given):
            raise ValueError(f"invalid path {given!r}")
        return given

    @property
    def cache_bytes(self) -> int:
        return self.cache_mb * 1_000_000


def _endpoint_name(name: str) -> str:
    if not _ENDPOINT.fullmatch(name):
        raise ValueError(
            f"invalid endpoint name {name!r}: use letters, digits, '-', '_' and '.', starting with a letter"
        )
    return name


def _priced(model: str) -> str:
    if model.startswith(("local/", "local:")):
        raise ValueError(f"{model!r} is an embedded model, which is free")
    return model


class SettingsFile(Authored):
    """The content of a fusion.toml."""

    profile: str | None = Field(default=None, min_length=1, description="Profile to use.")
    endpoints: dict[Annotated[str, AfterValidator(_endpoint_name)], Endpoint] = Field(
        default={}, description="OpenAI-compatible servers, by name."
    )
    roles: dict[str, RoleSpec] = Field(default={}, description="Models of roles, by name.")
    prices: dict[Annotated[str, AfterValidator(_priced)], Tariff] = Field(
        default={}, description="Prices of models, by id."
    )
    defaults: Defaults = Field(default=Defaults(), description="Defaults of every call.")
    store: StoreTable = Field(default=StoreTable(), description="Storage of runs.")


def _find_file(start: Path, user: Path) -> Path | None:
    """Return the nearest fusion.toml from `start` upwards, else the one in the user's folder."""
    folders = (start, *start.parents, user)
    return next((path for folder in folders if (path := folder / _NAME).is_file()), None)


def _load_file(path: Path) -> tuple[SettingsFile, dict[Place, Mark]]:
    """Return a fusion.toml with the position of each key. Raises UsageError with every mistake in it."""
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
    return Problem(str(path), line, column, "", f"invalid TOML: {said[:1].lower()}{said[1:]}")


def _problem(path: Path, mistake: Mistake, marks: dict[Place, Mark]) -> Problem:
    place = mistake.place
    while place and place not in marks:
        place = place[:-1]
    line, column = marks.get(place, (1, 1))
    return Problem(str(path), line, column, ".".join(map(str, mistake.place)), mistake.message)


def _marks(text: str) -> Iterator[tuple[Place, Mark]]:
    """Yield every key of a TOML text with its line and column, except inside multi-line strings."""
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
"""Matches variables that hold secrets; regions, addresses and versions are no secrets."""


_RUNS: Final = re.compile(r"[A-Za-z0-9]+")
_HEADER: Final = re.compile(r"[ -~]*")
_PLAIN: Final = re.compile(r"[\d.,:_/+-]+")
_ACCESS: Final = re.compile(
    r"^(?:HF|GH|GITHUB|GITLAB|HUGGINGFACE|HUGGING_FACE_HUB)_|_(?:API|ACCESS|AUTH|BEARER|SECRET)_"
)
_SHORTEST_TOKEN: Final = 16
_LONGEST_WORD: Final = 24


class StoreSettings(StoreTable):
    """Storage of runs, with the path resolved."""

    path: Path = Field(default_factory=lambda: _state_path())


class Settings(Value):
    """Settings from the environment and fusion.toml.

    `profile_from` is the origin of the profile's name, for messages; `file` is the fusion.toml, if any. `keys` holds
    the names of non-empty variables that look like a provider's key; their values stay in the environment.
    `models_dir` is the folder of weights, and `models_sources` their download sources in order. `library_dir` is the
    user's folder of prompts and pipelines.
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

        The nearest file from `start` upwards (by default the working directory) wins over that in the user's folder.
        Raises UsageError for invalid values.
        """
        env = os.environ if environment is None else environment
        user = _folder(None, "config")
        file = _find_file(start or working_directory() or user, user)
        given, marks = (SettingsFile(), {}) if file is None else _load_file(file)
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
            keys=frozenset(
                name for name, value in env.items() if value.strip() and (name in key_names or _is_key(name))
            ),
        )


def secret(name: str) -> str | None:
    """Return the key in a variable, without white space around it; None if it is unset or blank.

    Raises UsageError for a key with characters that no HTTP header can hold.
    """
    key = os.environ.get(name, "").strip()
    if not _HEADER.fullmatch(key):
        what = "a line break or control character" if key.isascii() else "a character that is not ASCII"
        raise UsageError(f"{name} holds {what} within its value: copy the key again, on one line")
    return key or None


def is_padded(name: str) -> bool:
    """Return True if a variable has white space around its value, as from a file that ends with a line feed."""
    value = os.environ.get(name, "")
    return value != value.strip()


def secrets(named: Collection[str] = ()) -> dict[str, str]:
    """Return the variables that hold secrets now, including those `named`, for redaction."""
    names = [name for name in os.environ if name in named or _SECRET.search(name)]
    values = {name: os.environ.get(name, "") for name in names}
    return {name: value for name, value in values.items() if name in named or not _is_plain(name, value)}


def _is_plain(name: str, value: str) -> bool:
    """Return True for a `*_TOKEN` that is a number, a word or another short value, such as the number of a build."""
    if not name.endswith("_TOKEN") or name.startswith(("AWS_", "AZURE_")):
        return False
    value = value.strip()
    if len(value) < _SHORTEST_TOKEN or (value.isalpha() and len(value) < _LONGEST_WORD):
        return True
    if _PLAIN.fullmatch(value):
        return True
    return not _ACCESS.search(name) and not _is_random(value)


def _is_random(value: str) -> bool:
    """Return True for a text as generators of secrets write it: long runs of letters and digits, in any case."""
    runs = _RUNS.findall(value)
    mixed = [run for run in runs if not run.isalpha() and not run.isdigit()]
    cases = value.lower() != value != value.upper()
    return (
        any(len(run) >= 10 for run in mixed)
        or any(len(run) >= _LONGEST_WORD for run in runs)
        or bool(mixed and cases)
    )


def _is_key(name: str) -> bool:
    """Return True if a variable configures access to a provider: a key, a region, an address."""
    return name.endswith(("_API_KEY", "_TOKEN")) or name.startswith(("AWS_", "AZURE_"))


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
    """Return the store's settings; a relative path in the file is resolved against its folder."""
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
