"""`fusion runs`: the runs that are kept: listed, shown, compared, exported, removed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from fusion.cli.completion import run_ids
from fusion.cli.options import KeptIn, RunGiven

if TYPE_CHECKING:
    from fusion.client.history import History, Which


_STATUSES = "running, died, ok, partial, failed, interrupted"
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Tags = Annotated[
    list[str] | None, typer.Option("--tag", metavar="KEY=VALUE", help="Only runs with this tag; repeatable.")
]
Statuses = Annotated[
    list[str] | None,
    typer.Option("--status", metavar="STATUS", help=f"Only runs that stand so: {_STATUSES}; repeatable."),
]
OfPipeline = Annotated[str | None, typer.Option("--pipeline", metavar="NAME", help="Only runs of this pipeline.")]


def application() -> typer.Typer:
    """`fusion runs` and its commands."""
    app = typer.Typer(
        help="List, show, compare, export and remove the runs that are kept.",
        rich_markup_mode=None,
        no_args_is_help=True,
    )
    app.command("list")(listing)
    for command in (show, diff, export, remove, prune):
        app.command()(command)
    return app


def listing(
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="So many at most.")] = 20,
    tags: Tags = None,
    statuses: Statuses = None,
    pipeline: OfPipeline = None,
    store: KeptIn = None,
    as_json: AsJson = False,
) -> None:
    """List runs, the newest first, and how much the store holds."""
    from fusion.cli.terminal import complain, write
    from fusion.cli.views.history import list_lines

    with _history(store) as history:
        runs = history.list(limit=limit, **_which(tags, statuses, pipeline))
        if as_json:
            write(_json(runs))
            return
        if runs:
            write("\n".join(list_lines(runs)) + "\n")
        else:
            complain(f"no runs{' like that' if tags or statuses or pipeline else ''}")
        sizes = history.sizes()
    complain(
        f"{sizes.runs:,} run{'s' * (sizes.runs != 1)}, {sizes.calls:,} calls and {sizes.cached:,} cached replies"
        f" in {sizes.where}: {_bytes(sizes.bytes)}"
    )


def show(
    run: RunGiven,
    call: Annotated[
        str | None,
        typer.Argument(metavar="CALL", help="A call's number, or its place such as work/3/work: its messages."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every call, however many there are.")] = False,
    store: KeptIn = None,
    as_json: AsJson = False,
) -> None:
    """Show a run: its stages and calls over time, what failed, its receipt. With CALL, what that call said."""
    from fusion.cli.terminal import write
    from fusion.cli.views.history import call_lines
    from fusion.cli.views.timeline import print_run
    from fusion.core.errors import UsageError

    if everything and (as_json or call is not None):
        raise UsageError("--all has no effect here: leave it out")
    with _history(store) as history:
        if call is not None:
            told = history.call(run, call)
            write(told.model_dump_json(indent=2) + "\n" if as_json else "\n".join(call_lines(told)) + "\n")
            return
        details = history.show(run)
    if as_json:
        write(details.model_dump_json(indent=2) + "\n")
    else:
        print_run(details, everything=everything)


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A run's id.", autocompletion=run_ids)],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one's.", autocompletion=run_ids)],
    store: KeptIn = None,
    as_json: AsJson = False,
) -> None:
    """Show what tells two runs apart: pipeline, inputs, models, costs, calls, answers."""
    from fusion.cli.terminal import write
    from fusion.cli.views.history import diff_lines

    with _history(store) as history:
        found = history.diff(a, b)
    write(found.model_dump_json(indent=2) + "\n" if as_json else "\n".join(diff_lines(found)) + "\n")


def export(
    run: RunGiven,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="Write to a file, not to standard output.")
    ] = None,
    store: KeptIn = None,
) -> None:
    """Print all that is kept of a run as one JSON document, with the messages and replies of every call."""
    from fusion.cli.terminal import write
    from fusion.cli.views.answer import AnswerFile

    file = None if output is None else AnswerFile(output)
    with _history(store) as history:
        pieces = history.export(run)
        if file is not None:
            file.write_all(pieces)
            return
        for piece in pieces:
            write(piece)


def remove(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Ids of runs.", autocompletion=run_ids)],
    store: KeptIn = None,
) -> None:
    """Forget runs and all that is kept of them. One that is being run is refused."""
    from fusion.cli.terminal import complain

    with _history(store) as history:
        gone = history.remove(runs)
    complain("\n".join(f"removed {run_id}" for run_id in gone))


def prune(
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="AGE", help="Those that began longer ago: 30d, 12h.")
    ] = None,
    keep: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="All but the newest N of those that are meant.")
    ] = None,
    tags: Tags = None,
    statuses: Statuses = None,
    pipeline: OfPipeline = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Name them, and remove none.")] = False,
    store: KeptIn = None,
    as_json: AsJson = False,
) -> None:
    """Forget old runs: by age, by number, by status. Those that somebody is at stay."""
    from fusion.cli.arguments import days_of
    from fusion.cli.terminal import complain, write
    from fusion.cli.views.history import list_lines

    days = None if older_than is None else days_of(older_than)
    with _history(store) as history:
        gone = history.prune(older_than=days, keep=keep, dry_run=dry_run, **_which(tags, statuses, pipeline))
    if as_json:
        write(_json(gone))
        return
    if gone:
        write("\n".join(list_lines(gone)) + "\n")
    complain(f"{'would remove' if dry_run else 'removed'} {len(gone):,} run{'s' * (len(gone) != 1)}")


@contextmanager
def _history(place: str | None) -> "Iterator[History]":
    """The history of the store that is meant."""
    from fusion.client.history import History
    from fusion.core.config import Settings
    from fusion.core.errors import UsageError
    from fusion.core.paths import user_path
    from fusion.store.lookup import resolve_store

    if place is not None and not user_path(place).exists():
        raise UsageError(f"--store {place!r}: there is no such file; `fusion run --store …` makes it")
    given = True if place is None else user_path(place)
    store, _ = resolve_store(given, Settings.from_environment())
    assert store is not None
    try:
        yield History(store)
    finally:
        store.close()


def _which(tags: list[str] | None, statuses: list[str] | None, pipeline: str | None) -> "Which":
    from fusion.cli.arguments import states_of, tags_of

    return {"tags": tags_of(tags or ()), "status": states_of(statuses or ()), "pipeline": pipeline}


def _json(values: object) -> str:
    from pydantic_core import to_json

    return to_json(values, indent=2).decode() + "\n"


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count / 1e3:,.0f} kB"
