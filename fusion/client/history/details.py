"""Values of the history, made from the rows of a store."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from fusion.client.history.run_types import CallDetails, CallLine, CommandLine, RunSummary, StageLine, ToolLine
from fusion.core.events import CommandFinished, EventBase, ItemFinished, StageFinished, StageStarted, ToolFinished
from fusion.core.result import Cost, FailedPart, Receipt, Result
from fusion.core.types import Value
from fusion.engine.receipt import Accounts, Before, before
from fusion.models.base import Price
from fusion.store.base import Store
from fusion.store.rows import Attempt, AttemptEnd, Call, Decision, RunRow, RunState

_Value = TypeVar("_Value", bound=Value)


def run_summary(row: RunRow, status: RunState) -> RunSummary:
    """Return the summary of a run in this state."""
    return copied(
        RunSummary,
        row,
        status=status,
        started=moment(row.started),
        ended=None if row.ended is None else moment(row.ended),
        cost=Cost(usd=row.usd, unknown_calls=row.unknown_calls),
        tags=dict(row.tags),
    )


def call_line(call: Call) -> CallLine:
    """Return a call without its texts."""
    return copied(CallLine, call, call.key, call.reply, **_times(call))


def _times(call: Call) -> dict[str, Any]:
    return {"started": moment(call.started), "seconds": max(0.0, call.ended - call.started)}


def call_details(call: Call, row: RunRow) -> CallDetails:
    """Return a call with its texts."""
    request, reply = call.request, call.reply
    asked = {} if request is None else request.model_dump(exclude={"messages", "key"}, exclude_defaults=True)
    return copied(
        CallDetails,
        call,
        call.key,
        reply,
        **_times(call),
        digest="" if row.content == "off" else call.key.digest,
        messages=None if request is None else request.messages,
        parameters=asked,
        text=reply.text if reply is not None and row.content == "full" else None,
    )


def copied(kind: type[_Value], *sources: object, **values: Any) -> _Value:
    """Build a value from `values`, and for its other fields from the first source that has them."""
    for source in sources:
        for name in kind.model_fields.keys() - values.keys():
            if hasattr(source, name):
                values[name] = getattr(source, name)
    return kind(**values)


def stage_lines(was: Before, calls: Iterable[CallLine]) -> tuple[StageLine, ...]:
    """Return the stages in order of their first start, as the latest session left them."""
    lines: dict[str, dict[str, Any]] = {}
    for event in was.events:
        if isinstance(event, StageStarted):
            first = lines.get(event.stage, {}).get("started", event.at)
            lines[event.stage] = {"kind": event.kind, "status": "open", "started": first, "seconds": None}
        elif isinstance(event, StageFinished):
            line = lines.setdefault(event.stage, {"started": None})
            line |= {"kind": event.kind, "status": event.status, "seconds": event.seconds, "failure": event.failure}
    for call in calls:
        line = lines.setdefault(call.stage, {"kind": "", "status": "open", "started": None, "seconds": None})
        line["calls"] = line.get("calls", 0) + 1
        line["failed"] = line.get("failed", 0) + (call.state == "failed")
        line["reused"] = line.get("reused", 0) + (call.reused is not None)
    return tuple(StageLine(stage=stage, **line) for stage, line in lines.items())


def tool_lines(events: Iterable[EventBase]) -> tuple[ToolLine, ...]:
    """Return the calls of tools, in the order of their ends."""
    return tuple(
        copied(ToolLine, event, started=event.at - timedelta(seconds=event.seconds))
        for event in events
        if isinstance(event, ToolFinished)
    )


def command_lines(events: Iterable[EventBase]) -> tuple[CommandLine, ...]:
    """Return the commands in the sandbox, in the order of their ends."""
    return tuple(
        copied(CommandLine, event, started=event.at - timedelta(seconds=event.seconds))
        for event in events
        if isinstance(event, CommandFinished)
    )


def failed_parts(events: Iterable[EventBase]) -> tuple[FailedPart, ...]:
    """Return the failures of stages and items that were not retried by a later session."""
    failed: dict[tuple[str, int | None], FailedPart] = {}
    for event in events:
        if isinstance(event, StageStarted):
            failed = {place: part for place, part in failed.items() if place[0] != event.stage}
        elif isinstance(event, (ItemFinished, StageFinished)) and event.failure is not None:
            part = FailedPart(stage=event.stage, item=event.item, failure=event.failure)
            failed[event.stage, event.item] = part
    return tuple(failed.values())


def kept_result(store: Store, row: RunRow) -> Result | None:
    """Return the Result of a run that has ended, if it was kept."""
    data = None if row.ended is None else store.result(row.run_id)
    return None if data is None else Result.model_validate(data)


def receipt_of(store: Store, row: RunRow) -> Receipt:
    """Return the receipt of a run so far."""
    result = kept_result(store, row)
    if result is not None:
        return result.receipt
    return accounts_of(store, row)[0].receipt(row.seconds, row.tags)


def accounts_of(store: Store, row: RunRow) -> tuple[Accounts, Before]:
    """Add up the calls and attempts of a run."""
    was = before(store, row.run_id, open_too=row.ended is None)
    accounts = Accounts(*prices_of(store, row.run_id))
    accounts.take_up(was)
    return accounts, was


def prices_of(store: Store, run_id: str) -> tuple[dict[str, str], dict[str, Price | None]]:
    """Return the source and the price of each model, if they were kept."""
    record = store.record(run_id)
    infos = [] if record is None or "roles" not in record else list(_infos(record["roles"]))
    sources = {info["id"]: info.get("price_source", "unknown") for info in infos}
    return sources, {info["id"]: Price.model_validate(info["price"]) for info in infos if info.get("price")}


def _infos(roles: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the recorded info of each model."""
    for role in roles["roles"].values():
        yield from role["chain"]
    for nested in roles["nested"].values():
        yield from _infos(nested)


def moment(seconds: float) -> datetime:
    """Return a time of the store, in UTC."""
    return datetime.fromtimestamp(seconds, UTC)


def row_data(row: Attempt | AttemptEnd | Decision, *without: str) -> dict[str, Any]:
    """Return a row of the store as JSON data."""
    return {name: value for name, value in asdict(row).items() if name not in ("run_id", *without)}
