"""Cascades: calibrate the acceptance of the first tier from its answers to labelled examples."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from fusion.client.calibration.examples import Asking, Right
from fusion.core.errors import InputError
from fusion.core.types import as_text
from fusion.pipeline.spec import Pipeline
from fusion.stages.context import StageContext
from fusion.stages.kinds.cascade import Cascade
from fusion.stages.text.extract import Extractor
from fusion.stages.tiers.calibration import LEVELS, Calibration, Scored, calibrated
from fusion.stages.tiers.patterns import LearnedAcceptance, Pattern, Seen, learned_acceptance
from fusion.stages.tiers.spec import Accept
from fusion.stages.tiers.tiers import Question, Tiers

_NEVER: Final = -1.0
"""Confidence of an answer that the tier refuses for another reason: below every threshold."""


def calibrated_cascade(
    asking: Asking, pipeline: Pipeline, name: str, cascade: Cascade, *, target: float, delta: float
) -> Cascade:
    """Return the cascade with a calibrated threshold in its first tier. Raises InputError if none can be proved."""
    accept = _acceptance(name, cascade)
    if accept.agree is None and accept.confidence is None:
        raise InputError(f"{name!r} has no score to calibrate; set `agree` or `confidence` in `accept`")
    members = len(cascade.tiers[0].members)
    levels = LEVELS if accept.agree is None else tuple(count / members for count in range(members, 1, -1))
    anything = Calibration(target=0.9, delta=0.5, threshold=0.0, examples=1, accepted=1, wrong=0)
    open_tier = accept.model_copy(update={"calibration": anything})
    scored = [Scored(one.confidence, one.right) for one in _answers(asking, pipeline, name, cascade, open_tier)]
    found = calibrated(scored, target=target, delta=delta, levels=levels)
    return with_acceptance(cascade, accept.model_copy(update={"calibration": found}))


def learned_cascade(
    asking: Asking,
    pipeline: Pipeline,
    name: str,
    cascade: Cascade,
    *,
    target: float,
    delta: float,
    label: str | None = None,
) -> Cascade:
    """Return the cascade with the accepted patterns of agreement of its first tier, by label.

    `label` is the expression of a request's label. Raises InputError if no pattern can be proved.
    """
    accept = _acceptance(name, cascade)
    if not accept.compares:
        raise InputError(f"{name!r} compares no answers; set `agree` in `accept`, with what to `extract`")
    given = accept.learned.label if label is None and accept.learned is not None else label
    bare = _without(accept, "agree", "calibration", "learned")
    answers = _answers(asking, pipeline, name, cascade, Accept(**bare, learned=_Anything.of(given)))
    seen = [Seen(one.label, one.pattern, one.right) for one in answers if one.confidence != _NEVER]
    found = learned_acceptance(seen, target=target, delta=delta, label=given)
    return with_acceptance(cascade, Accept(**bare, learned=found))


def _acceptance(name: str, cascade: Cascade) -> Accept:
    if cascade.over is not None:
        raise InputError(f"{name!r} works item by item; calibrate it without `over`, and copy the `accept`")
    accept = cascade.tiers[0].accept or cascade.accept
    assert accept is not None
    return accept


def _without(accept: Accept, *keys: str) -> dict[str, Any]:
    """Return the keys of a condition as they are set, without some of them."""
    return {name: getattr(accept, name) for name in accept.model_fields_set if name not in keys}


class _Anything(LearnedAcceptance):
    """Accepts every pattern, to see them all."""

    @classmethod
    def of(cls, label: str | None) -> "_Anything":
        return cls(target=0.5, delta=0.5, label=label, patterns=(Pattern(pattern="a", n=1, right=1),))

    def flaw(self, label: str, groups: Sequence[str], left: str) -> str:
        return ""


class _Answered(NamedTuple):
    """The answer of the first tier to an example."""

    confidence: float
    right: bool
    label: str
    pattern: str


def _answers(asking: Asking, pipeline: Pipeline, name: str, cascade: Cascade, accept: Accept) -> Iterator[_Answered]:
    """Yield the answer of the first tier to each example, under an acceptance that shows all."""
    is_right = asking.right or same_answer(accept.extract)
    for example, one in asking.results(_first_tier(pipeline, name, cascade, accept)):
        right = is_right(one.data["text"], example.gold)
        yield _Answered(one.data["confidence"], right, **one.data["data"])


def with_acceptance(cascade: Cascade, accept: Accept) -> Cascade:
    """Return the cascade with another condition in its first tier, at the place that holds it."""
    if cascade.tiers[0].accept is None:
        return cascade.model_copy(update={"accept": accept})
    tier = cascade.tiers[0].model_copy(update={"accept": accept})
    return cascade.model_copy(update={"tiers": (tier, *cascade.tiers[1:])})


class _FirstTier(Cascade):
    """A cascade that calls every member of its first tier, and no other tier."""

    @property
    def gives_data(self) -> bool:
        return True

    async def once(self, ctx: StageContext) -> None:
        verdict = await Tiers(self, ctx).verdict(1, Question(await ctx.inputs.values()))
        accepted = verdict.accepted and verdict.answer is not None
        ctx.outputs.give("text", as_text(verdict.answer.value) if verdict.answer is not None else "")
        ctx.outputs.give("confidence", (verdict.confidence or 0.0) if accepted else _NEVER)
        ctx.outputs.give("data", {"label": verdict.label, "pattern": verdict.pattern})


def _first_tier(pipeline: Pipeline, name: str, cascade: Cascade, accept: Accept) -> Pipeline:
    """Return the pipeline with the first tier only, under another acceptance; its checks stay."""
    tier = cascade.tiers[0].model_copy(update={"accept": accept})
    alone = _FirstTier.model_construct(
        cascade.model_fields_set, **{**dict(cascade), "tiers": (tier, *cascade.tiers[1:]), "early_stop": False}
    )
    output = {field: f"{name}.{field}" for field in ("text", "confidence", "data")}
    return pipeline.model_copy(update={"stages": {**pipeline.stages, name: alone}, "output": output})


def same_answer(extractor: Extractor) -> Right:
    """Return the comparison of what an extractor finds in two answers."""

    def same(answer: str, gold: str) -> bool:
        found, wanted = extractor.extract(answer), extractor.bare(as_text(gold))
        return found is not None and wanted is not None and extractor.same(found, wanted)

    return same
