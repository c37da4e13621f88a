"""The cost of each shipped pipeline against one call to the strong model, at given answer lengths.

python -m benchmarks.cascades.costs
"""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from fusion import Fusion, Request, Result, ScriptedModel
from fusion.models import catalog as prices

MODELS = {"frontier": "openai/gpt-5.6", "bulk": "openai/gpt-5.6-luna", "second": "openai/gpt-5.4-mini"}
TASK = "What is to be done, in about a hundred tokens. " * 9
MATERIAL = "\n".join(f"Line {n} of the material, which has fifty tokens. " + "word " * 32 for n in range(20))
LONG = "\n\n".join(f"Paragraph {n}. " + "word " * 800 for n in range(20))
SECTIONS = "\n\n".join(f"## Section {n}\n\n476 " + "word " * 475 for n in range(60))
ANSWER = "word " * 320
LISTS = ("consensus", "contradictions", "partial_coverage", "unique_insights", "blind_spots", "evidence")


class Case(NamedTuple):
    """A shipped pipeline, its inputs, and its course."""

    pipeline: str
    inputs: dict[str, str]
    turn: str = ""


USUAL = {"task": TASK, "context": MATERIAL}
CASES = (
    Case("single", USUAL),
    Case("agree-or-escalate", {"question": TASK + MATERIAL}, "they agree"),
    Case("agree-or-escalate", {"question": TASK + MATERIAL}, "they differ"),
    Case("route-by-difficulty", USUAL, "easy"),
    Case("route-by-difficulty", USUAL, "hard"),
    Case("vote", {"question": TASK, "context": MATERIAL}),
    Case("self-fusion", USUAL),
    Case("fusion", USUAL),
    Case("plan-execute-review", USUAL, "4 parts, each accepted"),
    Case("plan-execute-review", USUAL, "4 parts, each revised once"),
    Case("plan-execute-review", {"task": TASK, "context": SECTIONS}, "12 of 60 sections, each accepted"),
    Case("plan-read-combine", {"task": TASK, "context": SECTIONS}, "4 of 60 sections, summed"),
    Case("refine", USUAL, "no fault found"),
    Case("refine", USUAL, "revised once"),
    Case("line-by-line", {"task": TASK, "lines": MATERIAL}, "20 lines, each accepted"),
    Case("map-reduce-document", {"task": TASK, "context": LONG}, "20,000 tokens"),
)


class Figure(NamedTuple):
    """The result of a case: calls to strong and cheap models, and the cost relative to one call."""

    case: Case
    strong: int
    cheap: int
    cost: float


def main() -> None:
    print(f"{'pipeline':22}{'':28}{'strong':>8}{'cheap':>8}{'cost':>8}")
    for figure in map(measured, CASES):
        print(f"{figure.case.pipeline:22}{figure.case.turn:28}{figure.strong:8}{figure.cheap:8}{figure.cost:8.2f}")


def measured(case: Case) -> Figure:
    """Compare a case with one call over the same task and material."""
    result = run(case)
    alone = run(Case("single", {"task": TASK, "context": case.inputs.get("context", MATERIAL)}))
    strong = sum(line.calls for line in result.receipt.lines if line.model == "scripted/frontier")
    return Figure(case, strong, result.receipt.calls - strong, float(result.cost.usd / alone.cost.usd))


def run(case: Case) -> Result:
    """Run a case once on scripted models at list prices."""
    roles = {
        role: ScriptedModel(answering(case, role), name=f"scripted/{role}", price=prices.lookup(model).price)
        for role, model in MODELS.items()
    }
    with Fusion(profile="openai", roles=dict(roles), budget={"calls": 1000}) as fusion:
        used = {role for stage in fusion.load(case.pipeline).stages.values() for _, role in stage.roles()}
    used |= {"frontier"} if "reviewer" in used else set()  # one's own frontier model reviews too
    own = {role: model for role, model in roles.items() if role in used}
    with Fusion(profile="local", roles=own, budget={"calls": 1000}) as fusion:
        return fusion.complete(pipeline=case.pipeline, inputs=case.inputs, budget={"usd": 10})


def answering(case: Case, role: str) -> Callable[[Request], Any]:
    """Return the script of a role."""
    revised: set[str] = set()

    def answer(request: Request) -> Any:
        shape = (request.json_schema or {}).get("properties", {})
        words = request.messages[-1].content
        if "subtasks" in shape:
            return plan(12 if "60 sections" in case.turn else 4)
        if fixed := next((answer for key, answer in FIXED.items() if key in shape), None):
            return fixed
        if "verdict" in shape or "faults" in shape:
            part = words if "verdict" in shape else ""
            again = "revised" in case.turn and part not in revised
            revised.add(part)
            return judged(shape, again=again)
        if "verdicts" in shape:
            count = int(words.partition("each of these ")[2].partition(" ")[0])
            return {"verdicts": [{"number": at, "issues": [], "verdict": "accept"} for at in range(1, count + 1)]}
        if "consensus" in shape:
            return {**{key: ["word " * 16] if key in LISTS[:1] else [] for key in LISTS}, **JUDGED}
        if "route" in shape:
            return {"route": case.turn}
        if case.pipeline == "line-by-line":
            return "word " * 16
        return f"{ANSWER}\nAnswer: {len(role) if case.turn == 'they differ' else 5}"

    return answer


FIXED = {
    "find": {"sections": ["1", "16", "31", "46"], "how": "sum", "find": "word " * 8, "other": None},
    "value": {"value": 476},
}
"""Answers by a key of their shape."""


def judged(shape: dict[str, Any], *, again: bool) -> dict[str, Any]:
    """Return a verdict or a list of faults; with `again`, one that asks for a revision."""
    if "faults" in shape:
        return {"faults": ["word " * 16] if again else []}
    issues = [{"quote": "word", "problem": "another word"}] if again else []
    return {"issues": issues, "verdict": "revise" if again else "accept"}


JUDGED = {"confidence": 0.9, "vote_settles": False}


def plan(count: int) -> str:
    """Return a plan of so many parts; over a long document each of them names one section."""
    part = {"title": "a part", "needs": [], "difficulty": 2, "capabilities": [], "expected_output": "a line"}
    each = {**part, "criteria": ["word " * 8]}
    parts = [{**each, "instructions": f"part {n}: {'word ' * 60}", "sections": [5 * n + 1]} for n in range(count)]
    return json.dumps({"goal": "word " * 20, "constraints": [], "merge_instructions": "join", "subtasks": parts})


if __name__ == "__main__":
    main()
