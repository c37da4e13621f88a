"""Items that flow against feeds that are joined at barriers: the same pipeline, the same models, the same engine.

A plan of 32 subtasks is written over 4 s; each takes 1 s of work, eight at once; each result 0.5 s of review, eight
at once; the answer 1 s. With a barrier behind every stage that is 4 + 4 + 2 + 1 = 11 s. Where items flow, the last
subtask comes at 4 s and is worked on, reviewed and merged by 6.5 s: nothing could be faster.

    python -m benchmarks.perf.dataflow [--repeat 3] [--pace 1.0]
"""

import argparse
import json
import time
from collections.abc import Sequence

from benchmarks.perf.figures import machine, spread
from fusion import Fusion, Pipeline, Say, ScriptedModel

SUBTASKS, SLOTS = 32, 8
PLANNING, WORK, REVIEW, MERGE = 4.0, 1.0, 0.5, 1.0
BOUND = PLANNING + WORK + REVIEW + MERGE
BARRIERS = PLANNING + SUBTASKS / SLOTS * (WORK + REVIEW) + MERGE

PIPELINE = """
name: dataflow
inputs: {{task: What is to be done.}}
stages:
  plan: {{kind: plan, role: planner, max_subtasks: 32}}
  work: {{kind: map, over: {plan}, role: worker, concurrency: 8}}
  review: {{kind: review, over: {work}, role: reviewer, concurrency: 8}}
  answer: {{kind: merge, over: {review}, role: writer}}
output: answer
"""
FLOWING = PIPELINE.format(plan="plan", work="work", review="review")
JOINED = PIPELINE.format(plan="plan|list", work="work|list", review="review|list")
"""An expression that is more than a path has no value before the end of its feed."""


def plan(pace: float) -> Say:
    """A plan written at an even pace: each subtask is complete after its share of the time."""
    pieces: list[str | tuple[float, str]] = [
        '{"goal": "g", "constraints": [], "merge_instructions": "", "subtasks": ['
    ]
    for number in range(1, SUBTASKS + 1):
        subtask = {"title": f"part {number}", "instructions": f"Do part {number}.", "needs": [], "difficulty": 1}
        end = "]}" if number == SUBTASKS else ", "
        pieces.append((pace * PLANNING / SUBTASKS, json.dumps(subtask) + end))
    return Say(pieces=pieces)


def seconds_of(text: str, pace: float) -> float:
    """Run the pipeline once and check its outcome. Returns the wall time."""
    models = {
        "planner": ScriptedModel(plan(pace), name="scripted/planner"),
        "worker": ScriptedModel("done", name="scripted/worker", delay=pace * WORK),
        "reviewer": ScriptedModel({"issues": [], "verdict": "accept"}, name="scripted/reviewer", delay=pace * REVIEW),
        "writer": ScriptedModel("the answer", name="scripted/writer", delay=pace * MERGE),
    }
    with Fusion(profile="local", roles=models) as fusion:
        pipeline = fusion.load(Pipeline.from_yaml(text))
        began = time.perf_counter()
        result = fusion.complete("the task", pipeline=pipeline)
        seconds = time.perf_counter() - began
    assert (result.status, result.text) == ("ok", "the answer")
    assert [len(model.requests) for model in models.values()] == [1, SUBTASKS, SUBTASKS, 1]
    assert models["worker"].peak <= SLOTS
    assert models["reviewer"].peak <= SLOTS
    return seconds


def measure(repeat: int, pace: float) -> tuple[Sequence[float], Sequence[float]]:
    """Return wall times of streamed items and of joined feeds, measured in turn."""
    pairs = [(seconds_of(FLOWING, pace), seconds_of(JOINED, pace)) for _ in range(repeat)]
    return [flowing for flowing, _ in pairs], [joined for _, joined in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--pace", type=float, default=1.0, help="1 is the times as stated, 0.1 a tenth of them")
    given = parser.parse_args()
    print(machine())
    flowing, joined = measure(given.repeat, given.pace)
    print(f"items flow:    {spread(flowing)} s; the bound is {given.pace * BOUND:g} s")
    print(f"with barriers: {spread(joined)} s; they make it {given.pace * BARRIERS:g} s")
    print(f"ratio: {spread([one / two for one, two in zip(flowing, joined, strict=True)])}; bar 0.62")
    print(f"over the bound: {spread([one / given.pace / BOUND for one in flowing])}; bar 1.05")


if __name__ == "__main__":
    main()
