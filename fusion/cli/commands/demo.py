"""`fusion demo`: the main pipeline over a report that ships with Fusion, its answer checked against the report.

The recording that `--recorded` plays ships with the report. Remake it after a change to the task, the report, the
prompts or the events, on an idle machine, and the picture of the README with it:

    fusion demo --record pipelines/recordings/demo.jsonl
    python docs/picture.py
"""

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusion.cli.completion import profile_names
from fusion.cli.exits import FAILED, Ending
from fusion.cli.options.base import Debug, Quiet, Verbose

if TYPE_CHECKING:
    from fusion.client.handle import RunHandle

_LOCAL = "local"
_INDENT = 11
_NARROWEST = 40
_WIDEST = 100

PIPELINE = "plan-execute-review"
TASK = (
    "For each of the four parts of the port (North Quay, East Basin, Ferry Terminal, South Pier) find who manages "
    "it, how many containers it handled in the quarter and how many incidents it had. Answer with a table of four "
    "lines: part, manager, containers, incidents."
)


@dataclass(frozen=True)
class Fact:
    """Facts of the report about one part of the port."""

    part: str
    manager: str
    containers: int
    incidents: int

    def __str__(self) -> str:
        return f"{self.part}: {self.manager}, {self.containers:,} containers, {self.incidents} incidents"


FACTS = (
    Fact("North Quay", "Ingrid Solberg", 18_420, 2),
    Fact("East Basin", "Pavel Novak", 2_310, 5),
    Fact("Ferry Terminal", "Amara Diallo", 85, 1),
    Fact("South Pier", "Henrik Lund", 6_940, 3),
)
_NUMBER = re.compile(r"\d+(?:[., \u00a0\u202f]\d{3})*(?!\d)")


def demo(
    ctx: typer.Context,
    recorded: Annotated[
        bool, typer.Option("--recorded", help="Play a recorded run in 20 seconds; needs no weights and no key.")
    ] = False,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The set of models to use; by default the embedded ones, which need no key.",
            autocompletion=profile_names,
        ),
    ] = None,
    record: Annotated[
        str | None, typer.Option("--record", metavar="FILE", hidden=True, help="Write a recording of the run.")
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Run the main pipeline over a shipped report.

    Plan, work in parallel, review and merge; check the answer against the report.
    """
    ending: Ending = ctx.obj
    if recorded:
        _check_recorded(profile=profile, record=record, quiet=quiet, verbose=verbose)
        _play(quiet=quiet, verbose=verbose)
    elif record is not None:
        _record(Path(record), profile or _LOCAL, ending, quiet=quiet, verbose=verbose)
    else:
        _run(profile or _LOCAL, None, ending, quiet=quiet, verbose=verbose)


def _check_recorded(*, profile: str | None, record: str | None, quiet: bool, verbose: bool) -> None:
    """Refuse options that contradict each other or have no effect."""
    from fusion.core.errors import UsageError

    if profile is not None:
        raise UsageError("--profile has no effect with --recorded, which calls no model; leave it out")
    if record is not None:
        raise UsageError("--record writes a recording of a live run; leave --recorded out")
    if quiet and verbose:
        raise UsageError("-q and -v contradict each other; see `fusion demo --help`")


def _play(*, quiet: bool, verbose: bool) -> None:
    from fusion.cli.terminal import complain
    from fusion.cli.views.lines import seconds
    from fusion.cli.views.live.playback import PLAYED_IN, play
    from fusion.client.recording import Recording

    recording = Recording.read(recording_path())
    if not quiet:
        models, made = " and ".join(recording.models), recording.made
        times = f"it took {seconds(recording.seconds)} and is played in {seconds(PLAYED_IN)}"
        cores = f"{_cores(made.cores)}{', busy with other work too' * made.busy}"
        about = f"of {recording.began:%Y-%m-%d} by {models} on {cores} ({made.machine}); {times}"
        _say("recording", f"a real run {about}")
        _say_task()
        _say("")
    play(recording, quiet=quiet, verbose=verbose)
    _check_answer(recording.outcome.text, quiet=quiet)
    if not quiet:
        complain(
            "\nTo run it on your machine:\n"
            "  pip install 'compound-fusion[local]'\n"
            "  fusion models pull small strong\n"
            "  fusion demo"
        )


def _run(profile: str, events_to: str | None, ending: Ending, *, quiet: bool, verbose: bool) -> "RunHandle":
    """Run the pipeline to its checked answer. Raises typer.Exit where it fails or the answer is wrong."""
    from fusion.cli.options.runs import RunOptions
    from fusion.cli.session import run_session
    from fusion.core.errors import MissingKeyError

    options = RunOptions(
        pipeline=PIPELINE,
        prompt=TASK,
        inputs=[f"context=@{report()}"],
        profile=profile,
        events_to=events_to,
        quiet=quiet,
        verbose=verbose,
    )
    if not quiet:
        _say_task()
        if events_to is None:  # a recording may be missing or out of date while it is being remade
            _say("time", _expected_time(profile))
        _say("")
    try:
        handle = run_session(options, ending)
    except MissingKeyError as error:
        raise MissingKeyError(f"{error}; `fusion demo --recorded` plays a recorded run without either") from error
    if handle.exit_code:
        raise typer.Exit(handle.exit_code)
    _check_answer(handle.wait().text, quiet=quiet)
    return handle


def _record(file: Path, profile: str, ending: Ending, *, quiet: bool, verbose: bool) -> None:
    """Run, and write a recording of the run."""
    from tempfile import TemporaryDirectory

    from fusion.client.client import Fusion
    from fusion.client.recording import Recording
    from fusion.core.config import Settings
    from fusion.core.errors import UsageError

    if not file.parent.is_dir():
        raise UsageError(f"--record {str(file)!r}: there is no folder {str(file.parent)!r}; make it first")
    load, *_ = os.getloadavg()
    with TemporaryDirectory() as folder:
        events = Path(folder) / "events.jsonl"
        handle = _run(profile, str(events), ending, quiet=quiet, verbose=verbose)
        lines = events.read_text("utf-8").splitlines()
    with Fusion(profile=profile, store=True, settings=Settings.from_environment()) as fusion:
        details = fusion.runs.show(handle.run_id)
    Recording.of_run(lines, handle.wait().text, details, load=load, subject=subject()).write(file)


def _check_answer(text: str, *, quiet: bool) -> None:
    from fusion.cli.terminal import complain

    wrong = faults(text)
    if wrong:
        complain("\n".join(["\nfusion: the answer is not what the report says:", *wrong]))
        raise typer.Exit(FAILED)
    if not quiet:
        complain(f"\nchecked: what the answer says of all {len(FACTS)} parts of the port is what the report says")


def _expected_time(profile: str) -> str:
    """The time of a run on this machine, by the calls of the recorded run."""
    from fusion.cli.views.lines import seconds
    from fusion.client.recording import Recording, expected_seconds
    from fusion.core.config import Settings

    recording = Recording.read(recording_path())
    if profile != _LOCAL:
        return f"about {seconds(expected_seconds(recording))}, if the models answer as fast as hosted ones usually do"
    threads = Settings.from_environment().local_threads
    minutes = max(1, round(expected_seconds(recording, threads) / 60))
    return f"about {minutes} minute{'s' * (minutes != 1)} on {_cores(threads)} without other work"


def _cores(number: int) -> str:
    return f"{number} core{'s' * (number != 1)}"


def _say_task() -> None:
    _say("report", str(report()))
    _say("task", TASK)


def _say(label: str, text: str = "") -> None:
    """A labelled paragraph on standard error: wrapped on a terminal, one line elsewhere."""
    import shutil
    import textwrap

    from fusion.cli.terminal import complain, is_terminal

    line = f"{label:<{_INDENT}}{text}".rstrip()
    if is_terminal(sys.stderr):
        width = max(_NARROWEST, min(_WIDEST, shutil.get_terminal_size().columns))
        line = textwrap.fill(
            line, width, subsequent_indent=" " * _INDENT, break_long_words=False, break_on_hyphens=False
        )
    complain(line)


def report() -> Path:
    """The file of the report, an invented one."""
    return _shipped("documents/harbour-report.md")


def recording_path() -> Path:
    """The file of the recorded run."""
    return _shipped("recordings/demo.jsonl")


def _shipped(name: str) -> Path:
    from fusion.prompts.library import shipped_root

    return shipped_root() / "pipelines" / name


def subject() -> str:
    """SHA-256 (hex) of the task and the report: a recording of another one is out of date."""
    import hashlib

    return hashlib.sha256(f"{TASK}\0{report().read_text('utf-8')}".encode()).hexdigest()


def faults(answer: str) -> list[str]:
    """Return the faults of an answer, at most one for each part of the port.

    Each part needs a line with its manager, its containers and its incidents after its name.
    """
    return [fault for fact in FACTS if (fault := _fault(fact, answer.splitlines()))]


def _fault(fact: Fact, lines: list[str]) -> str:
    about = [line for line in lines if fact.part in line]
    if not about:
        return f"{fact}; the answer has no line about it"
    if any(_says(fact, line.partition(fact.part)[2]) for line in about):
        return ""
    return f"{fact}; the answer says: {about[0].strip()}"


def _says(fact: Fact, line: str) -> bool:
    numbers = [int(re.sub(r"\D", "", number)) for number in _NUMBER.findall(line)]
    return fact.manager in line and numbers == [fact.containers, fact.incidents]
