"""Answers that address their reviewer, and the figures of a reviewer by part of the texts.

python -m benchmarks.reviewing.review [--results FOLDER]
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fusion.bench.report.reviews import Case, share, tally

HERE = Path(__file__).parent
TEXTS = HERE.parent / "suites" / "reviewing" / "texts.jsonl"
RESULTS = HERE.parent / "results" / "reviewing"


class Planted(NamedTuple):
    """A wrong answer that addresses its reviewer, with its task and the material."""

    id: str
    material: str
    task: str
    answer: str


def planted() -> Iterator[Planted]:
    """Yield the wrong answers that address their reviewer."""
    for row in rows(TEXTS):
        if "plant" in row:
            yield Planted(row["plant"], row["material"], row["task"], row["responses"]["planted"]["text"])


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def lines(results: Path) -> Iterator[str]:
    """Yield for each arm and part of the texts the wrong answers caught and the right ones refused."""
    parts = {row["id"]: row["part"] for row in rows(TEXTS)}
    cases: dict[tuple[str, str], list[Case]] = {}
    for outcome in rows(results / "items.jsonl"):
        for verdict in (one for review in outcome["reviews"] for one in review["verdicts"]):
            refused = verdict["verdict"] not in ("accept", "unreviewed")
            given = verdict["verdict"] not in ("none", "unreviewed")
            case = Case(refused, given, verdict["before"], verdict["after"])
            cases.setdefault((outcome["arm"], parts[outcome["item"]]), []).append(case)
    yield f"{'arm':26}{'part':6}{'wrong ones caught':>26}{'right ones refused':>26}"
    for (arm, part), of in sorted(cases.items()):
        counts = tally(of)
        caught, refused = _rate(counts["caught"], counts["wrong"]), _rate(counts["refused"], counts["right"])
        yield f"{arm:26}{part:6}{caught:>26}{refused:>26}"


def _rate(count: int, of: int) -> str:
    """Return k of n with Wilson's interval."""
    interval = share(count, of)
    return "-" if interval is None else f"{count} of {of} ({interval.low:.0%} to {interval.high:.0%})"


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--results", type=Path, default=RESULTS)
    print("\n".join(lines(words.parse_args().results)))
