"""Levels: the budget of one pipeline in a run, and those of its stages beneath it."""

from contextlib import suppress
from functools import reduce

from fusion.core.budget import Amount, Budget, Hold
from fusion.core.errors import BudgetError
from fusion.engine.budgets.holdback import Caps, needs_of_last
from fusion.engine.context import RunParts
from fusion.stages.base import Stage

UNCAPPED = Caps(None, None, None)


class Levels:
    """Budgets of a pipeline: its own, the parts held back for its last stages, and one for each limited stage.

    `around` holds the caps of the budgets above.
    """

    def __init__(self, run: RunParts, budget: Budget, around: Caps) -> None:
        self.budget = budget
        self._run = run
        self._caps = Caps.of(budget.limits).within(around)
        self._held: dict[str, Hold] = {}
        self._of_items: dict[str, Budget] = {}

    async def hold_back(self) -> None:
        """Set aside the needs of the last stages, under `on_budget: finish`; nothing if they do not fit."""
        needs = needs_of_last(self._run.spec, self._caps)
        if needs and self.budget.leases:
            await self.budget.lease_ahead(reduce(Amount.plus, needs.values()))
        with suppress(BudgetError):
            self._held = {name: self.budget.hold(need, name) for name, need in needs.items()}

    def release(self) -> None:
        """Give back the parts held back; a second call changes nothing."""
        for hold in self._held.values():
            hold.release()

    def of(self, name: str) -> Budget:
        """Return the budget of a stage of the pipeline."""
        return self.beneath(self._held.get(name, self.budget), self._run.spec.pipeline.stages[name], name)

    def beneath(self, above: Budget, stage: Stage, path: str) -> Budget:
        """Return the budget of a stage beneath another one; that one if the stage has no limits."""
        if stage.budget is None:
            return above
        level = above.child(stage.budget, path)
        self._run.recorder.journal.restore(level, self._run.prefix + path)
        return level

    def shared(self, above: Budget, stage: Stage, path: str) -> Budget:
        """Return the budget of a stage that works once for each item of another one: the same for all items."""
        if stage.budget is None:
            return above
        if path not in self._of_items:
            self._of_items[path] = self.beneath(above, stage, path)
        return self._of_items[path]

    def _share(self) -> Caps:
        """Return an equal share of what is not held back, for each of the nested pipelines before the last stages."""
        nested = {path.partition("/")[0] for path in self._run.spec.loaded.nested} - self._held.keys()
        pledged = [hold.pledged for hold in self._held.values()]
        usd, tokens, calls = self._caps
        return Caps(
            None if usd is None else (usd - sum(one.usd or 0 for one in pledged)) / len(nested),
            None if tokens is None else (tokens - sum(one.tokens for one in pledged)) // len(nested),
            None if calls is None else (calls - sum(one.calls for one in pledged)) // len(nested),
        )

    def caps_of(self, path: str) -> Caps:
        """Return the caps of a pipeline nested in this stage."""
        top = path.partition("/")[0]
        held, own = self._held.get(top), self._run.spec.pipeline.stages[top].budget
        caps = self._share() if held is None else Caps(*held.pledged).within(self._caps)
        return caps if own is None else Caps.of(own).within(caps)
