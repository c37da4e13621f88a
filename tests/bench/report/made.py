"""Results that a test makes from a score and a cost an item, for each arm."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from fusion.bench.report.results import ArmRecord, ItemRecord, Outcome, Results

Column = tuple[str, Sequence[float], float | Sequence[float] | None]
"""The kind of an arm, its scores, and its costs: one for every item, or one for each; None if unknown."""


def made(
    arms: Mapping[str, Column],
    *,
    clusters: int | None = None,
    models: Mapping[str, Sequence[str]] | None = None,
    **more: Any,
) -> Results:
    """Return results with these arms; a single model is called by its own name."""
    n = len(next(iter(arms.values()))[1])
    outcomes = []
    for name, (_, scores, costs) in arms.items():
        for at, score in enumerate(scores):
            cost = costs if costs is None or isinstance(costs, (int, float)) else costs[at]
            outcomes.append(
                Outcome(
                    arm=name, item=f"i{at}", score=float(score), cost=None if cost is None else Decimal(str(cost))
                )
            )
    given: dict[str, Any] = {
        "name": "made",
        "started": datetime(2026, 11, 24, tzinfo=UTC),
        "items": [
            ItemRecord(id=f"i{at}", task_set="a", cluster=f"d{at % clusters}" if clusters else None)
            for at in range(n)
        ],
        "arms": [
            ArmRecord(name=name, kind=kind, models=(models or {}).get(name, (name,)))
            for name, (kind, _, _) in arms.items()
        ],
        "outcomes": outcomes,
        "resamples": 2000,
    }
    return Results(**{**given, **more})


def right(n: int, wrong: Sequence[int] = ()) -> list[int]:
    """Return n scores, all 1 except those at the places that are wrong."""
    return [int(at not in wrong) for at in range(n)]
