"""Maps in a store, as a process leaves them, to be listed, read, compared and removed."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from fusion.core.result import Result
from fusion.core.types import CallKey, Failure, Message, Reply, Request, Usage
from fusion.store.base import Store
from fusion.store.encoding import as_json
from fusion.store.rows import (
    Attempt,
    AttemptEnd,
    Call,
    Ended,
    MapEnded,
    MapPass,
    MapStarted,
    RowStarted,
    RunStatus,
    SessionStart,
    Started,
)

CENT = Decimal("0.01")
RECORD = as_json({"version": 2, "file": "tickets.yaml"})
Answer = str | Failure | None
"""The text of a row's answer, its failure, or nothing for a row without an end."""


@dataclass(frozen=True)
class Kept:
    """A map to keep: its rows by key. Each ended row has one call for a cent, and takes its number of seconds."""

    rows: Mapping[str, Answer]
    map_id: str = "nightly"
    status: RunStatus | None = "ok"
    at: float = 1_000_000.0
    pipeline: str = "tickets"
    source: str = "in.csv"
    output: str = "out.jsonl"
    tags: Mapping[str, str] | None = None
    failure: Failure | None = None
    content: Any = "full"
    passes: int = 1


def keep(store: Store, one: Kept) -> None:
    """Put a map into a store."""
    store.put(
        MapStarted(one.map_id, one.pipeline, "local", one.at, one.tags or {}, one.source, one.output),
        *(
            MapPass(one.map_id, number, one.at + number, "f", RECORD, len(one.rows))
            for number in range(1, one.passes + 1)
        ),
    )
    for number, (key, answer) in enumerate(one.rows.items(), start=1):
        _keep_row(store, one, number, key, answer)
    if one.status is not None:
        store.put(MapEnded(one.map_id, one.passes, one.status, one.at + 60, one.failure))
    store.flush()


def _keep_row(store: Store, one: Kept, number: int, key: str, answer: Answer) -> None:
    run_id, at = f"{one.map_id}-{number}", one.at + number
    about = (one.pipeline, "local", at, dict(one.tags or {}))
    record = as_json({"inputs": {"text": key}}) if one.content == "full" else None
    run = Started(run_id, None, run_id, *about, one.content, f"f-{key}", record)
    store.put(
        RowStarted(one.map_id, number, key, one.passes, number, "f", run),
        SessionStart(run_id, 1, at),
        Attempt(run_id, 1, 1, "work", None, "work", "bulk", "x/y", at, CENT * 2, 100),
    )
    if answer is None:
        return
    store.put(AttemptEnd(run_id, 1, 1, "settled", at, CENT, 50))
    failure = answer if isinstance(answer, Failure) else None
    store.put(_call(run_id, at, key, answer, full=one.content == "full"))
    result = _result(one, run_id, answer) if one.content == "full" else None
    status: RunStatus = "ok" if failure is None else "failed"
    store.put(Ended(run_id, 1, status, at + number, CENT, 0, 1, failure, result))


def _call(run_id: str, at: float, key: str, answer: str | Failure, *, full: bool) -> Call:
    place = CallKey(stage="work", item=None, step="work", digest=f"{len(key):064x}")
    request = Request(messages=(Message(role="user", content=f"work on {key}"),), max_tokens=10, key=place)
    if isinstance(answer, Failure):
        return Call(run_id, 1, place, "bulk", "x/y", "failed", at, at + 1, request if full else None, failure=answer)
    usage = Usage(input=30, output=20)
    reply = Reply(text=answer if full else "", finish_reason="stop", usage=usage, asked="x/y", served="y", cost=CENT)
    return Call(run_id, 1, place, "bulk", "x/y", "finished", at, at + 1, request if full else None, reply)


def _result(one: Kept, run_id: str, answer: str | Failure) -> str:
    failed = isinstance(answer, Failure)
    result = Result(
        run_id=run_id,
        pipeline=one.pipeline,
        profile="local",
        started=datetime.fromtimestamp(one.at, UTC),
        status="failed" if failed else "ok",
        text="" if isinstance(answer, Failure) else answer,
        error=answer if isinstance(answer, Failure) else None,
    )
    return result.model_dump_json()
