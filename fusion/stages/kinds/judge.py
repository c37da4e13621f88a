"""judge: several answers to one request are compared; the request is not answered."""

from collections.abc import Sequence
from typing import Any, ClassVar, Final, Literal

from pydantic import Field

from fusion.core.errors import StageError
from fusion.core.result import Judged
from fusion.core.schema import array, closed_object, enum, string
from fusion.core.types import Item, JsonSchema, as_text
from fusion.stages.base import Following, ModelStage, OutputField
from fusion.stages.context import Answer, StageContext
from fusion.stages.simulation import Estimate
from fusion.stages.verification.labels import followed, renamed

_MOST: Final = 12  # points in a list of the analysis
_LIKELY: Final = 0.5


class Judge(ModelStage, Following):
    """Compares several answers to one request, and does not answer it itself. Field: `analysis`.

    The analysis has `consensus` (points of agreement), `contradictions` (`topic`, `stances`: `model`, `stance`),
    `partial_coverage` (`models`, `point`), `unique_insights` (`model`, `insight`), `blind_spots` (points that all of
    them miss), `evidence` (`model`, `quote`: words out of that answer), `confidence` (0 to 1) that the consensus is
    right, and `vote_settles`: true if a count of the answers is enough.

    The judge reads the answers under labels; the analysis names the models. A single answer is compared with the
    request. If the judge fails, the analysis is empty, a note says so, and the answers stay as they are.
    """

    kind: Literal["judge"] = "judge"
    on_error: Literal["fail", "skip", "escalate"] = Field(  # type: ignore[assignment]
        default="skip",
        description="Effect of a failure: end the run, leave the analysis empty, or call `escalate_to`.",
    )
    default: Any = Field(default_factory=dict, description="The value for readers if there is no analysis.")

    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("analysis"),)
    own_max_tokens: ClassVar[int] = 3000
    default_prompt: ClassVar[str] = "judge/default"
    prompt_offers: ClassVar[frozenset[str]] = frozenset({"answers"})
    estimate: ClassVar[Estimate] = Estimate(
        cost=("One call, which reads all the answers; one more if the analysis does not match its shape at first."),
        example="""\
inputs: {question: A question.}
stages:
  panel: {kind: panel, members: [frontier, bulk]}
  compare: {kind: judge, over: panel, role: frontier}
output: compare
""",
        calls=lambda stage, items, within: stage.calls_of_an_answer(shaped=True),
    )

    async def run(self, ctx: StageContext) -> None:
        variables = await ctx.inputs.values()
        answers, failed = await followed(ctx, self.over)
        if not answers:
            raise StageError(f"no answer to compare: {len(failed)} failed")
        ask = self.ask(ctx, {**variables, "answers": answers}, "judge")
        ctx.outputs.judged(Judged(verdict="none"))
        answer = await self.answer(ctx, ask._replace(schema=analysis_schema(_labels(answers))))
        analysis = {**answer.data, "evidence": _standing(answer.data["evidence"], answers, ctx)}
        ctx.outputs.judged(_judged(answer))
        ctx.outputs.give("analysis", renamed(analysis, answers))


def _judged(answer: Answer) -> Judged:
    """Return the verdict on the consensus: it is accepted if it is more likely right than wrong."""
    confidence = float(answer.data["confidence"])
    return Judged(verdict="accept" if confidence >= _LIKELY else "reject", by=answer.by, confidence=confidence)


def analysis_schema(labels: Sequence[str]) -> JsonSchema:
    """Return the schema of an analysis of the answers with these labels."""
    model, point = enum(labels), string(400)
    stances = array(closed_object({"model": model, "stance": point}), len(labels))
    models = array(model, len(labels), least=1)
    share = {"type": "number", "minimum": 0, "maximum": 1}
    properties = {
        "consensus": array(point, _MOST),
        "contradictions": array(closed_object({"topic": string(200), "stances": stances}), _MOST),
        "partial_coverage": array(closed_object({"models": models, "point": point}), _MOST),
        "unique_insights": array(closed_object({"model": model, "insight": point}), _MOST),
        "blind_spots": array(point, _MOST),
        "evidence": array(closed_object({"model": model, "quote": string(300)}), _MOST),
        "confidence": share,
        "vote_settles": {"type": "boolean"},
    }
    return closed_object(properties)


def _labels(answers: Sequence[Item]) -> list[str]:
    return [answer.source["label"] for answer in answers]


def _standing(evidence: list[dict[str, str]], answers: Sequence[Item], ctx: StageContext) -> list[dict[str, str]]:
    """Return the quotes that are in the answer that they name; the others are dropped with a note."""
    texts = {answer.source["label"]: _folded(as_text(answer.value)) for answer in answers}
    standing = [one for one in evidence if _folded(one["quote"]) and _folded(one["quote"]) in texts[one["model"]]]
    if len(standing) < len(evidence):
        ctx.events.note(
            f"{len(evidence) - len(standing)} of the judge's {len(evidence)} quotes are in no answer: dropped"
        )
    return standing


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold().strip("\"'“”…. ")
