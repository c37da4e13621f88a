"""What the shell may offer for a word of the command line."""

import typer


def pipeline_names(incomplete: str) -> list[str]:
    """Pipelines that can be given by name."""
    from fusion.core.config import Settings
    from fusion.prompts.library import Library

    names = Library.standard(user=Settings.from_environment().library_dir).pipelines
    return [name for name in sorted(names) if name.startswith(incomplete)]


def profile_names(incomplete: str) -> list[str]:
    """Profiles."""
    from fusion.models.profiles import load_profiles

    return [name for name in sorted(load_profiles()) if name.startswith(incomplete)]


def tier_names(incomplete: str) -> list[str]:
    """Embedded models."""
    from fusion.models.providers.local.weights import manifest

    return [tier for tier in manifest() if tier.startswith(incomplete)]


def kind_names(incomplete: str) -> list[str]:
    """Kinds of stages."""
    from fusion.stages.registry import kinds

    return [kind for kind in sorted(kinds()) if kind.startswith(incomplete)]


def run_ids(incomplete: str) -> list[str]:
    """Runs of the store, the newest first."""
    from fusion.core.config import Settings
    from fusion.core.errors import FusionError
    from fusion.store.sqlite.open import open_store

    path = Settings.from_environment().store.path
    try:
        return open_store(path).run_ids(incomplete) if path.exists() else []
    except FusionError:
        return []


def stage_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Stages of the pipeline that stands before them."""
    from fusion.core.config import Settings
    from fusion.core.errors import FusionError
    from fusion.pipeline.spec import Pipeline
    from fusion.prompts.library import Library

    library = Library.standard(user=Settings.from_environment().library_dir)
    try:
        stages = Pipeline.load(library.pipeline(ctx.params["pipeline"])).stages
    except FusionError:
        return []
    return [stage for stage in stages if stage.startswith(incomplete)]
