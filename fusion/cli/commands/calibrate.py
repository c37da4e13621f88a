"""`fusion calibrate`: set a pipeline's condition for accepting an answer, or its reviewer, from labelled examples."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from fusion.cli.options.base import with_options
from fusion.cli.options.bench import CalibrateOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fusion.client.calibration.examples import Example, Right
    from fusion.client.calibration.reviews import CalibratedReview, MeasuredReview
    from fusion.client.client import Fusion
    from fusion.core.budget import Budget
    from fusion.pipeline.spec import Pipeline

_CALLS: Final = "calls.db"
_LONGEST: Final = 40
"""Characters of a template in a table."""
_HEAD: Final = [
    "reviewer",
    "template",
    "threshold",
    "wrong caught",
    "95%",
    "right refused",
    "95%",
    "at most",
    "calls",
    "cost",
    "",
]


@with_options
def calibrate(options: CalibrateOptions) -> None:
    """Set when an answer is accepted, or who reviews it.

    With --target, finds the threshold in the first tier of a cascade that keeps the share of wrong answers at the
    target; with --learned too, the patterns of agreement that do. With --refuse, measures reviewers, templates and
    thresholds of a review, or of a cascade's judge; chooses the one that catches most wrong results and refuses no
    larger share of right ones.

    Writes the calibrated pipeline, with its evidence, to a file. Run the same command again to go on after an
    interruption: no answer is paid twice.
    """
    from fusion.cli.interrupts import Interrupts
    from fusion.cli.terminal import write

    with Interrupts():
        path = _written(options)
    write(f"{path}\n")
    raise typer.Exit


def _written(options: CalibrateOptions) -> Path:
    """Calibrate, write the pipeline, and return its file."""
    from fusion.cli.arguments import library, roles_of
    from fusion.cli.settings import read_settings
    from fusion.client.client import Fusion
    from fusion.pipeline.loader import load_file

    _check(options)
    source = library().pipeline(options.pipeline)
    target = _target(options, source)
    pipeline = load_file(source, library()).pipeline
    _check_templates(pipeline, target)
    examples, settings = list(_examples(options, pipeline)), read_settings(options.config)
    folder = Path("fusion-calibrate") / source.stem
    folder.mkdir(parents=True, exist_ok=True)
    models: dict[str, Any] = {
        "profile": options.profile,
        "roles": roles_of(options.roles),
        "model": options.model,
    }
    with Fusion(**models, store=folder / _CALLS, settings=settings) as fusion:
        if options.refuse is None:
            text = _calibrated(options, fusion, source, examples).to_yaml()
        else:
            text = _reviewed(options, fusion, source, examples, options.refuse)
    target.write_text(text, encoding="utf-8")
    return target


def _check(options: CalibrateOptions) -> None:
    """Raise UsageError for options that do not go together."""
    from fusion.core.errors import UsageError

    if (options.target is None) == (options.refuse is None):
        raise UsageError("give either --target SHARE, to set a threshold, or --refuse SHARE, to choose a reviewer")
    of_reviews = {
        "--reviewer": options.reviewers,
        "--template": options.templates,
        "--threshold": options.thresholds,
        "--item-gold": options.item_gold,
    }
    for flag, given in of_reviews.items():
        if given and options.refuse is None:
            raise UsageError(f"{flag} has an effect with --refuse only")
    for flag, is_given in {"--learned": options.learned, "--label": options.label is not None}.items():
        if is_given and options.target is None:
            raise UsageError(f"{flag} has an effect with --target only")
    if options.item_gold is not None and options.gold is not None:
        raise UsageError("--gold has no effect with --item-gold: each result has a right one of its own")


def _reviewed(
    options: CalibrateOptions, fusion: "Fusion", source: Path, examples: "Sequence[Example]", refuse: float
) -> str:
    """Measure the reviewers, print their figures, and return the pipeline with the chosen one as YAML."""
    from fusion.cli.terminal import write
    from fusion.client.calibration.reviews import calibrate_review
    from fusion.core.errors import InputError

    found = calibrate_review(
        fusion,
        source,
        examples,
        refuse=refuse,
        delta=options.delta,
        stage=options.stage,
        reviewers=options.reviewers or (),
        prompts=options.templates or (),
        thresholds=options.thresholds or (),
        right=_right(options, fusion),
        items=options.item_gold is not None,
        concurrency=options.concurrency or 16,
        within=_budget(options),
        watch=None if options.quiet else _said,
    )
    write("".join(f"{line}\n" for line in _figures(found)))
    if found.pipeline is None:
        raise InputError(found.reason)
    return found.pipeline.to_yaml(comments={("stages", found.stage): found.evidence})


def _figures(found: "CalibratedReview") -> "Sequence[str]":
    """Return the figures of the candidates as a table."""
    import sys

    from fusion.cli.terminal import table, width_of

    rows = [_HEAD, *(_row(one, chosen=one == found.chosen) for one in found.candidates)]
    return table(rows, right=frozenset(range(2, 9)), width=width_of(sys.stdout))


def _row(one: "MeasuredReview", *, chosen: bool) -> list[str]:
    from fusion.cli.terminal import one_line

    caught, refused = (
        f"{100 * low:.0f} to {100 * high:.0f}%" for low, high in (one.caught_interval, one.refused_interval)
    )
    return [
        one_line(one.candidate.reviewer),
        one_line(one.candidate.prompt)[:_LONGEST],
        "" if one.candidate.threshold is None else f"{one.candidate.threshold:g}",
        f"{one.caught} of {one.wrong}",
        caught,
        f"{one.refused} of {one.right}",
        refused,
        f"{100 * one.bound:.1f}%",
        f"{one.calls:,}",
        "unknown" if one.usd is None else f"${one.usd:.4f}",
        "chosen" if chosen else "",
    ]


def _calibrated(
    options: CalibrateOptions, fusion: "Fusion", source: Path, examples: "Sequence[Example]"
) -> "Pipeline":
    from fusion.client.calibration.calibrate import calibrate as calibrated

    return calibrated(
        fusion,
        source,
        examples,
        target=options.target or 0.0,
        delta=options.delta,
        stage=options.stage,
        right=_right(options, fusion),
        concurrency=options.concurrency or 16,
        within=_budget(options),
        watch=None if options.quiet else _said,
        learned=options.learned,
        label=options.label,
    )


def _target(options: CalibrateOptions, source: Path) -> Path:
    """Return the file to write. Raises UsageError for one that exists, unless it is named."""
    from fusion.core.errors import UsageError
    from fusion.core.paths import user_path
    from fusion.prompts.library import shipped_root

    if options.output is not None:
        return user_path(options.output)
    shipped = source.resolve().is_relative_to(shipped_root().resolve())
    target = (Path() if shipped else source.parent) / f"{source.stem}-calibrated.yaml"
    if target.exists():
        raise UsageError(f"{str(target)!r} exists; name the file with -o to overwrite it, or remove it")
    return target


def _check_templates(pipeline: "Pipeline", target: Path) -> None:
    """Raise PipelineError if the pipeline cannot be read at its new place, such as one far from its templates."""
    from fusion.cli.arguments import library
    from fusion.core.errors import PipelineError
    from fusion.pipeline.loader import check_text

    problems = check_text(pipeline.to_yaml(), library=library().near(target.parent), file=str(target))
    if problems:
        raise PipelineError(problems)


def _examples(options: CalibrateOptions, pipeline: "Pipeline") -> "Iterator[Example]":
    """Read the labelled examples; columns with the names of further inputs fill these."""
    from fusion.bench.tasks import Fields, read_tasks
    from fusion.client.calibration.examples import Example
    from fusion.pipeline.rows import read_rows

    columns = {name for row in read_rows(options.examples)[0] for name in row}
    prompt = next((name for name, one in pipeline.inputs.items() if one.required), None)
    further = tuple(name for name in pipeline.inputs if name in columns and name != prompt)
    gold = options.item_gold or options.gold
    given = {"prompt": options.prompt, "gold": gold, "item_gold": options.item_gold}
    named = {key: name for key, name in given.items() if name is not None}
    tasks = read_tasks(options.examples, Fields.model_validate({**named, "inputs": further}))
    for task in tasks.tasks:
        yield Example(task.prompt, tasks.gold[task.id], task.inputs)


def _right(options: CalibrateOptions, fusion: "Fusion") -> "Right | None":
    """Return the comparison of an answer with the right one; None for that of the stage."""
    if options.scorer is None:
        return None
    from fusion.bench.scorers.base import Answer
    from fusion.bench.scorers.registry import scorer

    by = scorer(options.scorer, sandbox=fusion.settings.sandbox)
    return lambda answer, gold: by.score(Answer(text=answer), gold).value == 1


def _budget(options: CalibrateOptions) -> "Budget | None":
    from fusion.cli.arguments import limits_of
    from fusion.core.budget import Budget
    from fusion.core.budget import limits_of as checked

    limits = checked(limits_of(options.budget))
    return None if limits is None else Budget(limits, name="calibration", strict_usd=limits.usd is not None)


def _said(done: int, of: int) -> None:
    """Say each tenth of the answers."""
    from fusion.cli.terminal import complain

    if 10 * done // of > 10 * (done - 1) // of:
        complain(f"fusion: {done:,} of {of:,} examples answered")
