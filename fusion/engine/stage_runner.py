"""StageRunner: runs the stages of one pipeline and records their ends."""

import asyncio
from typing import Final

from fusion.core import budget as budgets
from fusion.core.errors import FusionError, StageError, Waits, failure_of
from fusion.core.events import StageFinished
from fusion.core.types import as_text
from fusion.engine.budgets.levels import Levels
from fusion.engine.context import Inner, RunContext, RunParts, Scope
from fusion.engine.fields import Fields, Skipped, read
from fusion.engine.outcome import RunOutcome, StageRecord
from fusion.pipeline.inputs.values import plain
from fusion.stages.base import Stage
from fusion.stages.context import Outcome

_OUT_OF_TIME: Final = "out of time"


class StageRunner:
    """Runs stages, each on a budget of `levels`, and records their ends in `outcome`."""

    def __init__(self, run: RunParts, levels: Levels, outcome: RunOutcome, inner: Inner) -> None:
        self._run = run
        self._inner = inner
        self._levels = levels
        self._outcome = outcome

    async def run(self, name: str) -> None:
        """Run a stage of the pipeline once its inputs are complete. Raises the error that ends the run."""
        ctx = self._context(name)
        budgets.current.set(self._levels.of(name))
        if self._dispensable(ctx.stage):
            budgets.essential.set(False)
        record = self._outcome.records[name]
        try:
            await self._ready(ctx)
            await self._work(ctx, record)
        except Skipped as skipped:
            self._skip(ctx, record, skipped.reason if skipped.stage == name else str(skipped))
        except Waits as signal:
            record.status = "waiting"
            self._run.fields[name].hold(signal)
        except Exception as error:
            if not self._survives(ctx, record, error):
                record.status = "failed"
                self._outcome.fail(error)
                raise
            self._skip(ctx, record, str(error))
        finally:
            self._end(ctx, record)

    async def run_inner(self, path: str, scope: Scope | None = None) -> Outcome:
        """Run a stage within another one, on that one's budget. Raises Skipped if the pipeline goes on without it."""
        if scope is not None:
            return await self._run_for_item(path, scope)
        ctx, fields = self._context(path), self._run.fields[path]
        outer = budgets.current.get()
        level = budgets.current.set(None if outer is None else self._levels.beneath(outer, ctx.stage, path))
        record = self._outcome.records[path]
        try:
            await self._work(ctx, record)
        except Waits:
            record.status = "waiting"
            raise
        except Exception as error:
            record.status = "failed"
            if not self._survives(ctx, record, error):
                raise
            raise Skipped(path, str(error)) from error
        finally:
            budgets.current.reset(level)
            self._end(ctx, record)
        return await outcome_of(fields)

    async def _run_for_item(self, path: str, scope: Scope) -> Outcome:
        """Run a stage within another one for one item; its limits hold for all items together."""
        record = self._outcome.records[path]
        fields = Fields(self._run.spec.loaded.dataflow.stages[path].output_fields)
        ctx = self._context(path, fields, scope)
        outer = budgets.current.get()
        level = budgets.current.set(outer if outer is None else self._levels.shared(outer, ctx.stage, path))
        try:
            await self._work(ctx, record)
        except Waits:
            record.status = "waiting"
            raise
        finally:
            budgets.current.reset(level)
            record.seconds += ctx.seconds
            ctx.end()
        return await outcome_of(fields)

    def _context(self, path: str, fields: Fields | None = None, scope: Scope | None = None) -> RunContext:
        stage = self._run.spec.loaded.dataflow.stages[path]
        return RunContext(path, stage, self._run, fields, self._inner, scope)

    def _end(self, ctx: RunContext, record: StageRecord) -> None:
        """Record the time of a stage, and send a StageFinished event, unless it was cancelled."""
        record.seconds = ctx.seconds
        if record.status != "cancelled":
            self._run.sink(
                StageFinished(
                    run_id=self._run.run_id,
                    stage=ctx.place,
                    kind=ctx.stage.kind,
                    status=record.status,
                    seconds=record.seconds,
                    failure=record.failure,
                )
            )
        ctx.end()

    async def _ready(self, ctx: RunContext) -> None:
        """Wait for the stages that this one needs. Raises Skipped if its `when` is false."""
        run, stage = self._run, ctx.stage
        for other in stage.needs:
            await run.fields[other].over()
        if stage.when is None:
            return
        values = await read(run.wirings[ctx.path].when, run.fields)
        seen = {**run.variables, **values}
        if not await ctx.inputs.value_of(stage.when, seen):
            raise Skipped(ctx.path, f"`when: {stage.when}` is false")

    async def _work(self, ctx: RunContext, record: StageRecord) -> None:
        try:
            if ctx.stage.timeout is None or ctx.stage.ends_itself:
                await ctx.stage.run(ctx)
            else:
                await self._work_in_time(ctx)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise StageError(f"{ctx.place} cancelled its own work (CancelledError in its code)") from error
        if record.status != "waiting":  # for another item
            record.status = "ok"
        ctx.fields.finish()

    async def _work_in_time(self, ctx: RunContext) -> None:
        stage = ctx.stage
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

    def _survives(self, ctx: RunContext, record: StageRecord, error: Exception) -> bool:
        """Record a failure and its unusable replies; return True if the pipeline goes on without the stage."""
        record.failure = failure_of(error)
        if not isinstance(error, FusionError):
            return False
        self._run.unusable.extend(error.calls)
        return ctx.stage.survives(error, finishing=ctx.finishing)

    def _dispensable(self, stage: Stage) -> bool:
        """Return True for a stage whose readers go on with its default if the budget is exhausted."""
        return stage.on_error == "skip" and not stage.ends_itself and stage.if_skipped is not None

    def _skip(self, ctx: RunContext, record: StageRecord, reason: str) -> None:
        record.status = "skipped"
        self._run.fields[ctx.path].skip(Skipped(ctx.path, reason), ctx.stage.if_skipped)


async def outcome_of(fields: Fields) -> Outcome:
    """Return the output of an inner stage: that of its fields, or the values of its items."""
    first = plain(await fields.value(fields.first))
    text = "\n\n".join(map(as_text, first)) if fields.items() else as_text(first)
    return Outcome(text, first if fields.items() else plain(fields.peek("data")), fields.peek("confidence"))
