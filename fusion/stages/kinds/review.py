"""review: each item is checked, judged, revised if needed, and escalated if revision does not help."""

from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from fusion.core.errors import BudgetError, FusionError, ModelError, StageError, Waits
from fusion.core.params import NO_MODEL, BatchMode
from fusion.core.result import Judged
from fusion.core.schema import array, closed_object, enum, string
from fusion.core.types import Item, JsonSchema, as_text
from fusion.stages.answer import failed_checks, own_verdict
from fusion.stages.base import OF_CHECKS, ExpressionUse, OutputField, PromptUse
from fusion.stages.context import StageContext
from fusion.stages.fields import Texts
from fusion.stages.items import Hand, ItemStage
from fusion.stages.simulation import Chance, Estimate, Spread, plausible
from fusion.stages.subtasks.checked import repaired_value, shape_of_repair
from fusion.stages.text.checks import Checks

if TYPE_CHECKING:
    from asyncio import Future, TaskGroup


_VERDICT = {
    "issues": array(closed_object({"quote": string(200), "problem": string(300)}), 5),
    "verdict": enum(["accept", "revise", "escalate", "reject"]),
}
VERDICT_SCHEMA = closed_object(_VERDICT)
UNREVIEWED: Final = "unreviewed"
"""The verdict on an item that no reviewer has judged."""
_SURE: Final = {"confidence": {"type": "number", "minimum": 0, "maximum": 1}}


_MODES: Final = ("auto", "always", "off")
_MOST: Final = 5


def _together(given: Any) -> Any:
    if given in _MODES or (isinstance(given, int) and not isinstance(given, bool) and 1 <= given <= _MOST):
        return given
    raise ValueError(
        f"invalid batch {given!r}: write at most {_MOST} for values judged in one call, or auto, always or off for"
        " the provider's batch"
    )


_Together = Annotated[
    int | BatchMode,
    BeforeValidator(_together),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": _MOST}, {"enum": list(_MODES)}]}),
]


@cache
def _batch_schema(count: int, *, confident: bool) -> JsonSchema:
    """Return the schema of the verdicts on so many values, each under its number."""
    number = {"type": "integer", "minimum": 1, "maximum": count}
    own = {"number": number, **_VERDICT, **(_SURE if confident else {})}
    return closed_object({"verdicts": array(closed_object(own), 2 * count)})


@dataclass(frozen=True)
class _Verdict:
    """A verdict on a value, by a model or by the checks."""

    verdict: str
    issues: list[dict[str, str]]
    by: str
    confidence: float | None = None

    def __str__(self) -> str:
        said = [f"{i['problem']} ({i['quote']!r})" if i["quote"] else i["problem"] for i in self.issues]
        return "; ".join(said) or "no issue was named"


class Review(ItemStage):
    """Reviews items, and passes on those that are accepted.

    Fields: `items` (accepted or revised; the others failed, with the reason) and `verdicts`.

    The free `checks` come first, then the reviewer's verdict: accept, revise, escalate or reject, with quoted issues.
    A value to revise goes back to the model that wrote it, at most `revisions` times; then `escalate_to`, if given,
    rewrites it. A missing verdict is never a pass, nor is one that the reviewer only repeats out of the value.

    With `batch`, up to five neighbours get their first verdicts in one call, each under its number. A reply without
    exactly one verdict for each is dropped, and its values are reviewed one by one.
    """

    kind: Literal["review"] = "review"
    criteria: Texts = Field(default=(), description="Criteria for a value, in words; one text or a list.")
    checks: Checks | None = Field(default=None, description="Checks of a value without a model.")
    confidence: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Confidence that the reviewer must state for a value to be accepted; with less it is revised.",
    )
    revisions: int = Field(default=1, ge=0, le=5, description="Most revisions by the model that wrote the value.")
    revise_prompt: str = Field(default="review/revise", description="The template that asks for a revision.")
    escalate_to: str | None = Field(default=None, description="The role that rewrites a value after its revisions.")

    batch: _Together = Field(  # type: ignore[assignment]  # a number has had this name from the start
        default=1,
        description="Most neighbours that are judged in one call, 1 to 5; or a word for the provider's batch: auto, "
        "always or off.",
    )
    batch_prompt: str = Field(default="review/batch", description="The template of a batch.")

    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("items", feed=True), OutputField("verdicts", feed=True))
    own_max_tokens: ClassVar[int] = 1000
    passes_on: ClassVar[bool] = True
    spares: ClassVar[frozenset[str]] = frozenset({"role"})
    judges: ClassVar[bool] = True
    default_prompt: ClassVar[str] = "review/default"
    prompt_offers: ClassVar[frozenset[str]] = frozenset({"item", "criteria", "confident"})
    estimate: ClassVar[Estimate] = Estimate(
        cost=(
            "A call for each item that passes the `checks`; two more for each revision, the revised value and its "
            "verdict; one more with `escalate_to`. Each call is repeated once if the reply does not match its shape."
        ),
        expects=(
            "75 of 100 verdicts accept, 18 send back, 4 escalate, 3 reject; one batch in ten is dropped. "
            "`checks` hold; in 15 of 100 runs no value ever passes them."
        ),
        shares={"verdict": {"accept": 0.75, "reject": 0.03, "escalate": 0.04, "revise": 0.18}},
        sizes={"issues": Spread(0.0, 0.1, 0.4)},
        example="""\
inputs: {text: "Notes, one on each line."}
stages:
  read: {kind: map, over: inputs.text.splitlines(), role: bulk, prompt: "Say it in a word: {{ item.source | fence }}"}
  check:
    kind: review
    over: read
    role: frontier
    checks: {max_length: 200}
    criteria: [It is one word., It says what the note says.]
    revisions: 1
output: check
""",
        calls=lambda stage, items, within: stage._most_calls(items),
        items=lambda stage, items: items,
        supposed=lambda stage, chance: stage._supposed(chance),
        reply=lambda stage, *call: stage._reply(*call),
    )

    @property
    def idle_when_spared(self) -> bool:
        return self.checks is None

    @property
    def together(self) -> int:
        """Neighbours that are judged in one call at most."""
        return self.batch if isinstance(self.batch, int) else 1

    def resilience(self) -> dict[str, Any]:
        found = super().resilience()
        if isinstance(found["batch"], int):
            del found["batch"]
        return found

    def _most_calls(self, items: int) -> int:
        """Return the most calls for so many items."""
        answers = 1 + 2 * self.revisions + (self.escalate_to is not None)
        batches = -(-items // self.together) if self.together > 1 else 0
        return (items * answers + batches) * self.calls_of_an_answer(shaped=True)

    def _supposed(self, chance: Chance) -> "Review":
        never = self.checks is not None and not chance.worst and chance.happens(0.15)
        return self.model_copy(update={"checks": Checks(contains=("\0",)) if never else None})

    def _reply(self, step: str, schema: JsonSchema | None, tokens: int, chance: Chance) -> Any:
        verdicts = (schema or {}).get("properties", {}).get("verdicts")
        if verdicts is not None:
            count = verdicts["maxItems"] // 2 - chance.happens(0.1)
            each = [self._reply(step, verdicts["items"], tokens // (count + 1), chance) for _ in range(count)]
            return {"verdicts": [{**one, "number": number} for number, one in enumerate(each, start=1)]}
        made = plausible(self, step, schema, tokens, chance)
        if isinstance(made, dict) and "confidence" in made:
            made["confidence"] = 1.0
        if not chance.worst and isinstance(made, dict) and made.get("verdict") == "accept":
            made["issues"] = []
        if chance.worst and self.escalate_to is None and step == self._verdict_step(self.revisions):
            return {**made, "verdict": "accept"}  # a failed item would save the calls after it
        return made

    @model_validator(mode="after")
    def _batches_are_asked_for(self) -> "Review":
        if self.together == 1 and "batch_prompt" in self.model_fields_set:
            raise ValueError("`batch_prompt` has an effect with a `batch` of 2 to 5 only")
        return self

    def _escalates(self) -> bool:
        return True

    def hand(self, ctx: StageContext) -> Hand:
        return super().hand(ctx) if self.together == 1 else _Batches(self, ctx)

    def prompts(self) -> Iterator[PromptUse]:
        yield from super().prompts()
        yield PromptUse("revise_prompt", self.revise_prompt, self.prompt_offers | {"issues"})
        if self.together > 1:
            yield PromptUse("batch_prompt", self.batch_prompt, frozenset({"items", "criteria", "confident"}))

    def expressions(self) -> Iterator[ExpressionUse]:
        yield from super().expressions()
        if self.checks is not None:
            for key, source in self.checks.expressions():
                yield ExpressionUse(key, source, OF_CHECKS | {"item"})

    def schemas(self) -> Iterator[tuple[str, dict[str, Any] | str]]:
        yield from super().schemas()
        if self.checks is not None:
            yield from self.checks.schemas()

    async def run(self, ctx: StageContext) -> None:
        await super().run(ctx)
        verdicts = [item.value for item in ctx.outputs.feed("verdicts").so_far]
        passed = sum(one["verdict"] == UNREVIEWED and one["by"] == NO_MODEL for one in verdicts)
        if passed:
            ctx.events.note(f"unreviewed: {passed} of {len(verdicts)} items; the role of the reviewer is none")

    async def work(self, ctx: StageContext, item: Item, needed: list[Item], variables: dict[str, Any]) -> Item:
        return await self.reviewed(ctx, item, variables, None)

    async def reviewed(
        self, ctx: StageContext, item: Item, variables: dict[str, Any], first: "_Verdict | None"
    ) -> Item:
        """Return the accepted item. `first` is the verdict on it from a batch, if any."""
        variables = {**variables, "criteria": self.criteria, "confident": self.confident}
        for revision in range(self.revisions + 1):
            if revision == 0:
                verdict = await self._first_verdict(ctx, item, {**variables, "item": item}, first)
            else:
                verdict = await self._verdict(ctx, item, {**variables, "item": item}, revision)
            if verdict.verdict == UNREVIEWED:
                _say(ctx, item, verdict)
                return item
            if verdict.verdict != "revise" or revision == self.revisions:
                break
            item = await self._revised(ctx, item, variables, verdict, f"revise-{revision + 1}")
        if verdict.verdict in ("revise", "escalate") and self.escalate_to is not None:
            item = await self._revised(ctx, item, variables, verdict, "escalate", role=self.escalate_to)
            left = await self.failed_checks(ctx, item, {**variables, "item": item})
            verdict = left or _Verdict("accept", [], self.escalate_to)
        _say(ctx, item, verdict)
        if verdict.verdict != "accept":
            raise StageError(f"not accepted ({verdict.verdict} by {verdict.by}): {verdict}")
        return item

    def unaffordable(self, ctx: StageContext, item: Item, error: BudgetError) -> Item:
        """Pass the item on unreviewed, with a note: a review is optional."""
        unreviewed = _Verdict(UNREVIEWED, [], "budget")
        ctx.outputs.judged(_judged(item, unreviewed))
        _say(ctx, item, unreviewed)
        ctx.events.note("passed on without a review: the budget is exhausted", item=item.index)
        return item

    async def verdicts(
        self, ctx: StageContext, items: Sequence[Item], variables: dict[str, Any]
    ) -> "list[_Verdict] | None":
        """Return the verdicts on neighbours from one call, in their order; None unless there is one for each."""
        own = {"item": items[0], "items": items, "criteria": self.criteria, "confident": self.confident}
        variables = {**variables, **own}
        ask = self.ask(ctx, variables, "verdicts", items[0].index, template=self.batch_prompt)
        answer = await self.answer(ctx, ask._replace(schema=_batch_schema(len(items), confident=self.confident)))
        answer = own_verdict(answer, "\n\n".join(as_text(item.value) for item in items))
        by_number = sorted(answer.data["verdicts"], key=lambda one: one["number"])
        if [one["number"] for one in by_number] != list(range(1, len(items) + 1)):
            return None
        return [self._read_verdict(one, answer.by) for one in by_number]

    @property
    def confident(self) -> bool:
        """True if the reviewer states its confidence."""
        return self.confidence is not None

    def _read_verdict(self, said: Mapping[str, Any], by: str) -> _Verdict:
        """Return the verdict in a reply; one to accept with too little confidence is one to revise."""
        sure, verdict = said.get("confidence"), _Verdict(said["verdict"], said["issues"], by, said.get("confidence"))
        if self.confidence is None or sure is None or sure >= self.confidence or verdict.verdict != "accept":
            return verdict
        problem = f"the reviewer states a confidence of {sure:g} that it is right; {self.confidence:g} is needed"
        return _Verdict("revise", [{"quote": "", "problem": problem}], by, sure)

    async def _first_verdict(
        self, ctx: StageContext, item: Item, variables: dict[str, Any], known: _Verdict | None
    ) -> _Verdict:
        """Return the verdict on the value as it was worked, from a batch if `known`, and record it."""
        if known is None:
            ctx.outputs.judged(_judged(item, _NO_VERDICT))
        verdict = known or await self._verdict(ctx, item, variables, 0)
        ctx.outputs.judged(_judged(item, verdict))
        return verdict

    async def _verdict(self, ctx: StageContext, item: Item, variables: dict[str, Any], revision: int) -> _Verdict:
        failed = await self.failed_checks(ctx, item, variables)
        if failed is not None:
            return failed
        if not ctx.models.plays(self.chosen_role(ctx, variables)):
            return _Verdict(UNREVIEWED, [], NO_MODEL)
        schema = closed_object({**_VERDICT, **_SURE}) if self.confident else VERDICT_SCHEMA
        ask = self.ask(ctx, variables, self._verdict_step(revision), item.index)._replace(schema=schema)
        answer = own_verdict(await self.answer(ctx, ask), item.value)
        return self._read_verdict(answer.data, answer.by)

    def _verdict_step(self, revision: int) -> str:
        return f"verdict-{revision + 1}" if revision else "verdict"

    async def failed_checks(self, ctx: StageContext, item: Item, variables: dict[str, Any]) -> _Verdict | None:
        """Return the verdict of the free checks; None if the item passes them."""
        failures = await failed_checks(ctx, self.checks, item.value, variables, "checks")
        if not failures:
            return None
        return _Verdict("revise", [{"quote": "", "problem": failure} for failure in failures], "checks")

    async def _revised(
        self,
        ctx: StageContext,
        item: Item,
        variables: dict[str, Any],
        verdict: _Verdict,
        step: str,
        *,
        role: str | None = None,
    ) -> Item:
        variables = {**variables, "item": item, "issues": verdict.issues}
        producer = ctx.inputs.producer(self.over)
        ask = self.ask(ctx, variables, step, item.index, template=self.revise_prompt)
        ask = ask._replace(schema=shape_of_repair(item, producer.schema), max_tokens=producer.max_tokens)
        ask = ask._replace(role=role) if role else ask._replace(model=item.by)
        answer = await self.answer(ctx, ask)
        return item.worked(repaired_value(ctx, item, producer.schema, answer.value), answer.by)


_NO_VERDICT: Final = _Verdict("none", [], "")


def _start(tasks: "TaskGroup", work: Coroutine[Any, Any, None]) -> None:
    tasks.create_task(work)


class _Batches(Hand):
    """Batches: first verdicts on items 1 to 5 in one call, on 6 to 10 in the next, and so on.

    Batches are consecutive items, never arrival order. A call begins once all of its items have arrived.
    """

    def __init__(self, stage: Review, ctx: StageContext) -> None:
        from asyncio import Semaphore  # here: checking and drawing stages needs no event loop

        self._ctx = ctx
        self._review = stage
        self._slots = Semaphore(stage.concurrency)
        self._blocks: dict[int, list[Item]] = {}
        self._first: dict[int, tuple[Item, Future[_Verdict | FusionError | Waits | None]]] = {}
        self._begin: Callable[[list[Item]], None] = lambda items: None

    def came(self, item: Item, variables: dict[str, Any], tasks: "TaskGroup") -> None:
        self._begin = lambda items: _start(tasks, self._begin_calls(items, variables, tasks))
        block = self._blocks.setdefault(item.index // self._review.together, [])
        block.append(item)
        if len(block) == self._review.together:
            self._begin(self._blocks.pop(item.index // self._review.together))

    def all_came(self) -> None:
        for block in self._blocks.values():
            self._begin(block)

    def hold(self, signal: Waits) -> None:
        for block in self._blocks.values():
            for item in block:
                self._future(item).set_result(signal)

    async def work(self, item: Item, needed: list[Item], variables: dict[str, Any]) -> Item:
        first = await self._future(item)
        if isinstance(first, FusionError | Waits):
            raise first
        return await self._review.reviewed(self._ctx, item, variables, first)

    async def _begin_calls(self, block: list[Item], variables: dict[str, Any], tasks: "TaskGroup") -> None:
        """Start a call for the items of a block that share a reviewer; the others are reviewed alone."""
        by_role: dict[str, list[Item]] = {}
        for item in sorted(block, key=lambda item: item.index):
            if (role := await self._role(item, variables)) is not None:
                by_role.setdefault(role, []).append(item)
        together = [items for items in by_role.values() if len(items) > 1]
        for items in together:
            tasks.create_task(self._judge(items, variables))
        judged = {id(item) for items in together for item in items}
        for item in block:
            if id(item) not in judged:
                self._future(item).set_result(None)

    async def _role(self, item: Item, variables: dict[str, Any]) -> str | None:
        """Return the role that judges an item; None for one that failed, fails its checks, or has no reviewer."""
        try:
            variables = {**variables, "item": item}
            if item.ok and await self._review.failed_checks(self._ctx, item, variables) is None:
                role = self._review.chosen_role(self._ctx, variables)
                return role if self._ctx.models.plays(role) else None
        except FusionError:  # it is raised again when the item is processed
            return None
        return None

    async def _judge(self, items: list[Item], variables: dict[str, Any]) -> None:
        first: Sequence[_Verdict | FusionError | None]
        async with self._slots:
            first = await self._judged(items, variables)
        for item, one in zip(items, first, strict=True):
            self._future(item).set_result(one)

    async def _judged(
        self, items: list[Item], variables: dict[str, Any]
    ) -> "Sequence[_Verdict | FusionError | None]":
        """Return for each item its verdict, the error that ends the stage, or None for a review of its own."""
        try:
            verdicts = await self._review.verdicts(self._ctx, items, variables)
            why = "there is not exactly one verdict for each"
        except FusionError as error:
            if not isinstance(error, ModelError) or error.stops:
                return [error] * len(items)
            verdicts, why = None, str(error)
        if verdicts is None:
            numbers = f"items {items[0].index + 1} to {items[-1].index + 1}"
            self._ctx.events.note(f"{numbers} are reviewed one by one: {why}")
            return [None] * len(items)
        return verdicts

    def _future(self, item: Item) -> "Future[_Verdict | FusionError | Waits | None]":
        """Return the future of the first verdict on an item."""
        from asyncio import get_running_loop

        if id(item) not in self._first:
            self._first[id(item)] = item, get_running_loop().create_future()
        return self._first[id(item)][1]


def _judged(item: Item, verdict: _Verdict) -> Judged:
    return Judged(
        item=item.index, verdict=verdict.verdict, by=verdict.by, confidence=verdict.confidence, draft=item.value
    )


def _say(ctx: StageContext, item: Item, verdict: _Verdict) -> None:
    value = {"verdict": verdict.verdict, "issues": verdict.issues, "by": verdict.by}
    ctx.outputs.feed("verdicts").append(Item(index=item.index, source=item.source, value=value, by=verdict.by))
