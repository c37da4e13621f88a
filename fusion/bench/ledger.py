"""Ledger: counts the spend of a benchmark over all its starts, each answer once."""

from collections.abc import Iterable
from decimal import Decimal

from fusion.bench.arms.base import ANSWER, BENCHMARK, ArmResponse
from fusion.bench.checkpoint import Checkpoint
from fusion.bench.experiment import Experiment
from fusion.client.client import Fusion, count_spend
from fusion.core.budget import Amount, Budget
from fusion.core.types import Limits
from fusion.store.rows import RunFilter


def budget_of(limits: Limits, above: Budget | None = None) -> Budget:
    """Return the budget that all runs of a benchmark share, beneath another one. The runner enforces its seconds."""
    untimed = limits.model_copy(update={"seconds": None})
    return Budget(untimed, name=BENCHMARK, parent=above, strict_usd=limits.usd is not None)


class Ledger:
    """Counts in the benchmark's budget the calls that it cannot reserve: of earlier starts and of external arms."""

    def __init__(self, experiment: Experiment, checkpoint: Checkpoint) -> None:
        self._within = experiment.within
        self._fusion = experiment.factory.fusion
        self._recorded = experiment.factory.recorded
        self._checkpoint = checkpoint
        self._runs = _spent_by_runs(self._fusion)
        self._counted: set[str] = set()
        self._given_up: dict[str, list[ArmResponse]] = {}
        for line in checkpoint.given_up:
            self._given_up.setdefault(line.key, []).append(line.answered)

    def count(self, responses: Iterable[ArmResponse]) -> None:
        """Count responses. Their recorded calls are free from then on."""
        self._count(responses, [], earlier=False)

    def _count(self, responses: Iterable[ArmResponse], more: Iterable[Amount], *, earlier: bool) -> None:
        amounts = list(more)
        for one in responses:
            self._recorded.know(one.counted)
            amounts.append(one.amount)
        if amounts:
            count_spend(self._fusion, self._within, _sum(amounts), earlier=earlier)

    def count_earlier(self, keys: Iterable[str]) -> None:
        """Count the spend of earlier starts on these answers, once for all arms that share an answer."""
        responses, amounts = list[ArmResponse](), list[Amount]()
        for key in keys:
            if key in self._counted:
                continue
            self._counted.add(key)
            runs = self._runs.get(self._checkpoint.mark(key), {}) if self._runs else {}
            kept = self._checkpoint.answers.get(key)
            known = [*self._given_up.get(key, ()), *(() if kept is None else (kept,))]
            responses += [one for one in known if one.run_id not in runs]
            amounts += runs.values()
        self._count(responses, amounts, earlier=True)


def _spent_by_runs(fusion: Fusion) -> dict[str, dict[str, Amount]]:
    """Return the spend of all stored runs, by the mark of their answer and by run id.

    Attempts that a kill has interrupted count in full.
    """
    if fusion.keeps is None:
        return {}
    store, found = fusion.store, dict[str, dict[str, Amount]]()
    for row in store.runs(RunFilter()):
        if ANSWER in row.tags:
            spent = [Amount(one.usd, one.tokens, one.calls) for one in store.spending(row.run_id).values()]
            found.setdefault(row.tags[ANSWER], {})[row.run_id] = _sum(spent)
    return found


def _sum(amounts: Iterable[Amount]) -> Amount:
    """Return the total; an amount of unknown price adds tokens and calls only."""
    known = list(amounts)
    usd = sum((one.usd or Decimal(0) for one in known), Decimal(0))
    return Amount(usd, sum(one.tokens for one in known), sum(one.calls for one in known))
