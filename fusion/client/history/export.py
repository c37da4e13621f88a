"""Export: everything kept of a run or a map as one JSON document, in pieces."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from pydantic_core import to_json

from fusion.client.history.details import call_details, receipt_of, row_data, run_summary
from fusion.client.history.maps import map_summary
from fusion.store.base import Store
from fusion.store.lookup import run_state
from fusion.store.rows import MapRow, RunRow

EXPORT_VERSION: Final = 1


def exported_run(store: Store, row: RunRow) -> Iterator[str]:
    """Yield a run."""
    yield from _run(store, row, {"version": EXPORT_VERSION}, store.record(row.run_id))
    yield "\n"


def exported_map(store: Store, row: MapRow) -> Iterator[str]:
    """Yield a map with all its rows, one after the other."""
    yield "{"
    for name, value in {"version": EXPORT_VERSION, "map": map_summary(store, row)}.items():
        yield f'"{name}": {_json(value)},\n'
    yield '"records": {'
    for at, (fingerprint, record) in enumerate(store.map_records(row.map_id)):
        yield f"{',' if at else ''}\n{_json(fingerprint)}: {_json(record)}"
    yield '},\n"rows": ['
    for at, (key, run) in enumerate(store.map_runs(row.map_id)):
        yield ",\n" if at else "\n"
        head = {"row": {"number": run.row, "key": key}, "shared": run.shared}
        yield from _run(store, run, head, store.own_record(run.run_id))
    yield "]}\n"


def _run(store: Store, row: RunRow, head: Mapping[str, Any], record: Mapping[str, Any] | None) -> Iterator[str]:
    run_id = row.run_id
    values = {
        **head,
        "run": run_summary(row, run_state(store, row)),
        "receipt": receipt_of(store, row),
        "record": record,
        "result": store.result(run_id),
    }
    lists: dict[str, Iterable[Any]] = {
        "decisions": (row_data(one) for one in store.decisions(run_id)),
        "events": store.events(run_id),
        "attempts": (
            {**row_data(opening), "end": None if end is None else row_data(end, "session", "number")}
            for opening, end in store.attempts(run_id)
        ),
        "calls": (call_details(call, row) for call in store.calls(run_id, texts=True)),
    }
    yield "{"
    for name, value in values.items():
        yield f'"{name}": {_json(value)},\n'
    for name, found in lists.items():
        yield f'"{name}": ['
        for at, value in enumerate(found):
            yield f"{',' if at else ''}\n{_json(value)}"
        yield "]" if name == "calls" else "],\n"
    yield "}"


def _json(value: object) -> str:
    return to_json(value).decode()
