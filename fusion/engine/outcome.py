"""RunOutcome: the end of a run, from its root cause and exit code to its Result."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

from fusion.core.errors import BudgetError, ContentFilterError, FusionError, StageError, Waits, failure_of
from fusion.core.result import FailedPart, Result, StageResult, call_id
from fusion.core.types import Failure, Item, as_text
from fusion.engine.context import RunParts
from fusion.engine.receipt import Accounts
from fusion.pipeline.inputs.values import plain
from fusion.stages.base import Stage
from fusion.stages.context import Conclusion, Outcome

RunStatus = Literal["ok", "partial", "failed", "waiting"]
StageStatus = Literal["ok", "skipped", "failed", "cancelled", "waiting"]


class TableAnswer(NamedTuple):
    """A table as the answer: its text, its rows by column, and the items that they are made of."""

    text: str
    rows: list[dict[str, Any]]
    items: tuple[Item, ...]


@dataclass(slots=True)
class StageRecord:
    """End of one stage."""

    status: StageStatus = "cancelled"
    seconds: float = 0.0
    failure: Failure | None = None


class Ending:
    """End of a run: the root cause of a failure, the budget stops, and the exit code for both."""

    def __init__(self) -> None:
        self.cause: BaseException | None = None
        self.stops: list[BudgetError] = []

    @property
    def exit_code(self) -> int:
        if isinstance(self.cause, asyncio.CancelledError):
            return 130
        if self.cause is not None:
            return self.cause.exit_code if isinstance(self.cause, FusionError) else 1
        if self.waiting:
            return Waits.exit_code
        if self.stops:
            return BudgetError.exit_code
        return StageError.exit_code if self.lost else 0

    @property
    def waiting(self) -> bool:
        """True if the run waits for a person."""
        return False

    @property
    def lost(self) -> tuple[FailedPart, ...]:
        """Failed parts that the answer lacks, beyond a `min_ok` that the author wrote."""
        return ()

    @property
    def budget_stops(self) -> tuple[BudgetError, ...]:
        """Limits that ended the run, or that it finished without passing."""
        ended = (self.cause,) if isinstance(self.cause, BudgetError) else ()
        return (*ended, *self.stops)

    @property
    def failure(self) -> Failure | None:
        if isinstance(self.cause, asyncio.CancelledError):
            return Failure(reason="Interrupted", message="the run was interrupted; what was finished is kept")
        return None if self.cause is None else failure_of(self.cause)

    def fail(self, error: BaseException, cause: BaseException | None = None) -> None:
        """Record an error, raised by `cause`, as the root cause, unless there is one."""
        if self.cause is None:
            self.cause = error
            error.__cause__ = error.__cause__ or cause


class RunOutcome(Ending):
    """Outcome of one pipeline in a run, filled while it runs. Those of nested pipelines are in `nested`, by stage.

    `partial` holds earlier ones of nested pipelines that run once for each item, if they lost parts. `rounds` holds
    those of the rounds of a body, by stage.
    """

    def __init__(self, run: RunParts, stages: Mapping[str, Stage]) -> None:
        super().__init__()
        self.stops = run.budget_stops
        self.answer: dict[str, Any] = {}
        self.records = {path: StageRecord() for path in stages}
        self.nested: dict[str, RunOutcome] = {}
        self.partial: list[RunOutcome] = []
        self.rounds: dict[str, list[RunOutcome]] = {}
        self._run = run
        self._stages = stages

    def add_round(self, path: str, outcome: "RunOutcome", *, anew: bool) -> None:
        """Take up the outcome of a round of a body; `anew` drops those of the item before."""
        rounds = self.rounds.setdefault(path, [])
        if anew:
            self.partial += [one for one in rounds if one.lost]
            rounds.clear()
        rounds.append(outcome)

    def _status(self, failed: Sequence[FailedPart]) -> RunStatus:
        if self.cause is not None:
            return "failed"
        if self.waiting:
            return "waiting"
        return "partial" if self.stops or failed else "ok"

    @property
    def waiting(self) -> bool:
        if self.cause is not None:
            return False
        return any(self.records[name].status == "waiting" for name in self._run.spec.pipeline.stages)

    @property
    def lost(self) -> tuple[FailedPart, ...]:
        if self.cause is not None:
            return ()
        parts: dict[tuple[int | None, Failure], FailedPart] = {}
        accepted = self._accepted()
        for name, stage in self._run.spec.pipeline.stages.items():
            failure, place = self.records[name].failure, self._run.prefix + name
            if failure is not None and stage.if_skipped is None:
                parts.setdefault((None, failure), FailedPart(stage=place, failure=failure))
            for index, why in set(self._run.fields[name].failures()) - accepted:
                parts.setdefault((index, why), FailedPart(stage=place, item=index, failure=why))
        outcomes = (*self.nested.values(), *self._last_rounds(), *self.partial)
        within = [part for outcome in outcomes for part in outcome.lost]
        return (*within, *sorted(parts.values(), key=lambda part: -1 if part.item is None else part.item))

    def _last_rounds(self) -> list["RunOutcome"]:
        """Return the last round of each body that did not fail: its answer is the one that is taken."""
        ended = [[one for one in rounds if one.cause is None] for rounds in self.rounds.values()]
        return [rounds[-1] for rounds in ended if rounds]

    def _accepted(self) -> set[tuple[int | None, Failure]]:
        """Return the failed items within a `min_ok` that a stage states for its own items or for those it reads."""
        found: set[tuple[int | None, Failure]] = set()
        for name, stage in self._run.spec.pipeline.stages.items():
            if not stage.loses or "min_ok" in stage.model_fields_set:
                sources = self._run.wirings[name].sources & self._run.spec.pipeline.stages.keys()
                for one in (name, *sources):
                    found.update(self._run.fields[one].failures())
        return found

    def value(self) -> Outcome:
        """Return the answer for the stage that runs this pipeline. Raises the cause of a failure, and Waits."""
        if self.cause is not None:
            raise self.cause
        if self.waiting:
            raise Waits
        text, data, _ = self._shown()
        source = self._run.fields.get(str(self._run.spec.pipeline.output).removesuffix(".text"))
        return Outcome(text, data, None if source is None else source.peek("confidence"))

    def result(
        self, accounts: Accounts, *, profile: str, started: datetime, seconds: float, tags: Mapping[str, str]
    ) -> Result:
        receipt = accounts.receipt(seconds, tags)
        text, data, items = self._shown()
        failed = self._failed_parts()
        ended = self._conclusion()
        calls = () if ended is None else ended.tool_calls
        return Result(
            run_id=self._run.run_id,
            pipeline=self._run.spec.pipeline.name,
            profile=profile,
            started=started,
            seconds=seconds,
            status=self._status(failed),
            text=text,
            data=data,
            tool_calls=tuple(
                call.model_copy(update={"id": call_id(self._run.run_id, number)})
                for number, call in enumerate(calls, start=1)
            ),
            finish_reason=None if ended is None else ended.finish_reason,
            items=items,
            failed=failed,
            lost=self.lost if failed else (),
            waiting=tuple(self._run.gates) if self.waiting else (),
            error=self.failure,
            models=accounts.served(),
            usage=receipt.usage,
            cost=receipt.cost,
            stages=self._stage_results(accounts),
            receipt=receipt,
            notes=tuple(accounts.notes),
            tags=dict(tags),
        )

    def _conclusion(self) -> Conclusion | None:
        """Return the end of the answer's last call; None for a run without an answer."""
        if isinstance(self.cause, ContentFilterError):
            return Conclusion("content_filter")
        if self.cause is not None or self.waiting:
            return None
        place = f"{self._run.prefix}{self._run.spec.loaded.answering}"
        return self._run.conclusions.get(place, Conclusion())

    def _shown(self) -> tuple[str, Any, tuple[Item, ...]]:
        """Text, data and items of the answer; without one, the items of the last stage that has some."""
        pipeline, fields = self._run.spec.pipeline, self._run.fields
        if self.cause is not None or self.waiting:
            done = [items for name in pipeline.stages if (items := fields[name].items())]
            return "", None, done[-1] if done else ()
        if (ended := self._conclusion()) is not None and ended.tool_calls:
            name = str(self._run.spec.loaded.answering).partition("/")[0]
            return as_text(fields[name].peek("text") or ""), None, ()
        if isinstance(table := self.answer.get(""), TableAnswer):
            return table
        if not isinstance(pipeline.output, str):
            data = {name: plain(value) for name, value in self.answer.items()}
            return as_text(data), data, ()
        value = self.answer[""]
        if isinstance(value, list) and all(isinstance(item, Item) for item in value) and value:
            usable = [item.value for item in value if item.ok]
            return "\n\n".join(as_text(one) for one in usable), usable, tuple(value)
        if not isinstance(value, str):
            return as_text(value), plain(value), ()
        source = fields.get(pipeline.output)
        return value, None if source is None else source.peek("data"), ()

    def _failed_parts(self) -> tuple[FailedPart, ...]:
        """Return each failure once, at the innermost stage that met it."""
        parts: dict[tuple[int | None, Failure], FailedPart] = {}
        for part in (part for outcome in self.partial for part in outcome._failed_parts()):
            parts.setdefault((part.item, part.failure), part)
        for path in sorted(self._stages, key=lambda path: -path.count("/")):
            place = self._run.prefix + path
            for part in (part for outcome in self._within(path) for part in outcome._failed_parts()):
                parts.setdefault((part.item, part.failure), part)
            for index, why in self._run.fields[path].failures():
                parts.setdefault((index, why), FailedPart(stage=place, item=index, failure=why))
            failure = self.records[path].failure
            if failure is not None:
                parts.setdefault((None, failure), FailedPart(stage=place, failure=failure))
        return tuple(parts.values())

    def _stage_results(self, accounts: Accounts) -> dict[str, StageResult]:
        """Return the results of all stages, and of the inner ones that began, by path."""
        results: dict[str, StageResult] = {}
        for path, stage in self._stages.items():
            record, place = self.records[path], self._run.prefix + path
            decided = accounts.decisions.get(place)
            if path in self._run.spec.pipeline.stages or record.status != "cancelled":
                results[place] = StageResult(
                    kind=stage.kind,
                    status=record.status,
                    seconds=record.seconds,
                    items=self._run.fields[path].items(),
                    verdicts=self._run.fields[path].judged(),
                    failure=record.failure,
                    decision=None if decided is None else decided.decision,
                    reason="" if decided is None else decided.reason,
                )
            for outcome in self._within(path):
                results.update(outcome._stage_results(accounts))
        return results

    def _within(self, path: str) -> list["RunOutcome"]:
        """Return the outcomes of the pipeline that a stage runs, or of the rounds of its body."""
        return [*([self.nested[path]] if path in self.nested else []), *self.rounds.get(path, ())]
