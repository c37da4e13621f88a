"""Queries of the maps in a SQLite store."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from decimal import Decimal
from sqlite3 import Connection
from typing import Any, Final

from fusion.store.base import Store
from fusion.store.rows import MapCounts, MapEntry, MapRow, RunFilter, Spending
from fusion.store.sqlite.codec import unpack_data, unpack_failure, unpack_money

OF_MAP: Final = "(SELECT map FROM maps WHERE map_id = ?)"
"""SQL for the number of a map's id."""

_PAGE: Final = 2000
_KEYS: Final = 500
_MAP: Final = """
    SELECT map_id, pipeline, profile, status, started, ended, max(0.0, ifnull(ended, (SELECT max(seen) FROM sessions
        JOIN runs USING (run) WHERE runs.map = maps.map)) - resumed), pass, tags, source, output, expected,
        fingerprint, failure, ifnull(resumed, started)
    FROM maps
"""
_ENTRY: Final = """
    SELECT map_rows.number, map_rows.key, run_id, status, session, runs.fingerprint, usd, seen, position, line
    FROM map_rows JOIN runs ON runs.run = map_rows.run
    LEFT JOIN map_lines ON map_lines.map = map_rows.map AND map_lines.key = map_rows.key
"""
_SPENT: Final = """
    SELECT ifnull(decimal_sum(usd), '0'), ifnull(sum(unknown_calls), 0), ifnull(sum(calls), 0)
    FROM runs WHERE map = (SELECT map FROM maps WHERE map_id = ?) AND ended IS NOT NULL
"""
_OPEN: Final = """
    SELECT ifnull(decimal_sum(attempts.usd), '0'), count(*) - count(attempts.usd), count(*)
    FROM runs JOIN attempts ON attempts.run = runs.run
    WHERE runs.map = (SELECT map FROM maps WHERE map_id = ?) AND runs.ended IS NULL AND attempts.state <> 'refunded'
"""
_TOKENS: Final = """
    SELECT ifnull(sum(attempts.tokens), 0) FROM runs JOIN attempts ON attempts.run = runs.run
    WHERE runs.map = (SELECT map FROM maps WHERE map_id = ?) AND attempts.state <> 'refunded'
"""
_BY_STAGE: Final = """
    SELECT stage, ifnull(decimal_sum(attempts.usd), '0'), ifnull(sum(attempts.tokens), 0), count(*),
        count(*) - count(attempts.usd)
    FROM runs JOIN attempts ON attempts.run = runs.run
    WHERE runs.map = (SELECT map FROM maps WHERE map_id = ?) AND attempts.state <> 'refunded'
    GROUP BY stage ORDER BY min(attempts.opened)
"""


class MapReader(Store):
    """The queries of maps."""

    def _reading(self) -> AbstractContextManager[Connection]:
        raise NotImplementedError

    def _query(self, sql: str, *values: Any) -> list[Any]:
        with self._reading() as connection:
            return connection.execute(sql, values).fetchall()

    def map(self, map_id: str) -> MapRow | None:
        found = self._query(f"{_MAP} WHERE map_id = ?", map_id)
        return _map_row(found[0]) if found else None

    def maps(self, which: RunFilter, *, limit: int | None = None) -> list[MapRow]:
        conditions, values = ["1"], list[Any]()
        if which.statuses:
            conditions.append(f"status IN ({', '.join('?' for _ in which.statuses)})")
            values += which.statuses
        if which.pipeline is not None:
            conditions.append("pipeline = ?")
            values.append(which.pipeline)
        if which.started_before is not None:
            conditions.append("ifnull(resumed, started) < ?")
            values.append(which.started_before)
        if which.started_from is not None:
            conditions.append("started >= ?")
            values.append(which.started_from)
        for tag in which.tags.items():
            conditions.append("EXISTS (SELECT 1 FROM json_each(maps.tags) t WHERE t.key = ? AND t.value = ?)")
            values += tag
        sql = f"{_MAP} WHERE {' AND '.join(conditions)} ORDER BY started DESC, map DESC LIMIT ?"
        return [_map_row(row) for row in self._query(sql, *values, -1 if limit is None else limit)]

    def map_ids(self, beginning: str, *, limit: int = 10) -> list[str]:
        sql = (
            "SELECT map_id FROM maps WHERE map_id >= ?1 AND map_id < ?1 || char(0x10FFFF)"
            " ORDER BY started DESC, map DESC LIMIT ?2"
        )
        return [map_id for (map_id,) in self._query(sql, beginning, limit)]

    def map_counts(self, map_id: str, *, seen: int | None = None) -> MapCounts:
        sql = (
            "SELECT status, count(*) FROM map_rows JOIN runs ON runs.run = map_rows.run"
            f" WHERE map_rows.map = {OF_MAP} AND (?2 IS NULL OR seen = ?2) GROUP BY status"
        )
        states: dict[str, int] = dict(self._query(sql, map_id, seen))
        held = states.get("waiting", 0)
        ended, still = self._query(_SPENT, map_id)[0], self._query(_OPEN, map_id)[0]
        return MapCounts(
            ok=states.pop("ok", 0),
            partial=states.pop("partial", 0),
            failed=states.pop("failed", 0),
            waiting=sum(states.values()),
            usd=Decimal(ended[0]) + Decimal(still[0]),
            unknown_calls=ended[1] + still[1],
            calls=ended[2] + still[2],
            tokens=self._query(_TOKENS, map_id)[0][0],
            held=held,
        )

    def map_entries(self, map_id: str, keys: Sequence[str]) -> dict[str, MapEntry]:
        found: dict[str, MapEntry] = {}
        for some in _portions(keys):
            marks = ", ".join("?" for _ in some)
            sql = f"{_ENTRY} WHERE map_rows.map = {OF_MAP} AND map_rows.key IN ({marks})"
            found.update((row[1], _entry(row)) for row in self._query(sql, map_id, *some))
        return found

    def map_lines(self, map_id: str, keys: Sequence[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for some in _portions(keys):
            marks = ", ".join("?" for _ in some)
            sql = f"SELECT key, line FROM map_lines WHERE map = {OF_MAP} AND key IN ({marks})"
            found.update(self._query(sql, map_id, *some))
        return found

    def map_pages(self, map_id: str, *, seen: int | None = None) -> Iterator[MapEntry]:
        sql = (
            f"{_ENTRY} WHERE map_rows.map = {OF_MAP} AND map_rows.number > ? AND (? IS NULL OR seen = ?)"
            " ORDER BY map_rows.number LIMIT ?"
        )
        after = 0
        while page := self._query(sql, map_id, after, seen, seen, _PAGE):
            yield from map(_entry, page)
            after = page[-1][0]

    def map_entry(self, map_id: str, number: int) -> MapEntry | None:
        found = self._query(f"{_ENTRY} WHERE map_rows.map = {OF_MAP} AND map_rows.number = ?", map_id, number)
        return _entry(found[0]) if found else None

    def map_spending(self, map_id: str) -> dict[str, Spending]:
        return {stage: Spending(Decimal(usd), *numbers) for stage, usd, *numbers in self._query(_BY_STAGE, map_id)}

    def map_records(self, map_id: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        sql = f"SELECT fingerprint, record FROM map_records WHERE map = {OF_MAP}"
        for fingerprint, record in self._query(sql, map_id):
            yield fingerprint, unpack_data(record)

    def last_row(self, map_id: str) -> int:
        return int(self._query(f"SELECT ifnull(max(number), 0) FROM map_rows WHERE map = {OF_MAP}", map_id)[0][0])


def _portions(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield keys in portions that one statement may hold."""
    for at in range(0, len(keys), _KEYS):
        yield keys[at : at + _KEYS]


def _map_row(row: Any) -> MapRow:
    *about, seconds, passes, tags, source, output, expected, fingerprint, failure, resumed = row
    end = (passes, json.loads(tags), source, output, expected, fingerprint, unpack_failure(failure), resumed)
    return MapRow(*(*about, seconds or 0.0, *end))


def _entry(row: Any) -> MapEntry:
    return MapEntry._make((*row[:6], unpack_money(row[6]), *row[7:]))
