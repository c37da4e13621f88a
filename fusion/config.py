"""Settings: environment and fusion.toml, read once, then passed down. Nothing else on the lower floors reads them."""

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from pydantic import Field

from fusion import settings_file
from fusion.errors import UsageError
from fusion.library import user_path
from fusion.settings_file import Endpoint, SettingsFile, StoreTable, Tariff
from fusion.terms import Defaults, RoleSpec
from fusion.types import Value

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
        file = settings_file.find(start or _here() or user, user)
        given, marks = (SettingsFile(), {}) if file is None else settings_file.load(file)
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


def _here() -> Path | None:
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
