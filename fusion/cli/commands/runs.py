"""`fusion runs`: list, show, compare, export and remove the runs and maps of the store."""

import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusion.cli.completion import map_ids, run_ids
from fusion.cli.options.base import AsJson, Config, RunOrMap, StoreFile

if TYPE_CHECKING:
    from fusion.client.history import History, Which
    from fusion.client.history.map_types import MapDetails, MapSummary
    from fusion.client.history.run_types import RunSummary
    from fusion.core.config import Settings


_STATUSES = "running, died, ok, partial, failed, interrupted, waiting"
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
        help="List, show, compare, export and remove runs and maps.", rich_markup_mode=None, no_args_is_help=True
    )
    app.command("list")(listing)
    app.command("open")(open_page)
    for command in (show, diff, export, remove, prune):
        app.command()(command)
    return app


def listing(
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Most runs to list.")] = 20,
    tags: Tags = None,
    statuses: Statuses = None,
    pipeline: OfPipeline = None,
    of_map: Annotated[
        str | None,
        typer.Option("--map", metavar="MAP", help="List the rows of this map.", autocompletion=map_ids),
    ] = None,
    store: StoreFile = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """List runs and maps, newest first.

    A map is one line with its progress; `--map` lists its rows, those of the highest numbers first.
    """
    from fusion.cli.terminal import complain, width_of, write
    from fusion.cli.views.history.maps import row_lines
    from fusion.cli.views.history.runs import list_lines

    _check_map(of_map, tags, pipeline)
    which = _which(tags, statuses, pipeline)
    with _history(store, config) as history:
        rows = [] if of_map is None else [*history.rows(of_map, status=which["status"], limit=limit)]
        runs = _listed(history, which, limit) if of_map is None else []
        if as_json:
            write(_json(runs or rows))
            return
        width = width_of(sys.stdout)
        if runs or rows:
            write("\n".join(list_lines(runs, width) if runs else row_lines(rows, width)) + "\n")
        elif of_map is not None:
            complain(f"no rows{' match' if statuses else ''}")
        else:
            complain(f"no runs{' match' if tags or statuses or pipeline else ''}")
        sizes = history.sizes()
    complain(
        f"{sizes.runs:,} run{'s' * (sizes.runs != 1)}, {sizes.calls:,} calls and {sizes.cached:,} cached replies"
        f" in {sizes.where}: {_bytes(sizes.bytes)}"
    )


def show(
    run: RunOrMap,
    call: Annotated[
        str | None,
        typer.Argument(
            metavar="CALL|ROW",
            help="Number of a call, or its place such as work/3/work; of a map, key or number of a row.",
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Show every call.")] = False,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a run, with all its texts, as one HTML file instead."),
    ] = None,
    store: StoreFile = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show a run, one of its calls, a map, or one of its rows.

    A run shows its stages and calls over time, its failures, notes and receipt. A map shows its rows by status, its
    spending and failures; with the key or number of a row, that row as any run. With `--html` the file holds the page
    of a run as `fusion runs open` shows it, and needs no server.
    """
    from fusion.cli.terminal import write
    from fusion.cli.views.history.runs import call_lines
    from fusion.cli.views.history.timeline import print_run
    from fusion.client.history.run_types import CallDetails
    from fusion.core.errors import UsageError

    with _history(store, config) as history:
        map_id = history.map_id(run)
        if map_id is not None and call is not None:
            run, call, map_id = history.row(map_id, call), None, None
        if everything and (as_json or call is not None or map_id is not None):
            raise UsageError("--all has no effect here: leave it out")
        if html is not None:
            _check_html(map_id, call, everything=everything, as_json=as_json)
            _write_page(history, run, html)
            return
        if map_id is not None:
            _show_map(history.show_map(map_id), as_json=as_json)
            return
        details = history.show(run) if call is None else history.call(run, call)
    if as_json:
        write(_json(details))
    elif isinstance(details, CallDetails):
        write("\n".join(call_lines(details)) + "\n")
    else:
        print_run(details, everything=everything)


def open_page(
    run: RunOrMap,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, metavar="N", help="Port of the server; 0 for any free one.")
    ] = 8484,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser.")] = True,
    store: StoreFile = None,
    config: Config = None,
) -> None:
    """Open the page of a run or map in a browser, and print its address.

    A server that runs on the port and has the run serves it; else one is started here, until Ctrl-C.
    """
    import webbrowser

    from fusion.cli.settings import read_settings
    from fusion.cli.terminal import complain, write
    from fusion.server.listener.open import found_at, place_of, served

    settings = read_settings(config)
    with _opened(store, settings) as history:
        place = place_of(history, run)
        where = history.store.where

    def show(address: str) -> None:
        write(f"{address}/#{place}\n")
        if browser and not webbrowser.open(f"{address}/#{place}"):
            complain("fusion: no browser could be opened; the address above leads to the page")

    address = found_at(port, place)
    if address is not None:
        show(address)
        return
    complain("fusion: Ctrl-C ends the server")
    served(settings, where, port, show)


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="Id of a run or map.", autocompletion=run_ids)],
    b: Annotated[str, typer.Argument(metavar="B", help="Id of another one.", autocompletion=run_ids)],
    store: StoreFile = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Compare two runs call by call, or two maps row by row.

    Runs are compared in pipelines, inputs, models, costs, calls and answers; maps in the answers of rows by key.
    """
    from fusion.cli.terminal import width_of, write
    from fusion.cli.views.history.maps import map_diff_lines
    from fusion.cli.views.history.runs import diff_lines
    from fusion.core.errors import UsageError

    width = width_of(sys.stdout)
    with _history(store, config) as history:
        maps = [history.map_id(given) for given in (a, b)]
        if maps.count(None) == 1:
            one, other = (b, a) if maps[0] is None else (a, b)
            raise UsageError(f"{one!r} is a map and {other!r} is none; compare two maps, or two runs")
        if None in maps:
            runs = history.diff(a, b)
            write(_json(runs) if as_json else "\n".join(diff_lines(runs, width)) + "\n")
        else:
            of_maps = history.diff_maps(a, b)
            write(_json(of_maps) if as_json else "\n".join(map_diff_lines(of_maps, width)) + "\n")


def export(
    run: RunOrMap,
    output: Annotated[str | None, typer.Option("-o", "--output", metavar="FILE", help="Write to a file.")] = None,
    store: StoreFile = None,
    config: Config = None,
) -> None:
    """Print everything kept of a run or map as one JSON document.

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
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Ids of runs and maps.", autocompletion=run_ids)
    ],
    store: StoreFile = None,
    config: Config = None,
) -> None:
    """Remove runs with their calls, and maps with all their rows. A running one is refused."""
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
    """Remove old runs and maps by age, number or status.

    Without any of them the age is the `retention` of the settings. Running ones are kept, and those that wait for a
    person, unless `--status waiting` is given. A map goes with its rows.
    """
    from fusion.cli.arguments import days_of
    from fusion.cli.settings import read_settings
    from fusion.cli.terminal import complain, width_of, write
    from fusion.cli.views.history.runs import list_lines

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


def _listed(history: "History", which: "Which", limit: int) -> "list[RunSummary | MapSummary]":
    """Return runs and maps, newest first."""
    both: list[RunSummary | MapSummary] = [
        *history.list(limit=limit, **which),
        *history.maps(limit=limit, **which),
    ]
    return sorted(both, key=lambda one: one.started, reverse=True)[:limit]


def _show_map(details: "MapDetails", *, as_json: bool) -> None:
    from fusion.cli.terminal import printable, width_of, wrapped, write
    from fusion.cli.views.history.maps import map_lines, way_on

    width = width_of(sys.stdout)
    lines = [part for line in map_lines(details, width) for part in wrapped(printable(line), width) or [""]]
    last = [part for line in way_on(details) for part in ("", line)]
    write(_json(details) if as_json else "\n".join([*lines, *last]) + "\n")


def _write_page(history: "History", run: str, html: Path) -> None:
    from fusion.cli.views.answer import AnswerFile
    from fusion.server.page.bundle import page_of
    from fusion.server.page.runs import Runs

    file = AnswerFile(str(html), option="--html")
    file.write([page_of(Runs(history.store).view(run))])


def _check_html(map_id: str | None, call: str | None, *, everything: bool, as_json: bool) -> None:
    from fusion.core.errors import UsageError

    if map_id is not None:
        raise UsageError(f"--html shows one run: give a row of map {map_id!r}, by its key or number")
    for flag, given in (("--all", everything), ("--json", as_json), ("CALL", call is not None)):
        if given:
            raise UsageError(f"{flag} has no effect with --html, which holds every call: leave it out")


def _check_map(of_map: str | None, tags: list[str] | None, pipeline: str | None) -> None:
    from fusion.core.errors import UsageError

    for flag, given in (("--tag", tags), ("--pipeline", pipeline)):
        if of_map is not None and given:
            raise UsageError(f"{flag} has no effect with --map: its rows have one pipeline and the tags of the map")


def _history(place: str | None, config: str | None) -> "AbstractContextManager[History]":
    """Open the history of the named store, or of the default one. Raises UsageError if its file does not exist."""
    from fusion.cli.settings import read_settings

    return _opened(place, read_settings(config))


def _opened(place: str | None, settings: "Settings") -> "AbstractContextManager[History]":
    from fusion.client.history import History
    from fusion.core.errors import UsageError
    from fusion.core.paths import is_url, user_path

    if place is None:
        return History.open(settings=settings)
    if not is_url(place) and not user_path(place).exists():
        raise UsageError(f"--store {place!r}: there is no such file; `fusion run --store …` makes it")
    return History.open(place if is_url(place) else user_path(place), settings)


def _which(tags: list[str] | None, statuses: list[str] | None, pipeline: str | None) -> "Which":
    from fusion.cli.arguments import states_of, tags_of

    return {"tags": tags_of(tags), "status": states_of(statuses), "pipeline": pipeline}


def _json(values: object) -> str:
    from pydantic_core import to_json

    return to_json(values, indent=2).decode() + "\n"


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count / 1e3:,.0f} kB"
