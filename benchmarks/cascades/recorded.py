"""The recorded task sets, and their scoring."""

import json
import lzma
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from fusion.stages.text.extract import Extractor

FOLDER = Path(__file__).parents[1] / "data" / "recorded"
SETS = ("gsm8k", "cruxeval", "math_l5")
SONNET = "claude-3-5-sonnet-20241022"
MINI = "gpt-4o-mini-2024-07-18"
DEEPSEEK = "deepseek-v2.5-0908"

EXTRACT = {
    "gsm8k": Extractor(read="number", path="answer"),
    "cruxeval": Extractor(read="code", path="answer"),
    "math_l5": Extractor(read="number", path="answer"),
}
"""The comparison of answers of a set; the recorded prompts ask for JSON with a field `answer`."""


@dataclass(frozen=True)
class Answered:
    """A recorded answer of a model: the compared part, its correctness, and its cost in dollars."""

    key: str | None
    right: bool
    usd: float


@dataclass(frozen=True)
class Task:
    """One item of a set."""

    of: str
    prompt: str
    gold: str
    answers: dict[str, Answered]


def is_right(of: str, answer: str, gold: str) -> bool:
    """Return True if the answer is right.

    In CRUXEval the right answer is a literal. A JSON string with the content of a string counts as that string:
    "abc" for 'abc'.
    """
    extractor = EXTRACT[of]
    found, wanted = extractor.extract(answer), extractor.key(gold)
    return found is not None and (found.key == wanted or (of == "cruxeval" and repr(found.text) == wanted))


@cache
def tasks(of: str, most: int | None = None) -> tuple[Task, ...]:
    """Return the items of a set, or its first ones, with the answers of each model."""
    prices = json.loads((FOLDER / "prices.json").read_text())["models"]
    with lzma.open(FOLDER / f"zeroeval_{of}.jsonl.xz", "rt", encoding="utf-8") as lines:
        return tuple(_task(of, json.loads(line), prices) for line in islice(lines, most))


def _task(of: str, row: dict[str, Any], prices: dict[str, dict[str, float]]) -> Task:
    answers = {}
    for model, said in row["responses"].items():
        found = EXTRACT[of].extract(said["text"])
        taken, given = (prices[model][f"{side}_usd_per_million_tokens"] for side in ("input", "output"))
        usd = (said["prompt_tokens"] * taken + said["completion_tokens"] * given) / 1e6
        answers[model] = Answered(None if found is None else found.key, is_right(of, said["text"], row["gold"]), usd)
    return Task(of, row["prompt"], row["gold"], answers)
