"""Choosers: find the best of several candidates as they come."""

from abc import ABC, abstractmethod
from typing import Any, Final, NamedTuple

from fusion.core.bounded import clock
from fusion.core.errors import ModelError, StageError
from fusion.core.types import Item, ToolTerms, as_text
from fusion.stages.answer import extracted, failed_checks, number_of
from fusion.stages.context import StageContext, Variables
from fusion.stages.text.agreement import groups_of, is_decided, largest
from fusion.stages.text.checks import Checks
from fusion.stages.text.extract import Extracted, Extractor
from fusion.stages.verification.choice import Choosing
from fusion.stages.verification.pairs import Comparing, Pairs
from fusion.stages.verification.spec import Check
from fusion.stages.verification.verifier import Verifier

_AGAIN: Final = ToolTerms(on_unsure="repeat")
"""Terms of a scorer, which changes nothing."""


class Candidate(NamedTuple):
    """A candidate: its name, value and data, the model that wrote it, and the task as its author was shown it."""

    name: str
    value: Any
    data: Any
    by: str
    task: Any
    confidence: float | None = None


class Choice(NamedTuple):
    """The candidate that is taken and the reason, its confidence, and False if it did not pass a check."""

    candidate: Candidate
    reason: str
    confidence: float | None = None
    passed: bool = True


class Question(NamedTuple):
    """A question for the candidates: the variables of templates, and the item at work, if there are items."""

    variables: Variables
    item: Item | None = None

    @property
    def place(self) -> int | None:
        """The index of the item at work, if there is one."""
        return None if self.item is None else self.item.index

    def of(self, value: Any) -> Variables:
        """Return the variables over a candidate's value."""
        if self.item is None:
            return self.variables
        return {**self.variables, "item": self.item.model_copy(update={"value": value})}


class Chooser(ABC):
    """Chooses among the candidates of one question, which come from the cheapest on."""

    def __init__(self, ctx: StageContext, question: Question) -> None:
        self._ctx = ctx
        self._question = question
        self._came: list[Candidate] = []

    def at_first(self, count: int) -> int:
        """Return how many of so many candidates are needed whatever they say."""
        return count

    async def take(self, candidate: Candidate, left: int) -> bool:
        """Take a candidate; return True if no further one, of so many, is needed."""
        self._came.append(candidate)
        return False

    @abstractmethod
    async def chosen(self) -> Choice:
        """Return the choice among the candidates that have come: one at least."""


class ByVerification(Chooser):
    """Takes the first candidate that passes a check; without one, the surest, and the cheapest of equal ones."""

    def __init__(self, ctx: StageContext, question: Question, check: Check) -> None:
        super().__init__(ctx, question)
        self._verifier = Verifier(ctx, check, "choose.verify")
        self._best: Choice | None = None

    def at_first(self, count: int) -> int:
        return 1

    async def take(self, candidate: Candidate, left: int) -> bool:
        await super().take(candidate, left)
        verdict = await self._verifier.verdict(
            candidate.value,
            self._question.of(candidate.value),
            task=candidate.task,
            item=self._question.place,
            step=f"{candidate.name}-verdict",
        )
        best = None if self._best is None else self._best.confidence or 0.0
        if verdict.passed or best is None or (verdict.confidence or 0.0) > best:
            reason = "passed" if verdict.passed else f"none passed: {verdict.summary}"
            sure = float(verdict.passed) if verdict.confidence is None else verdict.confidence
            self._best = Choice(candidate, reason, sure, verdict.passed)
        return verdict.passed

    async def chosen(self) -> Choice:
        assert self._best is not None
        return self._best


class ByChecks(Chooser):
    """Takes the first candidate that passes checks, else the one with the fewest flaws, the cheapest of equals."""

    def __init__(self, ctx: StageContext, question: Question, checks: Checks) -> None:
        super().__init__(ctx, question)
        self._checks = checks
        self._flaws: list[list[str]] = []

    def at_first(self, count: int) -> int:
        return 1

    async def take(self, candidate: Candidate, left: int) -> bool:
        await super().take(candidate, left)
        seen = self._question.of(candidate.value)
        self._flaws.append(await failed_checks(self._ctx, self._checks, candidate.value, seen, "choose.checks"))
        return not self._flaws[-1]

    async def chosen(self) -> Choice:
        flaws, candidate = min(zip(self._flaws, self._came, strict=True), key=lambda pair: len(pair[0]))
        reason = f"none passed: {flaws[0]}" if flaws else "passed"
        return Choice(candidate, reason, float(not flaws), not flaws)


class ByVote(Chooser):
    """Takes the first candidate of the largest group of equal answers."""

    def __init__(self, ctx: StageContext, question: Question, extract: Extractor) -> None:
        super().__init__(ctx, question)
        self._extract = extract
        self._found: list[Extracted | None] = []

    def at_first(self, count: int) -> int:
        return count // 2 + 1

    async def take(self, candidate: Candidate, left: int) -> bool:
        await super().take(candidate, left)
        self._found.append(await extracted(self._ctx, self._extract, candidate.value, self._question.place))
        return is_decided(groups_of(self._found, self._extract), left)

    async def chosen(self) -> Choice:
        most = largest(groups_of(self._found, self._extract))
        if not most:
            raise StageError(
                f"no {self._extract.read} could be read out of any of {len(self._came)} candidates; look at "
                "`choose.vote`"
            )
        words = f"{len(most)} of {len(self._came)} candidates agree"
        return Choice(self._came[most[0]], words, len(most) / len(self._came))


class ByPairs(Chooser):
    """Takes the candidate that a judge prefers: each in turn meets the best so far, in both orders.

    A draw, or a comparison that fails, leaves the best so far: the cheaper one.
    """

    def __init__(self, ctx: StageContext, question: Question, judge: Comparing) -> None:
        super().__init__(ctx, question)
        self._pairs = Pairs(ctx, judge)

    async def chosen(self) -> Choice:
        best, *others = self._came
        won = met = 0.0
        for other in others:
            worth = await self._worth(other, best)
            if worth is None:
                continue
            met += 1
            if worth > 1 / 2:
                best, won = other, won + worth
            else:
                won += 1 - worth
        return Choice(best, f"preferred over {len(others)} in both orders", won / met if met else None)

    async def _worth(self, one: Candidate, other: Candidate) -> float | None:
        """Return the worth of a candidate against another; None if the judge gives no comparison."""
        if as_text(one.value) == as_text(other.value):
            return 0.5
        item, step = self._question.place, f"{other.name}-{one.name}"
        try:
            return await self._pairs.worth(
                one.value, other.value, self._question.variables, task=other.task, item=item, step=step
            )
        except ModelError as error:
            if error.stops:
                raise
            self._ctx.events.note(f"{step}: no comparison: {error}", item=item)
            return None


class ByScore(Chooser):
    """Takes the candidate with the highest score, the cheapest of equal ones."""

    def __init__(self, ctx: StageContext, question: Question, choosing: Choosing) -> None:
        super().__init__(ctx, question)
        self._choosing = choosing
        self._scores: list[float] = []

    def at_first(self, count: int) -> int:
        return count if self._choosing.enough is None else 1

    async def take(self, candidate: Candidate, left: int) -> bool:
        await super().take(candidate, left)
        said = await (self._evaluated(candidate) if self._choosing.score is not None else self._returned(candidate))
        if isinstance(said, str | bool) or not isinstance(said, int | float) or said != said:
            raise StageError(f"the score of {candidate.name} is no number but {as_text(said)[:80]!r}")
        self._scores.append(float(said))
        return self._choosing.enough is not None and said >= self._choosing.enough

    async def chosen(self) -> Choice:
        score, candidate = max(zip(self._scores, self._came, strict=True), key=lambda pair: pair[0])
        return Choice(candidate, f"a score of {score:g}", score if 0 <= score <= 1 else None)

    async def _evaluated(self, candidate: Candidate) -> Any:
        source, value = self._choosing.score or "", candidate.value

        def work() -> Any:
            seen = {**number_of(source, value), **self._question.of(value), "value": value}
            return self._ctx.inputs.evaluate(source, seen)

        return await clock.run(work, size=clock.size_of(value))

    async def _returned(self, candidate: Candidate) -> Any:
        name = self._choosing.function or ""
        result = await self._ctx.tools.call(
            name,
            {"value": candidate.value},
            step=f"{candidate.name}-score",
            item=self._question.place,
            terms=_AGAIN,
        )
        if result.failed:
            raise StageError(f"{name} gives no score of {candidate.name}: {result.text}")
        return result.text if result.data is None else result.data


def chooser(ctx: StageContext, question: Question, choosing: Choosing) -> Chooser:
    """Return the chooser of the way that is given."""
    if choosing.verify is not None:
        return ByVerification(ctx, question, choosing.verify)
    if choosing.checks is not None:
        return ByChecks(ctx, question, choosing.checks)
    if choosing.vote is not None:
        return ByVote(ctx, question, choosing.vote)
    if choosing.judge is not None:
        return ByPairs(ctx, question, choosing.judge)
    return ByScore(ctx, question, choosing)
