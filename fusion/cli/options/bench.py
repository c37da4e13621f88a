"""Options of `fusion bench`, `tune` and `calibrate`."""

from typing import Annotated

from typer import Argument, Option

from fusion.cli.completion import pipeline_names
from fusion.cli.options.base import (
    Batch,
    Concurrency,
    Config,
    Debug,
    Folder,
    GoldColumn,
    NoLearn,
    Options,
    PipelineGiven,
    Profile,
    PromptColumn,
    Quiet,
    Within,
)


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
