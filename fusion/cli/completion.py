"""Completion: the values that a shell offers for an argument or option."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from fusion.client.history import History


def pipeline_names(incomplete: str) -> list[str]:
    """Return the names of pipelines."""
    from fusion.cli.arguments import library

    return _beginning(incomplete, sorted(library().pipelines))


def profile_names(incomplete: str) -> list[str]:
    """Return the names of profiles."""
    from fusion.models.profiles import load_profiles

    return _beginning(incomplete, sorted(load_profiles()))


def tier_names(incomplete: str) -> list[str]:
    """Return the names of embedded models."""
    from fusion.models.providers.local.weights import manifest

    return _beginning(incomplete, manifest())


def kind_names(incomplete: str) -> list[str]:
    """Return the kinds of stages, and the other topics of `fusion explain`."""
    from fusion.pipeline.reference.explain import SHAPES
    from fusion.stages.registry import kinds

    return _beginning(incomplete, sorted([*kinds(), SHAPES]))


def run_ids(incomplete: str) -> list[str]:
    """Return the ids of maps and runs in the default store, newest first."""
    return _kept(lambda history: history.ids(incomplete))


def map_ids(incomplete: str) -> list[str]:
    """Return the ids of maps in the default store, newest first."""
    return _kept(lambda history: [one.map_id for one in history.maps() if one.map_id.startswith(incomplete)])


def _kept(ids: "Callable[[History], Iterable[str]]") -> list[str]:
    from fusion.client.history import History
    from fusion.core.config import Settings
    from fusion.core.errors import FusionError

    settings = Settings.from_environment()
    if settings.store.url is None and not settings.store.path.exists():
        return []
    try:
        with History.open(settings=settings) as history:
            return list(ids(history))
    except FusionError:
        return []


def budget_names(incomplete: str) -> list[str]:
    """Return the names of the budgets in the settings."""
    from fusion.core.config import Settings
    from fusion.core.errors import FusionError

    try:
        return _beginning(incomplete, sorted(Settings.from_environment().budgets))
    except FusionError:
        return []


def stage_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the stages of the pipeline given before."""
    from fusion.cli.arguments import library
    from fusion.core.errors import FusionError
    from fusion.pipeline.spec import Pipeline

    try:
        return _beginning(incomplete, Pipeline.load(library().pipeline(ctx.params["pipeline"])).stages)
    except FusionError:
        return []


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
