"""Answers: the result of a row, from its run or from the store, and the line that it has in the output."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from fusion.bulk.outputs import OutputRow
from fusion.bulk.planner import Planned
from fusion.bulk.report import RowResult
from fusion.core.result import Cost, Result
from fusion.core.types import Failure
from fusion.store.base import Store


def stored_answer(store: Store, run_id: str) -> Mapping[str, Any]:
    """Return the parts of a row's Result that its line has, from the store."""
    data = store.result(run_id)
    if data is not None:
        return data
    run = store.run(run_id)
    assert run is not None, "a planned row is in the store"
    cost = {"usd": run.usd, "unknown_calls": run.unknown_calls}
    return {"status": run.status, "error": run.failure, "cost": cost, "seconds": run.seconds}


def result_of_row(planned: Planned, answer: Result | Mapping[str, Any], *, kept: bool) -> RowResult:
    """Return a row with the answer of its run."""
    if isinstance(answer, Result):
        text, data, status, cost = answer.text, answer.data, answer.status, answer.cost
        failure, seconds = _failure_of(answer), answer.seconds
    else:
        text, data, status = answer.get("text", ""), answer.get("data"), answer["status"]
        cost, seconds = Cost.model_validate(answer["cost"]), answer.get("seconds", 0.0)
        failure = _stored_failure(answer)
    return RowResult(
        key=planned.key,
        number=planned.number,
        position=planned.position,
        run_id=planned.run_id,
        status=status,
        text=text,
        data=data,
        failure=failure,
        cost=cost,
        seconds=seconds,
        kept=kept,
    )


def output_row(row: RowResult) -> OutputRow:
    """Return a row as its line has it."""
    return OutputRow(
        key=row.key,
        status=row.status,
        text=row.text,
        data=row.data,
        usd=row.cost.usd,
        unknown_calls=row.cost.unknown_calls,
        run_id=row.run_id,
        failure=row.failure,
    )


def line_of(run_id: str, status: str, usd: Decimal | str | None) -> str:
    """Return the state of a line: it is current as long as this stays the same."""
    return f"{run_id} {status} {float(usd or 0):.9g}"


def line_of_row(row: RowResult) -> str:
    """Return the state of the line that a row has in the output."""
    return line_of(row.run_id, row.status, row.cost.usd)


def current_row(store: Store, map_id: str, key: str) -> OutputRow | None:
    """Return the row in place of a line that is no longer current; None to keep the line."""
    entry = store.map_entries(map_id, [key]).get(key)
    if entry is None or entry.line is None or entry.status not in ("ok", "partial", "failed"):
        return None
    if entry.line == line_of(entry.run_id, entry.status, entry.usd):
        return None
    planned = Planned(entry.number, key, entry.position, entry.run_id, entry.line)
    return output_row(result_of_row(planned, stored_answer(store, entry.run_id), kept=True))


def _failure_of(result: Result) -> Failure | None:
    """Return the cause of a failed row, or the first of the parts that a partial one lacks."""
    parts = result.lost or result.failed
    return result.error or (parts[0].failure if parts and result.status == "partial" else None)


def _stored_failure(answer: Mapping[str, Any]) -> Failure | None:
    found = answer.get("error")
    if found is None and answer["status"] == "partial":
        parts = answer.get("lost") or answer.get("failed") or ()
        found = parts[0]["failure"] if parts else None
    return None if found is None else Failure.model_validate(found)
