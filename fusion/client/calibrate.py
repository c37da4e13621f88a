"""Calibrate: sets the threshold of a cascade's first tier from labelled examples."""

from collections.abc import Callable, Iterable

from fusion.client.client import Fusion
from fusion.core.errors import InputError
from fusion.core.types import as_text
from fusion.pipeline.loader import PipelineGiven
from fusion.pipeline.spec import Pipeline
from fusion.stages.context import StageContext
from fusion.stages.kinds.cascade import Cascade
from fusion.stages.text.extract import Extractor
from fusion.stages.tiers.calibration import LEVELS, Calibration, Scored, calibrated
from fusion.stages.tiers.spec import Accept
from fusion.stages.tiers.tiers import Question, Tiers

_NEVER = -1.0
"""Confidence of an answer that the tier refuses for another reason: below every threshold."""

Right = Callable[[str, str], bool]
"""Compares an answer, given first, with the right one, given second."""


def calibrate(
    fusion: Fusion,
    pipeline: PipelineGiven,
    examples: Iterable[tuple[str, str]],
    *,
    target: float,
    delta: float = 0.1,
    stage: str | None = None,
    right: Right | None = None,
) -> Pipeline:
    """Return the pipeline with a calibrated threshold in the first tier of its cascade, and its evidence.

    `examples` are pairs of a prompt and its right answer. With a probability of 1 - `delta`, at most the share
    `target` of the accepted answers is wrong (see Calibration). An answer is right if the tier's `extract` finds the
    same in both, or by `right`. `stage` names the cascade if there are several. Every example costs one call to each
    member of the tier.

    A cascade with `over` has the threshold of the same cascade without it: calibrate that one.

    Raises InputError if no threshold can be proved, RunFailed if a call of the tier fails.

    >>> pipeline = calibrate(fusion, "agree-or-escalate", [("2 + 2?", "4"), …], target=0.05)
    >>> pipeline.stages["answer"].accept.calibration.threshold
    """
    loaded = fusion.load(pipeline)
    name, cascade = _cascade(loaded, stage)
    if cascade.over is not None:
        raise InputError(f"{name!r} works item by item; calibrate it without `over`, and copy the `calibration`")
    accept = cascade.tiers[0].accept or cascade.accept
    assert accept is not None
    if accept.agree is None and accept.confidence is None:
        raise InputError(f"{name!r} has no score to calibrate; set `agree` or `confidence` in `accept`")
    alone = _first_tier(loaded, name, cascade, accept)
    is_right = right or _same(accept.extract)
    scored = [_scored(fusion, alone, prompt, gold, is_right) for prompt, gold in examples]
    members = len(cascade.tiers[0].members)
    levels = LEVELS if accept.agree is None else tuple(count / members for count in range(members, 1, -1))
    found = calibrated(scored, target=target, delta=delta, levels=levels)
    rule = accept.model_copy(update={"calibration": found})
    if cascade.tiers[0].accept is None:
        whole = cascade.model_copy(update={"accept": rule})
    else:
        tier = cascade.tiers[0].model_copy(update={"accept": rule})
        whole = cascade.model_copy(update={"tiers": (tier, *cascade.tiers[1:])})
    return loaded.model_copy(update={"stages": {**loaded.stages, name: whole}})


def _cascade(pipeline: Pipeline, stage: str | None) -> tuple[str, Cascade]:
    found = {name: one for name, one in pipeline.stages.items() if isinstance(one, Cascade)}
    if stage is None and len(found) == 1:
        return next(iter(found.items()))
    if stage not in found:
        there = f"; there are: {', '.join(found)}" if found else ""
        raise InputError(f"{pipeline.name!r} has no stage of the kind cascade{f' {stage!r}' if stage else ''}{there}")
    return stage, found[stage]


class _FirstTier(Cascade):
    """A cascade that calls every member of its first tier, and no other tier."""

    async def once(self, ctx: StageContext) -> None:
        verdict = await Tiers(self, ctx).verdict(1, Question(await ctx.inputs.values()))
        accepted = verdict.accepted and verdict.answer is not None
        ctx.outputs.give("text", as_text(verdict.answer.value) if verdict.answer is not None else "")
        ctx.outputs.give("confidence", (verdict.confidence or 0.0) if accepted else _NEVER)


def _first_tier(pipeline: Pipeline, name: str, cascade: Cascade, accept: Accept) -> Pipeline:
    """Return the pipeline with the first tier only, which accepts any confidence; its checks stay."""
    anything = Calibration(target=0.9, delta=0.5, threshold=0.0, examples=1, accepted=1, wrong=0)
    tier = cascade.tiers[0].model_copy(update={"accept": accept.model_copy(update={"calibration": anything})})
    alone = _FirstTier.model_construct(
        cascade.model_fields_set, **{**dict(cascade), "tiers": (tier, *cascade.tiers[1:]), "early_stop": False}
    )
    output = {"text": f"{name}.text", "confidence": f"{name}.confidence"}
    return pipeline.model_copy(update={"stages": {**pipeline.stages, name: alone}, "output": output})


def _scored(fusion: Fusion, pipeline: Pipeline, prompt: str, gold: str, right: Right) -> Scored:
    data = fusion.complete(prompt, pipeline=pipeline).data
    return Scored(data["confidence"], right(data["text"], gold))


def _same(extractor: Extractor) -> Right:
    def same(answer: str, gold: str) -> bool:
        found = extractor.extract(answer)
        return found is not None and found.key == extractor.key(gold)

    return same
