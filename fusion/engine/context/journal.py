"""Journal and events of a stage."""

from typing import TYPE_CHECKING, Any

from fusion.core.errors import FusionError
from fusion.core.events import (
    Decided,
    Noted,
)
from fusion.stages.context import (
    Ask,
    StageEvents,
    StageJournal,
)

if TYPE_CHECKING:
    from fusion.engine.context.context import RunContext


class RunJournal(StageJournal):
    """Decisions and replies of a stage in the journal of its run; without a store, nothing is kept."""

    def __init__(self, ctx: "RunContext") -> None:
        self._ctx = ctx
        self._journal = ctx.run.recorder.journal

    def keep(self, name: str, value: Any, *, item: int | None = None, of: Ask | None = None) -> None:
        self._journal.keep(self._ctx.place, *self._ctx.placed(item, self._name(name, of)), value)

    def kept(self, name: str, *, item: int | None = None, of: Ask | None = None) -> Any:
        return self._journal.kept(self._ctx.place, *self._ctx.placed(item, self._name(name, of)))

    def has_reply(self, ask: Ask) -> bool:
        return self._journal.is_finished(self._ctx.models.key(ask))

    def set_aside(self, error: FusionError) -> None:
        self._ctx.run.unusable.extend(error.calls)

    def _name(self, name: str, of: Ask | None) -> str:
        return name if of is None else f"{name}@{self._ctx.models.key(of).digest}"


class RunEvents(StageEvents):
    """Events sent to the sink of the run."""

    def __init__(self, ctx: "RunContext") -> None:
        self._ctx = ctx

    def note(self, message: str, *, item: int | None = None) -> None:
        item, _ = self._ctx.placed(item, "")
        self._ctx.emit(Noted(run_id=self._ctx.run.run_id, stage=self._ctx.place, item=item, message=message))

    def decided(
        self, decision: str, reason: str, *, confidence: float | None = None, escalated: bool | None = None
    ) -> None:
        self._ctx.emit(
            Decided(
                run_id=self._ctx.run.run_id,
                stage=self._ctx.place,
                item=None if self._ctx.scope is None else self._ctx.scope.index,
                decision=decision,
                reason=reason,
                confidence=confidence,
                escalated=escalated,
            )
        )
