"""Compares quotes with the cost of the run, on shipped and tested pipelines, and on models of all kinds.

python -m benchmarks.quotes.measure [--runs 50] [--seed 1] [--verbose]
"""

import argparse
import json
import lzma
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

from benchmarks.perf.figures import machine
from benchmarks.quotes.models import cast
from benchmarks.quotes.subjects import given, pipelines
from fusion import Fusion, Limits, Pipeline, Result, RunFailed
from fusion.quote.quote import Quote

__all__ = ["Held", "held", "recorded_lengths", "summary"]

_PROSE = (300, 400, 500, 600, 800, 1000)  # tokens in the middle of answers that are reports, letters, summaries
_RECORDED = Path(__file__).parents[1] / "data" / "recorded"


@dataclass(frozen=True)
class Held:
    """A quote, and its run."""

    name: str
    quote: Quote
    result: Result

    @property
    def cost(self) -> float:
        return float(self.result.cost.usd)

    @property
    def reached(self) -> bool:
        """True if simulated runs reach every stage; else the range covers a branch that none of them takes."""
        return not any("no simulated run reaches" in note for note in self.quote.notes)

    @property
    def inside(self) -> bool:
        return float(self.quote.usd.low) <= self.cost <= float(self.quote.usd.high)

    @property
    def passed(self) -> bool:
        usd, calls = self.quote.usd.cap, self.quote.calls.most
        return (usd is not None and self.cost > usd) or (calls is not None and self.result.receipt.calls > calls)

    @property
    def spread(self) -> float:
        """The ratio of the high to the likely cost."""
        return float(self.quote.usd.high / self.quote.usd.likely) if self.quote.usd.likely else 1.0


@cache
def recorded_lengths() -> list[list[int]]:
    """Return output tokens of answers: of real models by recorded model and task set, and of long prose.

    Every second model is left out: the quote's assumptions on lengths were chosen with those.
    """
    found: dict[tuple[str, str], list[int]] = {}
    for file in sorted(_RECORDED.glob("*.jsonl.xz")):
        with lzma.open(file, "rt", encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                for model, response in row["responses"].items():
                    found.setdefault((file.name, model), []).append(max(1, len(response["text"].encode()) // 4))
    models = sorted({model for _, model in found})[1::2]
    measured = [lengths for (_, model), lengths in found.items() if model in models]
    random = Random("prose")
    prose = [[round(random.lognormvariate(math.log(middle), 0.5)) for _ in range(500)] for middle in _PROSE]
    return measured + prose


def held(number: int, seed: int, lengths: Sequence[Sequence[int]]) -> Held:
    """Quote and run once. Every second pipeline runs without a limit, so that its worst cases bound it."""
    random = Random(f"{seed} {number}")
    choice = pipelines()
    name = list(choice)[number % len(choice)]
    with Fusion(profile="local", roles=cast(f"{seed} {number}", lengths)) as fusion:
        pipeline = fusion.load(choice[name])
        inputs = given(pipeline, random)
        subject: str | Pipeline = choice[name]
        if random.random() < 0.5:
            subject = pipeline.model_copy(update={"budget": Limits()})
        quote = fusion.quote(pipeline=subject, inputs=inputs)
        try:
            result = fusion.complete(pipeline=subject, inputs=inputs)
        except RunFailed as failed:
            result = failed.result
    return Held(name, quote, result)


def summary(all_held: Sequence[Held]) -> dict[str, float]:
    """Return how often the maximum was passed, the share of costs within their range, and the widest range."""
    return {
        "runs": len(all_held),
        "passed": sum(one.passed for one in all_held),
        "unbounded": sum(one.quote.usd.cap is None for one in all_held),
        "inside": sum(one.inside for one in all_held) / len(all_held),
        "below": sum(one.cost < one.quote.usd.low for one in all_held) / len(all_held),
        "high over likely, most": max(one.spread for one in all_held if one.reached),
        "high over likely, median": sorted(one.spread for one in all_held)[len(all_held) // 2],
        "cost over likely, mean": sum(one.cost for one in all_held)
        / float(sum(one.quote.usd.likely for one in all_held)),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    print(machine())
    lengths = recorded_lengths()
    found = [held(number, options.seed, lengths) for number in range(options.runs)]
    for one in found if options.verbose else ():
        usd = one.quote.usd
        cap = "none" if usd.cap is None else f"{usd.cap:.4f}"
        where = "" if one.inside else "below" if one.cost < usd.low else "above"
        print(
            f"{one.name:24} {one.result.status:8} {usd.low:.4f} {usd.likely:.4f} {usd.high:.4f} cap {cap:>9} "
            f"cost {one.cost:.4f} {where} {'PASSED' if one.passed else ''} {one.spread:.2f} "
            f"calls {one.quote.calls.low}-{one.quote.calls.high} {one.result.receipt.calls}"
        )
    for name, value in summary(found).items():
        print(f"{name}: {value:.3g}")


if __name__ == "__main__":
    main()
