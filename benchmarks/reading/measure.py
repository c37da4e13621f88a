"""Frontier input over a document of 60 sections, measured on scripted models; quotes of the same work.

    python -m benchmarks.reading.measure

Tokens are counted as four bytes each on both sides. No model is called; prices are those of the catalog.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from benchmarks.reading.yearbooks import plan_sections, read_section
from fusion import Fusion, Pipeline, ScriptedModel
from fusion.core.types import Request
from fusion.models.base import estimate_input

SECTIONS = 60
TOKENS = 600  # of a section, with its heading
TASK = "Write a summary of the tolls, the wardens and the works of each town that the board has to decide on."
YEARBOOKS = Path(__file__).parents[1] / "data" / "yearbooks_60.jsonl"
_WORDS = [
    *("bridge", "warden", "ledger", "toll", "ferry", "harbour", "winter", "lantern", "meadow", "council", "barge"),
    *("signal", "orchard", "gravel", "parish", "summer", "timber", "railing", "culvert", "evening", "market"),
    *("customs", "river", "passage", "granite", "keeper", "station", "crossing"),
]


class Reading(NamedTuple):
    """Input tokens of a run by role, and those of one call over everything."""

    named: int
    frontier: int
    bulk: int
    single: int

    @property
    def ratio(self) -> float:
        return self.frontier / self.single


def document(sections: int = SECTIONS, tokens: int = TOKENS) -> str:
    """Return a document of Markdown sections of so many tokens each, of four bytes."""
    random = Random(0)
    texts = []
    for number in range(1, sections + 1):
        text = f"## Town {number}\n\n"
        while len(text) < 4 * tokens - 60:
            text += (
                " ".join(random.choices(_WORDS, k=random.randint(6, 12))).capitalize()
                + f" {random.randint(1, 999)}. "
            )
        texts.append(text.strip() + "\n")
    return "\n".join(texts)


def _planned(numbers: Sequence[int]) -> str:
    subtasks = [
        {
            "title": f"Town {number}",
            "instructions": f"Summarise the tolls, the wardens and the works of Town {number}, with all figures.",
            "needs": [],
            "sections": [number],
            "difficulty": 2,
            "capabilities": [],
            "expected_output": "three sentences with the figures",
            "criteria": ["every figure is in the section"],
        }
        for number in numbers
    ]
    head: dict[str, Any] = {
        "goal": TASK,
        "constraints": [],
        "merge_instructions": "One paragraph a town.",
        "combine": None,
    }
    return json.dumps({**head, "subtasks": subtasks})


def measure(named: int, *, sections: int = SECTIONS) -> Reading:
    """Run the pipeline with a plan that needs so many sections, each in a subtask, reviewed and merged."""
    text = document(sections)
    numbers = [1 + at * sections // named for at in range(named)]

    def frontier(request: Request) -> str:
        shape = (request.json_schema or {}).get("properties", {})
        if "subtasks" in shape:
            return _planned(numbers)
        return json.dumps({"issues": [], "verdict": "accept"}) if "verdict" in shape else "The answer."

    def work(request: Request) -> str:
        return "Tolls rose by 4, and the wardens repaired the bridge. " * 4

    models = {
        "frontier": ScriptedModel(frontier, name="scripted/frontier"),
        "bulk": ScriptedModel(work, name="scripted/bulk"),
    }
    with Fusion(roles=models, store=None) as fusion:
        fusion.complete(TASK, pipeline="plan-execute-review", inputs={"context": text}, budget={"usd": 10})
        alone = ScriptedModel("The answer.")
        with Fusion(roles={"frontier": alone}, store=None) as one:
            one.complete(TASK, pipeline="single", inputs={"context": text}, budget={"usd": 10})
    return Reading(named, _input(models["frontier"]), _input(models["bulk"]), _input(alone))


def _input(model: ScriptedModel) -> int:
    return sum(estimate_input(request.messages) for request in model.requests)


def measure_yearbooks(rows: Sequence[Mapping[str, Any]]) -> tuple[Reading, int]:
    """Run plan-read-combine over questions on long documents; return the tokens in all, and the right answers."""
    frontier = bulk = single = right = named = 0
    for row in rows:
        models = {
            "frontier": ScriptedModel(plan_sections, name="scripted/frontier"),
            "bulk": ScriptedModel(read_section, name="scripted/bulk"),
        }
        with Fusion(roles=models, store=None) as fusion:
            inputs, alone = {"context": row["document"]}, ScriptedModel("The answer.")
            told = fusion.complete(row["question"], pipeline="plan-read-combine", inputs=inputs, budget={"usd": 10})
            with Fusion(roles={"frontier": alone}, store=None) as one:
                one.complete(row["question"], pipeline="single", inputs=inputs, budget={"usd": 10})
        right += told.text.rpartition(": ")[2] == str(row["answer"])
        named += len(models["bulk"].requests)
        frontier, bulk = frontier + _input(models["frontier"]), bulk + _input(models["bulk"])
        single += _input(alone)
    return Reading(named, frontier, bulk, single), right


def quotes(profile: str) -> dict[str, float]:
    """Return the likely dollars of the same work, quoted, and of line-by-line over 20 and 200 lines."""
    text = document()
    unreviewed = Pipeline.load(_shipped("plan-execute-review")).to_data()
    del unreviewed["stages"]["review"]
    unreviewed["stages"]["answer"]["over"] = "work"
    with Fusion(profile=profile, store=None) as fusion:

        def usd(pipeline: str | Pipeline, **inputs: str) -> float:
            quote = fusion.quote(TASK, pipeline=pipeline, inputs=inputs, budget={"usd": 100})
            return float(quote.usd.likely)

        return {
            "single": usd("single", context=text),
            "plan-execute-review": usd("plan-execute-review", context=text),
            "without its review": usd(Pipeline.from_data(unreviewed), context=text),
            "20 lines": usd("line-by-line", lines=_lines(20)),
            "200 lines": usd("line-by-line", lines=_lines(200)),
        }


def _shipped(name: str) -> Path:
    from fusion.prompts.library import Library

    return Library.standard().pipeline(name)


def _lines(count: int) -> str:
    return "\n".join(
        f"Invoice {number}: Nordic Paper asks for 1180.50 for {number} boxes." for number in range(count)
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--profile", default="openai", help="profile of the quotes")
    profile = arguments.parse_args().profile
    for named in (12, 5):
        found = measure(named)
        print(
            f"{found.named} of {SECTIONS} sections named: frontier reads {found.frontier:,} tokens, bulk "
            f"{found.bulk:,}; one call {found.single:,}; frontier over one call {found.ratio:.2f}"
        )
    rows = [json.loads(line) for line in YEARBOOKS.read_text("utf-8").splitlines()]
    long, right = measure_yearbooks(rows)
    print(
        f"plan-read-combine, {len(rows)} questions on documents of 60 sections, {long.named} named: frontier "
        f"reads {long.frontier:,} tokens, bulk {long.bulk:,}; one call {long.single:,}; frontier over one call "
        f"{long.ratio:.3f}, both over one call {(long.frontier + long.bulk) / long.single:.3f}; {right} right"
    )
    found_quotes = quotes(profile)
    single = found_quotes["single"]
    for name in ("plan-execute-review", "without its review"):
        print(
            f"quote, {name}: ${found_quotes[name]:.4f}, over single (${single:.4f}) {found_quotes[name] / single:.2f}"
        )
    few, many = found_quotes["20 lines"], found_quotes["200 lines"]
    print(f"quote, line-by-line: 20 lines ${few:.4f}, 200 lines ${many:.4f}, {many / few:.1f} times")


if __name__ == "__main__":
    main()
