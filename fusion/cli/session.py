"""Session of one run: from its options to its exit code."""

import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fusion.cli.arguments import Stdin, from_stdin, inputs_of, limits_of, names_file, results_of, roles_of, tags_of
from fusion.cli.exits import BUDGET, Ending, Interrupted
from fusion.cli.interrupts import Interrupts
from fusion.cli.options.runs import (
    ApproveOptions,
    DrillOptions,
    PipelineOptions,
    QuoteOptions,
    RenderOptions,
    ResumeOptions,
    RunOptions,
    WatchOptions,
)
from fusion.cli.run_session.gates import Terminal, answered_elsewhere, answered_here, person_is_there
from fusion.cli.run_session.many_gates import approved, approved_map
from fusion.cli.run_session.outcome import Outcome
from fusion.cli.settings import read_settings
from fusion.cli.terminal import complain, is_live, is_terminal, write
from fusion.cli.views.answer import AnswerFile, StreamedAnswer
from fusion.cli.views.budgets import spent_lines
from fusion.cli.views.history.gates import waiting_lines
from fusion.cli.views.lines import ended_words, way_on
from fusion.cli.views.live.follow import Follower, Viewer
from fusion.cli.views.live.ndjson import RecordFile, Records
from fusion.cli.views.live.plain import Plain
from fusion.cli.views.live.terminal import LiveView
from fusion.client.client import Fusion, asks_person, sole_run
from fusion.client.handle import RunHandle
from fusion.core.errors import ShapeError, StoreLostError, UsageError
from fusion.core.events import Noted, Sink
from fusion.core.paths import shown_place, store_place
from fusion.core.result import Result
from fusion.pipeline.spec import Pipeline
from fusion.store.gates import goes_on
from fusion.store.lookup import find_run
from fusion.store.rows import Content

if TYPE_CHECKING:
    from fusion.client.history.run_types import RunSummary
    from fusion.quote.drill import Drill
    from fusion.quote.preview import PreviewedCall
    from fusion.quote.quote import Quote

_OF_A_RUN = ("store", "no_store", "tags", "cache", "batch", "resume_or_start", "within")
_NEEDS_RUN = frozenset([*_OF_A_RUN, "events", "events_to", "output", "quiet", "verbose"])
_RUN = "run"
"""Name of the budget that `--budget` of a resumed run replaces."""
_Asked = QuoteOptions | DrillOptions | RenderOptions | RunOptions


class _Begin(NamedTuple):
    """A pipeline, and the function that starts its run. `asks` is True for one that asks while it runs."""

    pipeline: Pipeline
    start: Callable[[Sink, bool], RunHandle]
    asks: bool = False


def run_session(options: RunOptions, ending: Ending, *, outages: tuple[str, ...] = ()) -> RunHandle:
    """Run a pipeline to the end; models that match `outages` fail. Raises UsageError for contradicting options."""
    _check_store(options)
    _check_models(options, "run")
    _check_output(options, "run")
    store = not options.no_store and _place(options.store)
    with (
        Interrupts() as interrupts,
        _fusion(options, budget=limits_of(options.budget), store=store, outages=outages) as fusion,
    ):
        return _Session(options, ending, fusion, interrupts).run(lambda: _new(options, fusion))


def resume_session(options: ResumeOptions, ending: Ending) -> RunHandle:
    """Resume a run to the end. Raises UsageError if it cannot be resumed."""
    _check_output(options, "resume")
    with (
        Interrupts() as interrupts,
        Fusion(
            budget=limits_of(options.budget), store=_place(options.store), settings=read_settings(options.config)
        ) as fusion,
    ):
        return _Session(options, ending, fusion, interrupts).run(lambda: _again(options, fusion))


def approve_session(options: ApproveOptions, ending: Ending) -> RunHandle | int:
    """Answer gates of a run or a map, and go on with the run; return the exit code if it does not go on here.

    Raises GateError for a gate that was answered before, and UsageError for options that contradict the gate.
    """
    _check_output(options, "approve")
    settings = read_settings(options.config)
    with Interrupts() as interrupts, Fusion(store=_place(options.store), settings=settings) as fusion:
        if (map_id := fusion.runs.map_id(options.run)) is not None:
            return approved_map(fusion, map_id, options)
        run_id = find_run(fusion.store, options.run).run_id
        if (code := approved(fusion, run_id, options)) is not None:
            return code
        return _Session(options, ending, fusion, interrupts).run(lambda: _on(run_id, options, fusion))


def _on(run_id: str, options: ApproveOptions, fusion: Fusion) -> _Begin:
    """Prepare to go on with a run whose gate is answered."""
    pipeline = fusion.runs.pipeline(run_id)
    _say_resumed(fusion.runs.find(run_id), options, fusion)

    def start(sink: Sink, stream: bool) -> RunHandle:
        return fusion.start_resume(run_id, on_event=sink, stream=stream, within=options.within)

    return _Begin(pipeline, start)


def show_session(options: RunOptions) -> None:
    """Print the stages, models, first prompts and bounds of a run; make no call."""
    from fusion.cli.views.preview import preview_lines

    for field, flag in options.flags().items():
        if field in _NEEDS_RUN:
            raise UsageError(f"{flag} has no effect with --dry-run, which makes no call; leave it out")
    _check_models(options, "run")
    with _fusion(options, budget=limits_of(options.budget)) as fusion:
        prompt, inputs = _given(options, fusion.load(options.pipeline), Stdin())
        shown = fusion.preview(prompt, pipeline=options.pipeline, inputs=inputs)
    lines = [shown.model_dump_json(indent=2)] if options.json else preview_lines(shown, options.pipeline)
    write("\n".join(lines) + "\n")


def quote_of(options: QuoteOptions) -> "Quote":
    """Return the quote of a run. Raises UsageError for a pipeline or input that cannot be run."""
    _check_models(options, "quote")
    if options.sample is not None:
        raise UsageError("--sample is the number of rows of a map; give their file with --map")
    with _fusion(options, budget=limits_of(options.budget)) as fusion:
        prompt, inputs = _given(options, fusion.load(options.pipeline), Stdin())
        return fusion.quote(prompt, pipeline=options.pipeline, inputs=inputs, batch=options.batch)


def drill_of(options: DrillOptions) -> "Drill":
    """Return the drill of a run, on paper. Raises UsageError for a pipeline or input that cannot be run."""
    _check_models(options, "drill")
    with _fusion(options) as fusion:
        prompt, inputs = _given(options, fusion.load(options.pipeline), Stdin())
        return fusion.drill(prompt, without=options.without or (), pipeline=options.pipeline, inputs=inputs)


def call_of(options: RenderOptions) -> "PreviewedCall":
    """Return the first call of a stage, or of one of its items. Raises UsageError if the stage makes none."""
    _check_models(options, "render")
    stdin, stage, item = Stdin(), options.stage, options.item - 1
    with _fusion(options) as fusion:
        prompt, inputs = _given(options, fusion.load(options.pipeline), stdin)
        given = results_of(options.results, stdin)
        preview = fusion.preview(
            prompt, pipeline=options.pipeline, inputs=inputs, given=given, stage=stage, item=item
        )
    for note in preview.notes:
        complain(f"note: {note}")
    shown = preview.stages[0]
    if shown.calls:
        return shown.calls[0]
    if shown.missing:
        words = " ".join(f"--with {name}=@FILE" for name in shown.missing)
        raise UsageError(
            f"{stage!r} depends on {', '.join(shown.missing)}, which a run makes first; give it: {words}"
        )
    if shown.items is not None and item >= shown.items:
        raise UsageError(f"{stage!r} has {shown.items} items, and no item {item + 1}")
    raise UsageError(f"{stage!r} calls no model{f': {shown.note}' if shown.note else ''}")


def _given(options: _Asked, pipeline: Pipeline, stdin: Stdin) -> tuple[str | None, dict[str, Any]]:
    """Read prompt and inputs from the command line, files and standard input."""
    prompt = options.prompt
    inputs = inputs_of(options.inputs, stdin, pipeline)
    if prompt == "-":
        prompt = stdin.read("PROMPT")
    elif prompt is not None and names_file(prompt):
        complain(f"fusion: note: PROMPT {prompt!r} is a file, and is sent as these words; - reads standard input")
    return prompt, inputs | from_stdin(pipeline, inputs, stdin)


def _fusion(options: PipelineOptions, *, outages: tuple[str, ...] = (), **more: Any) -> Fusion:
    settings = read_settings(options.config)
    return Fusion(
        profile=options.profile,
        roles=roles_of(options.roles),
        model=options.model,
        settings=settings.model_copy(update={"outages": outages}) if outages else settings,
        **more,
    )


def _place(given: str | None) -> Path | str | bool:
    """Return the path or URL of the named store; True for the default one."""
    return True if given is None else store_place(given)


class _End(NamedTuple):
    """The end of a run, its views, and the faults of those."""

    result: Result
    handle: RunHandle
    screen: LiveView | Plain | None
    streamed: StreamedAnswer | None
    faults: list[Exception]


def _new(options: RunOptions, fusion: Fusion) -> _Begin:
    """Prepare a new run; with --resume-or-start, the latest unfinished run of the same if there is one."""
    pipeline = fusion.load(options.pipeline)
    prompt, inputs = _given(options, pipeline, Stdin())
    asks = fusion.keeps != "full" and person_is_there() and asks_person(fusion, options.pipeline)

    def resume_or_start(sink: Sink, stream: bool) -> RunHandle:
        with sole_run(fusion, prompt, pipeline=options.pipeline, inputs=inputs) as same:
            if same is None:
                return start(sink, stream)
            _say_resumed(fusion.runs.find(same), options, fusion)
            return fusion.start_resume(same, on_event=sink, stream=stream, within=options.within)

    def start(sink: Sink, stream: bool) -> RunHandle:
        return fusion.start(
            prompt,
            pipeline=options.pipeline,
            inputs=inputs,
            on_event=sink,
            stream=stream,
            tags=tags_of(options.tags),
            cache=options.cache,
            batch=options.batch,
            within=options.within,
            on_gate=Terminal().ask if asks else None,
        )

    return _Begin(pipeline, resume_or_start if options.resume_or_start else start, asks)


def _again(options: ResumeOptions, fusion: Fusion) -> _Begin:
    """Prepare to resume a run, or to run an edited pipeline on its calls."""
    run = fusion.runs.find(options.run)
    if options.pipeline is None:
        pipeline = fusion.runs.pipeline(run.run_id)
        _say_resumed(run, options, fusion)
    else:
        pipeline = fusion.load(options.pipeline)

    def start(sink: Sink, stream: bool) -> RunHandle:
        return fusion.start_resume(
            run.run_id, pipeline=options.pipeline, on_event=sink, stream=stream, within=options.within
        )

    return _Begin(pipeline, start)


def _say_resumed(run: "RunSummary", options: WatchOptions, fusion: Fusion) -> None:
    if not options.quiet:
        complain(ended_words(run, whole=_is_whole(run, fusion)))


def _is_whole(run: "RunSummary", fusion: Fusion) -> bool:
    """Return True for a run that has its answer, and nothing to ask again."""
    if run.status != "partial" or run.content != "full":
        return run.status in ("ok", "partial")
    return not fusion.runs.result(run.run_id).lost


class _Session:
    """A run with its viewers and the destination of its answer."""

    def __init__(self, options: WatchOptions, ending: Ending, fusion: Fusion, interrupts: Interrupts) -> None:
        self._options = options
        self._ending = ending
        self._fusion = fusion
        self._interrupts = interrupts

    def run(self, prepared: Callable[[], _Begin]) -> RunHandle:
        file = None if self._options.output is None else AnswerFile(self._options.output)
        begin = prepared()
        end = self._followed(begin)
        while end.result.status == "waiting" and self._goes_on(end):
            end = self._followed(begin._replace(start=partial(self._resumed, end.handle.run_id)), again=True)
        outcome = Outcome(end.result, end.handle, json=self._options.json, quiet=self._options.quiet)
        outcome.afterwards = self._afterwards(end.result, end.handle)
        outcome.faults += end.faults
        outcome.deliver(file, end.streamed, elsewhere=self._options.answer_elsewhere)
        if end.screen is not None:
            end.screen.release()
        outcome.report(self._ending)
        return end.handle

    def _followed(self, begin: _Begin, *, again: bool = False) -> "_End":
        """Start or resume a run, and follow it to its end."""
        screen = self._screen(begin)
        streamed = self._streamed(begin.pipeline, screen)
        follower = Follower(self._viewers(screen, streamed, again=again))
        self._interrupts.hold()
        try:
            pieces = streamed is not None or self._options.events or self._options.events_to is not None
            handle = begin.start(follower.take, pieces)
            result = self._wait(handle, follower)
        finally:
            follower.close()
        return _End(result, handle, screen, streamed, follower.faults)

    # Gates.

    def _goes_on(self, end: "_End") -> bool:
        """Return True if a run that waits can go on: its person is here, or it was answered elsewhere."""
        result, options = end.result, self._options
        if goes_on(self._fusion.store, result.waiting, result.run_id):
            return True
        if end.screen is not None:
            end.screen.release()
        if options.wait:
            answered_elsewhere(self._fusion, result, quiet=options.quiet)
            return True
        return options.asks and person_is_there() and answered_here(self._fusion, result, Terminal())

    def _resumed(self, run_id: str, sink: Sink, stream: bool) -> RunHandle:
        return self._fusion.start_resume(run_id, on_event=sink, stream=stream, within=self._options.within)

    def _afterwards(self, result: Result, handle: RunHandle) -> str | None:
        """Return the command that shows or resumes the run, if it is kept."""
        if self._fusion.keeps is None:
            return None
        places = {"--store": self._options.store, "--config": self._options.config}
        store = "".join(
            f" {flag} {shlex.quote(shown_place(place))}" for flag, place in places.items() if place is not None
        )
        try:
            self._fusion.store.flush()
            content = find_run(self._fusion.store, handle.run_id).content
        except StoreLostError:
            return f"once the store can be reached: fusion resume {handle.run_id}{store}"
        except UsageError as error:
            return f"this run was not kept: {error}"
        self._say_expired(handle.expired)
        if result.status == "waiting":
            return "\n".join(waiting_lines(result.waiting, handle.run_id, store))
        if result.status != "failed":
            return self._after_answer(result, content, store)
        if content != "full":
            return f"it cannot be resumed: its prompts are not kept (`content` in [store] is {content!r})"
        return "\n".join([*self._malformed(result, store), *self._way_on(result, handle, store)])

    def _way_on(self, result: Result, handle: RunHandle, store: str) -> list[str]:
        """Return the command that goes on with a failed run, behind what its budgets need first."""
        stops, within = handle.budget_stops if handle.exit_code == BUDGET else (), self._options.within
        spent = list(spent_lines(self._fusion.settings, map(str, stops), store))
        limits = dict.fromkeys(stop.limit for stop in stops if stop.level == _RUN)
        budget = f" --budget {','.join(f'{limit}=…' for limit in limits)}" if limits else ""
        shared = {stop.level for stop in stops} == {f"budgets.{within}"}
        budget += f" --within {shlex.quote(within)}" if within and (shared or spent) else ""
        why = "" if result.error is None else result.error.reason
        whole = bool(limits or shared or spent or not stops)
        return [*spent, way_on(handle.run_id, why, f"{budget}{store}", whole=whole)]

    def _after_answer(self, result: Result, content: Content, store: str) -> str | None:
        """Return the command that shows a run with an answer, or asks again for what it lost."""
        again = content == "full" and any(part.failure.reason != "BudgetError" for part in result.lost)
        if again:
            hint = f"to ask again for what is lost: fusion resume {result.run_id}{store}"
            return "\n".join([*self._malformed(result, store), hint])
        return None if self._options.quiet else f"kept: fusion runs show {result.run_id}{store}"

    def _malformed(self, result: Result, store: str) -> list[str]:
        """Return the command that shows the first malformed reply in whole, if one failed a part of the run."""
        part = next((part for part in result.failed if part.failure.reason == ShapeError.__name__), None)
        if part is None:
            return []
        calls = self._fusion.runs.show(result.run_id).calls
        numbers = [call.number for call in calls if (call.stage, call.item) == (part.stage, part.item)]
        return [f"the whole reply: fusion runs show {result.run_id} {number}{store}" for number in numbers[-1:]]

    def _say_expired(self, runs: int) -> None:
        if runs and not self._options.quiet:
            complain(f"removed {runs:,} run{'s' * (runs != 1)} older than the `retention` of [store]")

    def _screen(self, begin: _Begin) -> LiveView | Plain | None:
        if self._options.quiet:
            return None
        view = LiveView if is_live(sys.stderr) and not begin.asks else Plain
        return view(verbose=self._options.verbose, settings=self._fusion.settings.files)

    def _streamed(self, pipeline: Pipeline, screen: LiveView | Plain | None) -> StreamedAnswer | None:
        """Return the view that streams the answer, if standard output is a terminal."""
        stage = pipeline.answer_stage
        if stage is None or self._options.answer_elsewhere or not is_terminal(sys.stdout):
            return None
        shared = screen if is_terminal(sys.stderr) else None
        return StreamedAnswer(stage, before=(lambda: None) if shared is None else shared.hold)

    def _viewers(
        self, screen: LiveView | Plain | None, streamed: StreamedAnswer | None, *, again: bool
    ) -> list[Viewer]:
        viewers: list[Viewer] = []
        if self._options.events_to is not None:
            viewers.append(RecordFile(self._options.events_to, append=again))
        if self._options.events:
            viewers.append(Records(gone=self._interrupts.interrupt))
        viewers += [viewer for viewer in (screen, streamed) if viewer is not None]
        return viewers

    def _wait(self, handle: RunHandle, follower: Follower) -> Result:
        try:
            self._interrupts.release()
            return handle.wait()
        except Interrupted:
            message = "interrupted; stopping the run (interrupt again to exit at once)"
            follower.take(Noted(run_id=handle.run_id, message=message))
            return handle.cancel()


def _check_models(options: PipelineOptions, command: str) -> None:
    if options.model and options.profile:
        raise UsageError(
            f"-m sets the model of every role, so --profile would have no effect; see `fusion {command} --help`"
        )


def _check_store(options: RunOptions) -> None:
    needs = {
        "--store": options.store is not None,
        "--resume-or-start": options.resume_or_start,
        "--cache shared": options.cache == "shared",
    }
    for name, given in needs.items():
        if given and options.no_store:
            raise UsageError(f"{name} needs a store, and --no-store means none; leave one of them out")


def _check_output(options: WatchOptions, command: str) -> None:
    conflicts = [
        (options.json and options.events, "--json and --events both write to standard output; use --events-to FILE"),
        (options.quiet and options.verbose, "-q and -v contradict each other"),
        (
            options.output is not None and options.output == options.events_to,
            f"-o and --events-to both write to {options.output!r}",
        ),
        (options.output == "-", "-o - is a file named '-'; without -o the answer goes to standard output"),
    ]
    for conflict, message in conflicts:
        if conflict:
            raise UsageError(f"{message}; see `fusion {command} --help`")
