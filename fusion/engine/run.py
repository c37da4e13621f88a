"""Run: executes a pipeline: starts every stage at once, joins them by their fields, returns the Result."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from math import isfinite
from typing import Any, Final

from fusion.core import budget as budgets
from fusion.core.bounded import clock
from fusion.core.budget import Budget
from fusion.core.errors import BudgetError, FusionError, PromptError, StageError, UsageError, Waits, first_error
from fusion.core.events import AttemptCharged, EventBase, Noted, RunFinished, RunStarted, Sink, to_both
from fusion.core.result import FailedPart, Result
from fusion.core.types import Balance, CallKey, Gate, Item
from fusion.engine.budgets.holdback import Caps, one_of_each
from fusion.engine.budgets.levels import UNCAPPED, Levels
from fusion.engine.context import OF_STAGES, AskPerson, RunParts, Scope
from fusion.engine.context.learned import PinnedFigures, learned_notes
from fusion.engine.fields import Fields, Skipped, read
from fusion.engine.outcome import RunOutcome, TableAnswer
from fusion.engine.receipt import Accounts, Before, upstreams
from fusion.engine.run_spec import RunSpec
from fusion.engine.stage_runner import StageRunner, outcome_of
from fusion.models.batches.window.clock import RunClock
from fusion.models.gateway import CallRecorder
from fusion.pipeline.dataflow import Part
from fusion.pipeline.inputs.values import filled_within
from fusion.pipeline.material import items_of
from fusion.pipeline.rows import Table
from fusion.prompts.template import Expression
from fusion.stages.context import Conclusion, Outcome, Round

_NOTHING = Before()
_NO_VARIABLES: Final[Mapping[str, Any]] = {}
_ROW: Final = 100
"""Characters of a row of a table, about."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Origin of a run: the run that it continues, its session, and the user's tags.

    `seed` feeds every random order, and is the same for all runs that continue one.
    """

    seed: str
    parent: str | None = None
    session: int = 1
    tags: Mapping[str, str] = field(default_factory=dict)
    started: datetime | None = None
    before: Before = _NOTHING
    """Calls and spending of earlier sessions."""
    notes: tuple[str, ...] = ()
    """Notes to send at the start."""
    budgets: tuple[Balance, ...] = ()
    """Budgets of the store, with what is left of them."""


@dataclass(frozen=True, slots=True)
class Shared:
    """Parts of a run that its nested pipelines share."""

    run_id: str
    sink: Sink
    recorder: CallRecorder
    seed: str
    clock: RunClock
    budget_stops: list[BudgetError] = field(default_factory=list)
    unusable: list[CallKey] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)
    person: AskPerson | None = None
    conclusions: dict[str, Conclusion] = field(default_factory=dict)
    charged: Sequence[AttemptCharged] = ()
    learned: PinnedFigures | None = None

    def quiet(self, mark: object) -> "Shared":
        """Return the parts for one item or call: without the events of stages, and with random orders of its own."""

        def sink(event: EventBase) -> None:
            if not isinstance(event, OF_STAGES):
                self.sink(event)

        return replace(self, sink=sink, seed=f"{self.seed} {mark}")


class Run:
    """One run: a pipeline on one set of inputs, from its first event to its Result.

    `recorder` holds the journal and the caches of its calls. `within` is a budget that the run shares with other runs
    on the same loop. `person` asks the person who is there.
    """

    def __init__(
        self,
        run_id: str,
        spec: RunSpec,
        *,
        sink: Sink,
        stream: bool,
        recorder: CallRecorder | None = None,
        origin: Origin | None = None,
        within: Budget | None = None,
        person: AskPerson | None = None,
    ) -> None:
        recorder = recorder or CallRecorder()
        self.run_id = run_id
        self._spec = spec
        self._origin = origin or Origin(seed=run_id)
        self._journal = recorder.journal
        roles = spec.roles
        self._accounts = Accounts(roles.price_sources, roles.prices, partial(upstreams, spec.loaded.dataflow))
        self._accounts.take_up(self._origin.before)
        self._sink = to_both(self._accounts, self._journal.deliver_to(sink))
        self._journal.on_loss = partial(_report_loss, self._sink, run_id)
        clock = RunClock(self._journal.pause)
        self._journal.timed = spec.limits.seconds is not None
        budget = Budget(
            spec.limits, strict_usd=spec.strict_usd, parent=within, ledger=self._journal.ledger, clock=clock
        )
        if budget.leases and self._origin.budgets:
            budget.draws = budgets.Draws()
            self._accounts.draw_on(budget.draws, {one.name for one in self._origin.budgets})
        charged = [event for event in self._origin.before.events if isinstance(event, AttemptCharged)]
        self._learned = PinnedFigures(spec, self._journal)
        self._shared = Shared(
            run_id,
            self._sink,
            recorder,
            self._origin.seed,
            clock,
            person=person,
            charged=charged,
            learned=self._learned,
        )
        self._pipeline = PipelineRun(spec, self._shared, budget, stream=stream)
        self.outcome = self._pipeline.outcome
        self._started_at = self._origin.started or datetime.now(UTC)
        self._started = time.monotonic() - self._journal.seconds

    async def execute(self) -> Result:
        """Run to the end and return the Result, also of a failed run. Cancellation passes through."""
        self._report_start()
        budgets.essential.set(True)
        try:
            async with self._journal.delivering():
                await self._pin_learned()
                await self._pipeline.execute()
        except BaseExceptionGroup as group:
            self.outcome.fail(first_error(group), group)
        try:
            await self._journal.written()
        except Exception as error:  # noqa: BLE001 - a fault of the user's sink ends the run, not the loop
            self.outcome.fail(error)
        return self._end()

    def interrupted(self) -> Result:
        """Return the Result of a cancelled run: everything finished so far."""
        self.outcome.cause = asyncio.CancelledError()
        return self._end()

    def failed(self, error: FusionError) -> Result:
        """Return the Result of a run that is not executed, since this error is its outcome."""
        self.outcome.fail(error)
        return self._end()

    def _end(self) -> Result:
        outcome, seconds = self.outcome, time.monotonic() - self._started
        if outcome.cause is not None:
            self._journal.set_aside(self._shared.unusable)
        result = outcome.result(
            self._accounts,
            profile=self._spec.profile,
            started=self._started_at,
            seconds=seconds,
            tags=self._origin.tags,
        )
        self._sink(RunFinished(run_id=self.run_id, status=result.status, seconds=seconds, failure=result.error))
        return result

    def _report_start(self) -> None:
        pipeline, roles = self._spec.pipeline, self._spec.roles
        self._sink(
            RunStarted(
                run_id=self.run_id,
                pipeline=pipeline.name,
                profile=self._spec.profile,
                roles={name: role.models[0].id for name, role in roles.all.items()},
                stages={name: stage.kind for name, stage in pipeline.stages.items()},
                session=self._origin.session,
                parent=self._origin.parent,
                tags=dict(self._origin.tags),
                budgets=self._origin.budgets,
            )
        )
        for note in (*self._origin.notes, *self._spec.notes, *roles.notes, *roles.unpriced):
            self._sink(Noted(run_id=self.run_id, message=note))

    async def _pin_learned(self) -> None:
        """Keep the learned figures on disk before anything rests on them, and note those that expressions read.

        A damaged file fails the stage that reads it.
        """
        if self._spec.learned is None:
            return
        with suppress(UsageError):
            self._learned.pin()
            await self._journal.written()
            for note in learned_notes(self._learned, self._spec):
                self._sink(Noted(run_id=self.run_id, message=note))


def _report_loss(sink: Sink, run_id: str, reason: str) -> None:
    message = f"the run is no longer kept, and cannot be resumed from here on: {reason}"
    sink(Noted(run_id=run_id, message=message))


class PipelineRun:
    """Execution of one pipeline: that of the run, or one nested in the stage at `place`, under the caps `around`."""

    def __init__(
        self,
        spec: RunSpec,
        shared: Shared,
        budget: Budget,
        *,
        around: Caps = UNCAPPED,
        place: str = "",
        stream: bool = False,
        step_prefix: str = "",
        variables: Mapping[str, Any] = _NO_VARIABLES,
    ) -> None:
        stages = spec.loaded.dataflow.stages
        last = spec.loaded.dataflow.last if stream else ()
        if not step_prefix:  # what was spent for one item is not known apart
            shared.recorder.journal.restore(budget, place)
        self._spec = spec
        self._shared = shared
        self._run = RunParts(
            run_id=shared.run_id,
            spec=spec,
            sink=shared.sink,
            fields={path: Fields(stage.output_fields) for path, stage in stages.items()},
            streamed=frozenset(path for path in stages if path.partition("/")[0] in last),
            prefix=f"{place}/" if place else "",
            recorder=shared.recorder,
            seed=shared.seed,
            clock=shared.clock,
            budget_stops=shared.budget_stops,
            unusable=shared.unusable,
            gates=shared.gates,
            person=shared.person,
            conclusions=shared.conclusions,
            charged=shared.charged,
            step_prefix=step_prefix,
            learned=shared.learned,
            material=spec.material(),
            around=variables,
        )
        self._levels = Levels(self._run, budget, around)
        self.outcome = RunOutcome(self._run, stages)

    async def execute(self) -> None:
        """Run to the end; `outcome` holds answer or failure. Cancellation passes through."""
        budget = self._levels.budget
        budget.start()
        stages = self._runner()
        try:
            left = budget.seconds_by_clock()
            own, around = left.pop(self._shared.clock, None), min(left.values(), default=None)
            async with self._shared.clock.limit(own), asyncio.timeout(around), asyncio.TaskGroup() as group:
                await self._levels.hold_back()
                for name in self._spec.pipeline.stages:
                    group.create_task(stages.run(name), name=name)
                await self._take_output()
        except TimeoutError as error:
            self.outcome.fail(_overdue(budget), error)
        except BaseExceptionGroup as errors:
            self.outcome.fail(first_error(errors), errors)
        finally:
            self._levels.release()

    async def stage(self, path: str, scope: Scope | None = None) -> Outcome:
        """Run the stage at `path`, which is within another one, on that one's budget; for one item in a scope."""
        return await self._runner().run_inner(path, scope)

    async def pipeline(self, path: str, inputs: Mapping[str, Any], scope: Scope | None = None) -> Outcome:
        """Run the pipeline that the stage at `path` names, on that stage's budget; for one item in a scope."""
        inner = self._nested(
            path,
            inputs,
            self._shared if scope is None else self._shared.quiet(scope.index),
            stream=path in self._run.streamed and scope is None,
            step_prefix=self._step_prefix(scope),
        )
        if path in self.outcome.nested and self.outcome.nested[path].lost:
            self.outcome.partial.append(self.outcome.nested[path])
        self.outcome.nested[path] = inner.outcome
        await inner.execute()
        return inner.outcome.value()

    async def tool(self, path: str, inputs: Mapping[str, Any], mark: str) -> tuple[Outcome, tuple[FailedPart, ...]]:
        """Run the pipeline that a stage calls as the tool at `path`; return its output, and the parts that it lacks.

        `mark` begins the steps of all its calls: it names the call of the tool. Raises BudgetError if a budget of
        the stage or the run is exhausted, StageError for any other failure.
        """
        shared = replace(self._shared.quiet(mark), budget_stops=[])
        inner = self._nested(path, inputs, shared, step_prefix=mark)
        await inner.execute()
        around = set(_names(budgets.current.get()))
        self._shared.budget_stops.extend(stop for stop in shared.budget_stops if stop.level in around)
        cause = inner.outcome.cause
        if cause is None:
            return inner.outcome.value(), inner.outcome.lost
        if isinstance(cause, FusionError) and not (isinstance(cause, BudgetError) and cause.level in around):
            raise StageError(str(cause)) from cause
        raise cause

    def _nested(
        self, path: str, inputs: Mapping[str, Any], shared: Shared, *, step_prefix: str, stream: bool = False
    ) -> "PipelineRun":
        """Return the run of the pipeline at `path`, on the budget of the stage that runs it."""
        one = self._spec.loaded.nested[path]
        request, values = filled_within(one.pipeline, self._spec.request, inputs, material=one.dataflow.material)
        spec = self._finishing(self._spec.within(path, request, values))
        return PipelineRun(
            spec,
            shared,
            Budget(spec.limits, name=spec.pipeline.name, parent=_above()),
            around=self._levels.caps_of(path),
            place=self._run.prefix + path,
            stream=stream,
            step_prefix=step_prefix,
        )

    async def round(self, path: str, number: int, around: Mapping[str, Any], scope: Scope | None = None) -> Round:
        """Run a round of the body of the stage at `path`, on that stage's budget."""
        spec = self._finishing(self._spec.within(path, self._spec.request, self._spec.inputs))
        if number > 1 and self._spec.pipeline.on_budget == "finish":
            self._check_room(spec, f"round {number} of {self._run.prefix}{path}")
        inner = BodyRun(
            spec,
            self._shared if scope is None else self._shared.quiet(scope.index),
            Budget(name=f"round {number}", parent=_above()),
            around=self._levels.caps_of(path),
            place=f"{self._run.prefix}{path}/{number}",
            step_prefix=self._step_prefix(scope),
            variables=around,
        )
        self.outcome.add_round(path, inner.outcome, anew=scope is not None and number == 1)
        await inner.execute()
        return await inner.ended()

    def _check_room(self, spec: RunSpec, name: str) -> None:
        """Raise BudgetError if one call of each stage of a pipeline no longer fits; the run is then partial."""
        above, need = _above(), one_of_each(spec)
        if above.has_room(need):
            return
        try:
            above.hold(need, name).release()
        except BudgetError as error:
            self._run.budget_stops.append(error)
            raise

    def _finishing(self, spec: RunSpec) -> RunSpec:
        """Return the spec of a pipeline in this one, which finishes on an exhausted budget if this one does."""
        if self._spec.pipeline.on_budget != "finish":
            return spec
        pipeline = spec.pipeline.model_copy(update={"on_budget": "finish"})
        return replace(spec, loaded=replace(spec.loaded, pipeline=pipeline))

    def _step_prefix(self, scope: Scope | None) -> str:
        return self._run.step_prefix if scope is None else f"{self._run.step_prefix}{scope.index + 1}."

    def _runner(self) -> StageRunner:
        return StageRunner(self._run, self._levels, self.outcome, inner=self)

    async def _take_output(self) -> None:
        try:
            for name, parts in self._spec.loaded.dataflow.outputs.items():
                self.outcome.answer[name] = await self._output(name, parts)
        except Waits:
            return  # the stages that go on are not cancelled
        except Skipped as skipped:
            error = StageError(f"there is no answer: {skipped}")
            self.outcome.fail(error, skipped)
            raise error from skipped

    async def _output(self, name: str, parts: Mapping[str, Part]) -> Any:
        output, source = self._spec.pipeline.output, self._spec.pipeline.outputs[name]
        values = await read(parts, self._run.fields)
        variables = {"inputs": self._spec.inputs, "request": self._spec.request, **values}
        value = await clock.run(partial(_finite, self._spec.prompts.expression(source), variables))
        if not isinstance(output, Table):
            return value
        items = items_of(f"output.over: {source}", value)
        work = partial(self._table, output, items, variables)
        return await clock.run(work, size=len(items) * _ROW, seconds=clock.HEAVY_SECONDS * (1 + len(items) / 1000))

    def _table(self, table: Table, items: Sequence[Item], variables: Mapping[str, Any]) -> TableAnswer:
        def evaluate(source: str, item: Item) -> Any:
            return _finite(self._spec.prompts.expression(source), {**variables, "item": item})

        text, rows = table.written(items, evaluate)
        return TableAnswer(text, rows, tuple(items))


class BodyRun(PipelineRun):
    """A round of a body. Its stage reads the outputs once it has ended."""

    async def _take_output(self) -> None:
        pass

    async def ended(self) -> Round:
        """Return the round. Raises the cause of a failure, and Waits."""
        if self.outcome.cause is not None:
            raise self.outcome.cause
        if self.outcome.waiting:
            raise Waits
        (answer,) = self._spec.loaded.dataflow.outputs["output"]
        with _answers(f"there is no answer of {self._run.prefix}{answer}"):
            return Round(await outcome_of(self._run.fields[answer]), self._read)

    async def _read(self, key: str) -> dict[str, Any]:
        with _answers(f"`{key}` cannot be evaluated"):
            return await read(self._spec.loaded.dataflow.outputs[key], self._run.fields)


@contextmanager
def _answers(otherwise: str) -> Iterator[None]:
    """Turn the skip of a stage that is read into a StageError."""
    try:
        yield
    except Skipped as skipped:
        raise StageError(f"{otherwise}: {skipped}") from skipped


def _above() -> Budget:
    """Return the budget of the current task."""
    above = budgets.current.get()
    assert above is not None
    return above


def _names(budget: Budget | None) -> Iterator[str]:
    """Yield the names of a budget and those above it."""
    while budget is not None:
        yield budget.name
        budget = budget.parent


def _finite(expression: Expression, variables: Mapping[str, Any]) -> Any:
    """Return the value of an expression. Raises PromptError for NaN or an infinity, which JSON cannot hold."""
    value = expression.evaluate(variables)
    left = [value]
    while left:
        clock.check()
        match left.pop():
            case float() as number if not isfinite(number):
                raise PromptError(f"expression {expression.source!r}: it gives {number}, which JSON cannot hold")
            case Mapping() as part:
                left += part.values()
            case list() | tuple() as part:
                left += part
    return value


def _overdue(budget: Budget) -> BudgetError:
    """The error of the nearest budget with a limit in seconds."""
    level = budget
    while level.limits.seconds is None and level.parent is not None:
        level = level.parent
    whose = f"the {level.title} with" if level.declared_in else "its"
    return BudgetError(
        f"the run took longer than {whose} {level.limits.seconds:g} s; raise `{level.key('seconds')}`",
        limit="seconds",
        level=level.name,
    )
