"""One run on the command line: from the options to the exit code."""

import sys
from dataclasses import dataclass

from fusion.cli.answer import AnswerFile, StreamedAnswer, streamed_stage
from fusion.cli.arguments import Stdin, from_stdin, inputs_of, limits_of, roles_of
from fusion.cli.exits import Ending, Interrupted
from fusion.cli.follow import Follower, Viewer
from fusion.cli.interrupts import Interrupts
from fusion.cli.live import LiveView
from fusion.cli.outcome import Outcome
from fusion.cli.plain import Plain
from fusion.cli.records import RecordFile, Records
from fusion.cli.terminal import is_live, is_terminal
from fusion.client import Fusion, RunHandle
from fusion.errors import UsageError
from fusion.events import Noted
from fusion.result import Result
from fusion.spec import Pipeline

__all__ = ["Options", "run_session"]


@dataclass(frozen=True)
class Options:
    """What the command line says about a run."""

    pipeline: str
    prompt: str | None = None
    inputs: tuple[str, ...] = ()
    profile: str | None = None
    roles: tuple[str, ...] = ()
    model: str | None = None
    budget: str | None = None
    json: bool = False
    events: bool = False
    events_to: str | None = None
    output: str | None = None
    quiet: bool = False
    verbose: bool = False

    @property
    def answer_elsewhere(self) -> bool:
        """True where standard output does not get the answer as text."""
        return self.json or self.events or self.output is not None


def run_session(options: Options, ending: Ending) -> RunHandle:
    """Run as the options say, to the end. Raises UsageError for what cannot be run."""
    _check(options)
    limits, roles = limits_of(options.budget), roles_of(options.roles)
    with (
        Interrupts() as interrupts,
        Fusion(profile=options.profile, roles=roles, model=options.model, budget=limits) as fusion,
    ):
        return _Session(options, ending, fusion, interrupts).run()


class _Session:
    """A run, those who watch it, and where its answer goes."""

    def __init__(self, options: Options, ending: Ending, fusion: Fusion, interrupts: Interrupts) -> None:
        self._options = options
        self._ending = ending
        self._fusion = fusion
        self._interrupts = interrupts

    def run(self) -> RunHandle:
        pipeline = self._fusion.load(self._options.pipeline)
        file = None if self._options.output is None else AnswerFile(self._options.output)
        prompt, inputs = self._given(pipeline)
        screen = self._screen()
        streamed = self._streamed(pipeline, screen)
        follower = Follower(self._viewers(screen, streamed))
        self._interrupts.hold()
        try:
            handle = self._fusion.start(
                prompt,
                pipeline=self._options.pipeline,
                inputs=inputs,
                on_event=follower.take,
                stream=streamed is not None or self._options.events or self._options.events_to is not None,
            )
            result = self._wait(handle, follower)
        finally:
            follower.close()
        outcome = Outcome(result, handle, json=self._options.json, quiet=self._options.quiet)
        outcome.faults += follower.faults
        outcome.deliver(file, streamed, elsewhere=self._options.answer_elsewhere)
        if screen is not None:
            screen.release()
        outcome.report(self._ending)
        return handle

    def _given(self, pipeline: Pipeline) -> tuple[str | None, dict[str, str]]:
        stdin, prompt = Stdin(), self._options.prompt
        inputs = inputs_of(self._options.inputs, stdin)
        if prompt == "-":
            prompt = stdin.read("PROMPT")
        return prompt, inputs | from_stdin(pipeline, inputs, stdin)

    def _screen(self) -> LiveView | Plain | None:
        if self._options.quiet:
            return None
        return (
            LiveView(verbose=self._options.verbose) if is_live(sys.stderr) else Plain(verbose=self._options.verbose)
        )

    def _streamed(self, pipeline: Pipeline, screen: LiveView | Plain | None) -> StreamedAnswer | None:
        """The answer piece by piece, where somebody watches standard output for it."""
        stage = streamed_stage(pipeline)
        if stage is None or self._options.answer_elsewhere or not is_terminal(sys.stdout):
            return None
        shared = screen if is_terminal(sys.stderr) else None
        return StreamedAnswer(stage, before=(lambda: None) if shared is None else shared.hold)

    def _viewers(self, screen: LiveView | Plain | None, streamed: StreamedAnswer | None) -> list[Viewer]:
        viewers: list[Viewer] = []
        if self._options.events_to is not None:
            viewers.append(RecordFile(self._options.events_to))
        if self._options.events:
            viewers.append(Records(gone=self._interrupts.interrupt))
        viewers += [viewer for viewer in (screen, streamed) if viewer is not None]
        return viewers

    def _wait(self, handle: RunHandle, follower: Follower) -> Result:
        try:
            self._interrupts.release()
            return handle.wait()
        except Interrupted:
            message = "interrupted; stopping what is under way (once more: leave at once)"
            follower.take(Noted(run_id=handle.run_id, message=message))
            return handle.cancel()


def _check(options: Options) -> None:
    """Refuse options that contradict each other, or of which one would have no effect."""
    conflicts = [
        (options.json and options.events, "--json and --events both write to standard output; use --events-to FILE"),
        (options.quiet and options.verbose, "-q and -v contradict each other"),
        (options.model and options.profile, "-m sets the model of every role, so --profile would have no effect"),
        (
            options.output is not None and options.output == options.events_to,
            f"-o and --events-to both write to {options.output!r}",
        ),
        (options.output == "-", "-o - is a file named '-'; without -o the answer goes to standard output"),
    ]
    for conflict, message in conflicts:
        if conflict:
            raise UsageError(f"{message}; see `fusion run --help`")
