"""Runs a pipeline: starts every stage at once, joins them by their fields, cancels, finishes."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from fusion.core import budget as budgets
from fusion.core.budget import Budget, Hold
from fusion.core.errors import BudgetError, FusionError, StageError
from fusion.core.events import EventBase, Noted, RunFinished, RunStarted, Sink, StageFinished
from fusion.core.result import FailedPart, Result, StageResult
from fusion.core.types import Failure, Item, Limits, as_text
from fusion.engine.context import RunContext, RunParts
from fusion.engine.fields import Fields, Skipped, read
from fusion.engine.holdback import Caps, held_back
from fusion.engine.receipt import Accounts, Before
from fusion.engine.roles import unpriced
from fusion.engine.run_spec import RunSpec
from fusion.models.gateway import Keeping
from fusion.pipeline.dataflow import Part, stages_within
from fusion.pipeline.inputs import filled_within, plain
from fusion.stages.base import Stage
from fusion.stages.context import Outcome

_OUT_OF_TIME = "out of time"
_NOTHING = Before()

StageStatus = Literal["ok", "skipped", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Around:
    """What is around a nested pipeline: the path of the stage that runs it, that stage's budget, and how much it is.

    Where the run around it is to finish when its budget is used up, so is this one.
    """

    place: str
    budget: Budget
    caps: Caps
    finishing: bool


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a run comes from: the run it goes back to, how often it was taken up, and the user's words for it.

    `seed` is what orders that are to look random are made of, the same for all runs that go back to one.
    """

    seed: str
    parent: str | None = None
    session: int = 1
    tags: Mapping[str, str] = field(default_factory=dict)
    started: datetime | None = None
    before: Before = _NOTHING
    """What was called and spent before the run was taken up again."""
    notes: tuple[str, ...] = ()
    """What is to be said at its start."""


@dataclass
class _Record:
    """How a stage ended."""

    status: StageStatus = "cancelled"
    seconds: float = 0.0
    failure: Failure | None = None


class Run:
    """One execution of a pipeline on one set of inputs.

    Under a dollar limit that the user gave by hand, calls of unknown price are refused. Each nested pipeline is a Run
    again, with the same id, whose stages' paths begin with `around.place` and whose budget stands beneath the one
    there. `keeping` is the journal and the caches that its calls go through. `within` is a budget that it shares with
    other runs on the same loop.
    """

    def __init__(
        self,
        run_id: str,
        spec: RunSpec,
        *,
        sink: Sink,
        stream: bool,
        around: Around | None = None,
        keeping: Keeping | None = None,
        origin: Origin | None = None,
        within: Budget | None = None,
    ) -> None:
        self.run_id = run_id
        self.exit_code = 0
        self.cause: BaseException | None = None
        if around is not None and around.finishing:
            finishing = spec.pipeline.model_copy(update={"on_budget": "finish"})
            spec = replace(spec, loaded=replace(spec.loaded, pipeline=finishing))
        loaded, roles, limits = spec.loaded, spec.roles, spec.limits
        self._spec = spec
        self._pipeline = pipeline = loaded.pipeline
        self._origin = origin or Origin(seed=run_id)
        self._keeping = keeping or Keeping()
        self._journal = self._keeping.journal
        self._user_sink = sink if around is not None or self._journal is None else self._journal.telling(sink)
        self._accounts = Accounts({name: model.price_source for name, model in roles.models.items()})
        if around is None:
            self._accounts.take_up(self._origin.before)
        self._budget = Budget(
            limits,
            strict_usd=spec.strict_usd,
            name="run" if around is None else pipeline.name,
            parent=within if around is None else around.budget,
            ledger=self._journal,
        )
        self._resume(self._budget, "" if around is None else around.place)
        if self._journal is not None and around is None:
            self._journal.on_loss = self._say_loss
        self._caps = Caps.of(limits) if around is None else Caps.of(limits).within(around.caps)
        self._around = around
        self._runs: dict[str, Run] = {}
        self._all_stages = stages_within(pipeline.stages)
        self._records = {path: _Record() for path in self._all_stages}
        self._parts = RunParts(
            run_id=run_id,
            spec=spec,
            sink=self._sink,
            fields={path: Fields(stage.outputs) for path, stage in self._all_stages.items()},
            streamed=frozenset(self._streamed(loaded.dataflow.last)) if stream else frozenset(),
            inner=_Inner(self),
            prefix="" if around is None else f"{around.place}/",
            keeping=self._keeping,
            seed=self._origin.seed,
        )
        self._answer: dict[str, Any] = {}
        self._held: dict[str, Hold] = {}
        self._started_at = self._origin.started or datetime.now(UTC)
        self._started = time.monotonic() - (0.0 if self._journal is None else self._journal.seconds)

    async def execute(self) -> Result:
        """Run to the end. Failures are in the Result; cancellation passes through, `interrupted` gives its Result."""
        self._budget.start()
        if self._around is None:
            self._sink(self._first_event())
            for note in (*self._origin.notes, *self._spec.roles.notes, *unpriced(self._spec.roles)):
                self._sink(Noted(run_id=self.run_id, message=note))
        try:
            async with asyncio.timeout(self._budget.remaining_seconds()):
                await self._all()
        except TimeoutError as error:
            self._fail(_overdue(self._budget.limits), error)
        except BaseExceptionGroup as group:
            if self.cause is None:
                self._fail(_first(group), group)
        await self._all_told()
        return self._end()

    async def _all_told(self) -> None:
        """Wait until all that was done is on disk and told: what goes wrong there is said before the run's end."""
        if self._journal is not None and self._around is None:
            try:
                await self._journal.written()
            except Exception as error:  # noqa: BLE001 - the border of the run: a fault of who listens to it
                self._fail(error, error)

    def interrupted(self) -> Result:
        """The Result of a run that was cancelled: what was finished until then."""
        self.cause, self.exit_code = asyncio.CancelledError(), 130
        return self._end()

    async def _all(self) -> None:
        stages = self._pipeline.stages
        levels = self._levels()
        async with self._telling(), asyncio.TaskGroup() as group:
            for name, stage in stages.items():
                group.create_task(self._stage(name, stage, levels[name]), name=name)
            group.create_task(self._take_output(), name="output")

    @asynccontextmanager
    async def _telling(self) -> AsyncIterator[None]:
        """Meanwhile, who listens to the run is told of it."""
        if self._journal is None or self._around is not None:
            yield
            return
        async with asyncio.TaskGroup() as group:
            telling = group.create_task(self._journal.tell(), name="telling")
            try:
                yield
            finally:
                telling.cancel()

    def _levels(self) -> dict[str, Budget]:
        """The budget that each stage draws on: its own, what is held back for it, or the run's."""
        held = self._held = self._held_back()
        levels = {}
        for name, stage in self._pipeline.stages.items():
            level: Budget = held.get(name, self._budget)
            levels[name] = self._level(level, stage, name)
        return levels

    def _level(self, above: Budget, stage: Stage, path: str) -> Budget:
        """The budget of a stage beneath another one; that one where it has none of its own."""
        if stage.budget is None:
            return above
        return self._resume(above.child(stage.budget, path), self._parts.prefix + path)

    def _resume(self, budget: Budget, place: str) -> Budget:
        """A budget with what was spent of it before the run was resumed; "" is all of the run."""
        if self._journal is not None and self._origin.session > 1:
            spent, unknown = self._journal.spent(place)
            budget.resume(spent, unknown_calls=unknown, seconds=0.0 if place else self._journal.seconds)
        return budget

    def _held_back(self) -> dict[str, Hold]:
        try:
            return held_back(self._spec, self._budget, self._caps)
        except BudgetError:  # so little is left around this pipeline that nothing of it can be put aside
            return {}

    # One stage.

    async def _stage(self, name: str, stage: Stage, level: Budget) -> None:
        ctx = RunContext(name, stage, self._parts)
        record = self._records[name]
        budgets.current.set(level)
        try:
            await self._ready(name, stage, ctx)
            await self._run(stage, ctx)
            record.status = "ok"
            self._parts.fields[name].finish()
        except Skipped as skipped:
            self._skip(name, stage, skipped.reason if skipped.stage == name else str(skipped))
        except Exception as error:
            record.failure = _failure(error)
            self._set_aside(error)
            if not (isinstance(error, FusionError) and stage.survives(error, finishing=ctx.finishing)):
                record.status = "failed"
                self._fail(error, error)
                raise
            self._skip(name, stage, str(error))
        finally:
            record.seconds = ctx.seconds
            if record.status != "cancelled":
                self._sink(self._stage_finished(name, stage, record))

    async def inner_stage(self, path: str) -> Outcome:
        """Run a stage that stands within another, on the budget of that one."""
        stage, record, fields = self._all_stages[path], self._records[path], self._parts.fields[path]
        ctx = RunContext(path, stage, self._parts)
        outer = budgets.current.get()
        level = budgets.current.set(None if outer is None else self._level(outer, stage, path))
        try:
            await self._run(stage, ctx)
            record.status = "ok"
            fields.finish()
        except Exception as error:
            record.status, record.failure = "failed", _failure(error)
            self._set_aside(error)
            if not (isinstance(error, FusionError) and stage.survives(error, finishing=ctx.finishing)):
                raise
            raise Skipped(path, str(error)) from error
        finally:
            budgets.current.reset(level)
            record.seconds = ctx.seconds
            if record.status != "cancelled":
                self._sink(self._stage_finished(path, stage, record))
        first = plain(await fields.value(fields.first))
        text = "\n\n".join(map(as_text, first)) if fields.items() else as_text(first)
        return Outcome(text, first if fields.items() else plain(fields.peek("data")), fields.peek("confidence"))

    async def inner_pipeline(self, path: str, inputs: Mapping[str, Any]) -> Outcome:
        """Run the pipeline that a stage names, on the budget of that stage."""
        nested, budget = self._spec.loaded.nested[path], budgets.current.get()
        assert budget is not None
        request, values = filled_within(nested.pipeline, self._spec.request, inputs)
        run = self._runs[path] = Run(
            self.run_id,
            self._spec.within(path, request, values),
            sink=self._sink,
            stream=path in self._parts.streamed,
            around=self._around_inner(path, budget),
            keeping=self._keeping,
            origin=self._origin,
        )
        try:
            result = await run.execute()
        finally:
            run.give_back()
            self._parts.budget_stops.extend(run._parts.budget_stops)
            self._parts.unusable.extend(run._parts.unusable)
        if run.cause is not None:
            raise run.cause
        return Outcome(result.text, result.data, run.confidence)

    def _around_inner(self, path: str, budget: Budget) -> Around:
        top = path.partition("/")[0]
        held, own = self._held.get(top), self._pipeline.stages[top].budget
        caps = self._caps if held is None else Caps(*held.pledged).within(self._caps)
        if own is not None:
            caps = Caps.of(own).within(caps)
        return Around(self._parts.prefix + path, budget, caps, self._pipeline.on_budget == "finish")

    def _streamed(self, last: list[str]) -> list[str]:
        """The stages whose answers are handed on in pieces: the last ones, and those within them."""
        return [path for path in self._all_stages if path.partition("/")[0] in last]

    async def _run(self, stage: Stage, ctx: RunContext) -> None:
        if stage.keeps_time:
            await stage.run(ctx)
            return
        if (reason := ctx.journal.kept(_OUT_OF_TIME)) is not None:
            raise StageError(reason)
        try:
            async with ctx.time_limit():
                await stage.run(ctx)
        except TimeoutError as error:
            late = StageError(f"not done within the stage's timeout of {stage.timeout:g} s; raise `timeout`")
            if stage.survives(late, finishing=ctx.finishing):
                ctx.journal.keep(_OUT_OF_TIME, str(late))
            raise late from error

    def _set_aside(self, error: BaseException) -> None:
        """What no stage could use is asked anew, if the run fails and is resumed."""
        if isinstance(error, FusionError):
            self._parts.unusable.extend(error.calls)

    async def _ready(self, name: str, stage: Stage, ctx: RunContext) -> None:
        """Wait for what the stage needs; raises Skipped where its `when` is false."""
        for other in stage.needs:
            await self._parts.fields[other].over()
        if stage.when is None:
            return
        values = await read(self._parts.wirings[name].when, self._parts.fields)
        variables = {"inputs": self._spec.inputs, "request": self._spec.request, **values}
        if not ctx.inputs.evaluate(stage.when, variables):
            raise Skipped(name, f"`when: {stage.when}` is false")

    def _skip(self, name: str, stage: Stage, reason: str) -> None:
        self._records[name].status = "skipped"
        self._parts.fields[name].skip(Skipped(name, reason), stage.if_skipped)

    # The output.

    async def _take_output(self) -> None:
        try:
            for name, parts in self._spec.loaded.dataflow.outputs.items():
                self._answer[name] = await self._output(name, parts)
        except Skipped as skipped:
            error = StageError(f"there is no answer: {skipped}")
            self._fail(error, skipped)
            raise error from skipped

    async def _output(self, name: str, parts: Mapping[str, Part]) -> Any:
        output = self._pipeline.output
        source = output if isinstance(output, str) else output[name]
        values = await read(parts, self._parts.fields)
        variables = {"inputs": self._spec.inputs, "request": self._spec.request, **values}
        return self._spec.prompts.expression(source).evaluate(variables)

    # The end.

    def _fail(self, error: BaseException, cause: BaseException) -> None:
        """Keep the first root cause."""
        if self.cause is None:
            self.cause = error
            if error is not cause and error.__cause__ is None:
                error.__cause__ = cause
            self.exit_code = error.exit_code if isinstance(error, FusionError) else 1

    @property
    def confidence(self) -> float | None:
        """How sure the stage is of it whose answer is the output, where it says so."""
        fields = self._parts.fields.get(str(self._pipeline.output).removesuffix(".text"))
        return None if fields is None else fields.peek("confidence")

    @property
    def budget_stops(self) -> tuple[BudgetError, ...]:
        """The limits that ended the run, or that it was finished without passing."""
        ended = (self.cause,) if isinstance(self.cause, BudgetError) else ()
        return (*ended, *self._parts.budget_stops)

    def give_back(self) -> None:
        """Give back what is still held of the budget; a second call changes nothing."""
        for hold in self._held.values():
            hold.release()

    def _end(self) -> Result:
        seconds = time.monotonic() - self._started
        self.give_back()
        failed = self._failed_parts()
        status: Literal["ok", "partial", "failed"] = "ok"
        if self.cause is not None:
            status = "failed"
            if self._journal is not None and self._around is None:
                self._journal.set_aside(tuple(dict.fromkeys(self._parts.unusable)))
        elif failed or self._parts.budget_stops:
            status = "partial"
            self.exit_code = 4 if self._parts.budget_stops else 0
        error = None if self.cause is None else _failure(self.cause)
        if self._around is None:
            self._sink(RunFinished(run_id=self.run_id, status=status, seconds=seconds, failure=error))
        receipt = self._accounts.receipt(seconds, self._origin.tags)
        text, data, items = self._shown()
        return Result(
            run_id=self.run_id,
            pipeline=self._pipeline.name,
            profile=self._spec.profile,
            started=self._started_at,
            seconds=seconds,
            status=status,
            text=text,
            data=data,
            items=items,
            failed=failed,
            error=error,
            models=self._accounts.served(),
            usage=receipt.usage,
            cost=receipt.cost,
            stages=self._stage_results(),
            receipt=receipt,
            notes=tuple(self._accounts.notes),
            tags=dict(self._origin.tags),
        )

    def _shown(self) -> tuple[str, Any, tuple[Item, ...]]:
        """Text, data and items of the answer; of a failed run the items that were finished last."""
        if self.cause is not None:
            done = [items for name in self._pipeline.stages if (items := self._parts.fields[name].items())]
            return "", None, done[-1] if done else ()
        if not isinstance(self._pipeline.output, str):
            data = {name: plain(value) for name, value in self._answer.items()}
            return as_text(data), data, ()
        value = self._answer[""]
        if isinstance(value, list) and all(isinstance(item, Item) for item in value) and value:
            usable = [item.value for item in value if item.ok]
            return "\n\n".join(as_text(one) for one in usable), usable, tuple(value)
        return as_text(value), self._data_of_output(value), ()

    def _data_of_output(self, value: Any) -> Any:
        """The data behind an answer's text, where the stage that wrote it gives some."""
        if not isinstance(value, str):
            return plain(value)
        fields = self._parts.fields.get(str(self._pipeline.output))
        return fields.peek("data") if fields is not None else None

    def _failed_parts(self) -> tuple[FailedPart, ...]:
        """Each failure once, where it came up first."""
        parts: dict[tuple[int | None, Failure], FailedPart] = {}
        for path in sorted(self._all_stages, key=lambda path: -path.count("/")):  # stages within others first
            place = self._parts.prefix + path
            for part in self._runs[path]._failed_parts() if path in self._runs else ():
                parts.setdefault((part.item, part.failure), part)
            for item in self._parts.fields[path].items():
                if item.failure is not None:
                    part = FailedPart(stage=place, item=item.index, failure=item.failure)
                    parts.setdefault((item.index, item.failure), part)
            failure = self._records[path].failure
            if failure is not None:
                parts.setdefault((None, failure), FailedPart(stage=place, failure=failure))
        return tuple(parts.values())

    def _stage_results(self) -> dict[str, StageResult]:
        """How each stage ended, and those within it that were begun."""
        results: dict[str, StageResult] = {}
        for path, stage in self._all_stages.items():
            record = self._records[path]
            decided = self._accounts.decisions.get(self._parts.prefix + path)
            if path in self._pipeline.stages or record.status != "cancelled":
                results[self._parts.prefix + path] = StageResult(
                    kind=stage.kind,
                    status=record.status,
                    seconds=record.seconds,
                    items=self._parts.fields[path].items(),
                    failure=record.failure,
                    decision=None if decided is None else decided.decision,
                    reason="" if decided is None else decided.reason,
                )
            if path in self._runs:
                results.update(self._runs[path]._stage_results())
        return results

    # Events.

    def _sink(self, event: EventBase) -> None:
        self._accounts(event)
        self._user_sink(event)

    def _first_event(self) -> RunStarted:
        return RunStarted(
            run_id=self.run_id,
            pipeline=self._pipeline.name,
            profile=self._spec.profile,
            roles={name: role.models[0].id for name, role in self._spec.roles.all.items()},
            stages={name: stage.kind for name, stage in self._pipeline.stages.items()},
            session=self._origin.session,
            parent=self._origin.parent,
            tags=dict(self._origin.tags),
        )

    def _say_loss(self, reason: str) -> None:
        message = f"the run is no longer kept, and cannot be resumed from here on: {reason}"
        self._sink(Noted(run_id=self.run_id, message=message))

    def _stage_finished(self, name: str, stage: Stage, record: _Record) -> StageFinished:
        assert record.status != "cancelled"
        return StageFinished(
            run_id=self.run_id,
            stage=self._parts.prefix + name,
            kind=stage.kind,
            status=record.status,
            seconds=record.seconds,
            failure=record.failure,
        )


class _Inner:
    """What the contexts of a run may ask of it."""

    def __init__(self, run: Run) -> None:
        self.stage = run.inner_stage
        self.pipeline = run.inner_pipeline


def _failure(error: BaseException) -> Failure:
    if isinstance(error, FusionError):
        return error.as_failure()
    if isinstance(error, asyncio.CancelledError):
        return Failure(reason="Interrupted", message="the run was interrupted; what was finished is kept")
    return Failure(reason=type(error).__name__, message=str(error) or "a fault of Fusion's own")


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _overdue(limits: Limits) -> BudgetError:
    return BudgetError(f"the run took longer than its {limits.seconds:g} s; raise `budget.seconds`", limit="seconds")
