"""Options of commands about one run."""

from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Option

from fusion.cli.completion import pipeline_names, stage_names
from fusion.cli.options.base import (
    AsJson,
    Batch,
    Budget,
    Config,
    Debug,
    Options,
    PipelineGiven,
    Profile,
    Prompt,
    Quiet,
    RunGiven,
    RunOrMap,
    StoreFile,
    Verbose,
    Within,
)

if TYPE_CHECKING:
    from fusion.client.handle import RunHandle


class PipelineOptions(Options):
    """A pipeline, its inputs and its models."""

    pipeline: PipelineGiven
    inputs: Annotated[
        list[str] | None,
        Option("-i", "--input", metavar="NAME=VALUE", help="Input: name=value, name=@file, name=- (standard input)."),
    ] = None
    profile: Profile = None
    roles: Annotated[
        list[str] | None, Option("--role", metavar="ROLE=MODEL", help="Model of a role; repeatable.")
    ] = None
    model: Annotated[str | None, Option("-m", "--model", metavar="MODEL", help="Model of every role.")] = None
    config: Config = None


class _PricedOptions(PipelineOptions):
    prompt: Prompt = None
    budget: Budget = None
    json: AsJson = False


class QuoteOptions(_PricedOptions):
    """Options of `fusion quote`."""

    batch: Batch = False
    of_map: Annotated[
        str | None,
        Option("--map", metavar="INPUTS", help="Quote a map over these rows; -i name=column. See `fusion map`."),
    ] = None
    sample: Annotated[
        int | None, Option("--sample", min=1, metavar="N", help="Rows of --map to quote, drawn by hash; 20.")
    ] = None


class DrillOptions(_PricedOptions):
    """Options of `fusion drill`."""

    without: Annotated[
        list[str] | None,
        Option(
            "--without",
            metavar="PATTERN",
            help="Models to take away: openai, a model's id, family:gpt, region:us; repeatable. By default each"
            " provider in turn.",
        ),
    ] = None
    live: Annotated[bool, Option("--live", help="Run the pipeline; calls to these models fail unsent.")] = False


class RenderOptions(PipelineOptions):
    """Options of `fusion render`."""

    stage: Annotated[str, Argument(metavar="STAGE", help="Name of a stage.", autocompletion=stage_names)]
    prompt: Prompt = None
    results: Annotated[
        list[str] | None,
        Option("--with", metavar="STAGE=VALUE", help="Result of another stage: stage=@file, stage.field=value."),
    ] = None
    item: Annotated[int, Option("--item", min=1, metavar="N", help="Number of the item, from 1.")] = 1
    json: AsJson = False


class WatchOptions(Options):
    """Settings, store and output of a run."""

    config: Config = None
    store: StoreFile = None
    json: Annotated[bool, Option("--json", help="Print the full result as JSON, even if the run fails.")] = False
    events: Annotated[
        bool, Option("--events", help="Print every event as a line of JSON, in place of the answer.")
    ] = False
    events_to: Annotated[
        str | None, Option("--events-to", metavar="FILE", help="Write every event to a file as a line of JSON.")
    ] = None
    output: Annotated[str | None, Option("-o", "--output", metavar="FILE", help="Write the answer to a file.")] = None
    within: Within = None
    allow_partial: Annotated[
        bool, Option("--allow-partial", help="Exit code 0 for an answer that lacks parts, in place of 3 or 4.")
    ] = False
    wait: Annotated[
        bool, Option("--wait", help="Wait in this process for the answers of people, in place of exit code 6.")
    ] = False
    quiet: Quiet = False
    verbose: Verbose = False
    debug: Debug = False

    @property
    def asks(self) -> bool:
        """True if a person at the terminal is asked at gates."""
        return False

    def exit_code(self, handle: "RunHandle") -> int:
        """Return the exit code of the command for the end of a run."""
        return 0 if self.allow_partial and handle.wait().status == "partial" else handle.exit_code

    @property
    def answer_elsewhere(self) -> bool:
        """True if standard output does not get the answer as text."""
        return self.json or self.events or self.output is not None


class _StartOptions(PipelineOptions):
    prompt: Prompt = None
    budget: Budget = None
    tags: Annotated[list[str] | None, Option("--tag", metavar="KEY=VALUE", help="Tag of the run; repeatable.")] = None
    cache: Annotated[
        Literal["off", "run", "shared"] | None,
        Option("--cache", help="Reuse no replies, those of this run, or of every run."),
    ] = None
    batch: Batch = False
    resume_or_start: Annotated[
        bool, Option("--resume-or-start", help="Resume the latest such run if unfinished, or start one.")
    ] = False
    dry_run: Annotated[
        bool, Option("--dry-run", help="Show stages, models, first prompts and bounds; make no call.")
    ] = False
    no_store: Annotated[bool, Option("--no-store", help="Keep no record; the run cannot be resumed.")] = False


class RunOptions(WatchOptions, _StartOptions):
    """Options of `fusion run`."""

    @property
    def asks(self) -> bool:
        return not self.answer_elsewhere or self.output is not None


class ApproveOptions(WatchOptions):
    """Options of `fusion approve`."""

    run: RunOrMap
    gate: Annotated[
        str | None, Argument(metavar="[GATE]", help="The stage that asks, or stage/item; by default the only one.")
    ] = None
    yes: Annotated[bool | None, Option("--yes/--no", help="Approve, or reject.")] = None
    text: Annotated[str | None, Option("--text", metavar="TEXT", help="The edited text; with --no, the reason.")] = (
        None
    )
    data: Annotated[
        str | None, Option("--data", metavar="JSON", help="The answer to a gate with a schema, as JSON.")
    ] = None
    file: Annotated[
        str | None,
        Option("--file", metavar="FILE", help="A file with the edited text, or with the data; - is standard input."),
    ] = None
    by: Annotated[
        str | None, Option("--by", metavar="NAME", help="Your name in the record; by default the user's.")
    ] = None
    all_gates: Annotated[
        bool, Option("--all", help="Give the answer to every open gate: of the run, or of all waiting rows of a map.")
    ] = False
    go_on: Annotated[bool, Option("--resume/--no-resume", help="Go on with the run here, or only answer.")] = True

    @property
    def asks(self) -> bool:
        return not self.answer_elsewhere or self.output is not None


class ResumeOptions(WatchOptions):
    """Options of `fusion resume`."""

    run: RunGiven
    pipeline: Annotated[
        str | None,
        Option(
            "--pipeline",
            metavar="PIPELINE",
            help="Edited pipeline: start a new run that reuses unchanged calls.",
            autocompletion=pipeline_names,
        ),
    ] = None
    budget: Annotated[
        str | None,
        Option("--budget", metavar="LIMITS", help="Total limits, earlier spend included: 0.50 or usd=0.5,calls=…."),
    ] = None
