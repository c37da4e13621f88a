"""MemoryStore: keeps runs as long as it lives, for tests and for programs that keep nothing."""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Context, Decimal
from typing import Any, Final

from fusion.core.errors import RunBusyError, StoreError
from fusion.core.types import CallKey, Reply
from fusion.store.base import RunLock, Store
from fusion.store.rows import (
    Attempt,
    AttemptEnd,
    AttemptState,
    Cached,
    Call,
    CallIndex,
    Decision,
    Ended,
    Line,
    Noticed,
    Row,
    RunFilter,
    RunRow,
    SessionStart,
    SetAside,
    Spending,
    Started,
)

_EXACT: Final = Context(prec=400)
CACHE_BYTES: Final = 500_000_000


@dataclass
class _Session:
    started: float
    seen: float


@dataclass
class _Run:
    """All that is kept of one run."""

    about: Started
    sessions: dict[int, _Session] = field(default_factory=dict)
    end: Ended | None = None
    calls: dict[int, Call] = field(default_factory=dict)
    finished: set[CallKey] = field(default_factory=set)
    attempts: dict[tuple[int, int], Attempt] = field(default_factory=dict)
    ends: dict[tuple[int, int], AttemptEnd] = field(default_factory=dict)
    decisions: dict[tuple[str, int | None, str], Decision] = field(default_factory=dict)
    events: dict[int, Mapping[str, Any]] = field(default_factory=dict)

    def sign(self, at: float) -> None:
        """Somebody was at this run at this time."""
        if self.sessions:
            session = self.sessions[max(self.sessions)]
            session.seen = max(session.seen, at)

    def ledger(self) -> Iterator[tuple[Attempt, AttemptEnd | None]]:
        for place in sorted(self.attempts):
            yield self.attempts[place], self.ends.get(place)

    def ordered(self) -> list[Call]:
        return [self.calls[number] for number in sorted(self.calls)]


class MemoryStore(Store):
    """A store in the memory of this process; what is put is there at once."""

    def __init__(self, *, cache_bytes: int = CACHE_BYTES) -> None:
        self.where = "memory"
        self._cache_bytes = cache_bytes
        self._lock = threading.RLock()
        self._runs: dict[str, _Run] = {}
        self._cache: dict[str, Cached] = {}
        self._cached = 0
        self._locked: set[str] = set()
        self._closed = False
        self._ways: dict[type, Callable[[_Run, Any], None]] = {
            SessionStart: _session,
            Ended: _ended,
            Call: _call,
            SetAside: _set_aside,
            Attempt: _attempt,
            AttemptEnd: _attempt_end,
            Decision: _decision,
            Noticed: _noticed,
        }

    def put(self, *rows: Row) -> None:
        with self._lock:
            if not self._closed:
                for row in rows:
                    self._put(row)

    def _put(self, row: Row) -> None:
        if isinstance(row, Cached):
            self._keep(row)
        elif isinstance(row, Started):
            self._runs.setdefault(row.run_id, _Run(row))
        elif (run := self._runs.get(row.run_id)) is not None:
            self._ways[type(row)](run, row)

    def _keep(self, row: Cached) -> None:
        there = self._cache.get(row.key)
        if there is not None and row.at < there.at:
            return
        if there is not None:
            self._drop(row.key)
        self._cache[row.key] = row
        self._cached += _size(row)
        while self._cached > self._cache_bytes:
            self._drop(next(iter(self._cache)))

    def _drop(self, key: str) -> None:
        self._cached -= _size(self._cache.pop(key))

    async def written(self) -> None:
        self.flush()

    def flush(self) -> None:
        if self._closed:
            raise StoreError("the store is closed")

    def close(self) -> None:
        self._closed = True

    # Who runs what.

    def lock(self, run_id: str) -> RunLock:
        with self._lock:
            if run_id in self._locked:
                raise RunBusyError(f"run {run_id!r} is being run already; wait for its end, or stop it first")
            self._locked.add(run_id)
        return _Lock(self._locked, run_id)

    def is_locked(self, run_id: str) -> bool:
        return run_id in self._locked

    # Reading a run.

    def _of(self, run_id: str) -> _Run | None:
        self.flush()
        return self._runs.get(run_id)

    def run(self, run_id: str) -> RunRow | None:
        with self._lock:
            run = self._of(run_id)
            return None if run is None else _row(run)

    def runs(self, which: RunFilter, *, limit: int | None = None) -> list[RunRow]:
        with self._lock:
            self.flush()
            found = [row for row in map(_row, self._newest()) if _fits(row, which)]
        return found[:limit]

    def _newest(self) -> list[_Run]:
        """All runs, the newest first; of those that began at once, the one that was put last."""
        order = enumerate(self._runs.values())
        return [
            run for _, run in sorted(order, key=lambda placed: (placed[1].about.started, placed[0]), reverse=True)
        ]

    def run_ids(self, beginning: str, *, limit: int = 10) -> list[str]:
        with self._lock:
            self.flush()
            ids = [run.about.run_id for run in self._newest()]
        return [run_id for run_id in ids if run_id.startswith(beginning)][:limit]

    def record(self, run_id: str) -> Mapping[str, Any] | None:
        run = self._of(run_id)
        return None if run is None else run.about.record

    def result(self, run_id: str) -> Mapping[str, Any] | None:
        run = self._of(run_id)
        return None if run is None or run.end is None else run.end.result

    def index(self, run_id: str) -> Iterator[CallIndex]:
        for call in self.calls(run_id):
            yield CallIndex(call.number, call.key, call.state)

    async def answer(self, run_id: str, number: int) -> Call | None:
        return self.call(run_id, number)

    def call(self, run_id: str, number: int) -> Call | None:
        run = self._of(run_id)
        return None if run is None else run.calls.get(number)

    def calls(self, run_id: str, *, texts: bool = False) -> Iterator[Call]:
        with self._lock:
            run = self._of(run_id)
            found = [] if run is None else run.ordered()
        for call in found:
            yield call if texts else _bare(call)

    def attempts(
        self, run_id: str, *, states: Collection[AttemptState] = ()
    ) -> Iterator[tuple[Attempt, AttemptEnd | None]]:
        with self._lock:
            run = self._of(run_id)
            found = [] if run is None else list(run.ledger())
        for attempt, end in found:
            if not states or ("open" if end is None else end.state) in states:
                yield attempt, end

    def decisions(self, run_id: str) -> list[Decision]:
        with self._lock:
            run = self._of(run_id)
            return [] if run is None else list(run.decisions.values())

    def events(self, run_id: str) -> list[Mapping[str, Any]]:
        with self._lock:
            run = self._of(run_id)
            return [] if run is None else [run.events[number] for number in sorted(run.events)]

    def spending(self, run_id: str) -> dict[str, Spending]:
        with self._lock:
            run = self._of(run_id)
            return {} if run is None else _spending(run, lambda attempt: attempt.stage)

    def lines(self, run_id: str) -> list[Line]:
        found: dict[tuple[Any, ...], Line] = {}
        for call in self.calls(run_id):
            reply = call.reply
            if call.state == "failed" or reply is None:
                continue
            asked = call.asked if reply.by is not None else None
            place = (
                call.key.stage,
                call.role,
                reply.writer,
                asked,
                reply.served,
                reply.usage.source,
                call.reused is not None,
            )
            found[place] = _added(found.get(place) or Line(*place, 0, 0, 0, 0, 0, 0, Decimal(0), 0), reply)
        return list(found.values())

    def last_numbers(self, run_id: str) -> tuple[int, int]:
        with self._lock:
            run = self._of(run_id)
            return (0, 0) if run is None else (max(run.calls, default=0), max(run.events, default=0))

    # The cache.

    async def cached(self, key: str) -> Reply | None:
        with self._lock:
            self.flush()
            kept = self._cache.pop(key, None)
            if kept is None:
                return None
            self._cache[key] = kept
            return kept.reply

    def clear_cache(self) -> int:
        with self._lock:
            self.flush()
            count = len(self._cache)
            self._cache.clear()
            self._cached = 0
            return count

    # Housekeeping.

    def lose_open(self, run_id: str) -> int:
        with self._lock:
            run = self._of(run_id)
            lost = [] if run is None else [attempt for attempt, end in run.ledger() if end is None]
            for one in lost:
                self._runs[run_id].ends[one.session, one.number] = AttemptEnd(
                    run_id, one.session, one.number, "lost", time.time(), one.usd, one.tokens
                )
            return len(lost)

    def remove(self, run_ids: Iterable[str]) -> int:
        with self._lock:
            self.flush()
            return sum(self._runs.pop(run_id, None) is not None for run_id in run_ids)

    def sizes(self) -> Mapping[str, int]:
        with self._lock:
            self.flush()
            runs = self._runs.values()
            return {
                "runs": len(runs),
                "calls": sum(len(run.calls) for run in runs),
                "attempts": sum(len(run.attempts) for run in runs),
                "cached": len(self._cache),
                "bytes": 0,
            }


class _Lock(RunLock):
    def __init__(self, locked: set[str], run_id: str) -> None:
        self._locked: set[str] | None = locked
        self._run_id = run_id

    def release(self) -> None:
        locked, self._locked = self._locked, None
        if locked is not None:
            locked.discard(self._run_id)


# How a row changes a run.


def _session(run: _Run, row: SessionStart) -> None:
    if row.session > max(run.sessions, default=0):
        run.sessions[row.session] = _Session(row.started, row.started)
        run.end = None


def _ended(run: _Run, row: Ended) -> None:
    run.sign(row.ended)
    if run.end is None and row.session >= max(run.sessions, default=0):
        run.end = row


def _call(run: _Run, row: Call) -> None:
    run.sign(row.ended)
    twice = row.state == "finished" and row.key in run.finished
    if row.number in run.calls or twice:
        return
    run.calls[row.number] = row
    if row.state == "finished":
        run.finished.add(row.key)


def _set_aside(run: _Run, row: SetAside) -> None:
    aside = run.finished.intersection(row.keys)
    for number, call in run.calls.items():
        if call.state == "finished" and call.key in aside:
            run.calls[number] = replace(call, state="set aside")
    run.finished -= aside


def _attempt(run: _Run, row: Attempt) -> None:
    run.sign(row.opened)
    run.attempts.setdefault((row.session, row.number), row)


def _attempt_end(run: _Run, row: AttemptEnd) -> None:
    run.sign(row.closed)
    if (row.session, row.number) in run.attempts:
        run.ends.setdefault((row.session, row.number), row)


def _decision(run: _Run, row: Decision) -> None:
    run.decisions.setdefault((row.stage, row.item, row.name), row)


def _noticed(run: _Run, row: Noticed) -> None:
    run.events.setdefault(row.number, row.body)


# What is made of it.


def _size(row: Cached) -> int:
    return len(row.reply.text.encode()) + len(row.key)


def _row(run: _Run) -> RunRow:
    about, end = run.about, run.end
    spent = _spending(run, lambda _: "").get("", Spending(Decimal(0), 0, 0, 0))
    return RunRow(
        about.run_id,
        about.parent,
        about.root,
        about.pipeline,
        about.profile,
        "running" if end is None else end.status,
        about.started,
        None if end is None else end.ended,
        seconds=sum(session.seen - session.started for session in run.sessions.values()),
        sessions=max(run.sessions, default=0),
        tags=dict(about.tags),
        content=about.content,
        fingerprint=about.fingerprint,
        usd=spent.usd if end is None else end.usd,
        unknown_calls=spent.unknown if end is None else end.unknown_calls,
        calls=spent.calls if end is None else end.calls,
        failure=None if end is None else end.failure,
    )


def _fits(row: RunRow, which: RunFilter) -> bool:
    return (
        (not which.statuses or row.status in which.statuses)
        and which.pipeline in (None, row.pipeline)
        and which.fingerprint in (None, row.fingerprint)
        and which.parent in (None, row.parent)
        and (which.started_before is None or row.started < which.started_before)
        and which.tags.items() <= row.tags.items()
    )


def _spending(run: _Run, place: Callable[[Attempt], str]) -> dict[str, Spending]:
    found: dict[str, Spending] = {}
    for attempt, end in run.ledger():
        if end is not None and end.state == "refunded":
            continue
        now = end or attempt
        usd, tokens, calls, unknown = found.get(place(attempt), Spending(Decimal(0), 0, 0, 0))
        found[place(attempt)] = Spending(
            _EXACT.add(usd, now.usd or Decimal(0)), tokens + now.tokens, calls + 1, unknown + (now.usd is None)
        )
    return found


def _added(line: Line, reply: Reply) -> Line:
    usage = reply.usage
    return line._replace(
        calls=line.calls + 1,
        input=line.input + usage.input,
        cached_read=line.cached_read + usage.cached_read,
        cache_write=line.cache_write + usage.cache_write,
        output=line.output + usage.output,
        reasoning=line.reasoning + usage.reasoning,
        usd=_EXACT.add(line.usd, reply.cost or Decimal(0)),
        unknown=line.unknown + (reply.cost is None),
    )


def _bare(call: Call) -> Call:
    reply = None if call.reply is None else call.reply.model_copy(update={"text": ""})
    return replace(call, request=None, reply=reply)
