"""Compares quoted seconds with those of runs: of embedded models by the clock, of hosted ones by simulation.

    python -m benchmarks.quotes.seconds [--runs 150] [--seed 51] [--verbose]

`by the clock` are the answers in `benchmarks/results/embedded-*`, each quoted with its original inputs. `of many
paces` are runs of the pipelines and models of `measure` at assumed speeds of hosted models. The clock of their loop
skips every wait.
"""

import argparse
import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from unittest.mock import patch

from benchmarks.perf.figures import machine
from benchmarks.quotes.measure import recorded_lengths
from benchmarks.quotes.models import cast
from benchmarks.quotes.subjects import given, pipelines
from fusion import Fusion, Limits, Model, Pipeline, Reply, Request, RunFailed, ScriptedModel
from fusion.core.events import EventBase, RunFinished, RunStarted
from fusion.core.types import Deltas
from fusion.quote.quote import Seconds
from fusion.quote.simulate import Leaping

__all__ = ["Timed", "by_the_clock", "of_many_paces", "summary"]

_ROOT = Path(__file__).parents[1]
_SINGLE = """
name: single
inputs: {{question: A question}}
defaults: {{max_tokens: {limit}}}
stages: {{answer: {{kind: generate, role: any, prompt: generate/pass-through}}}}
output: answer
"""


@dataclass(frozen=True)
class Timed:
    """The seconds of a quote, and those of its run."""

    name: str
    quote: Seconds
    seconds: float

    @property
    def inside(self) -> bool:
        return self.quote.low <= self.seconds <= self.quote.high


# By the clock.


def by_the_clock(every: int = 1) -> Iterator[Timed]:
    """Yield the answers of the embedded models to the shipped suites, or every n-th one."""
    notes = {row["id"]: row["text"] for row in _rows(_ROOT / "data" / "invoices.jsonl")}
    with Fusion(profile="local") as fusion:
        for suite, limit in (("gsm8k", 400), ("invoices", 1500)):
            for row in _rows(_ROOT / "results" / f"embedded-{suite}" / "items.jsonl")[::every]:
                quote = _quote(fusion, row["arm"], row["prompt"], notes.get(row["item"]), limit)
                yield Timed(f"{suite}: {row['arm']}", quote, row["latency"])


def _quote(fusion: Fusion, arm: str, prompt: str, text: str | None, limit: int) -> Seconds:
    suites = _ROOT / "suites" / "embedded"
    if arm == "two-samples":
        both = fusion.using(roles={"bulk": "local/small", "frontier": "local/strong"})
        return both.quote(prompt, pipeline=suites / "two-samples.yaml").seconds
    if arm == "notes-one-by-one":
        small = fusion.using(roles={"bulk": "local/small"})
        return small.quote(prompt, pipeline=suites / "notes-one-by-one.yaml", inputs={"text": text}).seconds
    alone = fusion.using(model="local/strong" if "strong" in arm else "local/small")
    single = Pipeline.from_yaml(_SINGLE.format(limit=limit), file="single.yaml")
    return alone.quote("\n\n".join(filter(None, (prompt, text))), pipeline=single).seconds


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


# Of many paces.


class Paced(Model):
    """A model with a delay to the first token, and a time for each token that it reads and writes."""

    def __init__(self, inner: ScriptedModel, random: Random) -> None:
        self._inner = inner
        self._random = random
        self.info = inner.info
        self.first = random.lognormvariate(-0.4, 0.5)  # 0.3 to 1.5 s in 90 of 100 cases
        self.read = random.uniform(2000, 20_000)  # tokens a second
        self.write = random.lognormvariate(4.3, 0.6)  # 27 to 200 tokens a second

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        reply = await self._inner.complete(request)
        pace = self._random.lognormvariate(0, 0.2)
        await asyncio.sleep(pace * (self.first + reply.usage.input / self.read + reply.usage.output / self.write))
        if on_delta is not None:
            on_delta.add(reply.text)
        return reply.model_copy(update={"latency": loop.time() - begun})


@dataclass
class _Clock:
    """Return the start and end of a run, by the clock of its loop."""

    times: list[float] = field(default_factory=list)

    def __call__(self, event: EventBase) -> None:
        if isinstance(event, (RunStarted, RunFinished)):
            self.times.append(asyncio.get_running_loop().time())

    @property
    def seconds(self) -> float:
        return self.times[-1] - self.times[0]


def of_many_paces(number: int, seed: int, lengths: Sequence[Sequence[int]]) -> Timed:
    """Quote and run once, without a time limit."""
    random = Random(f"{seed} {number}")
    choice = pipelines()
    name = list(choice)[number % len(choice)]
    played = {
        role: Paced(one, Random(f"{seed} {number} {role}")) for role, one in cast(f"{seed} {number}", lengths).items()
    }
    with patch.object(asyncio, "new_event_loop", Leaping), Fusion(profile="local", roles=played) as fusion:
        pipeline = fusion.load(choice[name])
        inputs, clock = given(pipeline, random), _Clock()
        free = pipeline.model_copy(update={"budget": Limits()})
        quote = fusion.quote(pipeline=free, inputs=inputs)
        with suppress(RunFailed):
            fusion.complete(pipeline=free, inputs=inputs, on_event=clock)
    return Timed(name, quote.seconds, clock.seconds)


# Both.


def summary(timed: Sequence[Timed]) -> dict[str, float]:
    """Return the share of runs within their quoted seconds, the width of the ranges, and the likely times."""
    ratios = sorted(one.seconds / one.quote.likely for one in timed if one.quote.likely)
    return {
        "runs": len(timed),
        "inside": sum(one.inside for one in timed) / len(timed),
        "below": sum(one.seconds < one.quote.low for one in timed) / len(timed),
        "above": sum(one.seconds > one.quote.high for one in timed) / len(timed),
        "high over likely, median": sorted(one.quote.high / one.quote.likely for one in timed if one.quote.likely)[
            len(ratios) // 2
        ],
        "took over likely, median": ratios[len(ratios) // 2],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=150)
    parser.add_argument("--seed", type=int, default=51)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    print(machine())
    lengths = recorded_lengths()
    for what, timed in (
        ("by the clock", [*by_the_clock()]),
        ("of many paces", [of_many_paces(number, options.seed, lengths) for number in range(options.runs)]),
    ):
        for one in timed if options.verbose else ():
            mark = "" if one.inside else "below" if one.seconds < one.quote.low else "above"
            quote = one.quote
            print(f"{one.name:32} {quote.low:7.1f} {quote.likely:7.1f} {quote.high:7.1f}: {one.seconds:7.1f} {mark}")
        print(f"{what}: " + ", ".join(f"{name} {value:.3g}" for name, value in summary(timed).items()))


if __name__ == "__main__":
    main()
