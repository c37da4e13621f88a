"""RunContext: the place of one stage in one run, and its services."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fusion.core.events import (
    EventBase,
    RoundStarted,
    StageStarted,
)
from fusion.engine.context.gates import RunGates
from fusion.engine.context.inputs import RunInputs
from fusion.engine.context.journal import RunEvents, RunJournal
from fusion.engine.context.models import RunModels
from fusion.engine.context.outputs import RunOutputs
from fusion.engine.context.parts import OF_STAGES, Inner, RunParts, Scope
from fusion.engine.context.sandbox import RunSandbox
from fusion.engine.context.tools import RunTools
from fusion.engine.fields import Fields
from fusion.engine.receipt import ItemCosts
from fusion.models.batches.window.clock import Limit
from fusion.stages.base import Stage
from fusion.stages.context import (
    StageContext,
)
from fusion.stages.fields import enough

_DEADLINE = "deadline of batches"


class RunContext(StageContext):
    """Context of one stage in one run: the place, clock and event sink that its services share.

    `inner` runs inner stages and nested pipelines; None in a preview.
    """

    models: "RunModels"

    def __init__(
        self,
        path: str,
        stage: Stage,
        run: RunParts,
        fields: Fields | None = None,
        inner: Inner | None = None,
        scope: Scope | None = None,
    ) -> None:
        self.path = path
        self.scope = scope
        self.place = run.prefix + path
        self.stage = stage
        self.run = run
        self.inner = inner
        self.wiring = run.wirings[path]
        self.fields = run.fields[path] if fields is None else fields
        self.finishing = run.spec.pipeline.on_budget == "finish"
        self.seed = f"{run.seed} {self.place}" if scope is None else f"{run.seed} {self.place} {scope.index}"
        self.answer = None if scope is not None else run.spec.options_of(path)
        self.inputs = RunInputs(self)
        self.outputs = RunOutputs(self)
        self.models = RunModels(self)
        self.journal = RunJournal(self)
        self.events = RunEvents(self)
        self.tools = RunTools(self)
        self.sandbox = RunSandbox(self)
        self.gates = RunGates(self)
        self.single = False
        """True once the stage is known to have one item at most."""
        self.costs = self._item_costs() if stage.states_costs and stage.follows else None
        """Costs of the calls for each item, if the items state them."""
        self._begun: float | None = None
        self._since = 0.0
        self._limit: Limit | None = None

    def _item_costs(self) -> ItemCosts:
        costs = ItemCosts()
        for event in self.run.charged:
            if event.stage == self.place:
                costs(event)
        return costs

    def end(self) -> None:
        """Let go of the services, which refer to this context: then nothing of it waits for a garbage collector."""
        del self.inputs, self.outputs, self.models, self.journal, self.events, self.tools, self.sandbox
        del self.gates

    def emit(self, event: EventBase) -> None:
        if self.scope is None or not isinstance(event, OF_STAGES):
            self.run.sink(event)

    def recurs(self) -> bool:
        """Return True if further calls of the stage begin as those before: it works on items one by one."""
        return (self.stage.follows or self.scope is not None) and not self.single

    def placed(self, item: int | None, step: str) -> tuple[int | None, str]:
        """Return item and step under which a call is kept: those of a stage within an item name that item too."""
        if self.scope is not None:
            step = step if item is None else f"{self.scope.index + 1}.{step}"
            item = self.scope.index if item is None else item
        return item, self.run.step_prefix + step

    def begin(self) -> None:
        """Start the clock of the stage at its first input; later calls have no effect."""
        if self._begun is not None:
            return
        self._begun = time.monotonic()
        self._since = time.time()
        self.emit(StageStarted(run_id=self.run.run_id, stage=self.place, kind=self.stage.kind))
        if self._limit is not None and self.stage.timeout is not None:
            self._limit.set(self.stage.timeout)

    def wanted(self, items: int) -> int:
        after, most = {self.path}, 1
        for name in self.run.spec.loaded.dataflow.order:
            if name != self.path and self.run.wirings[name].before & after:
                after.add(name)
                most = max(most, enough(getattr(self.run.spec.pipeline.stages[name], "min_ok", None) or 1, items))
        return most

    def start_round(self, number: int) -> None:
        """Report the start of a round of the stage's body."""
        body = self.stage.graph
        assert body is not None
        self.emit(RoundStarted(run_id=self.run.run_id, stage=self.place, number=number, most=body.rounds))

    @property
    def seconds(self) -> float:
        """Seconds since the first input; 0 before it."""
        return 0.0 if self._begun is None else time.monotonic() - self._begun

    def now(self) -> float:
        return self.run.clock()

    def deadline(self, seconds: float) -> float:
        """Return the time, in seconds since 1970, at which calls in batches are late: the same in every session."""
        kept = self.journal.kept(_DEADLINE)
        if kept is None:
            kept = (self._since or time.time()) + seconds
            self.journal.keep(_DEADLINE, kept)
        return float(kept)

    @asynccontextmanager
    async def time_limit(self) -> AsyncIterator[None]:
        async with self.run.clock.limit() as self._limit:
            yield
