"""KeptRun: a run in a store, from before its first call to its end: begun, or taken up again."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from fusion.core.errors import StoreError
from fusion.core.result import Result
from fusion.engine.manifest import Record
from fusion.engine.receipt import before
from fusion.engine.run import Origin
from fusion.store.base import RunLock, Store
from fusion.store.journal import Journal
from fusion.store.rows import Content, Ended, RunRow, RunStatus, SessionStart, Started


class KeptRun:
    """A run that is kept: its journal, where it comes from, and the right to run it."""

    def __init__(self, store: Store, lock: RunLock, journal: Journal, origin: Origin) -> None:
        self.run_id = journal.run_id
        self.journal = journal
        self.origin = origin
        self._store = store
        self._lock = lock

    @classmethod
    def begin(
        cls,
        store: Store,
        run_id: str,
        record: Record,
        *,
        content: Content,
        tags: Mapping[str, str],
        parent: RunRow | None = None,
    ) -> "KeptRun":
        """A new run. It answers from the finished calls of its parent, and of those that one goes back to."""
        lock = store.lock(run_id)
        now = time.time()
        root = run_id if parent is None else parent.root
        started = Started(
            run_id=run_id,
            parent=None if parent is None else parent.run_id,
            root=root,
            pipeline=record.data["pipeline"]["name"],
            profile=record.data["profile"],
            started=now,
            tags=tags,
            content=content,
            fingerprint=record.fingerprint,
            record=record.data if content == "full" else None,
        )
        journal = Journal(store, run_id, content=content)
        store.put(started, SessionStart(run_id, 1, now))
        if parent is not None:
            journal.reuse(row.run_id for row in _line_of(store, parent))
        return cls(store, lock, journal, Origin(seed=root, parent=started.parent, tags=dict(tags)))

    @classmethod
    def resume(cls, store: Store, row: RunRow, lock: RunLock, *, retry_budget: bool) -> "KeptRun":
        """A run that ended before its answer, taken up where it ended."""
        session = row.sessions + 1
        journal = Journal(store, row.run_id, session=session, content=row.content)
        journal.resume(retry_budget=retry_budget)
        if row.parent is not None and (parent := store.run(row.parent)) is not None:
            journal.reuse(one.run_id for one in _line_of(store, parent))
        store.put(SessionStart(row.run_id, session, time.time()))
        store.flush()
        origin = Origin(
            seed=row.root,
            parent=row.parent,
            session=session,
            tags=row.tags,
            started=datetime.fromtimestamp(row.started, UTC),
            before=before(store, row.run_id),
        )
        return cls(store, lock, journal, origin)

    def say(self, notes: Iterable[str]) -> None:
        """What is to be said when the run begins."""
        self.origin = replace(self.origin, notes=(*self.origin.notes, *notes))

    async def end(self, result: Result, *, interrupted: bool) -> None:
        """Write down how the run ended. A store that fails now has failed before, and that was said."""
        status: RunStatus = "interrupted" if interrupted else result.status
        full = self.journal.content == "full"
        await self.journal.end(
            Ended(
                run_id=self.run_id,
                session=self.origin.session,
                status=status,
                ended=time.time(),
                usd=result.cost.usd,
                unknown_calls=result.cost.unknown_calls,
                calls=result.receipt.calls,
                failure=result.error if full or result.error is None else _without_words(result),
                result=result.model_dump(mode="json") if full else None,
            )
        )

    def release(self) -> None:
        """Give back the right to run it; a second call changes nothing."""
        self._lock.release()


def record_of(store: Store, row: RunRow) -> Record:
    """What a run is made of. Raises StoreError where that was not kept."""
    data = store.record(row.run_id)
    if data is None:
        raise StoreError(
            f"the prompts of run {row.run_id!r} were not kept (`content` in [store] was {row.content!r}), so it can "
            'be neither resumed nor repeated; `content = "full"` keeps those of later runs'
        )
    return Record(data)


def result_of(store: Store, row: RunRow) -> Result:
    """The Result of a run that has ended. Raises StoreError where it was not kept."""
    data: Mapping[str, Any] | None = store.result(row.run_id)
    if data is None:
        raise StoreError(f"the answer of run {row.run_id!r} was not kept (`content` in [store] was {row.content!r})")
    return Result.model_validate(data)


def _line_of(store: Store, row: RunRow) -> Iterator[RunRow]:
    """A run and those that it goes back to, the latest first."""
    one: RunRow | None = row
    while one is not None:
        yield one
        one = None if one.parent is None else store.run(one.parent)


def _without_words(result: Result) -> Any:
    assert result.error is not None
    return result.error.model_copy(update={"message": "its words are not kept"})
