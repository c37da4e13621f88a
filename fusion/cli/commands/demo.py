"""`fusion demo`: the main job over a report that ships with Fusion, its answer checked against the report."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from fusion.cli.completion import profile_names
from fusion.cli.exits import FAILED, Ending
from fusion.cli.options import Debug, Quiet, Verbose
from fusion.prompts.library import shipped_root


def demo(
    ctx: typer.Context,
    profile: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The set of models to use; by default the embedded ones, which need no key.",
            autocompletion=profile_names,
        ),
    ] = "local",
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Plan, work in parallel, review and merge over a report that ships with Fusion; check the answer against it."""
    from fusion.cli.session import Options, run_session
    from fusion.cli.terminal import complain

    ending: Ending = ctx.obj
    ending.debug = ending.debug or debug
    if not quiet:
        complain(f"report   {report()}\ntask     {TASK}\n")
    options = Options(
        pipeline=PIPELINE,
        prompt=TASK,
        inputs=(f"context=@{report()}",),
        profile=profile,
        kept=False,
        quiet=quiet,
        verbose=verbose,
    )
    handle = run_session(options, ending)
    if handle.exit_code:
        raise typer.Exit(handle.exit_code)
    wrong = faults(handle.wait().text)
    if wrong:
        complain("\n".join(["\nfusion: the answer is not what the report says:", *wrong]))
        raise typer.Exit(FAILED)
    if not quiet:
        complain(f"\nchecked: what the answer says of all {len(FACTS)} parts of the port is what the report says")


PIPELINE = "plan-execute-review"
TASK = (
    "For each of the four parts of the port (North Quay, East Basin, Ferry Terminal, South Pier) find who manages "
    "it, how many containers it handled in the quarter and how many incidents it had. Answer with a table of four "
    "lines: part, manager, containers, incidents."
)


@dataclass(frozen=True)
class Fact:
    """What the report says of one part of the port."""

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


def report() -> Path:
    """The file of the report, an invented one."""
    return shipped_root() / "pipelines" / "documents" / "harbour-report.md"


def faults(answer: str) -> list[str]:
    """What the answer has wrong or lacks, one line for each part of the port; none if it is right.

    Each part has to stand on a line of its own with its manager, its containers and its incidents behind it.
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
