"""Scorer of records extracted from a document, and of their total."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

from fusion.bench.scorers.base import Answer, Score, Scorer
from fusion.core.errors import UsageError
from fusion.models.structured import value_in

_LONGEST = 100_000
_PAIR = re.compile(
    r"(?P<name>[A-Z][\w.&' -]{0,60}?)\W{0,8}[:|–—-]\W{0,8}(?:EUR|€)?\s{0,4}(?P<amount>\d[\d.,]*)", re.MULTILINE
)
_TOTAL = re.compile(r"(?i)total[^\d\n]{0,100}(\d[\d.,]*)")


class Records(Scorer):
    """Scores by one of its measures: `records`, the F1 of records with the right amount, or `total`, 1 if right.

    Reads an answer's data, {records: [{supplier, euros}], total}, JSON in its text, or lines such as
    "Kapok Ltd: 3627" and "Total: 55608".
    """

    def __init__(self, by: Literal["records", "total"] = "records") -> None:
        self._by = by

    def score(self, answer: Answer, gold: Any) -> Score:
        try:
            known = Counter(_record(one) for one in gold["records"])
            total = Decimal(str(gold["total"]))
        except (TypeError, KeyError, InvalidOperation) as error:
            raise UsageError("the gold answer of `invoices` is {records: [{supplier, euros}], total}") from error
        data = _data(answer)
        found = Counter(filter(None, data["records"]))
        shared = sum((known & found).values())
        measures = {
            "records": 2 * shared / (sum(known.values()) + sum(found.values())) if shared else 0.0,
            "recall": shared / sum(known.values()),
            "total": float(data["total"] == total),
        }
        taken = f"{shared} of {sum(known.values())} records, total {data['total']}"
        return Score(value=measures[self._by], answer=taken, measures=measures)

    def item(self, answer: Answer, gold: Any) -> Score | None:
        """Score the records of a part: 1 if all are in the gold answer; None for a part without a record."""
        found = Counter(filter(None, _data(answer)["records"]))
        if not found:
            return None
        return Score(value=float(found <= Counter(_record(one) for one in gold["records"])))


def _data(answer: Answer) -> dict[str, Any]:
    given = answer.data if answer.data is not None else value_in(answer.text)
    if isinstance(given, list):
        given = {"records": given}
    if isinstance(given, Mapping) and isinstance(given.get("records"), list):
        total = _amount(given.get("total"))
        if total is None and (found := _TOTAL.findall(answer.text[-_LONGEST:])):
            total = _amount(found[-1])
        return {"records": [_parse_record(one) for one in given["records"]], "total": total}
    return {
        "records": list(_lines(answer.text)),
        "total": _amount((_TOTAL.findall(answer.text[-_LONGEST:]) or [None])[-1]),
    }


def _record(one: Mapping[str, Any]) -> tuple[str, Decimal]:
    return _name(one["supplier"]), Decimal(str(one["euros"]))


def _parse_record(one: Any) -> tuple[str, Decimal] | None:
    if not isinstance(one, Mapping) or not isinstance(one.get("supplier"), str):
        return None
    amount = _amount(one.get("euros", one.get("amount")))
    return (_name(one["supplier"]), amount) if amount is not None else None


def _lines(text: str) -> Iterator[tuple[str, Decimal]]:
    for match in _PAIR.finditer(text[:_LONGEST]):
        amount = _amount(match["amount"])
        if amount is not None and "total" not in match["name"].lower():
            yield _name(match["name"]), amount


def _name(text: str) -> str:
    return " ".join(text.split()).casefold()


def _amount(given: Any) -> Decimal | None:
    """Parse a number: 1,234 and 1234.00 and "1234 euros" are equal."""
    if isinstance(given, bool) or given is None:
        return None
    found = re.search(r"-?\d[\d.,]*", str(given))
    bare = found.group().rstrip(".,") if found else ""
    if re.fullmatch(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?", bare):
        bare = bare.replace(",", "")
    try:
        return Decimal(bare)
    except InvalidOperation:
        return None
