"""Call: the panel of a run as an item of the output, and as events."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Final

from fusion.core import errors
from fusion.core.events import CallStarted, EventBase, ItemFinished, StageFinished
from fusion.core.result import Result
from fusion.core.types import Failure, Item
from fusion.server.base import INTERRUPTED, ServedRun
from fusion.server.dialects.openrouter.kept import KeptPanel
from fusion.server.dialects.openrouter.names import TOOL
from fusion.server.dialects.openrouter.panel import JUDGE, PANEL, Plan
from fusion.server.dialects.responses.writer import Frame, Writer
from fusion.server.runs.kept import KeptRun
from fusion.store.base import Store

Json = dict[str, Any]
_REASONS: Final[Mapping[str, str]] = {
    errors.BudgetError.__name__: "insufficient_credits",
    errors.RateLimitError.__name__: "rate_limited",
    INTERRUPTED: "cancelled",
}
_EMPTY: Final = "empty"


class FusionCall:
    """The item of a panel, which comes before the answer."""

    def __init__(self, plan: Plan, store: Store, run_id: str) -> None:
        self._plan = plan
        self._store = store
        self._run_id = run_id
        self._writer = Writer()
        self._place = 0
        self._done: set[int] = set()
        self._failed: list[Json] = [dict(one) for one in plan.failed]
        self._judging = False
        self._ended = False

    @property
    def model(self) -> str:
        """The model that writes the answer."""
        return self._plan.model

    def item(self, result: Result) -> Json:
        """Return the item of a run that has ended."""
        kept, panel = self._read(), result.stages.get(PANEL)
        items = () if panel is None else panel.items
        failed = [dict(one) for one in self._plan.failed]
        failed += [self._failure(one.failure) for one in items if one.failure is not None]
        return self._whole(kept, failed, _reason(kept, result))

    # Events.

    async def begin(self, writer: Writer, run: ServedRun) -> AsyncIterator[Frame]:
        """Write the beginning of the item, and what the store has of the panel already."""
        self._writer, self._place = writer, writer.item()
        begun = {**self._whole(KeptPanel.none(), [], None), "status": "in_progress"}
        yield writer.event("response.output_item.added", output_index=self._place, item=begun)
        yield self._event("in_progress")
        for name in [*self._plan.seats.values(), *(one["model"] for one in self._plan.failed)]:
            yield self._event("panel.added", model=name)
        for one in self._plan.failed:
            yield self._event("panel.failed", **one)
        kept = await self._kept()
        for event in kept.events:
            async for frame in self.take(event):
                yield frame
        if isinstance(run, KeptRun):
            async for frame in self.end(await run.result()):
                yield frame

    async def take(self, event: EventBase) -> AsyncIterator[Frame]:
        """Write what an event of the run changes."""
        match event:
            case ItemFinished(stage=stage, item=int(place)) if stage == PANEL and place not in self._done:
                self._done.add(place)
                for frame in await self._answered(place, event.failure):
                    yield frame
            case CallStarted(stage=stage) if stage == JUDGE and not self._judging:
                yield self._judged()
            case StageFinished(stage=stage) if stage == JUDGE and not self._ended:
                kept = await self._kept()
                if not self._judging:
                    yield self._judged()
                for frame in self._close(kept, _judge_reason(kept, event.failure, event.status)):
                    yield frame

    async def end(self, result: Result) -> AsyncIterator[Frame]:
        """Write the end of the item, if it is still open."""
        if self._ended:
            return
        kept, panel = await self._kept(), result.stages.get(PANEL)
        for item in () if panel is None else panel.items:
            if item.index not in self._done and (item.ok or item.failure is not None):
                self._done.add(item.index)
                for frame in self._settled(item):
                    yield frame
        if kept.analysis is not None and not self._judging:
            yield self._judged()
        for frame in self._close(kept, _reason(kept, result)):
            yield frame

    def _settled(self, item: Item) -> Iterator[Frame]:
        if item.failure is None:
            return self._told(str(item.by), str(item.value))
        return self._lost(item.failure)

    async def _answered(self, place: int, failure: Failure | None) -> list[Frame]:
        """Write the end of a member: its answer, or the reason why there is none."""
        if failure is not None:
            return list(self._lost(failure))
        kept = await self._kept()
        by, text = kept.answers.get(place, ("", ""))
        return list(self._told(by, text))

    def _told(self, by: str, text: str) -> Iterator[Frame]:
        model = self._plan.name(by)
        yield self._event("panel.delta", model=model, delta=text)
        yield self._event("panel.completed", model=model, content=text)

    def _lost(self, failure: Failure) -> Iterator[Frame]:
        failed = self._failure(failure)
        self._failed.append(failed)
        yield self._event("panel.failed", **failed)

    def _judged(self) -> Frame:
        self._judging = True
        judge = self._plan.judge
        return self._event("analysis.in_progress", analyst_model=judge, judge_model=judge)

    def _close(self, kept: KeptPanel, reason: str | None) -> Iterator[Frame]:
        self._ended = True
        item = self._whole(kept, self._failed, reason)
        if item["analysis"] is not None:
            yield self._event("analysis.completed", analysis=item["analysis"])
        yield self._event("completed")
        yield self._writer.event("response.output_item.done", output_index=self._place, item=item)

    def _event(self, name: str, **fields: Any) -> Frame:
        return self._writer.event(
            f"response.fusion_call.{name}", item_id=self._id, output_index=self._place, **fields
        )

    # Parts of the item.

    @property
    def _id(self) -> str:
        return f"st_fusion_{self._run_id}"

    async def _kept(self) -> KeptPanel:
        return await asyncio.to_thread(self._read)

    def _read(self) -> KeptPanel:
        return KeptPanel.read(self._store, self._run_id, self._plan)

    def _whole(self, kept: KeptPanel, failed: list[Json], reason: str | None) -> Json:
        answers = [{"model": self._plan.name(by), "content": text} for _, (by, text) in sorted(kept.answers.items())]
        if reason is None and answers and kept.analysis is None:
            reason = "judge_upstream_error"
        item: Json = {
            "type": TOOL,
            "id": self._id,
            "status": "completed" if answers else "incomplete",
            "analysis": kept.analysis,
            "responses": answers,
            "failed_models": failed,
            "sources": [],
        }
        return item if reason is None else {**item, "error": _WORDS[reason], "failure_reason": reason}

    def _failure(self, failure: Failure) -> Json:
        """Return a member without an answer, whose step its failure names first."""
        step, _, rest = failure.message.partition(" (")
        kind = getattr(errors, failure.reason, errors.FusionError)
        return {
            "model": self._plan.seats.get(step, step),
            "error": rest.partition("): ")[2] or failure.message,
            "status_code": getattr(kind, "http_status", errors.FusionError.http_status),
        }


_WORDS: Final[Mapping[str, str]] = {
    "all_panels_failed": "no model of the panel answered",
    "insufficient_credits": "the budget of the run does not cover the panel",
    "rate_limited": "the models of the panel are limited by their rates",
    "cancelled": "the run was stopped",
    "judge_not_valid_json": "the judge gave no JSON",
    "judge_schema_mismatch": "the judge gave JSON of another shape",
    "judge_empty_completion": "the judge gave an empty answer",
    "judge_upstream_error": "the judge gave no analysis",
}


def _reason(kept: KeptPanel, result: Result) -> str | None:
    """Return the reason why a run has no answer, or its panel no analysis; None for neither."""
    if result.error is not None and result.error.reason in _REASONS:
        return _REASONS[result.error.reason]
    panel, judge = result.stages.get(PANEL), result.stages.get(JUDGE)
    if panel is None or panel.status == "failed" or not any(item.ok for item in panel.items):
        return "all_panels_failed"
    return None if judge is None else _judge_reason(kept, judge.failure, judge.status)


def _judge_reason(kept: KeptPanel, failure: Failure | None, status: str) -> str | None:
    if failure is None:
        return None if status == "ok" else "judge_upstream_error"
    match failure.reason:
        case errors.ShapeError.__name__:
            return "judge_schema_mismatch" if kept.gave_json else "judge_not_valid_json"
        case errors.BadResponseError.__name__ if _EMPTY in failure.message:
            return "judge_empty_completion"
    return _REASONS.get(failure.reason, "judge_upstream_error")
