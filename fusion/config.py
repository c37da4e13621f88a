"""Settings: read once from the environment, then passed down. Nothing else on the lower floors reads it."""

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from fusion.errors import UsageError
from fusion.library import user_path
from fusion.types import Value

__all__ = ["Settings"]


class Settings(Value):
    """What the environment says.

    `keys` holds the names of variables that look like a provider's key and are not empty; their values stay in
    the environment. `models_dir` is where weights lie; `models_sources` where they may be fetched from, in order.
    """

    profile: str | None = None
    models_dir: Path
    models_sources: tuple[str, ...] = ("hub",)
    local_threads: int = Field(gt=0)
    library_dir: Path
    keys: frozenset[str] = frozenset()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Settings":
        """Read FUSION_PROFILE, FUSION_MODELS_DIR, FUSION_MODELS_SOURCE, FUSION_LOCAL_THREADS and key names."""
        env = os.environ if environment is None else environment
        return cls(
            profile=env.get("FUSION_PROFILE") or None,
            models_dir=_folder(env.get("FUSION_MODELS_DIR"), "cache"),
            models_sources=_names(env.get("FUSION_MODELS_SOURCE"), ("hub",)),
            local_threads=_threads(env.get("FUSION_LOCAL_THREADS")),
            library_dir=_folder(None, "config"),
            keys=frozenset(name for name, value in env.items() if value and name.endswith(("_API_KEY", "_TOKEN"))),
        )


def _folder(given: str | None, kind: str) -> Path:
    if given:
        return user_path(given)
    import platformdirs

    if kind == "cache":
        return platformdirs.user_cache_path("fusion", appauthor=False) / "models"
    return platformdirs.user_config_path("fusion", appauthor=False)


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
