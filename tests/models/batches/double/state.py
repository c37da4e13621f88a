"""The batches of the double, whatever API they came by: their rows, their fate, and how often each was sent."""

import hashlib
import itertools
import json
import random
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Fate = Literal["ended", "failed", "expired", "cancelled"]
Kind = Literal["answered", "error", "unanswered"]

_UNSENT = ("stream", "stream_options")


@dataclass
class Switches:
    """How the double behaves; every one may be set while it runs.

    Time: `seconds` that a batch takes, states that are told as open before it ends (`polls`), and `hold`, with which
    none ends. Fates: the next `fail_batches` and `expire_batches` fail or expire as a whole; a share `worked` of the
    rows of a batch that expires or is cancelled is answered. Rows: shares that are lost (`lose`), that fail with
    `row_status` the first `fail_times` times that they are worked on (`fail_rows`), and whose line of results is
    `malformed`; `shuffle` mixes results. Results: `truncate` ends them within a line, `break_off` closes the
    connection in the middle of the next so many downloads. Calls, by their kind (upload, create, state, results,
    list, cancel, live): `refuse` holds the statuses of the next ones, `retry_after` is sent with them; `forget` is
    the number of next ones that are worked on, and then dropped without an answer; `hang` names those that are never
    answered. `key` is the only key that is
    taken. `page` is the most batches of a list. `reply` is the text of every reply; an echo without it.
    """

    seconds: float = 0.0
    polls: int = 0
    hold: bool = False
    fail_batches: int = 0
    expire_batches: int = 0
    worked: float = 0.5
    lose: float = 0.0
    fail_rows: float = 0.0
    fail_times: int = 1
    row_status: int = 500
    malformed: float = 0.0
    shuffle: bool = False
    truncate: bool = False
    break_off: int = 0
    refuse: dict[str, list[int]] = field(default_factory=dict)
    retry_after: float | None = None
    forget: dict[str, int] = field(default_factory=dict)
    hang: tuple[str, ...] = ()
    key: str | None = None
    page: int = 100
    reply: str | None = None


@dataclass(frozen=True)
class Row:
    """A row of a batch. `said` is the last message of the user, by which tests know it."""

    custom_id: str
    body: Mapping[str, Any]
    said: str

    @property
    def mark(self) -> str:
        """The fingerprint of the body, whatever way it is sent by."""
        return mark_of(self.body)


@dataclass(frozen=True)
class Outcome:
    """The end of a row, and whether its line is whole."""

    row: Row
    kind: Kind
    whole: bool = True


@dataclass
class Batch:
    """A batch that was created. `polls` are the states that are still told as open."""

    id: str
    api: str
    name: str
    model: str
    rows: Sequence[Row]
    created: float
    ends: float
    polls: int
    fate: Fate
    ended: bool = False
    outcomes: list[Outcome] = field(default_factory=list)

    def count(self, kind: Kind) -> int:
        return sum(outcome.kind == kind for outcome in self.outcomes)


@dataclass
class Counts:
    """What was sent, by the user's last message: rows in batches, rows worked on there, and live calls.

    `ids` counts the custom ids of all batches, `bodies` the bodies that were worked on by whichever way.
    """

    received: Counter[str] = field(default_factory=Counter)
    worked: Counter[str] = field(default_factory=Counter)
    live: Counter[str] = field(default_factory=Counter)
    ids: Counter[str] = field(default_factory=Counter)
    bodies: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    batches: int = 0


class Books:
    """The batches and files of the double, with one lock around all."""

    def __init__(self) -> None:
        self.switches = Switches()
        self.counts = Counts()
        self.batches: dict[str, Batch] = {}
        self.files: dict[str, bytes] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()

    def number(self) -> int:
        return next(self._numbers)

    def create(self, api: str, name: str, model: str, rows: Sequence[Row]) -> Batch:
        """Take a batch on. Raises ValueError for two rows of one custom id."""
        ids = [row.custom_id for row in rows]
        twice = [custom_id for custom_id, times in Counter(ids).items() if times > 1]
        if twice:
            raise ValueError(f"duplicate custom_id {twice[0]!r}")
        with self._lock:
            now, switches = time.time(), self.switches
            batch = Batch(
                id=f"batch_{self.number():06}",
                api=api,
                name=name,
                model=model,
                rows=rows,
                created=now,
                ends=now + switches.seconds,
                polls=switches.polls,
                fate=self._fate(),
            )
            self.batches[batch.id] = batch
            self.counts.batches += 1
            self.counts.ids.update(ids)
            self.counts.received.update(row.said for row in rows)
            return batch

    def look(self, batch_id: str, *, polled: bool = True) -> Batch | None:
        """Return a batch as it is now; a poll brings it nearer to its end."""
        with self._lock:
            batch = self.batches.get(batch_id)
            if batch is not None and not batch.ended:
                waits = self.switches.hold or time.time() < batch.ends or batch.polls > 0
                batch.polls -= polled
                if not waits:
                    self._end(batch)
            return batch

    def newest(self, api: str) -> list[Batch]:
        """Return the batches of an API, the newest first, as they are now."""
        with self._lock:
            found = [batch for batch in self.batches.values() if batch.api == api]
            return [batch for one in reversed(found) if (batch := self.look(one.id, polled=False)) is not None]

    def cancel(self, batch_id: str) -> Batch | None:
        with self._lock:
            batch = self.batches.get(batch_id)
            if batch is not None and not batch.ended:
                batch.fate, batch.polls = "cancelled", 0
                self._end(batch)
            return batch

    def live(self, body: Mapping[str, Any], said: str) -> None:
        with self._lock:
            self.counts.live[said] += 1
            self.counts.bodies[mark_of(body)] += 1

    def take(self, switch: str, kind: str) -> int | None:
        """Return the next status of `refuse` for a kind of call, or 1 for one to `forget`; None if there is none."""
        with self._lock:
            self.counts.calls[kind] += switch == "refuse"
            if switch == "refuse":
                statuses = self.switches.refuse.get(kind)
                return statuses.pop(0) if statuses else None
            left = self.switches.forget.get(kind, 0)
            self.switches.forget[kind] = max(left - 1, 0)
            return 1 if left else None

    def breaks_off(self) -> bool:
        with self._lock:
            broken = self.switches.break_off > 0
            self.switches.break_off -= broken
            return broken

    def as_json(self) -> dict[str, Any]:
        with self._lock:
            return {name: dict(one) if isinstance(one, Counter) else one for name, one in vars(self.counts).items()}

    def _fate(self) -> Fate:
        switches = self.switches
        if switches.fail_batches > 0:
            switches.fail_batches -= 1
            return "failed"
        if switches.expire_batches > 0:
            switches.expire_batches -= 1
            return "expired"
        return "ended"

    def _end(self, batch: Batch) -> None:
        batch.ended = True
        if batch.fate == "failed":
            return
        worked = round(len(batch.rows) * (1.0 if batch.fate == "ended" else self.switches.worked))
        batch.outcomes = [self._outcome(row, number < worked) for number, row in enumerate(batch.rows)]
        batch.outcomes = [one for one in batch.outcomes if not _chosen(one.row, "lose", self.switches.lose)]
        if self.switches.shuffle:
            random.Random(len(batch.rows)).shuffle(batch.outcomes)

    def _outcome(self, row: Row, works: bool) -> Outcome:
        if not works:
            return Outcome(row, "unanswered")
        self.counts.worked[row.said] += 1
        self.counts.bodies[row.mark] += 1
        switches = self.switches
        again = self.counts.worked[row.said] <= switches.fail_times
        fails = again and _chosen(row, "fail", switches.fail_rows)
        whole = not _chosen(row, "malformed", switches.malformed)
        return Outcome(row, "error" if fails else "answered", whole)


def mark_of(body: Mapping[str, Any]) -> str:
    """Return the fingerprint of a body, streamed or not."""
    kept = {name: value for name, value in body.items() if name not in _UNSENT}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def lines_of(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def _chosen(row: Row, what: str, share: float) -> bool:
    """Return True for a share of rows, always the same ones."""
    return zlib.crc32(f"{what} {row.said}".encode()) % 1000 < 1000 * share
