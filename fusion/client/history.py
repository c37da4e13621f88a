"""History: the runs that are kept, to be listed, read, compared, exported and removed."""

import json
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypedDict, Unpack

from pydantic_core import to_json

from fusion.client.history_types import CallDetails, CallLine, RunDetails, RunDiff, RunSummary, StageLine, StoreSizes
from fusion.core.errors import RunBusyError, UsageError
from fusion.core.events import EventBase, ItemFinished, StageFinished, StageStarted
from fusion.core.result import Cost, FailedPart, Receipt, Result
from fusion.engine.receipt import Accounts, Before, before
from fusion.store.base import Store
from fusion.store.lookup import find_run, run_state, try_lock
from fusion.store.rows import Call, RunFilter, RunRow, RunState, RunStatus

if TYPE_CHECKING:
    from fusion.pipeline.spec import Pipeline


EXPORT_VERSION: Final = 1
_DAY: Final = 86400
_NO_TAGS: Final[Mapping[str, str]] = {}
_STATES: Final[Mapping[RunState, RunStatus]] = {
    "running": "running",
    "died": "running",
    "ok": "ok",
    "partial": "partial",
    "failed": "failed",
    "interrupted": "interrupted",
}


class Which(TypedDict, total=False):
    """Which runs are meant: all that is given has to hold. `status` is one of several, `tags` are all there."""

    status: Collection[RunState]
    pipeline: str | None
    tags: Mapping[str, str]


class History:
    """The runs of a store. Ids may be abbreviated to what no other id begins with; `latest` is the one begun last.

    >>> with Fusion(store=True) as fusion:
    ...     latest, *_ = fusion.runs.list()
    ...     fusion.runs.show(latest.run_id).receipt.cost
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    # Many runs.

    def list(self, *, limit: int | None = None, **which: Unpack[Which]) -> tuple[RunSummary, ...]:
        """Runs, the newest first."""
        rows = self._rows(which, limit=limit)
        return tuple(self._summary(row, status) for row, status in rows)

    def sizes(self) -> StoreSizes:
        """How much the store holds, and where it is."""
        return StoreSizes(where=self._store.where, **self._store.sizes())

    def remove(self, run_ids: Iterable[str]) -> tuple[str, ...]:
        """Forget these runs and all that is kept of them; their ids.

        Raises RunBusyError for one that is being run, and UsageError for one that is not there; then none is removed.
        """
        rows = [find_run(self._store, run_id) for run_id in run_ids]
        ids = tuple(dict.fromkeys(row.run_id for row in rows))
        for run_id in ids:
            if self._store.is_locked(run_id):
                _busy(run_id)
        for run_id in ids:
            with try_lock(self._store, run_id) as is_free:
                if not is_free:
                    _busy(run_id)
                self._store.remove([run_id])
        return ids

    def prune(
        self,
        *,
        older_than: float | None = None,
        keep: int | None = None,
        dry_run: bool = False,
        **which: Unpack[Which],
    ) -> tuple[RunSummary, ...]:
        """Remove the runs that began more than `older_than` days ago, all but the newest `keep` of those meant.

        Gives those that are removed, or with `dry_run` would be. Runs that somebody is at stay.

        Raises UsageError where nothing says which runs are to go.
        """
        if older_than is None and keep is None and not which.get("status"):
            raise UsageError("say which runs are to go: by age (older_than), by number (keep) or by status")
        until = None if older_than is None else time.time() - older_than * _DAY
        rows = self._rows(which, limit=None)[keep or 0 :]
        gone = []
        for row, status in rows:
            if status == "running" or (until is not None and row.started >= until):
                continue
            with try_lock(self._store, row.run_id) as is_free:
                if is_free:
                    gone.append(self._summary(row, status))
                    if not dry_run:
                        self._store.remove([row.run_id])
        return tuple(gone)

    # One run.

    def find(self, run_id: str) -> RunSummary:
        """A run. Raises UsageError where none or several ids begin so."""
        row = find_run(self._store, run_id)
        return self._summary(row, run_state(self._store, row))

    def show(self, run_id: str) -> RunDetails:
        """A run with its receipt, stages, calls, failures and notes. Its calls have no texts: `call` gives those."""
        row = find_run(self._store, run_id)
        run = self._summary(row, run_state(self._store, row))
        was = before(self._store, row.run_id, open_too=row.ended is None)
        accounts = Accounts(self._price_sources(row.run_id))
        accounts.take_up(was)
        result = self._result(row)
        calls = tuple(_line(call) for call in self._store.calls(row.run_id))
        return RunDetails(
            run=run,
            receipt=accounts.receipt(row.seconds, row.tags) if result is None else result.receipt,
            models=accounts.served(),
            stages=_stages(was, calls),
            calls=calls,
            failed=_failed(was.events) if result is None else result.failed,
            notes=tuple(accounts.notes),
        )

    def result(self, run_id: str) -> Result:
        """The Result of a run that has ended. Raises UsageError for one that has none, or whose is not kept."""
        from fusion.engine.durable import result_of

        row = find_run(self._store, run_id)
        if row.ended is None:
            raise UsageError(f"run {row.run_id!r} has not ended (it is {run_state(self._store, row)!r})")
        return result_of(self._store, row)

    def pipeline(self, run_id: str) -> "Pipeline":
        """The pipeline of a run, as it was. Raises StoreError where that was not kept."""
        from fusion.engine.durable import record_of

        return record_of(self._store, find_run(self._store, run_id)).pipeline

    def call(self, run_id: str, which: int | str) -> CallDetails:
        """A call of a run with its texts, by its number or its place: `work/3/work`, or a beginning of that.

        Raises UsageError where there is none, or several of that place.
        """
        row = find_run(self._store, run_id)
        number = int(which) if str(which).isascii() and str(which).isdigit() else self._number(row, str(which))
        call = self._store.call(row.run_id, number)
        if call is None:
            last, _ = self._store.last_numbers(row.run_id)
            has = f"its calls have the numbers 1 to {last}" if last else "it has no calls"
            raise UsageError(f"run {row.run_id!r} has no call {number}; {has}")
        return _details(call, row)

    def diff(self, a: str, b: str) -> RunDiff:
        """What tells two runs apart."""
        from fusion.client.diff import compared

        rows = find_run(self._store, a), find_run(self._store, b)
        summaries = [self._summary(row, run_state(self._store, row)) for row in rows]
        return compared(self._store, *summaries)

    def export(self, run_id: str) -> Iterator[str]:
        """All that is kept of a run as one JSON document, in pieces that are written one after another.

        Its keys: `version` (of this format), `run`, `receipt`, `record` (what it was made of) and `result`, both null
        where they were not kept; then the lists `decisions`, `events`, `attempts` (the ledger) and `calls`, with
        messages and replies.
        """
        return self._exported(find_run(self._store, run_id))

    def _exported(self, row: RunRow) -> Iterator[str]:
        run_id, store = row.run_id, self._store
        head = {
            "version": EXPORT_VERSION,
            "run": self._summary(row, run_state(store, row)),
            "receipt": self._receipt(row),
            "record": store.record(run_id),
            "result": store.result(run_id),
        }
        lists: dict[str, Iterable[Any]] = {
            "decisions": (_without_run(asdict(one)) for one in store.decisions(run_id)),
            "events": store.events(run_id),
            "attempts": (
                {**_without_run(asdict(opening)), "end": None if end is None else _end(asdict(end))}
                for opening, end in store.attempts(run_id)
            ),
            "calls": (_details(call, row) for call in store.calls(run_id, texts=True)),
        }
        yield "{"
        for name, value in head.items():
            yield f"{json.dumps(name)}: {to_json(value).decode()},\n"
        for name, values in lists.items():
            yield f"{json.dumps(name)}: ["
            separator = "\n"
            for value in values:
                yield f"{separator}{to_json(value).decode()}"
                separator = ",\n"
            yield "]" if name == "calls" else "],\n"
        yield "}\n"

    # What the rows say.

    def _rows(self, which: Which, *, limit: int | None) -> "_Rows":
        """The rows that are meant, and how each stands. Only a look at its lock tells a run from one that died."""
        status = tuple(which.get("status", ()))
        kept = tuple(dict.fromkeys(_STATES[one] for one in status))
        meant = RunFilter(statuses=kept, pipeline=which.get("pipeline"), tags=which.get("tags", _NO_TAGS))
        exact = not {"running", "died"} & set(status)
        rows = self._store.runs(meant, limit=limit if exact else None)
        standing = [(row, run_state(self._store, row)) for row in rows]
        return [(row, one) for row, one in standing if not status or one in status][:limit]

    def _summary(self, row: RunRow, status: RunState) -> RunSummary:
        return RunSummary(
            run_id=row.run_id,
            status=status,
            pipeline=row.pipeline,
            profile=row.profile,
            started=_time(row.started),
            ended=None if row.ended is None else _time(row.ended),
            seconds=row.seconds,
            cost=Cost(usd=row.usd, unknown_calls=row.unknown_calls),
            calls=row.calls,
            sessions=row.sessions,
            tags=dict(row.tags),
            parent=row.parent,
            content=row.content,
            failure=row.failure,
        )

    def _result(self, row: RunRow) -> Result | None:
        data = None if row.ended is None else self._store.result(row.run_id)
        return None if data is None else Result.model_validate(data)

    def _receipt(self, row: RunRow) -> Receipt:
        result = self._result(row)
        if result is not None:
            return result.receipt
        accounts = Accounts(self._price_sources(row.run_id))
        accounts.take_up(before(self._store, row.run_id, open_too=row.ended is None))
        return accounts.receipt(row.seconds, row.tags)

    def _price_sources(self, run_id: str) -> dict[str, str]:
        """Where the prices of its models come from, as far as that was kept."""
        record = self._store.record(run_id)
        return {} if record is None or "roles" not in record else dict(_sources(record["roles"]))

    def _number(self, row: RunRow, place: str) -> int:
        lines = [_line(call) for call in self._store.calls(row.run_id)]
        exact = [line for line in lines if line.place == place]
        found_ = exact or [line for line in lines if line.place.startswith(f"{place.rstrip('/')}/")]
        if len(found_) == 1:
            return found_[0].number
        if not found_:
            raise UsageError(
                f"run {row.run_id!r} has no call {place!r}; give its number, or its place such as 'work/3/work'"
            )
        named = ", ".join(f"{line.number} ({line.place})" for line in found_[:10])
        raise UsageError(f"{place!r} is said of {len(found_)} calls of run {row.run_id!r}: {named}; give a number")


_Rows = list[tuple[RunRow, RunState]]


def _line(call: Call) -> CallLine:
    return CallLine(**_about(call))


def _details(call: Call, row: RunRow) -> CallDetails:
    request, reply = call.request, call.reply
    asked = {} if request is None else request.model_dump(exclude={"messages", "key"}, exclude_defaults=True)
    return CallDetails(
        **_about(call),
        digest="" if row.content == "off" else call.key.digest,
        messages=None if request is None else request.messages,
        parameters=asked,
        text=reply.text if reply is not None and row.content == "full" else None,
        text_digest=call.text_digest,
    )


def _about(call: Call) -> dict[str, Any]:
    about: dict[str, Any] = {
        "number": call.number,
        "stage": call.key.stage,
        "item": call.key.item,
        "step": call.key.step,
        "role": call.role,
        "asked": call.asked,
        "state": call.state,
        "started": _time(call.started),
        "seconds": max(0.0, call.ended - call.started),
        "reused": call.reused,
        "failure": call.failure,
    }
    if (reply := call.reply) is not None:
        about |= {
            "by": reply.by,
            "served": reply.served,
            "usage": reply.usage,
            "cost": reply.cost,
            "finish_reason": reply.finish_reason,
        }
    return about


def _stages(was: Before, calls: Iterable[CallLine]) -> tuple[StageLine, ...]:
    """The stages in the order in which they first began, as their latest session left them."""
    lines: dict[str, dict[str, Any]] = {}
    for event in was.events:
        if isinstance(event, StageStarted):
            first = lines.get(event.stage, {}).get("started", event.at)
            lines[event.stage] = {"kind": event.kind, "status": "open", "started": first, "seconds": None}
        elif isinstance(event, StageFinished):
            line = lines.setdefault(event.stage, {"started": None})
            line |= {"kind": event.kind, "status": event.status, "seconds": event.seconds, "failure": event.failure}
    counts: dict[str, dict[str, int]] = {}
    for call in calls:
        lines.setdefault(call.stage, {"kind": "", "status": "open", "started": None, "seconds": None})
        count = counts.setdefault(call.stage, {"calls": 0, "failed": 0, "reused": 0})
        count["calls"] += 1
        count["failed"] += call.state == "failed"
        count["reused"] += call.reused is not None
    return tuple(StageLine(stage=stage, **line, **counts.get(stage, {})) for stage, line in lines.items())


def _failed(events: Iterable[EventBase]) -> tuple[FailedPart, ...]:
    """What failed and was not begun again."""
    failed: dict[tuple[str, int | None], FailedPart] = {}
    for event in events:
        if isinstance(event, StageStarted):
            failed = {place: part for place, part in failed.items() if place[0] != event.stage}
        elif isinstance(event, (ItemFinished, StageFinished)) and event.failure is not None:
            part = FailedPart(stage=event.stage, item=event.item, failure=event.failure)
            failed[event.stage, event.item] = part
    return tuple(failed.values())


def _sources(roles: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for role in roles["roles"].values():
        for info in role["chain"]:
            yield info["id"], info.get("price_source", "unknown")
    for nested in roles["nested"].values():
        yield from _sources(nested)


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _without_run(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "run_id"}


def _end(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("state", "closed", "usd", "tokens")}


def _busy(run_id: str) -> NoReturn:
    raise RunBusyError(f"run {run_id!r} is being run; wait for its end, or stop it first")
