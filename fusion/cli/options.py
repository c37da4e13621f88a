"""Options of the commands: each declared once, as a field of the class that its command receives."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, Literal, dataclass_transform, get_args

from typer import Argument, Context, Option

from fusion.cli.completion import budget_names, pipeline_names, profile_names, run_ids, stage_names

if TYPE_CHECKING:
    from fusion.client.handle import RunHandle


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Options:
    """The options of a command: a dataclass for the type checker, without the 10 ms that nine of them cost."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    @classmethod
    def fields(cls) -> dict[str, Any]:
        """Return the annotations of all fields by name, those of base classes first."""
        return {name: form for kind in reversed(cls.__mro__) for name, form in inspect.get_annotations(kind).items()}

    def flags(self) -> dict[str, str]:
        """Return the flags of the options that are set, by field: `{"output": "-o"}`."""
        flags = {name: get_args(form)[1].default for name, form in self.fields().items()}
        return {
            name: flag
            for name, flag in flags.items()
            if isinstance(flag, str) and getattr(self, name) != getattr(type(self), name)
        }


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one parameter for each field of its `options`, and pass it the filled class."""
    parameters = dict(inspect.signature(command).parameters)
    kind = parameters.pop("options").annotation
    declared = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=form,
            default=getattr(kind, name, inspect.Parameter.empty),
        )
        for name, form in kind.fields().items()
    ]

    @wraps(command)
    def bound(**values: Any) -> None:
        own = {name: values.pop(name) for name in parameters}
        command(**own, options=kind(**values))

    bound.__signature__ = inspect.Signature([*parameters.values(), *declared])  # type: ignore[attr-defined]
    return bound


def _debug(ctx: Context, debug: bool) -> bool:
    if debug:
        ctx.obj.debug = True
    return debug


# Arguments and options that several commands share.

PipelineGiven = Annotated[
    str, Argument(metavar="PIPELINE", help="Name or file of a pipeline.", autocompletion=pipeline_names)
]
Prompt = Annotated[
    str | None,
    Argument(metavar="PROMPT", help="The task: fills the first required input; - reads standard input."),
]
Profile = Annotated[
    str | None, Option("--profile", metavar="NAME", help="Set of models.", autocompletion=profile_names)
]
Budget = Annotated[
    str | None,
    Option("--budget", metavar="LIMITS", help="Limits: 0.50 (dollars), or usd=…,tokens=…,calls=…,seconds=…."),
]
RunGiven = Annotated[
    str, Argument(metavar="RUN", help="Id of a run, its first characters, or: latest.", autocompletion=run_ids)
]
RunOrMap = Annotated[
    str,
    Argument(metavar="RUN", help="Id of a run or map, its first characters, or: latest.", autocompletion=run_ids),
]
StoreFile = Annotated[str | None, Option("--store", metavar="PATH", help="File of the run store.")]
AsJson = Annotated[bool, Option("--json", help="Print JSON.")]
Concurrency = Annotated[int | None, Option("--concurrency", metavar="N", help="Answers at once; 16.")]
Folder = Annotated[str | None, Option("-o", "--output", metavar="FOLDER", help="Folder for answers and report.")]
Quiet = Annotated[bool, Option("-q", "--quiet", help="Print only errors to standard error.")]
Verbose = Annotated[bool, Option("-v", "--verbose", help="Show every call.")]
Debug = Annotated[bool, Option("--debug", help="Show tracebacks.", callback=_debug)]


Within = Annotated[
    str | None,
    Option(
        "--within",
        metavar="NAME",
        help="Budget of your settings to stay within, beside its own: a [budgets.NAME].",
        autocompletion=budget_names,
    ),
]


Batch = Annotated[
    bool,
    Option("--batch", help="Send calls in batches of their providers: about half the price, within a day."),
]


PromptColumn = Annotated[
    str | None, Option("--prompt", metavar="COLUMN", help="Column of prompts, or template over columns.")
]
GoldColumn = Annotated[str | None, Option("--gold", metavar="COLUMN", help="Column of gold answers.")]
NoLearn = Annotated[bool, Option("--no-learn", help="Keep no figures of the models; see `fusion models learned`.")]


Config = Annotated[str | None, Option("--config", metavar="FILE", help="Your settings: a fusion.toml.")]

# Options of a run.


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
    quiet: Quiet = False
    verbose: Verbose = False
    debug: Debug = False

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


# Options of a map.


class MapOptions(Options):
    """Options of `fusion map`."""

    pipeline: PipelineGiven
    sources: Annotated[
        list[str],
        Argument(
            metavar="INPUTS...",
            help="Rows: a table (.jsonl, .csv, .tsv, .parquet), a folder, a pattern in quotes, files, or - (standard"
            " input).",
        ),
    ]
    output: Annotated[
        str | None,
        Option(
            "-o",
            "--output",
            metavar="FILE",
            help="File of answers: .jsonl, .csv, .tsv or .parquet; else JSONL printed.",
        ),
    ] = None
    key: Annotated[str | None, Option("--key", metavar="COLUMN", help="Column that identifies a row.")] = None
    id: Annotated[
        str | None, Option("--id", metavar="NAME", help="Name of the map, to go on with it; else from its files.")
    ] = None
    columns: Annotated[
        list[str] | None,
        Option("-i", "--input", metavar="NAME=COLUMN", help="Column of an input of the pipeline; repeatable."),
    ] = None
    constants: Annotated[
        list[str] | None,
        Option("--set", metavar="NAME=VALUE", help="Input that is the same for all rows: name=value, name=@file."),
    ] = None
    format: Annotated[
        Literal["jsonl", "csv", "tsv", "parquet", "files"] | None,
        Option("--format", help="Format of INPUTS, where their names do not tell it."),
    ] = None
    limit: Annotated[int | None, Option("--limit", min=1, metavar="N", help="Read the first N rows only.")] = None
    sample: Annotated[int | None, Option("--sample", min=1, metavar="N", help="Read N rows only, drawn by hash.")] = (
        None
    )
    ordered: Annotated[bool, Option("--ordered", help="Write rows in the order of INPUTS.")] = False
    concurrency: Annotated[int | None, Option("--concurrency", min=1, metavar="N", help="Rows at once; 16.")] = None
    budget: Annotated[
        str | None,
        Option(
            "--budget", metavar="LIMITS", help="Limits of the whole map: 0.50 (dollars), or usd=…,tokens=…,calls=…."
        ),
    ] = None
    within: Within = None
    fail_fast: Annotated[bool, Option("--fail-fast", help="Stop at the first failed row.")] = False
    max_failed: Annotated[
        str | None,
        Option(
            "--max-failed", metavar="N|SHARE", help="Stop beyond so many failed rows: 20, or 5%; up to it, exit 0."
        ),
    ] = None
    retry_failed: Annotated[bool, Option("--retry-failed", help="Ask again for rows that failed or lack parts.")] = (
        False
    )
    batch: Batch = False
    profile: Profile = None
    roles: Annotated[
        list[str] | None, Option("--role", metavar="ROLE=MODEL", help="Model of a role; repeatable.")
    ] = None
    model: Annotated[str | None, Option("-m", "--model", metavar="MODEL", help="Model of every role.")] = None
    tags: Annotated[list[str] | None, Option("--tag", metavar="KEY=VALUE", help="Tag of the map; repeatable.")] = None
    cache: Annotated[
        Literal["off", "run", "shared"] | None,
        Option("--cache", help="Reuse no replies, those of a row, or of every run."),
    ] = None
    config: Config = None
    store: StoreFile = None
    no_store: Annotated[bool, Option("--no-store", hidden=True, help="Refused: a map goes on from its store.")] = (
        False
    )
    dry_run: Annotated[
        bool, Option("--dry-run", help="Show the rows to run and a quote from a sample; make no call.")
    ] = False
    json: Annotated[bool, Option("--json", help="Print the report as JSON, in place of rows.")] = False
    events: Annotated[bool, Option("--events", help="Print every event as a line of JSON, in place of rows.")] = False
    events_to: Annotated[
        str | None, Option("--events-to", metavar="FILE", help="Write every event to a file as a line of JSON.")
    ] = None
    quiet: Quiet = False
    verbose: Annotated[bool, Option("-v", "--verbose", help="Show every row.")] = False
    debug: Debug = False


class ServeOptions(Options):
    """Options of `fusion serve`."""

    pipelines: Annotated[
        list[str] | None,
        Argument(metavar="[PIPELINES]...", help="Names or files of pipelines.", autocompletion=pipeline_names),
    ] = None
    host: Annotated[
        str, Option("--host", metavar="ADDRESS", help="Address to listen on; others than loopback need a token.")
    ] = "127.0.0.1"
    port: Annotated[int, Option("--port", min=0, max=65535, metavar="N", help="Port; 0 for any free one.")] = 8484
    profile: Profile = None
    roles: Annotated[
        list[str] | None, Option("--role", metavar="ROLE=MODEL", help="Model of a role; repeatable.")
    ] = None
    model: Annotated[str | None, Option("-m", "--model", metavar="MODEL", help="Model of every role.")] = None
    budget: Annotated[
        str | None,
        Option("--budget", metavar="LIMITS", help="Limits of each request: 0.50 (dollars), or usd=…,tokens=…."),
    ] = None
    within: Within = None
    store: StoreFile = None
    config: Config = None
    quiet: Quiet = False
    debug: Debug = False


# Options of a benchmark.


class BenchOptions(Options):
    """Options of `fusion bench`."""

    what: Annotated[
        str, Argument(metavar="SUITE|DATA", help="Suite (.yaml), or file of items (.jsonl, .csv, .json).")
    ]
    pipelines: Annotated[
        list[str] | None,
        Option(
            "-p", "--pipeline", metavar="PIPELINE", help="Arm: a pipeline; repeatable.", autocompletion=pipeline_names
        ),
    ] = None
    models: Annotated[
        list[str] | None, Option("-m", "--model", metavar="MODEL", help="Arm: a single model; repeatable.")
    ] = None
    python: Annotated[
        list[str] | None,
        Option("--python", metavar="MODULE:FUNCTION", help="Arm: a function of prompts; repeatable."),
    ] = None
    outputs: Annotated[
        list[str] | None,
        Option("--outputs", metavar="FILE", help="Arm: recorded answers, id and text; repeatable."),
    ] = None
    scorer: Annotated[
        str | None,
        Option("--scorer", metavar="SCORER", help="Name, expression of answer and gold, or module:function."),
    ] = None
    prompt: PromptColumn = None
    gold: GoldColumn = None
    profile: Profile = None
    roles: Annotated[
        list[str] | None,
        Option("--role", metavar="ROLE=MODEL", help="Model of a role in the pipelines; repeatable."),
    ] = None
    sample: Annotated[int | None, Option("--sample", metavar="N", help="Number of items, drawn by hash.")] = None
    epochs: Annotated[int | None, Option("--epochs", metavar="N", help="Answers for each item.")] = None
    seed: Annotated[int | None, Option("--seed", metavar="N", help="Seed of order and resampling.")] = None
    margin: Annotated[
        float | None, Option("--margin", metavar="SHARE", help="Loss of accuracy that counts as equal; 0.01.")
    ] = None
    budget: Annotated[
        str | None,
        Option("--budget", metavar="LIMITS", help="Limits of all arms: 0.50 (dollars), or usd=…,tokens=…,calls=…."),
    ] = None
    within: Within = None
    gate: Annotated[
        str | None, Option("--gate", metavar="CONDITION", help="Condition to meet; exit code 5 if not.")
    ] = None
    concurrency: Concurrency = None
    batch: Batch = False
    no_learn: NoLearn = False
    config: Config = None
    output: Folder = None
    quiet: Quiet = False
    debug: Debug = False


class TuneOptions(Options):
    """Options of `fusion tune`."""

    what: Annotated[
        list[str],
        Argument(
            metavar="SUITE|DATA...",
            help="Suite (.yaml) with open values; or files of items (.jsonl, .csv, .json), or replay:FOLDER.",
        ),
    ]
    over: Annotated[
        list[str] | None,
        Option(
            "--over", metavar="MODELS", help="Models to choose a cascade from, with commas; ids, roles, replay:…."
        ),
    ] = None
    models: Annotated[
        list[str] | None, Option("-m", "--model", metavar="MODEL", help="One more model to choose from; repeatable.")
    ] = None
    scorer: Annotated[
        list[str] | None,
        Option("--scorer", metavar="SCORER", help="Scorer of the answers; SET=SCORER for one file of several."),
    ] = None
    path: Annotated[str | None, Option("--path", metavar="PATH", help="Path of the answer in JSON.")] = None
    prompt: PromptColumn = None
    gold: GoldColumn = None
    sample: Annotated[int | None, Option("--sample", metavar="N", help="Items of each file, drawn by hash.")] = None
    routes: Annotated[
        list[str] | None,
        Option("--route", metavar="SET=PATTERN", help="Way of its own for prompts that match; for all sets but one."),
    ] = None
    agree: Annotated[int | None, Option("--agree", metavar="N", help="Answers that must be equal; 2.")] = None
    max_tiers: Annotated[
        int | None, Option("--max-tiers", metavar="N", help="1: single models; 2: and pairs; 3: and late voters.")
    ] = None
    last: Annotated[
        list[str] | None, Option("--else", metavar="MODELS", help="Models that may answer if the others differ; all.")
    ] = None
    at_least: Annotated[
        float | None,
        Option("--at-least", metavar="SHARE", help="Difference to the best single model that a way must reach; 0."),
    ] = None
    confirm: Annotated[
        list[str] | None,
        Option("--confirm", metavar="FILE", help="Items to confirm on; SET=FILE for one file of several."),
    ] = None
    split: Annotated[
        str | None, Option("--split", metavar="COLUMN", help="Column with the side of each item, dev or test.")
    ] = None
    seed: Annotated[int | None, Option("--seed", metavar="N", help="Seed of order, folds and resampling.")] = None
    budget: Annotated[
        str | None,
        Option("--budget", metavar="LIMITS", help="Limits of the search: 0.50 (dollars), or usd=…,tokens=…,calls=…."),
    ] = None
    concurrency: Concurrency = None
    no_learn: NoLearn = False
    config: Config = None
    output: Folder = None
    quiet: Quiet = False
    debug: Debug = False


class CalibrateOptions(Options):
    """Options of `fusion calibrate`."""

    pipeline: PipelineGiven
    examples: Annotated[
        str, Argument(metavar="EXAMPLES", help="File of prompts and right answers: .jsonl, .csv, .json.")
    ]
    target: Annotated[
        float | None,
        Option("--target", metavar="SHARE", help="Set a threshold: share of accepted answers that may be wrong."),
    ] = None
    refuse: Annotated[
        float | None,
        Option("--refuse", metavar="SHARE", help="Choose a reviewer: share of right results that it may refuse."),
    ] = None
    reviewers: Annotated[
        list[str] | None,
        Option("--reviewer", metavar="REVIEWER", help="Reviewer to measure, a role or a model; repeatable."),
    ] = None
    templates: Annotated[
        list[str] | None, Option("--template", metavar="NAME", help="Template of the review to measure; repeatable.")
    ] = None
    thresholds: Annotated[
        list[float] | None,
        Option("--threshold", metavar="CONFIDENCE", help="Confidence to accept at, to measure; repeatable."),
    ] = None
    item_gold: Annotated[
        str | None,
        Option("--item-gold", metavar="COLUMN", help="Column with the right results of the items, a list."),
    ] = None
    delta: Annotated[float, Option("--delta", metavar="SHARE", help="Probability that more of them are wrong.")] = 0.1
    learned: Annotated[
        bool, Option("--learned", help="Accept by pattern: which members of the tier gave equal answers.")
    ] = False
    label: Annotated[
        str | None,
        Option("--label", metavar="EXPRESSION", help="Label of a request, as in inputs.subject: patterns by label."),
    ] = None
    stage: Annotated[str | None, Option("--stage", metavar="STAGE", help="Stage, if there are several.")] = None
    prompt: PromptColumn = None
    gold: GoldColumn = None
    scorer: Annotated[
        str | None,
        Option(
            "--scorer", metavar="SCORER", help="Comparison with the right answer; by default as the stage compares."
        ),
    ] = None
    profile: Profile = None
    roles: Annotated[
        list[str] | None, Option("--role", metavar="ROLE=MODEL", help="Model of a role; repeatable.")
    ] = None
    model: Annotated[str | None, Option("-m", "--model", metavar="MODEL", help="Model of every role.")] = None
    budget: Annotated[
        str | None,
        Option("--budget", metavar="LIMITS", help="Limits of all calls: 0.50 (dollars), or usd=…,tokens=…,calls=…."),
    ] = None
    concurrency: Concurrency = None
    config: Config = None
    output: Annotated[
        str | None,
        Option("-o", "--output", metavar="FILE", help="File to write; else PIPELINE-calibrated.yaml."),
    ] = None
    quiet: Quiet = False
    debug: Debug = False
