"""Settings of the user: read once from the environment and fusion.toml, then passed down."""

import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr

from fusion.core.config.environment import Wire, wire_named
from fusion.core.config.machine import machine_rules, rules_of
from fusion.core.config.policy import Policy, Rules
from fusion.core.config.reading import Source, load_file
from fusion.core.config.sandbox import SandboxTable
from fusion.core.config.server import ServedTable, ServerTable
from fusion.core.config.tables import (
    FREE,
    BatchesTable,
    Endpoint,
    LimitsTable,
    NamedBudget,
    SettingsFile,
    StoreRules,
    Tariff,
    TelemetryTable,
    bound_tables,
)
from fusion.core.config.tools import McpServer, PythonRules
from fusion.core.config.trust import NAME, Trust, Untrusted, digest_of, project_files, unfit, unfit_notice
from fusion.core.errors import UsageError
from fusion.core.params import Defaults, RoleSpec
from fusion.core.paths import is_url, user_path, working_directory
from fusion.core.types import Limits, Value
from fusion.core.validation import Authored


class StoreSettings(StoreRules):
    """Storage of runs, with the path resolved; `url` names a database in its place."""

    path: Path = Field(default_factory=lambda: _state_path())
    url: SecretStr | None = None

    @property
    def place(self) -> Path | str:
        """The file, or the URL of the database, of the store."""
        return self.path if self.url is None else self.url.get_secret_value()

    def at(self, place: str) -> "StoreSettings":
        """Return these settings with the store at another place."""
        there = {"url": SecretStr(place)} if is_url(place) else {"path": user_path(place), "url": None}
        return self.model_copy(update=there)


class Settings(Value):
    """Settings from the environment and fusion.toml.

    `profile_from` is the origin of the profile's name, for messages; `files` are the files of settings in use: the
    user's own, then the project's. `untrusted` holds the project's tables that do not count, and `notices` has a line
    for all that is ignored. `keys` holds the names of non-empty variables that look like a provider's key; their
    values stay in the environment. `models_dir` is the folder of weights, and `models_sources` their download sources
    in order. `library_dir` is the user's folder of prompts and pipelines. `ceilings` are the `[limits]` of each file,
    of which the lowest counts. `budgets` are those that runs share, by name. `wire` is the way to models that both
    Fusion's own HTTP client and litellm can reach. `policy` holds the rules of the machine, the user and the project;
    by default those of the machine. `outages` are patterns of models that fail as if they were unreachable, for a
    drill. `server` is the `[server]` table, its files relative to the file of settings resolved. `mcp` are the
    servers of tools by name, and `python` the functions that pipelines may call.
    """

    profile: str | None = None
    profile_from: str = "FUSION_PROFILE:"
    files: tuple[Path, ...] = ()
    untrusted: Untrusted | None = None
    notices: tuple[str, ...] = ()
    endpoints: dict[str, Endpoint] = Field(default={})
    roles: dict[str, RoleSpec] = Field(default={})
    prices: dict[str, Tariff] = Field(default={})
    defaults: Defaults = Defaults()
    limits: Limits = Limits()
    ceilings: tuple[LimitsTable, ...] = ()
    budgets: dict[str, NamedBudget] = Field(default={})
    models_dir: Path
    models_sources: tuple[str, ...] = ("hub",)
    local_threads: int = Field(gt=0)
    library_dir: Path
    keys: frozenset[str] = frozenset()
    wire: Wire = "direct"
    store: StoreSettings = Field(default_factory=StoreSettings)
    batches: BatchesTable = BatchesTable()
    telemetry: TelemetryTable = TelemetryTable()
    sandbox: SandboxTable = SandboxTable()
    policy: Policy = Field(default_factory=lambda: Policy(rules=machine_rules()))
    outages: tuple[str, ...] = ()
    server: ServerTable = ServerTable()
    mcp: dict[str, McpServer] = Field(default={})
    python: PythonRules = PythonRules()

    @classmethod
    def from_environment(
        cls,
        environment: Mapping[str, str] | None = None,
        *,
        start: Path | None = None,
        config: Path | str | None = None,
    ) -> "Settings":
        """Read fusion.toml, names of keys, and FUSION_ with PROFILE, WIRE, STORE, MODELS_DIR, _SOURCE, LOCAL_THREADS.

        The user's own file is `config`, else that of FUSION_CONFIG, else the one in the user's folder; it counts in
        full. The nearest file from `start` upwards (by default the working directory) is the project's, and wins over
        the own one. Until it is trusted, only its profile, roles, defaults, policy and tighter limits count. The
        policies of the machine, the user and the project all count.
        Raises UsageError for invalid values.
        """
        env = os.environ if environment is None else environment
        layers = _Layers(_own_file(config or env.get("FUSION_CONFIG")), start or working_directory())
        given = layers.merged()
        profile, source = env.get("FUSION_PROFILE") or None, "FUSION_PROFILE:"
        if profile is None and given.profile is not None:
            profile, source = given.profile, layers.place_of("profile")
        key_names = {endpoint.key_env for endpoint in given.endpoints.values()}
        return cls(
            profile=profile,
            profile_from=source,
            files=layers.files,
            untrusted=layers.untrusted,
            notices=layers.notices,
            endpoints=given.endpoints,
            roles=given.roles,
            prices=given.prices,
            defaults=given.defaults,
            limits=given.limits.of_run,
            ceilings=layers.ceilings(),
            budgets=layers.budgets(),
            models_dir=_folder(env.get("FUSION_MODELS_DIR"), "cache"),
            models_sources=_names(env.get("FUSION_MODELS_SOURCE"), ("hub",)),
            local_threads=_threads(env.get("FUSION_LOCAL_THREADS")),
            library_dir=user_folder(),
            store=_store(env.get("FUSION_STORE"), layers.store()),
            batches=given.batches,
            telemetry=given.telemetry,
            sandbox=given.sandbox,
            server=layers.server(),
            mcp=layers.mcp(),
            python=layers.python(),
            policy=Policy(rules=(*machine_rules(), *layers.rules())),
            wire=wire_named(env.get("FUSION_WIRE")) or "direct",
            keys=frozenset(
                name for name, value in env.items() if value.strip() and (name in key_names or _is_key(name))
            ),
        )

    @classmethod
    def without_files(cls) -> "Settings":
        """Return the settings of the environment alone, without any file or policy, to look for faults."""
        env = os.environ
        return cls(
            models_dir=_folder(env.get("FUSION_MODELS_DIR"), "cache"),
            local_threads=1,
            library_dir=user_folder(),
            store=_store(env.get("FUSION_STORE"), {}),
            policy=Policy(),
            keys=frozenset(name for name, value in env.items() if value.strip() and _is_key(name)),
        )

    @classmethod
    def announced(cls, *, depth: int = 3) -> "Settings":
        """Return the settings of the environment, and warn the caller at this depth of all that is ignored."""
        settings = cls.from_environment()
        for notice in settings.notices:
            warnings.warn(notice, stacklevel=depth)
        return settings


class _Layers:
    """The files of settings, the own one below the project's."""

    def __init__(self, own: Path | None, start: Path | None) -> None:
        self._own = None if own is None else load_file(own)
        self.notices: tuple[str, ...] = ()
        self.untrusted: Untrusted | None = None
        self._project = None if start is None else self._found(start)
        if self._project is not None:
            self.untrusted = untrusted(self._project)
        if self.untrusted is not None:
            self.notices += (self.untrusted.notice,)

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(source.path for source in (self._own, self._project) if source is not None)

    def merged(self) -> SettingsFile:
        """Return the settings that count."""
        below, above = (SettingsFile() if one is None else self._counting(one) for one in (self._own, self._project))
        return SettingsFile(
            profile=above.profile or below.profile,
            endpoints={**below.endpoints, **above.endpoints},
            roles={**below.roles, **above.roles},
            prices={**below.prices, **above.prices},
            defaults=above.defaults.over(below.defaults),
            batches=above.batches if "batches" in above.model_fields_set else below.batches,
            telemetry=TelemetryTable(**{**_given(below.telemetry), **_given(above.telemetry)}),
            sandbox=above.sandbox if "sandbox" in above.model_fields_set else below.sandbox,
            limits=LimitsTable(**above.limits.of_run.tighter(below.limits.of_run).model_dump(exclude_none=True)),
        )

    def ceilings(self) -> tuple[LimitsTable, ...]:
        """Return the `[limits]` of each file; the lowest ceiling counts."""
        return tuple(self._counting(one).limits for one in (self._own, self._project) if one is not None)

    def budgets(self) -> dict[str, NamedBudget]:
        """Return the budgets that runs share, each with its file."""
        return {
            name: NamedBudget(limits=table.limits, file=str(one.path), per=table.per, tags=table.tags)
            for one in (self._own, self._project)
            if one is not None
            for name, table in self._counting(one).budgets.items()
        }

    def store(self) -> dict[str, Any]:
        """Return the keys of the store that count; a relative path is resolved against its file's folder."""
        said: dict[str, Any] = {}
        for source in (self._own, self._project):
            if source is not None:
                table = self._counting(source).store
                said |= table.model_dump(exclude_unset=True, exclude={"path"})
                if table.path is not None:
                    said |= _placed(table.path, source.path.parent)
        return said

    def server(self) -> ServerTable:
        """Return the table of the server; files of pipelines are resolved against the folder of its file."""
        said: dict[str, Any] = {}
        for source in (self._own, self._project):
            if source is not None:
                table = self._counting(source).server
                said |= {name: getattr(table, name) for name in table.model_fields_set}
                if "pipelines" in table.model_fields_set:
                    said["pipelines"] = {name: _near(one, source) for name, one in table.pipelines.items()}
                if table.reports is not None:
                    said["reports"] = source.path.parent / user_path(str(table.reports))
        return ServerTable.model_construct(_fields_set=set(said), **said)

    def mcp(self) -> dict[str, McpServer]:
        """Return the servers of tools, each with the folder of its file."""
        return {
            name: McpServer(folder=source.path.parent, **_given(table))
            for source in (self._own, self._project)
            if source is not None
            for name, table in self._counting(source).mcp.items()
        }

    def python(self) -> PythonRules:
        """Return the functions that any file allows; the time-out of the last one counts."""
        said: dict[str, Any] = {"allow": (), "read": (), "folders": ()}
        for source in (self._own, self._project):
            if source is not None and (table := self._counting(source).python).allow:
                said |= {"allow": said["allow"] + table.allow, "folders": (*said["folders"], source.path.parent)}
                said |= {"read": said["read"] + table.read, "timeout": table.timeout}
        return PythonRules(**said)

    def rules(self) -> Iterator[Rules]:
        """Yield the policy of each file that has one; it counts without trust, since it only tightens."""
        for source in (self._own, self._project):
            if source is not None and "policy" in source.data:
                yield rules_of(source.path, source.content.policy, source.marks, source.text)

    def place_of(self, key: str) -> str:
        """Return the file, line and column of a key at the top level, for messages."""
        sources = [source for source in (self._project, self._own) if source is not None and (key,) in source.marks]
        return ":".join(map(str, (sources[0].path, *sources[0].marks[(key,)])))

    def _counting(self, source: Source) -> SettingsFile:
        if source is not self._project or self.untrusted is None:
            return source.content
        free = FREE & source.content.model_fields_set
        return SettingsFile(**{name: getattr(source.content, name) for name in free})

    def _found(self, start: Path) -> Source | None:
        """Read the nearest file of a project that may count, unless it is the own one."""
        for path in project_files(start):
            if self._own is not None and path.resolve() == self._own.path:
                return None
            reason = unfit(path)
            if reason is None:
                return load_file(path.resolve())
            self.notices += (unfit_notice(path, reason),)
        return None


def _near(served: ServedTable, source: Source) -> ServedTable:
    """Return a served pipeline with the path of its file resolved; names of the library stay."""
    given = served.pipeline
    if not given.endswith((".yaml", ".yml")):
        return served
    return served.model_copy(update={"pipeline": str(source.path.parent / user_path(given))})


def _given(table: Authored) -> dict[str, Any]:
    return table.model_dump(exclude_unset=True)


def untrusted(source: Source) -> Untrusted | None:
    """Return the tables of a project's file that do not count, if any."""
    tables, digest = tuple(bound_tables(source.data)), digest_of(source.data)
    answer = Trust().answer(source.path, digest) if tables else True
    return None if answer else Untrusted(source.path, tables, digest, answer is not None, source.content)


def user_folder() -> Path:
    """Return the user's folder of settings, prompts and pipelines."""
    return _folder(None, "config")


def cache_folder() -> Path:
    """Return the user's folder of files that can be fetched again."""
    import platformdirs

    return platformdirs.user_cache_path("fusion", appauthor=False)


def _own_file(named: Path | str | None) -> Path | None:
    """Return the user's own file of settings, if any. Raises UsageError if the named one does not exist."""
    if not named:
        path = user_folder() / NAME
        return path.resolve() if path.is_file() else None
    path = user_path(str(named))
    if not path.exists() or path.is_dir():
        raise UsageError(f"no settings file {str(named)!r}; --config and FUSION_CONFIG name a fusion.toml")
    return path.resolve()


def _is_key(name: str) -> bool:
    """Return True if a variable configures access to a provider: a key, a region, an address."""
    return name.endswith(("_API_KEY", "_TOKEN")) or name.startswith(("AWS_", "AZURE_"))


def _folder(given: str | None, kind: str) -> Path:
    if given:
        return user_path(given)
    import platformdirs

    if kind == "cache":
        return cache_folder() / "models"
    return platformdirs.user_config_path("fusion", appauthor=False)


def _state_path() -> Path:
    import platformdirs

    return platformdirs.user_state_path("fusion", appauthor=False) / "runs.db"


def _store(named: str | None, said: Mapping[str, Any]) -> StoreSettings:
    """Return the store's settings; FUSION_STORE wins over the path of a file."""
    found = StoreSettings(**said)
    return found.at(named) if named else found


def _placed(place: str, folder: Path) -> dict[str, Any]:
    """Return the keys of the place that a file in this folder names."""
    return {"url": place} if is_url(place) else {"path": folder / user_path(place), "url": None}


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
