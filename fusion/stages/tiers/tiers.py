"""Tiers of one stage in a run: the verdict of each on an answer, and the answer that is taken in the end."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Final, NamedTuple

from fusion.core.budget import optional
from fusion.core.errors import BudgetError, ModelError, StageError
from fusion.core.result import Judged
from fusion.core.schema import closed_object, enum, string
from fusion.core.types import Attached, Item, JsonSchema, Message, as_text
from fusion.stages.answer import extracted, failed_checks, own_verdict
from fusion.stages.base import shown_in, whole
from fusion.stages.context import Answer, Ask, StageContext
from fusion.stages.items import gathered
from fusion.stages.text.agreement import groups_of, largest
from fusion.stages.text.extract import Extracted, Extractor
from fusion.stages.text.reading import without_notice
from fusion.stages.tiers.patterns import written
from fusion.stages.tiers.spec import LETTERS, Accept, Tiered
from fusion.stages.verification.verifier import Verifier

_SURE: Final[JsonSchema] = {"type": "number", "minimum": 0, "maximum": 1}
_JUDGED: Final = closed_object({"problem": string(300), "verdict": enum(["accept", "escalate"]), "confidence": _SURE})


class Question(NamedTuple):
    """A question for the tiers: the variables of its templates, and the index of its item, if there are items."""

    variables: Mapping[str, Any]
    item: int | None = None


class _Given(NamedTuple):
    """A member's answer, and its compared part; None if it has no such part."""

    answer: Answer
    found: Extracted | None
    confidence: float | None
    messages: Sequence[Message]
    letter: str = ""


class Verdict(NamedTuple):
    """The verdict on a tier: its answer, True if it is accepted, the reason, the confidence, and the agreement.

    `agreement` is the share of its answers that agree; None if they are not compared. `pattern` tells which do, under
    `learned`, and `label` the label of the question.
    """

    answer: Answer | None
    accepted: bool
    reason: str
    confidence: float | None = None
    agreement: float | None = None
    label: str = ""
    pattern: str = ""


class Taken(NamedTuple):
    """The answer that is taken: the number of its tier, and the reason; `refused` says why each tier before is not.

    `agreement` is that of the last tier whose answers were compared.
    """

    answer: Answer
    tier: int
    reason: str
    refused: tuple[str, ...]
    confidence: float | None
    agreement: float | None


class Tiers:
    """Tiers of a stage in one run: they answer one question, or one for each item."""

    def __init__(self, stage: Tiered, ctx: StageContext) -> None:
        self._stage = stage
        self._ctx = ctx
        self._tiers = [_Tier(stage, ctx, number) for number in range(1, len(stage.tiers) + 1)]

    async def verdict(self, number: int, question: Question) -> Verdict:
        """Return the verdict on the tier of this number, counted from 1."""
        return await self._tiers[number - 1].verdict(question)

    async def taken(self, question: Question) -> Taken:
        """Return the answer of the first tier that is accepted; the last tier's always is."""
        best, taken, agreement, refused = Verdict(None, False, ""), 0, None, list[str]()
        for number in range(1, len(self._tiers) + 1):
            try:
                with optional() if best.answer is not None else nullcontext():
                    verdict = await self.verdict(number, question)
            except BudgetError:
                if best.answer is None or not self._ctx.finishing:
                    raise
                why = f"tier {number} exceeds the budget: the answer of the tier before is taken, though not accepted"
                self._ctx.events.note(why, item=question.item)
                best = best._replace(reason=why)
                break
            agreement = verdict.agreement if verdict.agreement is not None else agreement
            if verdict.answer is not None:
                best, taken = verdict, number
            if verdict.accepted:
                break
            refused.append(f"tier {number}: {verdict.reason}")
            if question.item is None:
                self._ctx.events.note(refused[-1])
        if best.answer is None:
            raise StageError(f"no tier has an answer; the last one: {verdict.reason}")
        return Taken(best.answer, taken, best.reason, tuple(refused), best.confidence, agreement)

    async def item(self, item: Item, variables: Mapping[str, Any]) -> Item:
        """Return the item with the answer that is taken, and the decision on it."""
        material = variables.get("material")
        if material:
            variables = {**variables, "material": without_notice(material)}
        taken = await self.taken(Question(variables, item.index))
        shown = self.shown(variables) if self._ctx.outputs.keeps_shown else None
        return item.worked(taken.answer.value, taken.answer.by, shown).model_copy(
            update={
                "tier": taken.tier,
                "reason": "; ".join([*taken.refused[: taken.tier - 1], taken.reason]),
                "confidence": taken.confidence,
                "agreement": taken.agreement,
            }
        )

    def shown(self, variables: Mapping[str, Any]) -> Attached:
        """Return what the members of a tier are shown."""
        messages = self._ctx.inputs.render(self._stage.template, {**variables, "confident": False})
        return shown_in(messages, variables.get("material"))


class _Tier:
    """One tier of a stage in a run."""

    def __init__(self, stage: Tiered, ctx: StageContext, number: int) -> None:
        tier = stage.tiers[number - 1]
        self._stage = stage
        self._ctx = ctx
        self._number = number
        self._members = tier.members
        self._temperature = tier.temperature
        self._last = number == len(stage.tiers)
        self._rule = tier.accept or (None if self._last else stage.accept)
        self._accept = f"tiers.{number - 1}.accept" if tier.accept is not None else "accept"
        self._stated = self._rule is not None and self._rule.stated
        self._schema = ctx.inputs.schema("schema")
        if self._stated:
            self._schema = closed_object({"answer": self._schema or string(20_000), "confidence": _SURE})

    async def verdict(self, question: Question) -> Verdict:
        """Call the members, and return the verdict on their answers."""
        rule, failures = self._rule, list[str]()
        if rule is None:
            return await self._only(question, failures)
        label = await self._label(question, rule)
        given, agreeing, left = await self._asked(question, rule, failures, label)
        if not given:
            return Verdict(None, self._last, f"no answer: {'; '.join(failures)}")
        chosen, reason = agreeing[0], ""
        wanted = rule.wanted(len(self._members))
        agreement = len(agreeing) / len(given) if rule.compares else None
        confidence = chosen.confidence if rule.stated else agreement
        groups = _groups(given, rule.extract)
        if rule.learned is not None and (flaw := rule.learned.flaw(label, groups, left)):
            reason = flaw
        elif len(agreeing) < wanted:
            reason = f"{len(agreeing)} of {len(given)} answers agree, {wanted} must"
        elif flaws := await self._flaws(question, rule, chosen):
            reason = "; ".join(flaws)
        elif rule.judge is not None:
            reason, confidence = await self._judged(question, rule, rule.judge, chosen)
        if not reason and rule.threshold is not None and (confidence is None or confidence < rule.threshold):
            reason = f"a confidence of {confidence:g}, {rule.threshold:g} is needed"
        words = f"{len(agreeing)} of {len(given)} answers agree" if rule.compares else "accepted"
        accepted = not reason or self._last
        return Verdict(chosen.answer, accepted, reason or words, confidence, agreement, label, written(groups))

    async def _label(self, question: Question, rule: Accept) -> str:
        """Return the label of a question, under `learned`; empty without one."""
        if rule.learned is None or rule.learned.label is None:
            return ""
        return as_text(await self._ctx.inputs.value_of(rule.learned.label, question.variables))

    async def _flaws(self, question: Question, rule: Accept, given: _Given) -> list[str]:
        """Return the reasons of the checks and the verification against an answer."""
        value, key = given.answer.value, f"{self._accept}.checks"
        flaws = await failed_checks(self._ctx, rule.checks, value, question.variables, key)
        if flaws or rule.verify is None:
            return flaws
        variables = dict(question.variables)
        if question.item is not None:
            variables["item"] = variables["item"].model_copy(update={"value": value})
        verdict = await Verifier(self._ctx, rule.verify, f"{self._accept}.verify").verdict(
            value,
            variables,
            task=shown_in(given.messages, variables.get("material")),
            item=question.item,
            step=f"tier-{self._number}-verdict",
        )
        return [] if verdict.passed else [verdict.summary]

    async def _only(self, question: Question, failures: list[str]) -> Verdict:
        given = await self._member(question, 0, failures)
        if given is None:
            return Verdict(None, False, "; ".join(failures))
        return Verdict(given.answer, True, "the last tier")

    async def _asked(
        self, question: Question, rule: Accept, failures: list[str], label: str
    ) -> tuple[list[_Given], list[_Given], str]:
        """Return all answers, the largest group that agrees, and the members that are not asked.

        The calls that are always needed run at once.
        """
        members = len(self._members)
        asked = self._at_first(rule) if self._stage.early_stop else members
        given = await self._wave(question, 0, asked, failures)
        while asked < members and not self._is_settled(rule, given, asked, label):
            given += await self._wave(question, asked, asked + 1, failures)
            asked += 1
        return given, _largest(given, rule.extract), LETTERS[asked:members]

    def _at_first(self, rule: Accept) -> int:
        """Return the number of members that are asked whatever they answer."""
        members = len(self._members)
        return rule.wanted(members) if rule.learned is None else min(2, members)

    def _is_settled(self, rule: Accept, given: Sequence[_Given], asked: int, label: str) -> bool:
        """Return True if no further answer changes the outcome."""
        members = len(self._members)
        if rule.learned is not None:
            return rule.learned.is_settled(label, _groups(given, rule.extract), LETTERS[asked:members])
        agreeing, wanted = len(_largest(given, rule.extract)), rule.wanted(members)
        return not agreeing < wanted <= agreeing + members - asked

    async def _wave(self, question: Question, first: int, behind: int, failures: list[str]) -> list[_Given]:
        if behind == first + 1:
            members = [await self._member(question, first, failures)]
        else:
            members = await gathered(self._member(question, at, failures) for at in range(first, behind))
        return [given for given in members if given is not None]

    async def _member(self, question: Question, at: int, failures: list[str]) -> _Given | None:
        step = f"tier-{self._number}-{LETTERS[at]}"
        streams = self._last and self._stage.output_schema is None and question.item is None
        ask = Ask(
            role=self._members[at],
            messages=self._ctx.inputs.render(self._stage.template, {**question.variables, "confident": self._stated}),
            step=step,
            item=question.item,
            schema=self._schema,
            max_tokens=self._stage.max_tokens,
            temperature=self._temperature,
            deltas=self._ctx.models.stream(step) if streams else None,
            sample=self._members[:at].count(self._members[at]),
        )
        try:
            answer = whole(await self._ctx.models.call(ask))
        except ModelError as error:
            if error.stops or (self._last and self._rule is None):
                raise
            failures.append(str(error))
            self._ctx.events.note(f"{step}: {error}", item=question.item)
            return None
        confidence = None
        if self._stated:
            said, confidence = answer.data["answer"], float(answer.data["confidence"])
            answer = answer._replace(text=as_text(said), data=said if self._stage.output_schema is not None else None)
        return _Given(answer, await self._found(question, answer), confidence, ask.messages, LETTERS[at])

    async def _found(self, question: Question, answer: Answer) -> Extracted | None:
        """Return the compared part of an answer; None if answers are not compared."""
        if self._rule is None or not self._rule.compares:
            return None
        return await extracted(self._ctx, self._rule.extract, answer.value, question.item)

    async def _judged(self, question: Question, rule: Accept, judge: str, given: _Given) -> tuple[str, float | None]:
        """Return (reason against the answer, confidence of the judge); a failed judgement is never a pass."""
        answer = given.answer
        seen = {**question.variables, "candidate": answer.value}
        if question.item is not None:
            shown = shown_in(given.messages, seen.get("material"))
            seen["item"] = seen["item"].worked(answer.value, answer.by, shown)
        messages = self._ctx.inputs.render(self._stage.judge_prompt(rule), seen)
        step = f"tier-{self._number}-judge"
        judged = Judged(item=question.item, tier=self._number, verdict="none", draft=answer.value)
        self._ctx.outputs.judged(judged)
        try:
            ask = Ask(role=judge, messages=messages, step=step, item=question.item, schema=_JUDGED)
            said = own_verdict(whole(await self._ctx.models.call(ask)), answer.value)
        except ModelError as error:
            if error.stops:
                raise
            return f"no judgement: {error}", None
        confidence = float(said.data["confidence"])
        accepts = said.data["verdict"] == "accept"
        passes = accepts and (rule.threshold is None or confidence >= rule.threshold)
        verdict = {"verdict": "accept" if passes else "escalate", "by": said.by, "confidence": confidence}
        self._ctx.outputs.judged(judged.model_copy(update=verdict))
        if accepts:
            return "", confidence
        return f"{said.by!r} does not accept it: {said.data['problem'] or 'it gives no reason'}", confidence


def _largest(given: Sequence[_Given], extractor: Extractor) -> list[_Given]:
    """Return the largest group of equal answers, the first of equal groups; one without a compared part is alone."""
    places = largest(groups_of([one.found for one in given], extractor))
    return [given[place] for place in places] or list(given[:1])


def _groups(given: Sequence[_Given], extractor: Extractor) -> list[str]:
    """Return the letters of the members of each group of equal answers; one without a compared part is alone."""
    groups: dict[str, str] = {}
    for one, group in zip(given, extractor.groups([one.found for one in given]), strict=True):
        name = one.letter if group is None else f"={group}"
        groups[name] = groups.get(name, "") + one.letter
    return list(groups.values())
