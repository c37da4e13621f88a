"""News: what processes write of runs, told to those that follow the runs, on one connection of its own."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import psycopg
from psycopg import Connection

from fusion.core.log import LOG
from fusion.store.base import Subscription
from fusion.store.postgres.address import Address
from fusion.store.postgres.connections import connect

CHANNEL: Final = "fusion_runs"
NOTIFY: Final = f"SELECT pg_notify('{CHANNEL}', $1)"
_MOST: Final = 7000
"""Bytes of one notification; the server takes fewer than 8,000."""
_PAUSE: Final = 1.0
"""Seconds between two tries to connect again."""
_LOOK: Final = 1.0
"""Seconds after which the thread sees that the last one has left."""


def payloads(runs: Mapping[str, int]) -> Iterator[str]:
    """Yield the notifications of runs, each with the number of its last event; 0 for no new event."""
    lines: list[str] = []
    size = 0
    for run_id, number in runs.items():
        line = f"{number} {run_id}"
        if lines and size + len(line.encode("utf-8", "replace")) >= _MOST:
            yield "\n".join(lines)
            lines, size = [], 0
        lines.append(line)
        size += len(line.encode("utf-8", "replace")) + 1
    if lines:
        yield "\n".join(lines)


class _Follower(Subscription):
    """Follows a run until it is closed."""

    def __init__(self, news: "News", run_id: str, call: Callable[[], object]) -> None:
        self.run_id = run_id
        self.call = call
        self._news = news

    def close(self) -> None:
        self._news.leave(self)


class News:
    """Listens while runs are followed. After a cut it connects again, and tells all of what they may have missed."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._followers: set[_Follower] = set()
        self._thread: threading.Thread | None = None
        self._process = os.getpid()

    def follow(self, run_id: str, call: Callable[[], object]) -> Subscription:
        """Call this, on a thread of its own, when a process has written events of a run."""
        follower = _Follower(self, run_id, call)
        with self._lock:
            self._followers.add(follower)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="fusion store news", daemon=True)
                self._thread.start()
                return follower
        call()  # what was written before it listened
        return follower

    def leave(self, follower: _Follower) -> None:
        with self._lock:
            self._followers.discard(follower)

    def close(self) -> None:
        with self._lock:
            self._followers.clear()

    def _work(self) -> None:
        pause = threading.Event()
        while self._goes_on():
            try:
                with connect(self._address, "news") as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    self._tell(None)
                    self._hear(connection)
            except psycopg.Error as error:
                LOG.debug("no news of the store: %s", self._address.without_secrets(str(error)))
                pause.wait(_PAUSE)

    def _goes_on(self) -> bool:
        """Return True while runs are followed; else the thread is over."""
        with self._lock:
            if not self._followers:
                self._thread = None
            return bool(self._followers)

    def _hear(self, connection: "Connection[Any]") -> None:
        while self._followers:
            for notice in connection.notifies(timeout=_LOOK, stop_after=1):
                self._tell({line.partition(" ")[2] for line in notice.payload.split("\n")})

    def _tell(self, run_ids: Iterable[str] | None) -> None:
        """Call the followers of these runs; of all runs, without any."""
        with self._lock:
            told = [one for one in self._followers if run_ids is None or one.run_id in run_ids]
        for one in told:
            one.call()
