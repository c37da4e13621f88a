"""cascade: cheap models answer first; an answer that is not accepted goes to the next tier."""

import math
from collections.abc import Coroutine, Sequence
from typing import Any, ClassVar, Literal

from fusion.core.types import Attached, Item, JsonSchema
from fusion.stages.answer import give_answer
from fusion.stages.context import StageContext
from fusion.stages.items import Hand
from fusion.stages.simulation import Chance, Estimate, plausible
from fusion.stages.tiers.spec import Accept, Tiered
from fusion.stages.tiers.tiers import Question, Tiers


class Cascade(Tiered):
    """Calls tier after tier, from cheap to strong, until an answer is accepted; the last tier's is always taken.

    Fields: `text`, `data` with a `schema`, and `confidence`: the share of answers that agree, or the confidence that
    the judge or the model states. With `over` it works item by item, and its field is `items`: each has the answer as
    its `value`, and the decision as its `tier`, `reason`, `confidence`, `agreement` and `cost`.

    `accept` names the conditions: enough answers of the tier agree, checks hold, a check as of the kind verify
    passes, a judge accepts the answer, its confidence is high enough; all given ones must hold. With `early_stop` no
    call is made that cannot change the outcome: if two of three must agree and do, the third is not called. The tier
    and the reason are in an event and in the result; the receipt counts escalated cascades. `fusion calibrate` finds
    a threshold for a target, or the patterns of agreement that keep it (`learned`): which members of the tier give
    equal answers.
    """

    kind: Literal["cascade"] = "cascade"

    estimate: ClassVar[Estimate] = Estimate(
        cost="One call for each member of the first tier, and of the next ones if its answer is not accepted.",
        expects="Two answers of a tier agree in 6 of 10 runs; checks, a judge or a stated confidence accept 6 of 10.",
        shares={
            "verdict": {"accept": 0.6, "escalate": 0.4},
            "confidence": {1.0: 0.6, 0.0: 0.4},
        },
        example="""\
inputs: {question: A question.}
stages:
  answer:
    kind: cascade
    tiers: [{roles: bulk, samples: 3}, frontier]
    accept: {agree: 2, extract: number}
output: answer
""",
        calls=lambda stage, items, within: stage._most_calls() * (1 if stage.over is None else items),
        items=lambda stage, items: None if stage.over is None else items,
        supposed=lambda stage, chance: stage._supposed(chance),
        reply=lambda stage, *call: stage._reply(*call),
    )

    @property
    def keeps_sources(self) -> bool:
        return self.over is not None

    def _most_calls(self) -> int:
        """Return the most calls of all tiers for one answer."""
        calls = 0
        for tier in self.tiers:
            accept = tier.accept or self.accept
            shaped = self.output_schema is not None or (accept is not None and accept.stated)
            calls += len(tier.members) * (1 + shaped)
            calls += 2 if accept is not None and accept.judge is not None else 0
            calls += accept.verify.calls() if accept is not None and accept.verify is not None else 0
        return calls

    def _supposed(self, chance: Chance) -> "Cascade":
        def supposed(accept: Accept | None) -> Accept | None:
            return None if accept is None else accept.supposed(chance, shaped=self.output_schema is not None)

        tiers = [tier.model_copy(update={"accept": supposed(tier.accept)}) for tier in self.tiers]
        accept = supposed(self.accept)
        return self.model_copy(update={"tiers": tuple(tiers), "accept": accept})

    def _reply(self, step: str, schema: JsonSchema | None, tokens: int, chance: Chance) -> Any:
        if schema is not None:
            made = plausible(self, step, schema, tokens, chance)
            if step.endswith("-verdict") and made["verdict"] != "accept":
                return {**made, "verdict": "revise"}
            agrees = step.startswith("tier-") and any(accept.agree for _, accept in self.accepts())
            if not agrees or step.endswith(("-judge", "-verdict")) or chance.ballot(math.sqrt(0.6)):
                return made
            usual = chance.usual(self.template, lambda: made)
            stated = any(accept.stated for _, accept in self.accepts())
            return {**made, "answer": usual["answer"]} if stated else usual
        return f"{chance.text(tokens)[:-12]} answer: {chance.ballot(math.sqrt(0.6))}"

    async def once(self, ctx: StageContext) -> None:
        taken = await Tiers(self, ctx).taken(Question(await ctx.inputs.values()))
        ctx.events.decided(f"tier-{taken.tier}", taken.reason, confidence=taken.confidence, escalated=taken.tier > 1)
        give_answer(ctx, taken.answer)
        ctx.outputs.give("confidence", taken.confidence)

    def hand(self, ctx: StageContext) -> Hand:
        return _Answering(Tiers(self, ctx))

    async def shown(self, ctx: StageContext, item: Item, needed: Sequence[Item]) -> Attached:
        material = ctx.inputs.material(item, needed) if self.reading == "item" else None
        own = {"item": item.model_copy(update={"value": item.source}), "needed": list(needed)}
        variables = {**await ctx.inputs.values(), **own, **({"material": material} if material else {})}
        return Tiers(self, ctx).shown(variables)


class _Answering(Hand):
    """Answers items by tiers."""

    def __init__(self, tiers: Tiers) -> None:
        self._tiers = tiers

    def work(self, item: Item, needed: list[Item], variables: dict[str, Any]) -> Coroutine[Any, Any, Item]:
        return self._tiers.item(item, variables)
