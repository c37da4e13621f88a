"""vote: closed answers are counted, without a model."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, Field

from fusion.core.errors import StageError
from fusion.core.types import Item, as_text
from fusion.stages.answer import extracted
from fusion.stages.base import Following, OutputField
from fusion.stages.context import StageContext
from fusion.stages.simulation import Estimate
from fusion.stages.text.extract import Extracted, Extractor, ExtractorSpec


def _some_weight(weights: dict[str, float]) -> dict[str, float]:
    if weights and not any(weights.values()):
        raise ValueError("every weight is 0; give at least one that is more")
    return weights


class _Ballot(NamedTuple):
    """A counted answer: its item, the extracted part, its weight, and the place of the first answer equal to it."""

    item: Item
    found: Extracted
    weight: float
    group: int


class Vote(Following):
    """Counts the answers. Fields: `text`, `data` (a number where numbers are read), `confidence`.

    The part that `extract` takes out of an answer is counted; answers that differ only in form count as equal. The
    confidence is the winner's share of the weight of all usable answers, also of those without such a part.
    """

    kind: Literal["vote"] = "vote"
    extract: ExtractorSpec = Field(
        default=Extractor(),
        description="Counted part of an answer: text, number, code, or {read, path, pattern, choices, normalise}.",
    )
    weights: Annotated[dict[str, Annotated[float, Field(ge=0)]], AfterValidator(_some_weight)] = Field(
        default={}, description="Weight of an answer by its role or model; by default 1."
    )
    min_agree: float = Field(default=0, ge=0, le=1, description="Share of the weight that must agree, 0 to 1.")
    ties: Literal["first", "fail"] = Field(default="first", description="A tie: the first member wins, or it fails.")

    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("text"), OutputField("data"), OutputField("confidence"))
    estimate: ClassVar[Estimate] = Estimate(
        cost="Nothing: it calls no model.",
        example="""\
inputs: {question: A question that has a short answer.}
stages:
  panel:
    kind: panel
    members: {role: bulk, samples: 3}
    schema: {answer: string}
  vote: {kind: vote, over: panel, extract: {path: answer}}
output: vote
""",
        supposed=lambda stage, chance: stage.model_copy(
            update={"extract": Extractor(), "weights": {}, "min_agree": 0, "ties": "first"}
        ),
    )

    async def run(self, ctx: StageContext) -> None:
        await ctx.inputs.values()
        came = [item async for item in ctx.inputs.follow(self.over)]
        items = sorted((item for item in came if item.ok), key=_place)
        if not items:
            raise StageError(f"no answer to count: {len(came)} failed")
        self._check_weights(ctx, items)
        read = [await extracted(ctx, self.extract, item.value, item.index) for item in items]
        ballots = [
            _Ballot(item, found, self._weight(item), group)
            for item, found, group in zip(items, read, self.extract.groups(read), strict=True)
            if found is not None and group is not None
        ]
        if not ballots:
            raise StageError(
                f"no {self.extract.read} could be read out of any of the {len(items)} answers; look at `extract`. "
                f"The first begins: {as_text(items[0].value).strip()[:80]!r}"
            )
        self._count(ctx, items, ballots)

    def _count(self, ctx: StageContext, items: Sequence[Item], ballots: Sequence[_Ballot]) -> None:
        sums: dict[int, float] = {}
        for ballot in ballots:
            sums[ballot.group] = sums.get(ballot.group, 0.0) + ballot.weight
        whole = sum(self._weight(item) for item in items)
        most = max(sums.values())
        winners = [group for group, weight in sums.items() if _equal(weight, most)]
        share = most / whole if whole else 0.0
        said = _said(ballots, sums, whole)
        if len(items) > len(ballots):
            ctx.events.note(
                f"nothing was found in {len(items) - len(ballots)} of {len(items)} answers; they count against"
            )
        if share < self.min_agree and not _equal(share, self.min_agree):
            raise StageError(f"no agreement: {self.min_agree:.0%} must agree; {said}")
        if len(winners) > 1 and self.ties == "fail":
            raise StageError(f"a tie: {said}")
        if len(winners) > 1:
            ctx.events.note(f"a tie, decided for the first member's: {said}")
        winner = next(ballot.found for ballot in ballots if ballot.group in winners)
        ctx.outputs.give("text", as_text(winner.text))
        ctx.outputs.give("data", winner.value)
        ctx.outputs.give("confidence", share)

    def _weight(self, item: Item) -> float:
        return next((self.weights[name] for name in _names(item) if name in self.weights), 1.0)

    def _check_weights(self, ctx: StageContext, items: Sequence[Item]) -> None:
        there = {name for item in items for name in _names(item)}
        if strange := sorted(set(self.weights) - there):
            ctx.events.note(f"weights without effect: no answer is of {', '.join(map(repr, strange))}")
        if not any(self._weight(item) for item in items):
            raise StageError("every answer has the weight 0; look at `weights`")


def _names(item: Item) -> list[str]:
    """Return the names that `weights` may have for an answer: its role and its model."""
    role = item.source.get("role") if isinstance(item.source, dict) else None
    return [name for name in (role, item.by) if isinstance(name, str)]


def _place(item: Item) -> int:
    """Return the number of the panel's member, independent of the order of answers."""
    member = item.source.get("member") if isinstance(item.source, dict) else None
    return member if isinstance(member, int) else item.index


def _equal(one: float, other: float) -> bool:
    return abs(one - other) < 1e-9


def _said(ballots: Sequence[_Ballot], sums: dict[int, float], whole: float) -> str:
    shown = {ballot.group: ballot.found.text for ballot in reversed(ballots)}
    most = sorted(sums, key=lambda group: -sums[group])[:5]
    return ", ".join(f"{shown[group][:60]!r} has {sums[group]:g} of {whole:g}" for group in most)
