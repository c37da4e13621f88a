"""verify: an answer is checked, and what does not pass goes back to its writer, then to a stronger model."""

import re
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any, ClassVar, Final, Literal

from pydantic import Field, PrivateAttr, model_validator

from fusion.core.errors import StageError
from fusion.core.result import Judged
from fusion.core.types import Attached, Item, as_text
from fusion.stages.answer import AnswerStage
from fusion.stages.base import ExpressionUse, ModelStage, OutputField, PromptUse, Reads, Stage, shown_in
from fusion.stages.context import Conclusion, Producer, StageContext, Variables
from fusion.stages.fields import Choice, RoleChoice
from fusion.stages.items import Hand, OneOrMany
from fusion.stages.simulation import Chance, Estimate
from fusion.stages.verification.log import MOST_BYTES
from fusion.stages.verification.repairs import Plan, Repairs, Turn, Verified
from fusion.stages.verification.spec import NEVER, PASSES, Check
from fusion.stages.verification.verifier import Verifier

_PATH: Final = re.compile(r"\s*([a-z][a-z0-9_]*)((?:\.\w+)*)\s*")
_OF_REPAIR: Final = frozenset({"value", "log", "task", "escalated", "own"})
_OF_ANY_CHECK: Final = frozenset(
    {"value", "over", "concurrency", "min_ok", "when", "needs", "timeout", "on_error", "default", "budget"}
)
"""Keys with an effect whatever the check."""
_NEEDS_REPAIRS: Final = ("role", "prompt", "schema", "max_tokens")


class Verify(OneOrMany, AnswerStage):
    """Checks an answer, and has it repaired until it passes.

    Fields: `text`, `data` (of an answer that is data), `passed`, and `log`, that of the last check. With `over` it
    works item by item; its fields are `items` and `verdicts`, each with `passed`, `log` and `attempts`.

    The `log` of a failed check goes back to the writer for at most `attempts` repairs; then `escalate_to` makes at
    most `escalations` of its own. A repair that equals an earlier answer ends the repairs of its role. The writer is
    the role of the stage that `value` or `over` names, with its prompt, shape and limit; `role` names another.

    All conditions of the `check` must hold: those that cost nothing, then a run in the sandbox, then its `judge`, a
    role or `{role, criteria, prompt, confidence}`. `python` are tests, run behind the code of the answer; they read
    inputs alone. `command` is a program beside its `files`, and the exit code 0 passes. `files` and `stdin` are
    templates, which read `value` and its `code`: the longest or last block, or the `whole` answer, as `extract` says.

    A check that cannot be made, such as one without a sandbox, fails the stage. It never counts as passed or failed.
    """

    kind: Literal["verify"] = "verify"
    value: str | None = Field(default=None, description="The answer to check: an expression, such as a stage's name.")
    check: Check = Field(description="The conditions for an answer.")
    attempts: int = Field(default=2, ge=0, le=10, description="Most repairs by the writer.")
    role: RoleChoice | None = Field(  # type: ignore[assignment]
        default=None, description="The role that repairs; by default that of the stage which wrote the answer."
    )
    escalate_to: str | None = Field(default=None, description="The role that repairs after the writer.")
    escalations: int = Field(default=1, ge=1, le=10, description="Most repairs by `escalate_to`.")
    on_fail: Literal["answer", "fail"] = Field(
        default="answer", description="If no answer passes: give the last one, or fail."
    )
    task: str | None = Field(
        default=None,
        description="The task that repair and judge are shown: a template; by default the prompt of the writer.",
    )

    outputs: ClassVar[tuple[OutputField, ...]] = (
        OutputField("text"),
        OutputField("data"),
        OutputField("passed"),
        OutputField("log"),
    )
    item_outputs: ClassVar[tuple[OutputField, ...]] = (
        OutputField("items", feed=True),
        OutputField("verdicts", feed=True),
    )
    passes_on: ClassVar[bool] = True
    default_prompt: ClassVar[str] = "verify/repair"
    item_prompt: ClassVar[str] = "verify/repair"
    prompt_offers: ClassVar[frozenset[str]] = _OF_REPAIR
    estimate: ClassVar[Estimate] = Estimate(
        cost=(
            "One call of a judge for each verdict, if there is one. One call for each repair: at most `attempts`, "
            "and `escalations` with `escalate_to`. A call is repeated once if the reply does not match its shape."
        ),
        expects="6 of 10 answers pass, and so does each repair.",
        shares={"verdict": {"accept": 0.6, "revise": 0.4}},
        example="""\
inputs: {task: A function to write., tests: {description: Python tests of it., default: ""}}
stages:
  write: {kind: generate, role: bulk, prompt: "Write this in Python: {{ inputs.task }}"}
  check:
    kind: verify
    value: write
    check: {python: "{{ inputs.tests }}"}
    attempts: 2
    escalate_to: frontier
output: check
""",
        calls=lambda stage, items, within: stage._most_calls() * (1 if stage.over is None else items),
        items=lambda stage, items: None if stage.over is None else items,
        supposed=lambda stage, chance: stage._supposed(chance),
    )
    _writer: ModelStage | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _options_fit(self) -> "Verify":
        if (self.value is None) == (self.over is None):
            raise ValueError("give `value`, the answer to check, or `over`, the items to check one by one")
        if self.escalate_to is None and "escalations" in self.model_fields_set:
            raise ValueError("`escalations` has an effect with `escalate_to` only")
        given = [key for key in _NEEDS_REPAIRS if getattr(self, "output_schema" if key == "schema" else key)]
        if not self.repairs and given:
            raise ValueError(f"`{given[0]}` has no effect: without `attempts` and `escalate_to` nothing is repaired")
        if self.task is not None and not self.repairs and self.check.judge is None:
            raise ValueError("`task` is shown to a repair or a judge, and there is none")
        return self

    def _escalates(self) -> bool:
        return True

    @property
    def repairs(self) -> int:
        """The most repairs of one answer."""
        return self.attempts + (self.escalations if self.escalate_to is not None else 0)

    @property
    def obeys(self) -> frozenset[str]:
        return frozenset()

    @property
    def gives_data(self) -> bool:
        return self._shape is not None or self._writer is None

    @property
    def acts(self) -> bool:
        return self.check.runs

    @property
    def heard(self) -> int | None:
        return MOST_BYTES if self.check.runs else 0

    @property
    def judging(self) -> frozenset[str]:
        return frozenset({"check.judge.prompt"})

    @property
    def unchecked(self) -> "Verify":
        """The stage without its check: every answer passes."""
        given = {key: getattr(self, key) for key in self.model_fields_set & _OF_ANY_CHECK}
        return Verify(**given, check=PASSES, attempts=0)

    # The writer of the answer.

    def among(self, stages: Mapping[str, Stage]) -> "Verify":
        writer, source, seen = None, self.over or self.value, set[str]()
        while (found := _PATH.fullmatch(source or "")) and found[1] not in seen:
            seen.add(found[1])
            writer = stages.get(found[1])
            source = getattr(writer, "over", None) or getattr(writer, "value", None)
            if writer is None or not writer.passes_on:
                break
        known = self.model_copy()
        known._writer = writer if isinstance(writer, ModelStage) and writer.choices else None
        return known

    @property
    def choices(self) -> tuple[Choice, ...]:
        if not self.attempts:
            return ()
        return self.role or (() if self._writer is None else self._writer.choices)

    def flaws(self) -> Iterator[tuple[str, str]]:
        if self.attempts and not self.choices:
            key = "over" if self.value is None else "value"
            yield (
                key,
                (
                    f"`{key}` names no stage with one `role` that wrote the answer; give the `role` that repairs, or "
                    "`attempts: 0`"
                ),
            )

    @property
    def _task(self) -> str:
        """The template of the task: the stage's own, the writer's, or the shipped one."""
        if self.task is not None or self.over is not None:
            return self.task or "verify/task-item"
        own = self._writer
        return "verify/task" if own is None or own.prompt_offers or own.prompt_extras else own.template

    @property
    def _shape(self) -> dict[str, Any] | str | None:
        """The shape of a repaired answer: the stage's own, or that of the whole answer of its writer."""
        if self.output_schema is not None or self.over is not None:
            return self.output_schema
        found = _PATH.fullmatch(self.value or "")
        of_whole = found is not None and found[2] in ("", ".text", ".data")
        return getattr(self._writer, "output_schema", None) if of_whole else None

    @property
    def usual_reads(self) -> Reads:
        if self.task is None and self.over is None and self._writer is not None:
            return self._writer.reading
        return super().usual_reads

    def prompts(self) -> Iterator[PromptUse]:
        if self.repairs:
            yield from super().prompts()
        if self.repairs or self.check.judge is not None:
            yield PromptUse("task", self._task)
        yield from self.check.prompts("check")

    def expressions(self) -> Iterator[ExpressionUse]:
        yield from super().expressions()
        if self.value is not None:
            yield ExpressionUse("value", self.value)
        yield from self.check.uses("check")

    def roles(self) -> Iterator[tuple[str, str]]:
        yield from super().roles()
        yield from self.check.roles("check")

    def schemas(self) -> Iterator[tuple[str, dict[str, Any] | str]]:
        if self._shape is not None:
            yield "schema", self._shape
        yield from self.check.schemas("check")

    # The estimate.

    def _most_calls(self) -> int:
        """Return the most calls for one answer."""
        repair = self.calls_of_an_answer(shaped=self._shape is not None, continued=self.continuations)
        return self.repairs * max(repair, 2) + (1 + self.repairs) * self.check.calls()

    def _supposed(self, chance: Chance) -> "Verify":
        """Return the stage with so many repairs as chance wants; all are made, since no answer passes."""
        if self.check.judge is not None:
            return self.model_copy(update={"check": self.check.supposed(chance), "on_fail": "answer"})
        made = 0
        while made < self.repairs and chance.happens(0.4):
            made += 1
        kept = {"attempts": min(made, self.attempts), "on_fail": "answer", "check": NEVER}
        left = max(made - self.attempts, 0)
        more = {"escalations": left} if left else {"escalate_to": None}
        return self.model_copy(update={**kept, **more})

    # The work.

    async def once(self, ctx: StageContext) -> None:
        assert self.value is not None
        variables = await ctx.inputs.values()
        value = await ctx.inputs.value_of(self.value, variables)
        end = await self._verified(ctx, value, ctx.inputs.author(self.value), variables)
        passed = end.verdict.passed
        ctx.events.decided("passed" if passed else "failed", end.reason, confidence=end.verdict.confidence)
        self._check_passed(end)
        if not passed:
            ctx.events.note(f"the answer did not pass the check {end.reason}")
        ctx.outputs.give("text", as_text(end.value))
        ctx.outputs.give("data", None if isinstance(end.value, str) else end.value)
        ctx.outputs.give("passed", passed)
        ctx.outputs.give("log", end.verdict.log)
        ctx.outputs.conclude(Conclusion(by=end.by))

    def hand(self, ctx: StageContext) -> Hand:
        return _Verifying(self, ctx)

    async def run(self, ctx: StageContext) -> None:
        await super().run(ctx)
        if self.over is not None:
            passed = [item.value["passed"] for item in ctx.outputs.feed("verdicts").so_far]
            counts = f"passed: {sum(passed):,}, failed: {len(passed) - sum(passed):,}"
            ctx.events.decided(counts, "items by their last verdict")
            if not all(passed):
                ctx.events.note(f"{len(passed) - sum(passed):,} of {len(passed):,} items did not pass the check")

    async def item(self, ctx: StageContext, item: Item, variables: dict[str, Any]) -> Item:
        """Return a verified item. Raises StageError for one that does not pass under `on_fail: fail`."""
        end = await self._verified(ctx, item.value, item.by or "", variables, item)
        said = {"passed": end.verdict.passed, "log": end.verdict.log, "attempts": end.attempt}
        verdict = Item(index=item.index, source=item.source, value=said, by=end.verdict.by)
        ctx.outputs.feed("verdicts").append(verdict)
        self._check_passed(end)
        done = item if end.attempt == 1 else item.worked(end.value, end.by)
        sure = item.confidence if end.verdict.confidence is None else end.verdict.confidence
        reason = f"{'passed' if end.verdict.passed else 'failed'} {end.reason}"
        return done.model_copy(update={"reason": reason, "confidence": sure})

    def _check_passed(self, end: Verified) -> None:
        if not end.verdict.passed and self.on_fail == "fail":
            raise StageError(f"not passed {end.reason}")

    async def _verified(
        self, ctx: StageContext, value: Any, by: str, variables: Variables, item: Item | None = None
    ) -> Verified:
        """Return the answer that passes, or the last one."""
        verifier, index = Verifier(ctx, self.check), None if item is None else item.index
        shown = self._shown(ctx, variables) if self.check.judge is not None else ""
        record = Judged(item=index, verdict="none", draft=value)
        ctx.outputs.judged(record)
        verdict = await verifier.verdict(value, variables, task=shown, item=index)
        said = {"verdict": "accept" if verdict.passed else "revise", "by": verdict.by}
        ctx.outputs.judged(record.model_copy(update={**said, "confidence": verdict.confidence}))
        answer = Verified(value, by, 1, verdict)
        if verdict.passed or not self.repairs:
            return answer
        return await Repairs(ctx, verifier, self._plan(ctx, variables, item)).of(answer, self._shown(ctx, variables))

    def _plan(self, ctx: StageContext, variables: Variables, item: Item | None) -> Plan:
        turns = [Turn("repair", self.chosen_role(ctx, variables), number + 1) for number in range(self.attempts)]
        if self.escalate_to is not None:
            turns += [Turn("escalate", self.escalate_to, number + 1) for number in range(self.escalations)]
        return Plan(self, tuple(turns), variables, item, self._producer(ctx))

    def _producer(self, ctx: StageContext) -> Producer:
        """Return shape and limit of a repair: the stage's own, or those of the writer."""
        if self.over is None:
            limit = None if self._writer is None else self._writer.max_tokens
            return Producer(ctx.inputs.schema("schema"), self.max_tokens or limit)
        made = ctx.inputs.producer(self.over)
        return Producer(ctx.inputs.schema("schema") or made.schema, self.max_tokens or made.max_tokens)

    def _shown(self, ctx: StageContext, variables: Variables) -> Attached:
        """Return the task as its writer was shown it."""
        return shown_in(ctx.inputs.render(self._task, variables), variables.get("material"))


class _Verifying(Hand):
    """Verifies items."""

    def __init__(self, stage: Verify, ctx: StageContext) -> None:
        self._stage = stage
        self._ctx = ctx

    def work(self, item: Item, needed: list[Item], variables: dict[str, Any]) -> Coroutine[Any, Any, Item]:
        return self._stage.item(self._ctx, item, variables)
