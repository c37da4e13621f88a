"""Journal: the calls, attempts, decisions and events of one run, read from and written to a store."""

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from decimal import Decimal
from functools import partial
from itertools import count
from typing import Any, Final, NamedTuple

from fusion.core import errors
from fusion.core.budget import Amount, Budget, Closed, Ledger
from fusion.core.errors import BudgetError, FusionError, StoreError, StoreLostError
from fusion.core.events import (
    AttemptCharged,
    AttemptFailed,
    BatchEnded,
    BatchSubmitted,
    CallCancelled,
    CallFailed,
    CommandFinished,
    Decided,
    EventBase,
    FallbackTaken,
    GateAnswered,
    GateOpened,
    HedgeSent,
    ItemFinished,
    Noted,
    OutageChanged,
    Paused,
    RoundStarted,
    Sink,
    StageFinished,
    StageStarted,
    ToolFinished,
    span,
)
from fusion.core.result import Result
from fusion.core.types import CallKey, Failure, Reply, Request, Reuse, Waited, answers_gate, opens_gate
from fusion.store.base import OF_TOOL, NullJournal, RunLock, Store
from fusion.store.batches import BatchPlace, BatchPlaces
from fusion.store.encoding import Json, as_json, value_as_json
from fusion.store.outbox import Outbox
from fusion.store.rows import (
    Attempt,
    AttemptEnd,
    AttemptState,
    Call,
    CallState,
    Content,
    Decision,
    Ended,
    Noticed,
    Row,
    SetAside,
    Spending,
)

_KEPT_EVENTS: Final = frozenset(
    {
        AttemptCharged,
        AttemptFailed,
        BatchEnded,
        BatchSubmitted,
        CallCancelled,
        CallFailed,
        CommandFinished,
        Decided,
        FallbackTaken,
        GateAnswered,
        GateOpened,
        HedgeSent,
        Noted,
        OutageChanged,
        Paused,
        RoundStarted,
        StageFinished,
        StageStarted,
        ToolFinished,
    }
)
_OF_EVENTS: Final[Mapping[str, Any]] = {"exclude": {"run_id"}, "exclude_none": True}
_LOST: Final[tuple[AttemptState, ...]] = ("lost",)
_PAUSE: Final = "in batches "
_REDACTED: Final = "its words are not kept"
_OF_TOOL: Final = re.compile(rf"(?:\d+\.)*{OF_TOOL}")

_Place = tuple[str, int | None, str]
"""Stage, item and name of a decision."""
_Found = tuple[str, int]
"""Run id and number of a recorded call."""


class Asking(NamedTuple):
    """A call under way: its request, role, model and start time in seconds since the epoch."""

    request: Request
    key: CallKey
    role: str
    asked: str
    started: float


Again = frozenset[tuple[str, int | None]]
"""Stages, or items of them, to work on again."""


class Journal(NullJournal):
    """Journal of a run in a store: answers finished calls from it, and records new ones.

    A call is identified by its key: stage, item, step and a digest of its content. A finished call is answered from
    here. So is a failed one, if a call of the same item finished after it. Runs named to `reuse` answer too.

    Write-ahead: a row is on disk before its event is delivered or a dependent call is sent. Rows are written in
    order, in the background; each attempt waits for its opening row.

    If the store fails during the run, the run goes on without it: `on_loss` is called once with the reason. If the
    lock of the run is lost with it, the run ends: another process may go on with it.

    A journal belongs to one event loop, and is the Ledger of the run's budget.
    """

    def __init__(self, store: Store, run_id: str, *, session: int = 1, content: Content = "full") -> None:
        self.run_id = run_id
        self.session = session
        self.content: Content = content
        self.on_loss = lambda reason: None
        self._store = store
        self._lost = False
        self._numbers = count(1)
        self._events = count(1)
        self._attempts = count(1)
        self._finished: dict[CallKey, _Found] = {}
        self._elsewhere: dict[CallKey, _Found] = {}
        self._failed: dict[CallKey, _Found] = {}
        self._decided: dict[_Place, Any] = {}
        self._inherited: set[_Place] = set()
        self._again: Again = frozenset()
        self._batches = BatchPlaces()
        self._other_batches = BatchPlaces()
        self._lost_attempts: frozenset[tuple[int, int]] = frozenset()
        self._spent: dict[str, Spending] = {}
        self._paused = 0.0
        self._pauses = count(1)
        self._outbox = Outbox()
        self._delivery: asyncio.TaskGroup | None = None
        self._fault: Exception | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def hold(self, lock: RunLock) -> None:
        """End the run if this lock is lost."""
        lock.when_lost(self._lock_lost)

    def _lock_lost(self, error: StoreError) -> None:
        """Note the loss, on any thread."""
        if self._loop is None:
            self._lose(error)
            return
        with suppress(RuntimeError):  # the loop is closed: the run is over
            self._loop.call_soon_threadsafe(self._lose, error)

    @property
    def ledger(self) -> Ledger:
        return self

    # Earlier sessions and runs.

    def resume(self, *, retry_budget: bool = False, again: Again = frozenset()) -> None:
        """Load the records of earlier sessions of this run, except for the parts to work on `again`.

        Attempts left open by a dead process count in full from now on. With `retry_budget`, calls refused for lack
        of budget are made again.
        """
        store = self._store
        store.lose_open(self.run_id)
        self._load(self.run_id, self._finished, retry_budget=retry_budget, again=again)
        self._decided = {
            (one.stage, one.item, one.name): one.value
            for one in store.decisions(self.run_id)
            if _stays(one.name) or not _is_of(one.stage, one.item, one.name, again)
        }
        self._again = again
        for place, value in self._decided.items():
            self._batches.load(place, value)
        if self._batches:
            lost = store.attempts(self.run_id, states=_LOST)
            self._lost_attempts = frozenset((one.session, one.number) for one, _ in lost)
        calls, events = store.last_numbers(self.run_id)
        self._numbers, self._events = count(calls + 1), count(events + 1)
        self._spent = store.spending(self.run_id)
        row = store.run(self.run_id)
        self.seconds = 0.0 if row is None else row.seconds
        self._paused = sum(value for (_, _, name), value in self._decided.items() if name.startswith(_PAUSE))

    def reuse(self, run_ids: Iterable[str], *, failures: bool = False) -> None:
        """Answer from the finished calls of these runs too, earlier ones first; with `failures` from failed ones."""
        for run_id in run_ids:
            found: dict[CallKey, _Found] = {}
            self._load(run_id, found, failures=failures)
            self._elsewhere = {**found, **self._elsewhere}
            for one in self._store.decisions(run_id):
                place = (one.stage, one.item, one.name)
                if opens_gate(one.name) or (answers_gate(one.name) and one.value["answer"] == "rejected"):
                    continue  # another run asks anew, also after a no
                if place not in self._decided:
                    self._decided[place] = one.value
                    self._inherited.add(place)
                self._other_batches.load(place, one.value)

    def _load(
        self,
        run_id: str,
        into: dict[CallKey, _Found],
        *,
        retry_budget: bool = False,
        again: Again = frozenset(),
        failures: bool = False,
    ) -> None:
        """Load the finished calls of a run, and the failed ones that fail again: with `failures` all of them."""
        failed: list[tuple[CallKey, int]] = []
        last: dict[tuple[str, int | None], int] = {}
        for number, key, state in self._store.index(run_id):
            if _is_of(key.stage, key.item, key.step, again):
                continue
            if state == "finished":
                into[key] = run_id, number
                last[key.stage, key.item] = number
            elif state == "failed":
                failed.append((key, number))
        for key, number in failed:
            if key in into:
                continue
            if (
                failures
                or last.get((key.stage, key.item), 0) > number
                or self._was_refused(run_id, number, retry_budget)
            ):
                self._failed[key] = run_id, number

    def _was_refused(self, run_id: str, number: int, retry_budget: bool) -> bool:
        """Return True for a call that failed for lack of budget: such a refusal is final."""
        call = None if retry_budget else self._store.call(run_id, number)
        return call is not None and call.failure is not None and call.failure.reason == BudgetError.__name__

    def restore(self, budget: Budget, stage: str = "") -> None:
        if self.session == 1:
            return
        usd, tokens, calls, unknown = Decimal(0), 0, 0, 0
        for path, one in self._spent.items():
            if not stage or f"{path}/".startswith(f"{stage}/"):
                usd, tokens, calls = usd + one.usd, tokens + one.tokens, calls + one.calls
                unknown += one.unknown
        seconds = 0.0 if stage else max(0.0, self.seconds - self._paused)
        budget.resume(Amount(usd, tokens, calls), unknown_calls=unknown, seconds=seconds)

    # Calls.

    async def answer(self, key: CallKey) -> Reply | None:
        """Return the reply to a finished call; None for a call that has to be made.

        Raises the error of a failed call that a finished one depends on.
        """
        if not (self._finished or self._elsewhere or self._failed):
            return None
        sources: tuple[tuple[dict[CallKey, _Found], Reuse], ...] = (
            (self._finished, "journal"),
            (self._elsewhere, "other run"),
        )
        for kept, reuse in sources:
            call = await self._read(kept[key]) if key in kept else None
            if call is not None and call.reply is not None:
                return self._reused(key, kept[key], call.reply, reuse)
        call = await self._read(self._failed[key]) if key in self._failed else None
        if call is not None and call.failure is not None:
            raise _as_error(call.failure, call.asked)
        return None

    async def _read(self, found: _Found) -> Call | None:
        """Return a recorded call; None if it can no longer be read."""
        try:
            return await self._store.answer(*found)
        except StoreError as error:
            self._lose(error)
            return None

    def _reused(self, key: CallKey, found: _Found, reply: Reply, reuse: Reuse) -> Reply:
        """Return a reply marked as reused; record one of another run in this run too."""
        if reuse == "other run" and key not in self._finished:
            number = next(self._numbers)
            self._finished[key] = self.run_id, number
            try:
                call = self._store.call(*found)
            except StoreError as error:
                self._lose(error)
            else:
                if call is not None:
                    self._put(replace(call, run_id=self.run_id, number=number, reused=found[0]))
        return reply.model_copy(update={"reused": reuse})

    def finished(self, asking: Asking, reply: Reply, waited: Waited | None = None) -> None:
        """Record a reply, and the waits of its call."""
        digest = hashlib.sha256(reply.text.encode()).hexdigest() if self.content == "digest" else ""
        kept, reused = reply, reply.reused
        if reused is not None or self.content != "full":
            said = {} if self.content == "full" else {"text": "", "tool_calls": ()}
            kept = reply.model_copy(update={"reused": None, **said})
        self._put(self._call(asking, reply=kept, text_digest=digest, reused=reused, waited=waited))

    def failed(self, asking: Asking, error: FusionError, waited: Waited | None = None) -> None:
        """Record the failure of a call, and its waits."""
        failure = self._redacted(error.as_failure())
        self._put(self._call(asking, state="failed", failure=failure, waited=waited))

    def set_aside(self, keys: Iterable[CallKey]) -> None:
        if unusable := tuple(dict.fromkeys(keys)):
            self._put(SetAside(self.run_id, unusable))

    def _call(self, asking: Asking, *, state: CallState = "finished", **outcome: Any) -> Call:
        key, number = asking.key, next(self._numbers)
        if self.content == "off":  # without a digest of its content, each call has a key of its own
            key = key.model_copy(update={"digest": f"call {number}"})
        return Call(
            run_id=self.run_id,
            number=number,
            key=key,
            role=asking.role,
            asked=asking.asked,
            state=state,
            started=asking.started,
            ended=time.time(),
            request=asking.request if self.content == "full" else None,
            **outcome,
        )

    # Ledger.

    async def opened(self, request: Request, model: str, amount: Amount) -> int:
        """Record an attempt of at most this amount; return its number once all rows up to it are on disk."""
        number, write = self.drafted(request, model, amount)
        write()
        await self.written()
        return number

    def drafted(self, request: Request, model: str, amount: Amount) -> tuple[int, Callable[[], None]]:
        """Return the number of an attempt of at most this amount, and the function that records it."""
        here, key = span.get(), request.key
        assert key is not None
        number = next(self._attempts)
        role = "" if here is None else here.role
        attempt = Attempt(
            self.run_id,
            self.session,
            number,
            key.stage,
            key.item,
            key.step,
            role,
            model,
            time.time(),
            amount.usd,
            amount.tokens,
        )
        return number, partial(self._put, attempt)

    def closed(self, number: int, state: Closed, amount: Amount, *, session: int | None = None) -> None:
        """Record the end of an attempt and its cost."""
        usd, tokens = (Decimal(0), 0) if state == "refunded" else (amount.usd, amount.tokens)
        self._put(AttemptEnd(self.run_id, session or self.session, number, state, time.time(), usd, tokens))

    # Decisions.

    def keep(self, stage: str, item: int | None, name: str, value: Any) -> None:
        place = (stage, item, name)
        if place not in self._decided:
            self._decided[place] = value
            if self.content == "full":
                self._put(Decision(self.run_id, stage, item, name, value))

    def kept(self, stage: str, item: int | None, name: str) -> Any:
        return self._decided.get((stage, item, name))

    def confirm(self, stage: str, item: int | None, name: str) -> None:
        if (value := self.kept(stage, item, name)) is not None and self.content == "full":
            self._put(Decision(self.run_id, stage, item, name, value))

    async def decide(self, stage: str, item: int | None, name: str, value: Any) -> Any:
        self._decided.pop((stage, item, name), None)
        self.keep(stage, item, name, value)
        await self.written()
        first = await asyncio.to_thread(self._decision, stage, item, name)
        self._decided[stage, item, name] = value if first is None else first
        return self._decided[stage, item, name]

    def _decision(self, stage: str, item: int | None, name: str) -> Any:
        """Return a decision as it is on disk; None if it cannot be read."""
        try:
            found = self._store.decisions(self.run_id)
        except StoreError:
            return None
        return next((one.value for one in found if (one.stage, one.item, one.name) == (stage, item, name)), None)

    def works_again(self, stage: str, item: int | None, name: str) -> bool:
        return (stage, item, name) in self._inherited or _is_of(stage, item, name, self._again)

    @property
    def is_out(self) -> bool:
        return self._lost

    def is_finished(self, key: CallKey) -> bool:
        return key in self._finished or key in self._elsewhere

    # Batches.

    @property
    def joins(self) -> bool:
        return self.content == "full" and not self._lost

    @property
    def disk(self) -> Store | None:
        return self._store

    def in_batches(self, key: CallKey) -> Sequence[BatchPlace]:
        return self._batches.of(key) or self._other_batches.of(key)

    def is_lost(self, attempt: tuple[int, int]) -> bool:
        return attempt in self._lost_attempts

    def enter_batch(self, key: CallKey, place: BatchPlace) -> None:
        self._batches.enter(key, place)
        (stage, item, name), value = place.decision(key) if place.batch_id is None else place.id_decision(key)
        self.keep(stage, item, name, value)

    def pause(self, seconds: float) -> None:
        if self.timed:
            self.keep("", None, f"{_PAUSE}{self.session}.{next(self._pauses)}", seconds)

    # Events and end.

    def deliver_to(self, sink: Sink) -> Sink:
        self._outbox.sink = sink
        return self._take

    @asynccontextmanager
    async def delivering(self) -> AsyncIterator[None]:
        self._loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as self._delivery:
            try:
                if isinstance(self._fault, StoreLostError):
                    raise self._fault
                yield
            finally:
                self._delivery = None

    def _take(self, event: EventBase) -> None:
        """Record an event that no other row covers, and deliver it once its rows are on disk."""
        self._record(event)
        if self._outbox.take(event):
            self._store.when_written(partial(self._deliver, self._outbox.count))

    def _deliver(self, due: int, error: StoreError | None) -> None:
        """Deliver events that waited; a fault of the sink ends the run."""
        try:
            if error is not None:
                self._lose(error)
            self._outbox.deliver(due)
        except Exception as fault:  # noqa: BLE001 - raised in the run
            self._end_run(fault)

    def _end_run(self, fault: Exception) -> None:
        """End the run with a fault."""
        if self._delivery is None:
            self._fault = self._fault or fault
        else:
            self._delivery.create_task(_raise(fault))
            self._delivery = None

    def _record(self, event: EventBase) -> None:
        if isinstance(event, (ToolFinished, CommandFinished)) and event.reused:
            return
        if type(event) in _KEPT_EVENTS or (isinstance(event, ItemFinished) and event.failure is not None):
            self._put(Noticed(self.run_id, next(self._events), self._event(event)))

    async def end(self, result: Result, *, interrupted: bool) -> None:
        self._put(
            Ended(
                run_id=self.run_id,
                session=self.session,
                status="interrupted" if interrupted else result.status,
                ended=time.time(),
                usd=result.cost.usd,
                unknown_calls=result.cost.unknown_calls,
                calls=result.receipt.calls,
                failure=None if result.error is None else self._redacted(result.error),
                result=value_as_json(result) if self.content == "full" else None,
            )
        )
        try:
            await self.written()
        finally:
            self._outbox.deliver(self._outbox.count)

    # Writes.

    def _event(self, event: EventBase) -> Json:
        """Return an event as JSON, without the texts that may quote a prompt where prompts are not kept."""
        if self.content == "full":
            return value_as_json(event, **_OF_EVENTS)
        body = event.model_dump(mode="json", **_OF_EVENTS)
        if body["type"] == "noted":
            body["message"] = _REDACTED
        if body["type"] == "tool_finished":
            body.pop("arguments", None)
        if body["type"] == "decided":
            body["reason"] = _REDACTED
        if "failure" in body:
            body["failure"]["message"] = _REDACTED
        return as_json(body)

    def _redacted(self, failure: Failure) -> Failure:
        """Return a failure, without its message where prompts are not kept: a message may quote one."""
        return failure if self.content == "full" else failure.model_copy(update={"message": _REDACTED})

    def _put(self, *rows: Row) -> None:
        if not self._lost:
            self._store.put(*rows)

    async def written(self) -> None:
        due = self._outbox.count
        try:
            if not self._lost:
                await self._store.written()
        except StoreError as error:
            self._lose(error)
        self._outbox.deliver(due)
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault

    def _lose(self, error: StoreError) -> None:
        if self._lost:
            return
        self._lost = True
        if isinstance(error, StoreLostError):
            self._end_run(error)
        else:
            self.on_loss(str(error))


async def _raise(fault: Exception) -> None:
    raise fault


def _stays(decision: str) -> bool:
    """Return True for a decision that no repeated work changes: of a tool, or of a person."""
    return bool(_OF_TOOL.match(decision)) or opens_gate(decision) or answers_gate(decision)


def _is_of(stage: str, item: int | None, step: str, parts: Again) -> bool:
    """Return True for a place in one of these parts, or within a stage or an item of a stage that is one.

    Steps within an item begin with its number where the items of an inner stage have numbers of their own.
    """
    if not parts:
        return False
    number, dot, _ = step.partition(".")
    outer = int(number) - 1 if dot and number.isdigit() else item
    return (stage, item) in parts or any(
        (one is None or (one == outer and stage != of)) and f"{stage}/".startswith(f"{of}/") for of, one in parts
    )


def _as_error(failure: Failure, model: str) -> FusionError:
    """Return the error behind a recorded failure."""
    kind = getattr(errors, failure.reason, None)
    if not (isinstance(kind, type) and issubclass(kind, FusionError)) or kind is errors.RunFailed:
        kind = errors.StageError
    error: FusionError = kind(failure.message)
    if isinstance(error, errors.ModelError):
        error.model = model
    return error
