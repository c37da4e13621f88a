"""Cascades: calibrate the acceptance of the first tier from its answers to labelled examples."""

from fusion.client.calibration.examples import Asking, Right
from fusion.core.errors import InputError
from fusion.core.types import as_text
from fusion.pipeline.spec import Pipeline
from fusion.stages.context import StageContext
from fusion.stages.kinds.cascade import Cascade
from fusion.stages.text.extract import Extractor
from fusion.stages.tiers.calibration import LEVELS, Calibration, Scored, calibrated
from fusion.stages.tiers.spec import Accept
from fusion.stages.tiers.tiers import Question, Tiers

_NEVER = -1.0
"""Confidence of an answer that the tier refuses for another reason: below every threshold."""


def calibrated_cascade(
    asking: Asking, pipeline: Pipeline, name: str, cascade: Cascade, *, target: float, delta: float
) -> Cascade:
    """Return the cascade with a calibrated threshold in its first tier. Raises InputError if none can be proved."""
    if cascade.over is not None:
        raise InputError(f"{name!r} works item by item; calibrate it without `over`, and copy the `calibration`")
    accept = cascade.tiers[0].accept or cascade.accept
    assert accept is not None
    if accept.agree is None and accept.confidence is None:
        raise InputError(f"{name!r} has no score to calibrate; set `agree` or `confidence` in `accept`")
    is_right = asking.right or same_answer(accept.extract)
    answers = asking.results(_first_tier(pipeline, name, cascade, accept))
    scored = [Scored(one.data["confidence"], is_right(one.data["text"], example.gold)) for example, one in answers]
    members = len(cascade.tiers[0].members)
    levels = LEVELS if accept.agree is None else tuple(count / members for count in range(members, 1, -1))
    found = calibrated(scored, target=target, delta=delta, levels=levels)
    return with_acceptance(cascade, accept.model_copy(update={"calibration": found}))


def with_acceptance(cascade: Cascade, accept: Accept) -> Cascade:
    """Return the cascade with another condition in its first tier, at the place that holds it."""
    if cascade.tiers[0].accept is None:
        return cascade.model_copy(update={"accept": accept})
    tier = cascade.tiers[0].model_copy(update={"accept": accept})
    return cascade.model_copy(update={"tiers": (tier, *cascade.tiers[1:])})


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


def same_answer(extractor: Extractor) -> Right:
    """Return the comparison of what an extractor finds in two answers."""

    def same(answer: str, gold: str) -> bool:
        found, wanted = extractor.extract(answer), extractor.bare(as_text(gold))
        return found is not None and wanted is not None and extractor.same(found, wanted)

    return same
