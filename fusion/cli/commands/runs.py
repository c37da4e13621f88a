"""`fusion runs`: list, show, compare, export and remove the runs of the store."""

import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated

import typer

from fusion.cli.completion import run_ids
from fusion.cli.options import AsJson, Config, RunGiven, StoreFile

if TYPE_CHECKING:
    from fusion.client.history import History, Which
    from fusion.core.config import Settings


_STATUSES = "running, died, ok, partial, failed, interrupted"
Tags = Annotated[
    list[str] | None, typer.Option("--tag", metavar="KEY=VALUE", help="Only runs with this tag; repeatable.")
]
Statuses = Annotated[
    list[str] | None,
    typer.Option("--status", metavar="STATUS", help=f"Only runs of this status: {_STATUSES}; repeatable."),
]
OfPipeline = Annotated[str | None, typer.Option("--pipeline", metavar="NAME", help="Only runs of this pipeline.")]


def application() -> typer.Typer:
    """Return `fusion runs` with its commands."""
    app = typer.Typer(
        help="List, show, compare, export and remove runs.", rich_markup_mode=None, no_args_is_help=True
    )
    app.command("list")(listing)
    for command in (show, diff, export, remove, prune):
        app.command()(command)
    return app


def listing(
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Most runs to list.")] = 20,
    tags: Tags = None,
    statuses: Statuses = None,
    pipeline: OfPipeline = None,
    store: StoreFile = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first, and the size of the store."""
    from fusion.cli.terminal import complain, width_of, write
    from fusion.cli.views.history import list_lines

    with _history(store, config) as history:
        runs = history.list(limit=limit, **_which(tags, statuses, pipeline))
        if as_json:
            write(_json(runs))
            return
        if runs:
            write("\n".join(list_lines(runs, width_of(sys.stdout))) + "\n")
        else:
            complain(f"no runs{' match' if tags or statuses or pipeline else ''}")
        sizes = history.sizes()
    complain(
        f"{sizes.runs:,} run{'s' * (sizes.runs != 1)}, {sizes.calls:,} calls and {sizes.cached:,} cached replies"
        f" in {sizes.where}: {_bytes(sizes.bytes)}"
    )


def show(
    run: RunGiven,
    call: Annotated[
        str | None,
        typer.Argument(metavar="CALL", help="Number of a call, or its place such as work/3/work."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Show every call.")] = False,
    store: StoreFile = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show a run, or the messages of one of its calls.

    A run shows its stages and calls over time, its failures, notes and receipt.
    """
    from fusion.cli.terminal import write
    from fusion.cli.views.history import call_lines
    from fusion.cli.views.timeline import print_run
    from fusion.client.history_types import CallDetails
    from fusion.core.errors import UsageError

    if everything and (as_json or call is not None):
        raise UsageError("--all has no effect here: leave it out")
    with _history(store, config) as history:
        details = history.show(run) if call is None else history.call(run, call)
    if as_json:
        write(_json(details))
    elif isinstance(details, CallDetails):
        write("\n".join(call_lines(details)) + "\n")
    else:
        print_run(details, everything=everything)


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="Id of a run.", autocompletion=run_ids)],
    b: Annotated[str, typer.Argument(metavar="B", help="Id of another run.", autocompletion=run_ids)],
    store: StoreFile = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Compare two runs, call by call.

    Compares their pipelines, inputs, models, costs, calls and answers.
    """
    from fusion.cli.terminal import width_of, write
    from fusion.cli.views.history import diff_lines

    with _history(store, config) as history:
        found = history.diff(a, b)
    write(_json(found) if as_json else "\n".join(diff_lines(found, width_of(sys.stdout))) + "\n")


def export(
    run: RunGiven,
    output: Annotated[str | None, typer.Option("-o", "--output", metavar="FILE", help="Write to a file.")] = None,
    store: StoreFile = None,
    config: Config = None,
) -> None:
    """Print everything kept of a run as one JSON document.

    The document holds the messages and replies of every call.
    """
    from fusion.cli.terminal import write
    from fusion.cli.views.answer import AnswerFile

    file = None if output is None else AnswerFile(output)
    with _history(store, config) as history:
        pieces = history.export(run)
        if file is not None:
            file.write(pieces)
            return
        for piece in pieces:
            write(piece)


def remove(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Ids of runs.", autocompletion=run_ids)],
    store: StoreFile = None,
    config: Config = None,
) -> None:
    """Remove runs and their calls. A running run is refused."""
    from fusion.cli.terminal import complain

    with _history(store, config) as history:
        gone = history.remove(runs)
    complain("\n".join(f"removed {run_id}" for run_id in gone))


def prune(
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="AGE", help="Only runs older than this: 30d, 12h.")
    ] = None,
    keep: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Keep the newest N of the matching runs.")
    ] = None,
    tags: Tags = None,
    statuses: Statuses = None,
    pipeline: OfPipeline = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs; remove none.")] = False,
    store: StoreFile = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Remove old runs by age, number or status.

    Without any of them the age is the `retention` of the settings. Running ones are kept.
    """
    from fusion.cli.arguments import days_of
    from fusion.cli.settings import read_settings
    from fusion.cli.terminal import complain, width_of, write
    from fusion.cli.views.history import list_lines

    settings = read_settings(config)
    days = None if older_than is None else days_of(older_than)
    if days is None and keep is None and not statuses:
        days = settings.store.retention
    with _opened(store, settings) as history:
        gone = history.prune(older_than=days, keep=keep, dry_run=dry_run, **_which(tags, statuses, pipeline))
    if as_json:
        write(_json(gone))
        return
    if gone:
        write("\n".join(list_lines(gone, width_of(sys.stdout))) + "\n")
    complain(f"{'would remove' if dry_run else 'removed'} {len(gone):,} run{'s' * (len(gone) != 1)}")


def _history(place: str | None, config: str | None) -> "AbstractContextManager[History]":
    """Open the history of the named store, or of the default one. Raises UsageError if its file does not exist."""
    from fusion.cli.settings import read_settings

    return _opened(place, read_settings(config))


def _opened(place: str | None, settings: "Settings") -> "AbstractContextManager[History]":
    from fusion.client.history import History
    from fusion.core.errors import UsageError
    from fusion.core.paths import user_path

    if place is None:
        return History.open(settings=settings)
    if not user_path(place).exists():
        raise UsageError(f"--store {place!r}: there is no such file; `fusion run --store …` makes it")
    return History.open(user_path(place), settings)


def _which(tags: list[str] | None, statuses: list[str] | None, pipeline: str | None) -> "Which":
    from fusion.cli.arguments import states_of, tags_of

    return {"tags": tags_of(tags), "status": states_of(statuses), "pipeline": pipeline}


def _json(values: object) -> str:
    from pydantic_core import to_json

    return to_json(values, indent=2).decode() + "\n"


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count / 1e3:,.0f} kB"
