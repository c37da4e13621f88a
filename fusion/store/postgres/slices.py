"""The queue of slices in a PostgreSQL database.

Times are those of the server. Changes of the queue wait for no disk: it is filled again from the runs.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import Connection

from fusion.store.postgres.address import Address
from fusion.store.postgres.connections import Readers, connect
from fusion.store.slices import LATE, Crew, Listener, Slices, Taken, WorkerRow

_NOW: Final = "extract(epoch FROM clock_timestamp())"
_MAP: Final = "(SELECT map FROM maps WHERE map_id = %(map_id)s)"
_WAITING: Final = "fusion_slices"
_ENDS: Final = "fusion_ends"
_CONNECTIONS: Final = 2
_PAUSE: Final = 1.0
"""Seconds between two tries to listen anew."""
_LOOK: Final = 0.5
"""Seconds after which a listener sees that it is closed."""

_PUT: Final = f"""
    INSERT INTO map_slices (map, numbers)
    SELECT {_MAP}, ARRAY(SELECT CAST(number AS bigint) FROM jsonb_array_elements_text(part) AS number)
    FROM jsonb_array_elements(CAST(%(parts)s AS jsonb)) WITH ORDINALITY AS parts (part, place) ORDER BY place
"""
_TAKE: Final = """
    UPDATE map_slices SET worker = %(worker)s WHERE slice = (
        SELECT next.slice FROM map_jobs
        CROSS JOIN LATERAL (
            SELECT slice FROM map_slices
            WHERE map_slices.map = map_jobs.map AND worker IS NULL AND NOT stop
            ORDER BY slice LIMIT 1 FOR UPDATE SKIP LOCKED
        ) AS next
        LEFT JOIN (
            SELECT map, CAST(value AS bigint) AS rows FROM jsonb_each_text(CAST(%(busy)s AS jsonb)) AS here
            JOIN maps ON maps.map_id = here.key
        ) AS here ON here.map = map_jobs.map
        WHERE NOT EXISTS (
            SELECT 1 FROM map_refusals WHERE map_refusals.map = map_jobs.map AND worker = %(worker)s
        )
        ORDER BY coalesce(here.rows, 0), next.slice LIMIT 1
    )
    RETURNING slice, (SELECT map_id FROM maps WHERE maps.map = map_slices.map),
        (SELECT terms FROM map_jobs WHERE map_jobs.map = map_slices.map), numbers, deaths
"""
_LEFT: Final = (
    "UPDATE map_slices SET numbers = %(left)s WHERE slice = %(slice)s AND worker = %(worker)s RETURNING map"
)
_OVER: Final = "DELETE FROM map_slices WHERE slice = %(slice)s AND worker = %(worker)s RETURNING map"
_TELL: Final = "WITH mine AS ({}) INSERT INTO map_ends (map, ends) SELECT map, %(ends)s FROM mine RETURNING {}"
_NOTICE: Final = f"pg_notify('{_ENDS}', CAST(map AS text))"
_NOTICES: Final = 0.25
"""Seconds between two notices of ends: the server makes commits with a notice one after another."""
_SINGLY: Final = """
    WITH dead AS (DELETE FROM map_slices WHERE worker = %(worker)s RETURNING map, numbers, deaths, stop)
    INSERT INTO map_slices (map, numbers, deaths)
    SELECT map, ARRAY[number], deaths + 1 FROM dead CROSS JOIN unnest(numbers) AS number WHERE NOT stop
"""
_WORKERS: Final = f"""
    SELECT worker, name, host, pid, version, concurrency, started, {_NOW} - beat, rows, draining FROM workers
    ORDER BY started, worker
"""


class PostgresSlices(Slices):
    """The queue in the tables of a store."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._noticed = 0.0
        self._connections = Readers(address, "slices", most=_CONNECTIONS, options="-c synchronous_commit=off")

    def close_all(self) -> None:
        """Release the connections. A second call does nothing."""
        self._connections.close()

    # The driver.

    def open(self, map_id: str, terms: str) -> tuple[str | None, frozenset[int]]:
        of_map = {"map_id": map_id, "terms": terms}
        with self._changing() as connection:
            before = connection.execute(f"SELECT terms FROM map_jobs WHERE map = {_MAP}", of_map).fetchone()
            connection.execute(f"DELETE FROM map_slices WHERE map = {_MAP} AND worker IS NULL", of_map)
            for table in ("map_ends", "map_refusals"):
                connection.execute(f"DELETE FROM {table} WHERE map = {_MAP}", of_map)
            connection.execute(
                f"INSERT INTO map_jobs (map, terms) SELECT {_MAP}, %(terms)s"
                " ON CONFLICT (map) DO UPDATE SET terms = excluded.terms",
                of_map,
            )
        return None if before is None else before[0], self.under_way(map_id)

    def put(self, map_id: str, parts: Sequence[Sequence[int]]) -> None:
        with self._changing() as connection:
            connection.execute(_PUT, {"map_id": map_id, "parts": json.dumps([list(part) for part in parts])})
            connection.execute(f"NOTIFY {_WAITING}")

    def ends(self, map_id: str) -> list[str]:
        gone = f"DELETE FROM map_ends WHERE map = {_MAP} RETURNING at, ends"
        sql = f"WITH gone AS ({gone}) SELECT ends FROM gone ORDER BY at"
        return [ends for (ends,) in self._all(sql, map_id=map_id)]

    def under_way(self, map_id: str) -> frozenset[int]:
        return frozenset(
            number
            for (numbers,) in self._all(f"SELECT numbers FROM map_slices WHERE map = {_MAP}", map_id=map_id)
            for number in numbers
        )

    def crew(self, map_id: str) -> Crew:
        refusals = self._all(f"SELECT worker, reason FROM map_refusals WHERE map = {_MAP}", map_id=map_id)
        return Crew(tuple(one for one in self.workers() if one.alive), dict(refusals))

    def stop(self, map_id: str) -> None:
        with self._changing() as connection:
            connection.execute(f"DELETE FROM map_slices WHERE map = {_MAP} AND worker IS NULL", {"map_id": map_id})
            connection.execute(f"UPDATE map_slices SET stop = true WHERE map = {_MAP}", {"map_id": map_id})
            connection.execute(f"NOTIFY {_WAITING}")

    def close(self, map_id: str) -> None:
        with self._changing() as connection:
            for table in ("map_jobs", "map_ends", "map_refusals"):
                connection.execute(f"DELETE FROM {table} WHERE map = {_MAP}", {"map_id": map_id})

    # Workers.

    def enter(self, worker: WorkerRow) -> None:
        columns = ("worker", "name", "host", "pid", "version", "concurrency")
        values = ", ".join(f"%({name})s" for name in columns)
        with self._changing() as connection:
            connection.execute(
                f"INSERT INTO workers ({', '.join(columns)}, started, beat, rows, draining)"
                f" VALUES ({values}, {_NOW}, {_NOW}, 0, false)",
                worker._asdict(),
            )

    def beat(self, worker: str, *, rows: int, draining: bool) -> frozenset[int] | None:
        sql = (
            f"UPDATE workers SET beat = {_NOW}, rows = %(rows)s, draining = %(draining)s WHERE worker = %(worker)s"
            " RETURNING ARRAY(SELECT slice FROM map_slices WHERE worker = %(worker)s AND NOT stop)"
        )
        found = self._all(sql, worker=worker, rows=rows, draining=draining)
        return frozenset(found[0][0]) if found else None

    def take(self, worker: str, busy: Mapping[str, int]) -> Taken | None:
        found = self._all(_TAKE, worker=worker, busy=json.dumps(dict(busy)))
        if not found:
            return None
        slice_id, map_id, terms, numbers, deaths = found[0]
        return Taken(slice_id, map_id, terms, tuple(numbers), deaths)

    def settle(self, worker: str, slice_id: int, ends: str, left: Sequence[int]) -> bool:
        now = time.monotonic()
        due = now - self._noticed >= _NOTICES
        self._noticed = now if due else self._noticed
        sql = _TELL.format(_LEFT if left else _OVER, _NOTICE if due else "map")
        return bool(self._all(sql, worker=worker, slice=slice_id, ends=ends, left=list(left)))

    def give_back(self, worker: str, slice_id: int, left: Sequence[int]) -> None:
        sql = "DELETE FROM map_slices WHERE slice = %(slice)s AND worker = %(worker)s AND (stop OR %(left)s = '{{}}')"
        back = (
            "UPDATE map_slices SET worker = NULL, numbers = %(left)s WHERE slice = %(slice)s AND worker = %(worker)s"
        )
        of_slice = {"worker": worker, "slice": slice_id, "left": list(left)}
        with self._changing() as connection:
            connection.execute(sql.format(), of_slice)
            connection.execute(back, of_slice)
            connection.execute(f"NOTIFY {_WAITING}")

    def refuse(self, worker: str, slice_id: int, reason: str) -> None:
        of_slice = {"worker": worker, "slice": slice_id, "reason": reason}
        with self._changing() as connection:
            connection.execute(
                "INSERT INTO map_refusals (map, worker, reason) SELECT map, %(worker)s, %(reason)s FROM map_slices"
                " WHERE slice = %(slice)s AND worker = %(worker)s ON CONFLICT DO NOTHING",
                of_slice,
            )
            back = "UPDATE map_slices SET worker = NULL WHERE slice = %(slice)s AND worker = %(worker)s"
            connection.execute(back, of_slice)
            connection.execute(f"NOTIFY {_WAITING}")

    def leave(self, worker: str) -> None:
        with self._changing() as connection:
            connection.execute("DELETE FROM map_slices WHERE worker = %s AND stop", (worker,))
            connection.execute("UPDATE map_slices SET worker = NULL WHERE worker = %s", (worker,))
            connection.execute("DELETE FROM workers WHERE worker = %s", (worker,))
            connection.execute(f"NOTIFY {_WAITING}")

    def late(self) -> list[str]:
        sql = f"SELECT worker FROM workers WHERE beat < {_NOW} - %(late)s"
        return [worker for (worker,) in self._all(sql, late=LATE)]

    def bury(self, worker: str) -> int:
        with self._changing() as connection:
            found = connection.execute(_SINGLY, {"worker": worker}).rowcount
            connection.execute("DELETE FROM workers WHERE worker = %s", (worker,))
            connection.execute(f"NOTIFY {_WAITING}")
        return found

    def workers(self) -> list[WorkerRow]:
        return [WorkerRow._make((*row[:7], float(row[7]), *row[8:])) for row in self._all(_WORKERS)]

    def listen(self, map_id: str | None, call: Callable[[], object]) -> Listener:
        channel, payload = _WAITING, None
        if map_id is not None:
            found = self._all(f"SELECT CAST({_MAP} AS text)", map_id=map_id)
            channel, payload = _ENDS, found[0][0]
        return _Listener(self._address, channel, payload, call)

    # Statements.

    def _all(self, sql: str, **values: Any) -> list[Any]:
        with self._connections.lent() as connection:
            return connection.execute(sql, values).fetchall()

    @contextmanager
    def _changing(self) -> "Iterator[Connection[Any]]":
        """Borrow a connection for one transaction."""
        with self._connections.lent() as connection, connection.transaction():
            yield connection


class _Listener(Listener):
    """Listens on a connection of its own in a thread, and connects anew when it is cut."""

    def __init__(self, address: Address, channel: str, payload: str | None, call: Callable[[], object]) -> None:
        self._address = address
        self._channel = channel
        self._payload = payload
        self._call = call
        self._closed = threading.Event()
        threading.Thread(target=self._work, name="fusion store listener", daemon=True).start()

    def close(self) -> None:
        self._closed.set()

    def _work(self) -> None:
        while not self._closed.is_set():
            try:
                with connect(self._address, "listener") as connection:
                    connection.execute(f"LISTEN {self._channel}")
                    self._call()
                    self._hear(connection)
            except psycopg.Error:
                self._closed.wait(_PAUSE)

    def _hear(self, connection: "Connection[Any]") -> None:
        while not self._closed.is_set():
            heard = {notice.payload for notice in connection.notifies(timeout=_LOOK, stop_after=1)}
            if heard and (self._payload is None or self._payload in heard):
                self._call()
