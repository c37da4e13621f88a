"""Notes of invoices: read one by one by a small model and added up by code, against one call of a strong model.

    python -m benchmarks.documents.invoices [--documents 12] [--bulk local/small] [--frontier local/strong]

Both are asked for the same: every record and the total, under the same schema. Each document is read by both, one
right after the other, in turns as to who begins, so that a load of the machine meets both alike.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from fusion import Fusion, Result, RunFailed

HERE = Path(__file__).parent
DATA = HERE.parent / "data" / "invoices.jsonl"
TASK = (
    "Each note is about one invoice of one supplier. List for every note the supplier and the amount in euros that "
    "is to be paid for it, and give the total of all amounts."
)


class Record(BaseModel):
    """One invoice."""

    supplier: str
    euros: float


class Answer(BaseModel):
    """What is asked for."""

    records: list[Record]
    total: float


class Reading(NamedTuple):
    """How well one document was read, and how long it took."""

    found: int
    wanted: int
    total: bool
    seconds: float


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--documents", type=int, default=12)
    words.add_argument("--bulk", default="local/small")
    words.add_argument("--frontier", default="local/strong")
    given = words.parse_args()
    documents = [json.loads(line) for line in DATA.read_text().splitlines()][: given.documents]
    print(f"load before: {os.getloadavg()[0]:.2f}; {given.bulk} against {given.frontier}", flush=True)
    with Fusion(profile="local", roles={"bulk": given.bulk, "frontier": given.frontier}) as fusion:
        read(fusion, "parts", {"text": "Note of Ash Ltd: 5 euros.", "records": [], "total": 5})  # loads the weights
        read(fusion, "single", {"text": "Note of Ash Ltd: 5 euros.", "records": [], "total": 5})
        rows = [both(fusion, at, document) for at, document in enumerate(documents)]
    report([parts for parts, _ in rows], [single for _, single in rows])


def both(fusion: Fusion, at: int, document: dict[str, Any]) -> tuple[Reading, Reading]:
    """How the document is read in parts and by one call."""
    order = ("parts", "single") if at % 2 else ("single", "parts")
    readings = {how: read(fusion, how, document) for how in order}
    for how, one in readings.items():
        line = f"{document['id']} {how:<6} records {one.found}/{one.wanted}  total {one.total}  {one.seconds:.1f} s"
        print(line, flush=True)
    return readings["parts"], readings["single"]


def read(fusion: Fusion, how: str, document: dict[str, Any]) -> Reading:
    inputs = {"task": TASK, "context": document["text"]}
    began = time.perf_counter()
    try:
        if how == "parts":
            result: Result | None = fusion.complete(pipeline=HERE / "invoices.yaml", inputs=inputs)
        else:
            result = fusion.complete(pipeline="single", inputs=inputs, schema=Answer)
    except RunFailed as failed:
        print(f"{document.get('id')} {how}: {failed}", flush=True)
        result = None
    seconds = time.perf_counter() - began
    answer = (
        Answer(records=[], total=math.nan)
        if result is None
        else Answer.model_validate(result.data, from_attributes=True)
    )
    said = [(record.supplier, record.euros) for record in answer.records]
    found = sum((record["supplier"], record["euros"]) in said for record in document["records"])
    return Reading(found, len(document["records"]), math.isclose(answer.total, document["total"]), seconds)


def report(parts: list[Reading], single: list[Reading]) -> None:
    for name, readings in (("parts", parts), ("single", single)):
        found, wanted = sum(one.found for one in readings), sum(one.wanted for one in readings)
        totals, seconds = sum(one.total for one in readings), sum(one.seconds for one in readings)
        print(
            f"{name}: records {found}/{wanted} ({found / wanted:.1%}), totals {totals}/{len(readings)}, "
            f"{seconds / len(readings):.1f} s a document"
        )
    won = sum(one.total and not other.total for one, other in zip(parts, single, strict=True))
    lost = sum(other.total and not one.total for one, other in zip(parts, single, strict=True))
    ratio = sum(one.seconds for one in parts) / sum(one.seconds for one in single)
    print(f"totals right in parts only: {won}, by one call only: {lost}, exact McNemar p = {mcnemar(won, lost):.4f}")
    print(f"wall: {ratio:.2f} times; load after: {os.getloadavg()[0]:.2f}")


def mcnemar(won: int, lost: int) -> float:
    """The exact two-sided p of McNemar's test: how likely such a split is if neither is better (Liddell 1983)."""
    discordant = won + lost
    tail = sum(math.comb(discordant, n) for n in range(min(won, lost) + 1))
    return min(1.0, 2 * tail / 2**discordant)


if __name__ == "__main__":
    main()
