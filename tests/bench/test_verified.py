"""Verifications in a benchmark: wrong answers caught, right ones refused, repairs, and the arm without the check."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusion import Request
from fusion.bench import Report
from tests.bench.conftest import CHEAP, STRONG, model
from tests.bench.test_reviews import ITEMS, ROLES, odd, single_sums, spoken, sums, worker
from tests.conftest import said

Bench = Callable[..., Report]

ANSWERS = (
    "inputs: {question: A sum.}\n"
    + ROLES
    + """
stages:
  answer: {kind: generate, role: bulk, prompt: "Work: {{ inputs.question }}"}
  check:
    kind: verify
    value: answer
    prompt: "Revise: {{ inputs.question }}"
    OPTIONS
output: check
"""
)


def written(text: str, options: str) -> str:
    """The pipeline with these options; without repairs it has no prompt."""
    if "attempts: 0" in options:
        text = "\n".join(line for line in text.splitlines() if "Revise" not in line)
    return text.replace("OPTIONS", options.replace("\n", "\n    "))


EVEN = 'check: {expression: "number % 2 == 0"}'
NEVER = "check: {contains: right}"
ALWAYS = "check: {min_length: 1}"
LARGE = 'check: {expression: "number > 20"}'


def wrong(right: int) -> bool:
    return right % 8 == 2  # 5 of the 20 sums, each off by one: odd


CASES: dict[str, tuple[str, Any, tuple[int, ...], int]] = {
    "knows": (f"{EVEN}\nattempts: 1", None, (5, 0, 5, 0), 5),
    "passes all": (f"{ALWAYS}\nattempts: 1", None, (0, 0, 0, 0), 0),
    "refuses all, spoils": (f"{NEVER}\nattempts: 1", lambda right: right + 1, (5, 15, 0, 15), 20),
    "refuses the small": (f"{LARGE}\nattempts: 0", None, (3, 8, 0, 0), 0),
}
"""The options, a repair, (caught, refused, repaired, spoiled), and the calls of the stage."""


def test_verifications_are_measured_on_answers(bench: Bench, tmp_path: Path) -> None:
    single_sums(tmp_path / "sums.jsonl")
    arms, models = {}, []
    for at, (name, (options, revised, *_)) in enumerate(CASES.items()):
        (tmp_path / f"{at}.yaml").write_text(written(ANSWERS, options))
        models.append(model(f"scripted/author-{at}", worker(wrong, revised or (lambda right: right))))
        arms[name.replace(",", "")] = {"pipeline": f"{at}.yaml", "roles": {"bulk": models[-1].info.id}}
    report = bench(models, store=True, arms=arms, baselines=("no_review",))
    found = {one.arm: one for one in report.analysis.reviews}
    assert {(one.stage, one.kind, one.unit, one.judged) for one in found.values()} == {
        ("check", "verify", "answers", 20)
    }
    assert {(one.wrong, one.right, one.silent) for one in found.values()} == {(5, 15, 0)}
    counts = {name: (one.caught, one.refused, one.repaired, one.spoiled) for name, one in found.items()}
    assert counts == {name.replace(",", ""): case[2] for name, case in CASES.items()}
    assert [one.calls for one in found.values()] == [case[3] for case in CASES.values()]
    assert {one.plain.against for one in found.values() if one.plain} == {f"{name} without check" for name in arms}


LINES = (
    "inputs: {lines: The sums.}\n"
    + ROLES
    + """
stages:
  read: {kind: map, over: inputs.lines.splitlines(), role: bulk, prompt: "Work: {{ item.source }}"}
  check:
    kind: verify
    over: read
    prompt: "Revise: {{ item.source }}"
    OPTIONS
output: check | selectattr("ok") | map(attribute="value") | join(" ")
"""
)


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        (f"{EVEN}\nattempts: 1", (8, 0, 8, 0)),
        (f"{EVEN}\nattempts: 0\non_fail: fail", (8, 0, 0, 0)),
        (f"{NEVER}\nattempts: 0\non_fail: fail\nmin_ok: 0", (8, 16, 0, 16)),
        ("check: {judge: {role: frontier, prompt: 'Review: {{ item.source }} -> {{ value }}'}}", (8, 0, 8, 0)),
    ],
)
def test_verifications_are_measured_on_items(
    bench: Bench, tmp_path: Path, options: str, counts: tuple[int, ...]
) -> None:
    (tmp_path / "lines.yaml").write_text(written(LINES, options))
    rows = []
    for at in range(8):
        values = [10 * at + n for n in range(3)]
        right = [str(2 * value) for value in values]
        row = {"id": f"q{at}", "prompt": "\n".join(f"{value}+{value}" for value in values)}
        rows.append({**row, "gold": " ".join(right), "parts": right})
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def judge(request: Request) -> Any:
        right, value = sums(said(request))[0]
        return spoken({"issues": [], "verdict": "accept" if right == value else "revise"})

    report = bench(
        [model(CHEAP, worker(odd)), model(STRONG, judge)],
        tasks={"lines": ITEMS},
        scorer="answer.split() == gold.split()",
        arms={"mine": {"pipeline": "lines.yaml"}},
        baselines=(),
    )
    (one,) = report.analysis.reviews
    assert (one.kind, one.unit, one.judged, one.wrong, one.right) == ("verify", "items", 24, 8, 16)
    assert (one.caught, one.refused, one.repaired, one.spoiled) == counts
