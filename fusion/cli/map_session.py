"""Session of one map: from its options to its exit code."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from fusion.bulk.fusion import Fusion
from fusion.bulk.handle import MapHandle
from fusion.bulk.options import MapOptions as Given
from fusion.bulk.report import MapReport
from fusion.cli.arguments import Stdin, inputs_of, limits_of, pairs_of, roles_of, tags_of
from fusion.cli.exits import BUDGET, BUG, Ending, Interrupted
from fusion.cli.interrupts import Interrupts
from fusion.cli.options.maps import MapOptions
from fusion.cli.options.runs import PipelineOptions, QuoteOptions
from fusion.cli.settings import read_settings
from fusion.cli.terminal import complain, is_live, is_terminal, printable, width_of, wrapped, write
from fusion.cli.views.budgets import spent_lines
from fusion.cli.views.lines import reason
from fusion.cli.views.live.follow import Follower, Viewer
from fusion.cli.views.live.ndjson import RecordFile, Records
from fusion.cli.views.maps.lines import INCIDENTS, report_lines
from fusion.cli.views.maps.live import LiveMap
from fusion.cli.views.maps.plain import PlainMap
from fusion.cli.views.maps.progress import MapProgress
from fusion.core.budget import limits_of as checked_limits
from fusion.core.errors import UsageError
from fusion.core.events import EventBase, MapFinished, MapStarted, Noted
from fusion.core.paths import shown_place, store_place, user_path

if TYPE_CHECKING:
    from fusion.bulk.quote import MapQuote

_STANDARD_INPUT: Final = "-"
_BUDGET: Final = ("--budget",)


def run_map(options: MapOptions, ending: Ending) -> int:
    """Run a map to its end, and return its exit code. Raises UsageError before any call."""
    check_options(options)
    with Interrupts() as interrupts, fusion_of(options, store=place_of(options)) as fusion:
        return _Session(options, ending, fusion, interrupts).run()


def show_map(options: MapOptions) -> None:
    """Print the rows that a map would run, and a quote from a sample of them; make no call."""
    check_options(options)
    with fusion_of(options, store=place_of(options)) as fusion:
        quote = fusion.quote_map(inputs_given(options), **given(options, fusion))
    _print_quote(quote, as_json=options.json)


def quote_of_map(options: QuoteOptions) -> None:
    """Print the quote of a map from the options of `fusion quote`."""
    from fusion.bulk.quote import SAMPLE

    if options.prompt is not None:
        raise UsageError("PROMPT is for a run; the rows of --map fill the inputs, so leave it out")
    columns = dict(pairs_of("-i", options.inputs, "name=column with --map, such as text=body"))
    with fusion_of(options) as fusion:
        quote = fusion.quote_map(
            options.of_map or "",
            quoted=options.sample or SAMPLE,
            pipeline=options.pipeline,
            columns=columns,
            budget=limits_of(options.budget),
            batch=options.batch,
        )
    _print_quote(quote, as_json=options.json)


def _print_quote(quote: "MapQuote", *, as_json: bool) -> None:
    from fusion.cli.views.maps.quote import map_quote_lines

    if as_json:
        write(f"{quote.model_dump_json(indent=2)}\n")
        return
    width = width_of(sys.stdout)
    write("\n".join(part for line in map_quote_lines(quote) for part in wrapped(printable(line), width)) + "\n")


def fusion_of(options: PipelineOptions | MapOptions, *, store: Path | str | bool | None = None) -> Fusion:
    """Return a Fusion with the models of these options."""
    if options.model and options.profile:
        raise UsageError("-m sets the model of every role, so --profile would have no effect; leave one of them out")
    return Fusion(
        profile=options.profile,
        roles=roles_of(options.roles),
        model=options.model,
        store=store,
        settings=read_settings(options.config),
    )


def place_of(options: MapOptions) -> Path | str | bool:
    """Return the path or URL of the named store; True for the default one."""
    return True if options.store is None else store_place(options.store)


def inputs_given(options: MapOptions) -> Any:
    """Return INPUTS as `Fusion.map` takes them."""
    if len(options.sources) == 1:
        return options.sources[0]
    if _STANDARD_INPUT in options.sources:
        raise UsageError("standard input is one of several INPUTS; give it alone")
    return [user_path(one) for one in options.sources]


def given(options: MapOptions, fusion: Fusion) -> Given:
    """Return the options of a map as `Fusion.map` takes them."""
    pipeline = fusion.load(options.pipeline)
    stdin = Stdin()
    if _STANDARD_INPUT in options.sources:
        stdin.take("INPUTS")
    return {
        "pipeline": options.pipeline,
        "columns": dict(pairs_of("-i", options.columns, "name=column, such as text=body")),
        "constants": inputs_of(options.constants, stdin, pipeline, option="--set"),
        "id": options.id,
        "key": options.key,
        "output": options.output,
        "format": options.format,
        "limit": options.limit,
        "sample": options.sample,
        "ordered": options.ordered,
        "fail_fast": options.fail_fast,
        "max_failed": options.max_failed,
        "retry_failed": options.retry_failed,
        "budget": limits_of(options.budget),
        "within": options.within,
        "tags": tags_of(options.tags),
        "cache": options.cache,
        "batch": options.batch,
        "on": options.on,
        **({} if options.concurrency is None else {"concurrency": options.concurrency}),
    }


def check_options(options: MapOptions) -> None:
    """Raise UsageError for options that contradict each other."""
    conflicts = [
        (
            options.no_store,
            "--no-store: a map goes on from its store, and its rows are written from it; leave it out",
        ),
        (
            options.limit is not None and options.sample is not None,
            "--limit and --sample both choose rows; give one of them",
        ),
        (options.fail_fast and options.max_failed is not None, "--fail-fast and --max-failed exclude each other"),
        (options.json and options.events, "--json and --events both write to standard output; use --events-to FILE"),
        (options.quiet and options.verbose, "-q and -v contradict each other"),
        (
            options.output is not None and options.output == options.events_to,
            f"-o and --events-to both write to {options.output!r}",
        ),
    ]
    for conflict, message in conflicts:
        if conflict:
            raise UsageError(f"{message}; see `fusion map --help`")


class _Rows:
    """Standard output for rows; `gone` is called if its reader closes the pipe."""

    def __init__(self, gone: Any) -> None:
        self._gone = gone
        self._open = True

    def write(self, raw: bytes) -> int:
        if self._open:
            try:
                write(raw.decode())
            except BrokenPipeError:
                self._open = False
                self._gone()
        return len(raw)

    def flush(self) -> None:
        return


class _Session:
    """A map with its viewers and the destination of its rows."""

    def __init__(self, options: MapOptions, ending: Ending, fusion: Fusion, interrupts: Interrupts) -> None:
        self._options = options
        self._ending = ending
        self._fusion = fusion
        self._interrupts = interrupts
        self._progress = MapProgress()

    def run(self) -> int:
        options = self._options
        source, wanted = inputs_given(options), given(options, self._fusion)
        follower = Follower(self._viewers(), last=MapFinished)
        self._interrupts.hold()
        try:
            wanted["on_event"] = self._sink(follower)
            handle = self._fusion.start_map(source, stdout=self._stdout(), **wanted)
            report = self._wait(handle, follower)
        finally:
            follower.close()
        self._report(report)
        for fault in follower.faults:
            raise fault
        return report.exit_code

    def _stdout(self) -> BinaryIO | None:
        """Return the stream of rows, where standard output has nothing else."""
        options = self._options
        if options.output is not None or options.json or options.events:
            return None
        rows: Any = _Rows(self._interrupts.interrupt)
        return rows  # type: ignore[no-any-return]  # as far as rows are written

    def _sink(self, follower: Follower) -> Any:
        """Return the sink of all events: the progress counts them; only those for viewers cross threads."""
        every = self._options.events or self._options.events_to is not None
        take, show = self._progress.take, follower.take
        told = (MapStarted, MapFinished, *INCIDENTS)

        def sink(event: EventBase) -> None:
            take(event)
            if every or isinstance(event, told):
                show(event)

        return sink

    def _viewers(self) -> list[Viewer]:
        options, viewers = self._options, list[Viewer]()
        if options.events_to is not None:
            viewers.append(RecordFile(options.events_to))
        if options.events:
            viewers.append(Records(gone=self._interrupts.interrupt))
        if not options.quiet:
            viewers.append(self._screen())
        return viewers

    def _screen(self) -> Viewer:
        """Return the live view on a terminal that shows nothing else, else lines."""
        elsewhere = self._options.output is not None or self._options.json or not is_terminal(sys.stdout)
        limits = checked_limits(limits_of(self._options.budget))
        view = LiveMap if is_live(sys.stderr) and elsewhere and not self._options.events else PlainMap
        return view(
            self._progress,
            verbose=self._options.verbose,
            cap=None if limits is None else limits.usd,
            settings=self._fusion.settings.files,
        )

    def _wait(self, handle: MapHandle, follower: Follower) -> MapReport:
        try:
            self._interrupts.release()
            return handle.wait()
        except Interrupted:
            message = "interrupted; stopping the rows in flight (interrupt again to exit at once)"
            follower.take(Noted(run_id=handle.map_id, message=message))
            return handle.cancel()

    # The end.

    def _report(self, report: MapReport) -> None:
        if self._options.json:
            write(f"{report.model_dump_json(indent=2)}\n")
        if report.exit_code == BUG and report.failure is not None:
            self._ending.bug(reason(report.failure))
        for line in report_lines(report, quiet=self._options.quiet):
            complain(line)
        if report.held:
            complain(f"to see them: fusion runs list --map {report.map_id} --status waiting{self._places}")
            complain(f"to answer them: fusion approve {report.map_id}{self._places}")
        failures = [] if report.failure is None else [report.failure.message]
        for line in spent_lines(self._fusion.settings, failures, self._places):
            complain(line)
        way_on = self._way_on(report)
        if way_on is not None:
            complain(way_on)
        if not self._options.quiet:
            complain(f"kept: fusion runs show {report.map_id}{self._places}")

    def _way_on(self, report: MapReport) -> str | None:
        """Return the command that goes on with the map, if there is work left."""
        raised = self._raised(report)
        command = [*self._words(without=_BUDGET if raised else ())]
        if self._options.id is None and not self._has_own_id:
            command += ["--id", report.map_id]
        if raised:
            return f"to go on: {shlex.join(command)}{raised}"
        if report.status == "interrupted" or report.waiting or report.failure is not None:
            return f"to go on: {shlex.join(command)}"
        if report.failed or report.partial:
            retry = [] if self._options.retry_failed else ["--retry-failed"]
            return f"to ask the failed rows again: {shlex.join([*command, *retry])}"
        return None

    @property
    def _has_own_id(self) -> bool:
        """True if the id of the map comes from its files."""
        return self._options.sources != [_STANDARD_INPUT]

    def _raised(self, report: MapReport) -> str:
        """Return the option of a higher budget, if the one of the command stopped the map."""
        limits, failure = limits_of(self._options.budget), report.failure
        if report.exit_code != BUDGET or not limits or failure is None:
            return ""
        by_other = any(repr(f"budgets.{name}") in failure.message for name in self._fusion.settings.budgets)
        return "" if by_other else f" --budget {','.join(f'{name}=…' for name in limits)}"

    @property
    def _places(self) -> str:
        places = {"--store": self._options.store, "--config": self._options.config}
        return "".join(
            f" {flag} {shlex.quote(shown_place(place))}" for flag, place in places.items() if place is not None
        )

    def _words(self, *, without: Sequence[str]) -> list[str]:
        """Return the words of this command, leaving out the options `without` and their values."""
        words, found = iter(["fusion", *self._ending.words]), list[str]()
        for word in words:
            if word in without:
                next(words, None)
            elif not any(word.startswith(f"{name}=") for name in without):
                found.append(word)
        return found
