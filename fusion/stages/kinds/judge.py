"""judge: compares several answers to one request, and does not answer it."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from fusion.core.errors import StageError
from fusion.core.types import Item, JsonSchema, as_text
from fusion.stages.base import ExpressionUse, ModelStage, OutputField
from fusion.stages.context import StageContext
from fusion.stages.labels import followed, renamed
from fusion.stages.simulation import Estimate


class Judge(ModelStage):
    """Compares several answers to one request, and does not answer it itself. Field: `analysis`.

    It holds `consensus` (what they agree on), `contradictions` (`topic`, `stances`: `model`, `stance`),
    `partial_coverage` (`models`, `point`), `unique_insights` (`model`, `insight`), `blind_spots` (what all of them
    miss), `evidence` (`model`, `quote`: words that stand in that answer), `confidence` that the consensus is right,
    from 0 to 1, and `vote_settles`: whether the answers can simply be counted.

    The judge sees the answers under labels; the analysis names the models. A single answer is compared with the
    request. Where the judge fails the analysis is empty, which is said, and the answers stay as they are.
    """

    kind: Literal["judge"] = "judge"
    on_error: Literal["fail", "skip", "escalate"] = Field(
        default="skip", description="What a failure does: end the run, leave the analysis empty, ask `escalate_to`."
    )
    default: Any = Field(default_factory=dict, description="What readers get if there is no analysis.")
    over: str = Field(description="The answers to compare, such as those of a panel.")

    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("analysis"),)
    own_max_tokens: ClassVar[int] = 3000
    default_prompt: ClassVar[str] = "judge/default"
    prompt_offers: ClassVar[frozenset[str]] = frozenset({"answers"})
    estimate: ClassVar[Estimate] = Estimate(
        cost=("One call, which reads all the answers; one more where the analysis is not in its shape at first."),
        example="""\
inputs: {question: A question.}
stages:
  panel: {kind: panel, members: [frontier, bulk]}
  compare: {kind: judge, over: panel, role: frontier}
output: compare
""",
        calls=lambda stage, items, within: stage.calls_of_an_answer(shaped=True),
    )

    def expressions(self) -> Iterator[ExpressionUse]:
        yield from super().expressions()
        yield ExpressionUse("over", self.over, flows=True)

    async def run(self, ctx: StageContext) -> None:
        variables = await ctx.inputs.values()
        answers, failed = await followed(ctx, self.over)
        if not answers:
            raise StageError(f"there is no answer to compare, {len(failed)} failed")
        ask = self.ask(ctx, {**variables, "answers": answers}, "judge")
        answer = await self.answer(ctx, ask._replace(schema=analysis_schema(_labels(answers))))
        analysis = {**answer.data, "evidence": _standing(answer.data["evidence"], answers, ctx)}
        ctx.outputs.give("analysis", renamed(analysis, answers))


def analysis_schema(labels: Sequence[str]) -> JsonSchema:
    """The shape of an analysis of the answers with these labels."""
    model = {"type": "string", "enum": list(labels)}
    stance = _object({"model": model, "stance": _text(400)})
    models = {"type": "array", "items": model, "minItems": 1, "maxItems": len(labels)}
    return _object(
        {
            "consensus": _list(_text(400)),
            "contradictions": _list(_object({"topic": _text(200), "stances": _list(stance, len(labels))})),
            "partial_coverage": _list(_object({"models": models, "point": _text(400)})),
            "unique_insights": _list(_object({"model": model, "insight": _text(400)})),
            "blind_spots": _list(_text(400)),
            "evidence": _list(_object({"model": model, "quote": _text(300)})),
            "confidence": {"type": "number", "minimum": 0, "maximum": 1},
            "vote_settles": {"type": "boolean"},
        }
    )


def _text(most: int) -> JsonSchema:
    return {"type": "string", "maxLength": most}


def _list(element: JsonSchema, most: int = 12) -> JsonSchema:
    return {"type": "array", "items": element, "maxItems": most}


def _object(properties: JsonSchema) -> JsonSchema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _labels(answers: Sequence[Item]) -> list[str]:
    return [answer.source["label"] for answer in answers]


def _standing(evidence: list[dict[str, str]], answers: Sequence[Item], ctx: StageContext) -> list[dict[str, str]]:
    """The quotes that stand in the answer that they are said to be of; the others are dropped, and that is said."""
    texts = {answer.source["label"]: _folded(as_text(answer.value)) for answer in answers}
    standing = [one for one in evidence if _folded(one["quote"]) and _folded(one["quote"]) in texts[one["model"]]]
    if len(standing) < len(evidence):
        ctx.events.note(
            f"{len(evidence) - len(standing)} of the judge's {len(evidence)} quotes stand in no answer: dropped"
        )
    return standing


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold().strip("\"'“”…. ")
