"""Calls of the strong model in `code-with-tests`, over those of the strong model alone, and what both got right.

    python -m benchmarks.coding.strong benchmarks/results/embedded-code/results.json

Only items that both arms have answered count. The test is McNemar's, exact.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

from fusion.bench.report.results import Outcome, Results
from fusion.bench.report.statistics import mcnemar

PIPELINE = "code-with-tests"


class Comparison(NamedTuple):
    """Two arms on the same items: right answers, those that one alone has right, and calls of the strong model."""

    items: int
    right: int
    right_alone: int
    only_pipeline: int
    only_alone: int
    calls: int
    calls_alone: int

    @property
    def ratio(self) -> float:
        """Calls of the strong model over those that it takes alone."""
        return self.calls / self.calls_alone

    @property
    def p(self) -> float:
        """The probability of so uneven a split among the items on which the arms differ."""
        return mcnemar(self.only_pipeline, self.only_alone)

    def lines(self) -> list[str]:
        """Return the comparison in words."""
        return [
            f"{self.items} items: {PIPELINE} {self.right} right, strong alone {self.right_alone}",
            f"only one right: {self.only_pipeline} and {self.only_alone}; exact McNemar p = {self.p:.4f}",
            f"calls of the strong model: {self.calls} against {self.calls_alone}, {self.ratio:.2f} times",
        ]


def compared(results: Results, alone: str = "strong") -> Comparison:
    """Compare the pipeline with the arm of the strong model alone."""
    (model,) = next(arm.models for arm in results.arms if arm.name == alone)
    arms = {
        name: {one.item: one for one in results.outcomes if one.arm == name and not one.epoch}
        for name in (PIPELINE, alone)
    }
    pairs = [(arms[PIPELINE][item], arms[alone][item]) for item in arms[PIPELINE].keys() & arms[alone].keys()]
    return Comparison(
        len(pairs),
        sum(one.score == 1 for one, _ in pairs),
        sum(other.score == 1 for _, other in pairs),
        sum(one.score > other.score for one, other in pairs),
        sum(one.score < other.score for one, other in pairs),
        sum(_calls(one, model) for one, _ in pairs),
        sum(_calls(other, model) for _, other in pairs),
    )


def _calls(outcome: Outcome, model: str) -> int:
    return sum(one.calls for one in outcome.spent if one.model == model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    print("\n".join(compared(Results.load(parser.parse_args().results)).lines()))


if __name__ == "__main__":
    main()
