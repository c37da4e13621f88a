"""Calibrate: sets the threshold of a cascade's first tier from labelled examples."""

from collections.abc import Iterable, Mapping
from typing import Any

from fusion.client.calibration.cascades import calibrated_cascade, learned_cascade
from fusion.client.calibration.examples import Asking, Example, Right, Watch
from fusion.client.client import Fusion
from fusion.core.budget import Budget
from fusion.core.errors import InputError
from fusion.pipeline.loader import PipelineGiven
from fusion.pipeline.spec import Pipeline
from fusion.stages.kinds.cascade import Cascade
from fusion.stages.tiers.calibration import check_shares


def calibrate(
    fusion: Fusion,
    pipeline: PipelineGiven,
    examples: Iterable[tuple[str, Any] | tuple[str, Any, Mapping[str, Any]] | Example],
    *,
    target: float,
    delta: float = 0.1,
    stage: str | None = None,
    right: Right | None = None,
    concurrency: int = 16,
    within: Budget | str | None = None,
    watch: Watch | None = None,
    learned: bool = False,
    label: str | None = None,
) -> Pipeline:
    """Return the pipeline with a calibrated threshold in the first tier of its cascade, and its evidence.

    `examples` are pairs of a prompt and its right answer, with further inputs as a third part. With a probability of
    1 - `delta`, at most the share `target` of the accepted answers is wrong (see Calibration). An answer is right if
    the tier's `extract` finds the same in both, or by `right`. `stage` names the cascade if there are several. Every
    example costs one call to each member of the tier. `concurrency` examples are asked at once, `within` is a budget
    for all of them, and `watch` is called with the number of answered ones and that of all.

    With `learned`, the accepted patterns of agreement take the place of `agree`: which members of the tier gave equal
    answers, and how often their answer was right. Half of the examples order the patterns, the others test them.
    `label` is an
    expression over the inputs; patterns are counted apart for each of its values.

    A cascade with `over` has the threshold of the same cascade without it: calibrate that one.

    Raises InputError if no threshold or pattern can be proved, RunFailed if a call of the tier fails.

    >>> pipeline = calibrate(fusion, "agree-or-escalate", [("2 + 2?", "4"), …], target=0.05)
    >>> pipeline.stages["answer"].accept.calibration.threshold
    """
    check_shares(target, delta)
    loaded = fusion.load(pipeline)
    name, chosen = stage_to_calibrate(loaded, stage)
    asking = Asking(fusion, tuple(Example(*one) for one in examples), right, concurrency, within, watch)
    if learned:
        whole = learned_cascade(asking, loaded, name, chosen, target=target, delta=delta, label=label)
    elif label is not None:
        raise InputError("`label` has an effect with `learned` only")
    else:
        whole = calibrated_cascade(asking, loaded, name, chosen, target=target, delta=delta)
    return loaded.model_copy(update={"stages": {**loaded.stages, name: whole}})


def stage_to_calibrate(pipeline: Pipeline, stage: str | None) -> tuple[str, Cascade]:
    """Return the stage to calibrate with its name. Raises InputError if there is none, or several."""
    found = {name: one for name, one in pipeline.stages.items() if isinstance(one, Cascade)}
    if stage is None and len(found) == 1:
        return next(iter(found.items()))
    if stage not in found:
        there = f"; there are: {', '.join(found)}" if found else ""
        raise InputError(f"{pipeline.name!r} has no stage of the kind cascade{f' {stage!r}' if stage else ''}{there}")
    return stage, found[stage]
