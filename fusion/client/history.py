"""History: list, read, compare, export and remove the runs of a store."""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypedDict, TypeVar, Unpack

from pydantic_core import to_json

from fusion.client.history_types import CallDetails, CallLine, RunDetails, RunDiff, RunSummary, StageLine, StoreSizes
from fusion.core.config import Settings
from fusion.core.errors import RunBusyError, UsageError
from fusion.core.events import EventBase, ItemFinished, StageFinished, StageStarted
from fusion.core.result import Cost, FailedPart, Receipt, Result
from fusion.core.types import Value
from fusion.engine.receipt import Accounts, Before, before
from fusion.models.base import Price
from fusion.store.base import Store
from fusion.store.lookup import StoreGiven, find_run, resolve_store, run_state, try_lock
from fusion.store.rows import Attempt, AttemptEnd, Call, Decision, RunFilter, RunRow, RunState, RunStatus

if TYPE_CHECKING:
    from fusion.pipeline.spec import Pipeline


EXPORT_VERSION: Final = 1
_DAY: Final = 86400
_NO_TAGS: Final[Mapping[str, str]] = {}
_Value = TypeVar("_Value", bound=Value)


class Which(TypedDict, total=False):
    """Filter of runs: every given condition holds. `status` lists alternatives; a run has all of `tags`."""

    status: Collection[RunState]
    pipeline: str | None
    tags: Mapping[str, str]


class History:
    """The runs of a store. An id may be shortened to a unique prefix; `latest` is the run started last.

    >>> with Fusion(store=True) as fusion:
    ...     latest, *_ = fusion.runs.list()
    ...     fusion.runs.show(latest.run_id).receipt.cost
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    @classmethod
    @contextmanager
    def open(cls, store: StoreGiven = True, settings: Settings | None = None) -> "Iterator[History]":
        """Open the history of a store without a Fusion; close it on exit. Raises StoreError.

        `store` is a path or a Store; True is the store of FUSION_STORE, fusion.toml or the platform.
        """
        kept_in, is_ours = resolve_store(store, settings or Settings.announced(depth=4))
        if kept_in is None:
            raise UsageError("no store is given: name one, as in `History.open(path)`")
        try:
            yield cls(kept_in)
        finally:
            if is_ours:
                kept_in.close()

    # Many runs.

    def list(self, *, limit: int | None = None, **which: Unpack[Which]) -> tuple[RunSummary, ...]:
        """Return runs, newest first."""
        return tuple(_summary(row, status) for row, status in self._rows(which, limit=limit))

    def ids(self, prefix: str = "") -> tuple[str, ...]:
        """Return the ids that begin with `prefix`, newest first."""
        return tuple(self._store.run_ids(prefix))

    def sizes(self) -> StoreSizes:
        """Return the path of the store, its rows and its size."""
        return StoreSizes(where=self._store.where, **self._store.sizes())

    def remove(self, run_ids: Iterable[str]) -> tuple[str, ...]:
        """Remove runs with all their calls, and return their ids.

        Raises RunBusyError for a running one and UsageError for an unknown one, and then removes none.
        """
        rows = [find_run(self._store, run_id) for run_id in run_ids]
        ids = tuple(dict.fromkeys(row.run_id for row in rows))
        with ExitStack() as locks:
            for run_id in ids:
                if not locks.enter_context(try_lock(self._store, run_id)):
                    raise RunBusyError(f"run {run_id!r} is being run; wait for its end, or stop it first")
            self._store.remove(ids)
        return ids

    def prune(
        self,
        *,
        older_than: float | None = None,
        keep: int | None = None,
        dry_run: bool = False,
        **which: Unpack[Which],
    ) -> tuple[RunSummary, ...]:
        """Remove the runs that match and started more than `older_than` days ago, except the newest `keep`.

        Returns the removed runs; with `dry_run`, those that would be. Running ones are kept.

        Raises UsageError without an age, a number or a status.
        """
        if older_than is None and keep is None and not which.get("status"):
            raise UsageError("no runs to prune: give an age (older_than), a number (keep) or a status")
        until = None if older_than is None else time.time() - older_than * _DAY
        rows = self._rows(which, limit=None)[keep or 0 :]
        gone = []
        for row, status in rows:
            if status == "running" or (until is not None and row.started >= until):
                continue
            with try_lock(self._store, row.run_id) as is_free:
                if is_free:
                    gone.append(_summary(row, status))
                    if not dry_run:
                        self._store.remove([row.run_id])
        return tuple(gone)

    # One run.

    def find(self, run_id: str) -> RunSummary:
        """Return the summary of a run. Raises UsageError if no id or several begin with `run_id`."""
        return self._found(run_id)[1]

    def show(self, run_id: str) -> RunDetails:
        """Return a run with its receipt, stages, calls, failures and notes; `call` returns the texts of a call."""
        row, run = self._found(run_id)
        result = self._result(row)
        accounts, was = self._accounts(row)
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
        """Return the Result of a finished run. Raises UsageError for an unfinished one, StoreError if not kept."""
        from fusion.engine.durable import result_of

        row = find_run(self._store, run_id)
        if row.ended is None:
            raise UsageError(f"run {row.run_id!r} has not ended (it is {run_state(self._store, row)!r})")
        return result_of(self._store, row)

    def pipeline(self, run_id: str) -> "Pipeline":
        """Return the pipeline of a run, as it was at its start. Raises StoreError if it was not kept."""
        from fusion.engine.durable import record_of

        return record_of(self._store, find_run(self._store, run_id)).pipeline

    def call(self, run_id: str, which: int | str) -> CallDetails:
        """Return a call with its texts, by its number, its place such as `work/3/work`, or a prefix of the place.

        Raises UsageError if no call matches, or several do.
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
        """Compare two runs."""
        from fusion.client.diff import compared

        return compared(self._store, self.find(a), self.find(b))

    def export(self, run_id: str) -> Iterator[str]:
        """Return everything kept of a run as one JSON document, in pieces to write in order.

        Its keys: `version` (of this format), `run`, `receipt`, `record` (pipeline, inputs and models) and `result`,
        both null if they were not kept; then the lists `decisions`, `events`, `attempts` (the ledger) and `calls`,
        with messages and replies.
        """
        return self._exported(*self._found(run_id))

    def _exported(self, row: RunRow, run: RunSummary) -> Iterator[str]:
        run_id, store = row.run_id, self._store
        head = {
            "version": EXPORT_VERSION,
            "run": run,
            "receipt": self._receipt(row),
            "record": store.record(run_id),
            "result": store.result(run_id),
        }
        lists: dict[str, Iterable[Any]] = {
            "decisions": (_row(one) for one in store.decisions(run_id)),
            "events": store.events(run_id),
            "attempts": (
                {**_row(opening), "end": None if end is None else _row(end, "session", "number")}
                for opening, end in store.attempts(run_id)
            ),
            "calls": (_details(call, row) for call in store.calls(run_id, texts=True)),
        }
        yield "{"
        for name, value in head.items():
            yield f'"{name}": {to_json(value).decode()},\n'
        for name, values in lists.items():
            yield f'"{name}": ['
            for at, value in enumerate(values):
                yield f"{',' if at else ''}\n{to_json(value).decode()}"
            yield "]" if name == "calls" else "],\n"
        yield "}\n"

    # Rows.

    def _found(self, run_id: str) -> tuple[RunRow, RunSummary]:
        row = find_run(self._store, run_id)
        return row, _summary(row, run_state(self._store, row))

    def _rows(self, which: Which, *, limit: int | None) -> Sequence[tuple[RunRow, RunState]]:
        """Return the rows that match, with their states. Only its lock tells a running run from a dead one."""
        status = tuple(which.get("status", ()))
        kept: dict[RunStatus, None] = {"running" if one == "died" else one: None for one in status}
        meant = RunFilter(statuses=tuple(kept), pipeline=which.get("pipeline"), tags=which.get("tags", _NO_TAGS))
        exact = not {"running", "died"} & set(status)
        rows = self._store.runs(meant, limit=limit if exact else None)
        standing = [(row, run_state(self._store, row)) for row in rows]
        return [(row, one) for row, one in standing if not status or one in status][:limit]

    def _result(self, row: RunRow) -> Result | None:
        data = None if row.ended is None else self._store.result(row.run_id)
        return None if data is None else Result.model_validate(data)

    def _receipt(self, row: RunRow) -> Receipt:
        result = self._result(row)
        if result is not None:
            return result.receipt
        return self._accounts(row)[0].receipt(row.seconds, row.tags)

    def _accounts(self, row: RunRow) -> tuple[Accounts, Before]:
        """Add up the calls and attempts of a run."""
        was = before(self._store, row.run_id, open_too=row.ended is None)
        accounts = Accounts(*self._prices(row.run_id))
        accounts.take_up(was)
        return accounts, was

    def _prices(self, run_id: str) -> tuple[dict[str, str], dict[str, Price | None]]:
        """Return the source and the price of each model, if they were kept."""
        record = self._store.record(run_id)
        infos = [] if record is None or "roles" not in record else list(_infos(record["roles"]))
        sources = {info["id"]: info.get("price_source", "unknown") for info in infos}
        return sources, {info["id"]: Price.model_validate(info["price"]) for info in infos if info.get("price")}

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
        raise UsageError(f"{place!r} matches {len(found_)} calls of run {row.run_id!r}: {named}; give a number")


def _summary(row: RunRow, status: RunState) -> RunSummary:
    return _copied(
        RunSummary,
        row,
        status=status,
        started=_time(row.started),
        ended=None if row.ended is None else _time(row.ended),
        cost=Cost(usd=row.usd, unknown_calls=row.unknown_calls),
        tags=dict(row.tags),
    )


def _line(call: Call) -> CallLine:
    return _copied(CallLine, call, call.key, call.reply, **_times(call))


def _times(call: Call) -> dict[str, Any]:
    return {"started": _time(call.started), "seconds": max(0.0, call.ended - call.started)}


def _details(call: Call, row: RunRow) -> CallDetails:
    request, reply = call.request, call.reply
    asked = {} if request is None else request.model_dump(exclude={"messages", "key"}, exclude_defaults=True)
    return _copied(
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


def _copied(kind: type[_Value], *sources: object, **values: Any) -> _Value:
    """Build a value from `values`, and for its other fields from the first source that has them."""
    for source in sources:
        for name in kind.model_fields.keys() - values.keys():
            if hasattr(source, name):
                values[name] = getattr(source, name)
    return kind(**values)


def _stages(was: Before, calls: Iterable[CallLine]) -> tuple[StageLine, ...]:
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


def _failed(events: Iterable[EventBase]) -> tuple[FailedPart, ...]:
    """Return the failures of stages and items that were not retried by a later session."""
    failed: dict[tuple[str, int | None], FailedPart] = {}
    for event in events:
        if isinstance(event, StageStarted):
            failed = {place: part for place, part in failed.items() if place[0] != event.stage}
        elif isinstance(event, (ItemFinished, StageFinished)) and event.failure is not None:
            part = FailedPart(stage=event.stage, item=event.item, failure=event.failure)
            failed[event.stage, event.item] = part
    return tuple(failed.values())


def _infos(roles: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the recorded info of each model."""
    for role in roles["roles"].values():
        yield from role["chain"]
    for nested in roles["nested"].values():
        yield from _infos(nested)


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _row(row: Attempt | AttemptEnd | Decision, *without: str) -> dict[str, Any]:
    return {name: value for name, value in asdict(row).items() if name not in ("run_id", *without)}
