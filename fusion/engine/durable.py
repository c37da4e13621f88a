"""Recorder: begins runs, in a store if there is one, resumes those in a store, and records their ends."""

import copy
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from fusion.core.budget import Budget
from fusion.core.config.policy import Policy
from fusion.core.errors import StoreError, UsageError
from fusion.core.events import MapStarted, Sink, to_both
from fusion.core.result import FailedPart, Result
from fusion.core.types import Balance
from fusion.engine.context import AskPerson
from fusion.engine.context.gates import NOT_KEPT
from fusion.engine.manifest import Record
from fusion.engine.receipt import before, told
from fusion.engine.run import Origin, Run
from fusion.engine.run_spec import RunSpec
from fusion.models.gateway import CallRecorder
from fusion.models.wrappers.cache import ReplyCache, StoreCache
from fusion.models.wrappers.observed import Hear
from fusion.store.base import NullJournal, RunLock, Store
from fusion.store.journal import Journal
from fusion.store.rows import Content, RunRow, SessionStart, Started

NO_POLICY: Final = Policy()
_WITHIN: Final = "replies are found again within this run only"
_NOT_SHARED: Final = f"`cache: shared` has no store to share: {_WITHIN}"
_NO_WORDS: Final = f"`cache: shared` would keep the words of replies, which `content` does not allow: {_WITHIN}"


@dataclass
class Session:
    """One process's part of a run: its origin, its journal, and the release of the run's lock."""

    run_id: str
    origin: Origin
    journal: NullJournal = field(default_factory=NullJournal)
    release: Callable[[], None] = lambda: None

    def note(self, notes: Iterable[str]) -> None:
        """Add notes to send when the run begins."""
        self.origin = replace(self.origin, notes=(*self.origin.notes, *notes))

    def tell_left(self, budgets: Iterable[Balance]) -> None:
        """Tell what is left of budgets when the run begins."""
        self.origin = replace(self.origin, budgets=tuple(budgets))

    async def end(self, result: Result, *, interrupted: bool) -> None:
        """Record the end of the run, and give back its lock."""
        await self.journal.end(result, interrupted=interrupted)
        self.journal.on_loss = (
            _told_too_late  # or the journal would hold the sink of its run, which holds the journal
        )
        self.release()


class Observation(NamedTuple):
    """Receivers of one run: `sink` of its events, and `hear` of its requests and replies, if they are wanted."""

    sink: Sink
    hear: Hear | None = None


class Observer(ABC):
    """Observes runs beside their own sinks, such as for traces. It raises nothing, and changes no run."""

    @abstractmethod
    def of_run(self, spec: RunSpec, session: Session) -> Observation | None:
        """Return the receivers of a run that is about to begin, on the thread of its caller; None for none."""

    @abstractmethod
    def of_map(self, started: MapStarted) -> "tuple[Observer, Sink | None]":
        """Return the observer of the rows of a map, and the receiver of the map's own events."""


class Recorder:
    """Begins and resumes runs. `store` is None if nothing is kept; `own` holds the ids of the user's own models.

    The policy may allow less `content` than is asked for; a note of each run says so.
    """

    def __init__(
        self, store: Store | None, content: Content, policy: Policy = NO_POLICY, observer: Observer | None = None
    ) -> None:
        self.store = store
        self._observer = observer
        self.content: Content
        self.content, less = policy.kept(content)
        self._policy = policy
        self._less = () if less is None else (less,)
        self._shared: ReplyCache | None = None if store is None or self.content != "full" else StoreCache(store)

    def changed(self, *, kept: bool, shared: ReplyCache | None) -> "Recorder":
        """Return a recorder that keeps nothing unless `kept`, with `shared` in place of the store's cache."""
        other = copy.copy(self)
        if not kept:
            other.store = other._shared = None
        other._shared = shared or other._shared
        return other

    def of_map(self, started: MapStarted, sink: Sink | None) -> "tuple[Recorder, Sink | None]":
        """Return the recorder of the rows of a map, and the sink of the map's own events."""
        if self._observer is None:
            return self, sink
        other = copy.copy(self)
        other._observer, own = self._observer.of_map(started)
        return other, sink if own is None else to_both(own, sink)

    def check_people(self, spec: RunSpec) -> None:
        """Raise UsageError for a pipeline that asks a person, in a run that could not wait for the answer."""
        if self.store is not None and self.content == "full":
            return
        for path, stage in spec.loaded.stages.items():
            if stage.asks_person:
                raise UsageError(f"stages.{path} asks a person, and the answer has to be waited for: {NOT_KEPT}")

    def begin(
        self,
        spec: RunSpec,
        own: Collection[str],
        tags: Mapping[str, str],
        parent: RunRow | None = None,
        *,
        continues: bool = False,
    ) -> Session:
        """Begin a run. It answers from the finished calls of its parent, and of the runs that one continues.

        One that `continues` its parent, and repeats none of its work, fails where that one failed.
        """
        run_id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        root, parent_id = (run_id, None) if parent is None else (parent.root, parent.run_id)
        origin = Origin(seed=root, parent=parent_id, tags=dict(tags))
        if self.store is None:
            return Session(run_id, origin)
        origin = replace(origin, notes=self._less)
        store, record, now = self.store, Record.of(spec, own), time.time()
        started = Started(
            run_id=run_id,
            parent=parent_id,
            root=root,
            pipeline=spec.pipeline.name,
            profile=spec.profile,
            started=now,
            tags=tags,
            content=self.content,
            fingerprint=record.fingerprint,
            record=record.json if self.content == "full" else None,
        )
        lock = store.lock(run_id)
        journal = Journal(store, run_id, content=self.content)
        journal.hold(lock)
        store.put(started, SessionStart(run_id, 1, now))
        journal.reuse((row.run_id for row in _lineage(store, parent_id)), failures=continues)
        return Session(run_id, origin, journal, lock.release)

    def begin_row(self, row: RunRow) -> Session:
        """Begin the run of a row, whose record is stored, under the lock of its map."""
        assert self.store is not None
        journal = Journal(self.store, row.run_id, content=self.content)
        self.store.put(SessionStart(row.run_id, 1, time.time()))
        journal.reuse(one.run_id for one in _lineage(self.store, row.parent))
        return Session(row.run_id, Origin(seed=row.root, parent=row.parent, tags=row.tags), journal)

    def resume(
        self, row: RunRow, lock: RunLock | None, *, retry_budget: bool, lost: Iterable[FailedPart] = ()
    ) -> Session:
        """Resume a run that ended before its answer, or one that `lost` parts of it, which are worked on again.

        With `retry_budget`, repeat the calls refused for lack of budget. A row is run under the lock of its map.
        """
        assert self.store is not None
        store, number = self.store, row.sessions + 1
        content, less = self._policy.kept(row.content)
        journal = Journal(store, row.run_id, session=number, content=content)
        if lock is not None:
            journal.hold(lock)
        journal.resume(retry_budget=retry_budget, again=frozenset((part.stage, part.item) for part in lost))
        journal.reuse(one.run_id for one in _lineage(store, row.parent))
        store.put(SessionStart(row.run_id, number, time.time()))
        store.flush()
        origin = Origin(
            seed=row.root,
            parent=row.parent,
            session=number,
            tags=row.tags,
            started=datetime.fromtimestamp(row.started, UTC),
            before=before(store, row.run_id),
            notes=() if less is None else (less,),
        )
        return Session(row.run_id, origin, journal, (lambda: None) if lock is None else lock.release)

    def run(
        self,
        spec: RunSpec,
        session: Session,
        *,
        sink: Sink,
        stream: bool,
        within: Budget | None,
        person: AskPerson | None = None,
    ) -> Run:
        """Return the run of a session, with its journal and caches. Accounts that it draws on are told first."""
        for lease in () if within is None else within.leases:
            lease.draw(session.run_id, session.origin.session, kept=self.store is not None)
        if self.store is not None and session.origin.budgets:
            self.store.put(told(session.run_id, session.origin.session, session.origin.budgets))
        if self._shared is None and "shared" in ({spec.cache} if spec.cache else spec.loaded.cache_modes):
            session.note([_NOT_SHARED if self.store is None else _NO_WORDS])
        observed = None if self._observer is None else self._observer.of_run(spec, session)
        hear = None if observed is None else observed.hear
        return Run(
            session.run_id,
            spec,
            sink=sink if observed is None else to_both(observed.sink, sink),
            stream=stream,
            recorder=CallRecorder(session.journal, self._shared, mode=spec.cache, sample=spec.sample, hear=hear),
            origin=session.origin,
            within=within,
            person=person,
        )


def record_of(store: Store, row: RunRow) -> Record:
    """Return the record of a run. Raises StoreError if it was not kept."""
    data = store.record(row.run_id)
    if data is None:
        raise StoreError(
            f"the prompts of run {row.run_id!r} were not kept (`content` in [store] was {row.content!r}), so it can "
            'be neither resumed nor repeated; `content = "full"` keeps those of later runs'
        )
    return Record(data)


def result_of(store: Store, row: RunRow) -> Result:
    """Return the Result of a run that has ended. Raises StoreError if it was not kept."""
    data: Mapping[str, Any] | None = store.result(row.run_id)
    if data is None:
        raise StoreError(f"the answer of run {row.run_id!r} was not kept (`content` in [store] was {row.content!r})")
    return Result.model_validate(data)


def _lineage(store: Store, run_id: str | None) -> Iterator[RunRow]:
    """Yield a run and those that it continues, latest first."""
    while run_id is not None and (row := store.run(run_id)) is not None:
        yield row
        run_id = row.parent


def _told_too_late(reason: str) -> None:
    """Tell of no loss: the run is over."""
