"""Queries of maps in SQL."""

import json
import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, TypeVar

from fusion.store.base import Store
from fusion.store.rows import MapCounts, MapEntry, MapRow, RunFilter, Spending
from fusion.store.sql.codec import unpack_data, unpack_failure, unpack_money

OF_MAP: Final = "(SELECT map FROM maps WHERE map_id = ?)"
"""SQL for the number of a map's id."""

LAST: Final = "\U0010ffff"
"""The last character: no text with a prefix comes behind the prefix and this."""

Key = TypeVar("Key")
_PAGE: Final = 2000
_KEYS: Final = 500
_MAP: Final = """
    SELECT map_id, pipeline, profile, status, started, ended,
        ifnull(ended, (SELECT max(seen) FROM sessions JOIN runs USING (run) WHERE runs.map = maps.map)),
        pass, tags, source, output, expected, fingerprint, failure, resumed
    FROM maps
"""
_ENTRY: Final = """
    SELECT map_rows.number, map_rows.key, run_id, status, session, runs.fingerprint, usd, seen, position, line
    FROM map_rows JOIN runs ON runs.run = map_rows.run
    LEFT JOIN map_lines ON map_lines.map = map_rows.map AND map_lines.key = map_rows.key
"""
_SPENT: Final = """
    SELECT ifnull(decimal_sum(usd), '0'), CAST(ifnull(sum(unknown_calls), 0) AS bigint),
        CAST(ifnull(sum(calls), 0) AS bigint)
    FROM runs WHERE map = (SELECT map FROM maps WHERE map_id = ?) AND ended IS NOT NULL
"""
_OPEN: Final = """
    SELECT ifnull(decimal_sum(attempts.usd), '0'), count(*) - count(attempts.usd), count(*)
    FROM runs JOIN attempts ON attempts.run = runs.run
    WHERE runs.map = (SELECT map FROM maps WHERE map_id = ?) AND runs.ended IS NULL AND attempts.state <> 'refunded'
"""
_TOKENS: Final = """
    SELECT CAST(ifnull(sum(attempts.tokens), 0) AS bigint) FROM runs JOIN attempts ON attempts.run = runs.run
    WHERE runs.map = (SELECT map FROM maps WHERE map_id = ?) AND attempts.state <> 'refunded'
"""
_BY_STAGE: Final = """
    SELECT stage, ifnull(decimal_sum(attempts.usd), '0'), CAST(ifnull(sum(attempts.tokens), 0) AS bigint), count(*),
        count(*) - count(attempts.usd)
    FROM runs JOIN attempts ON attempts.run = runs.run
    WHERE runs.map = (SELECT map FROM maps WHERE map_id = ?) AND attempts.state <> 'refunded'
    GROUP BY stage ORDER BY min(attempts.opened)
"""


class MapReader(Store):
    """The queries of maps."""

    @abstractmethod
    def _all(self, sql: str, *values: Any) -> list[Any]:
        """Return the rows that a query finds."""

    @abstractmethod
    def _tagged(self, table: str, name: str, value: str) -> tuple[str, list[Any]]:
        """Return the condition of rows of this table with a tag, and its values."""

    def _one(self, sql: str, *values: Any) -> Any:
        found = self._all(sql, *values)
        return found[0] if found else None

    def map(self, map_id: str) -> MapRow | None:
        found = self._all(f"{_MAP} WHERE map_id = ?", map_id)
        return _map_row(found[0]) if found else None

    def _filtered(self, which: RunFilter, table: str, *, resumed: str = "started") -> tuple[list[str], list[Any]]:
        """Return what a filter asks of runs or maps as SQL conditions and their values.

        `resumed` is the SQL of the time that has to be before `started_before`.
        """
        conditions, values = ["1 = 1"], list[Any]()
        if which.statuses:
            conditions.append(f"status IN ({', '.join('?' for _ in which.statuses)})")
            values += which.statuses
        for condition, value in (
            ("pipeline = ?", which.pipeline),
            (f"{resumed} < ?", which.started_before),
            ("started >= ?", which.started_from),
        ):
            if value is not None:
                conditions.append(condition)
                values.append(value)
        for tag in which.tags.items():
            condition, of_tag = self._tagged(table, *tag)
            conditions.append(condition)
            values += of_tag
        return conditions, values

    def maps(self, which: RunFilter, *, limit: int | None = None) -> list[MapRow]:
        conditions, values = self._filtered(which, "maps", resumed="ifnull(resumed, started)")
        sql = f"{_MAP} WHERE {' AND '.join(conditions)} ORDER BY started DESC, map DESC LIMIT ?"
        return [_map_row(row) for row in self._all(sql, *values, sys.maxsize if limit is None else limit)]

    def map_ids(self, beginning: str, *, limit: int = 10) -> list[str]:
        sql = "SELECT map_id FROM maps WHERE map_id >= ? AND map_id < ? ORDER BY started DESC, map DESC LIMIT ?"
        return [map_id for (map_id,) in self._all(sql, beginning, beginning + LAST, limit)]

    def map_counts(self, map_id: str, *, seen: int | None = None) -> MapCounts:
        sql = (
            "SELECT status, count(*) FROM map_rows JOIN runs ON runs.run = map_rows.run"
            f" WHERE map_rows.map = {OF_MAP}{_of_pass(seen)} GROUP BY status"
        )
        states: dict[str, int] = dict(self._all(sql, map_id, *([] if seen is None else [seen])))
        held = states.get("waiting", 0)
        ended, still = self._all(_SPENT, map_id)[0], self._all(_OPEN, map_id)[0]
        return MapCounts(
            ok=states.pop("ok", 0),
            partial=states.pop("partial", 0),
            failed=states.pop("failed", 0),
            waiting=sum(states.values()),
            usd=Decimal(ended[0]) + Decimal(still[0]),
            unknown_calls=ended[1] + still[1],
            calls=ended[2] + still[2],
            tokens=self._all(_TOKENS, map_id)[0][0],
            held=held,
        )

    def map_entries(self, map_id: str, keys: Sequence[str]) -> dict[str, MapEntry]:
        found: dict[str, MapEntry] = {}
        for some in portions(keys):
            marks = ", ".join("?" for _ in some)
            sql = f"{_ENTRY} WHERE map_rows.map = {OF_MAP} AND map_rows.key IN ({marks})"
            found.update((row[1], _entry(row)) for row in self._all(sql, map_id, *some))
        return found

    def map_lines(self, map_id: str, keys: Sequence[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for some in portions(keys):
            marks = ", ".join("?" for _ in some)
            sql = f"SELECT key, line FROM map_lines WHERE map = {OF_MAP} AND key IN ({marks})"
            found.update(self._all(sql, map_id, *some))
        return found

    def map_pages(self, map_id: str, *, seen: int | None = None) -> Iterator[MapEntry]:
        sql = (
            f"{_ENTRY} WHERE map_rows.map = {OF_MAP}{_of_pass(seen)} AND map_rows.number > ?"
            " ORDER BY map_rows.number LIMIT ?"
        )
        of_map = (map_id,) if seen is None else (map_id, seen)
        after = 0
        while page := self._all(sql, *of_map, after, _PAGE):
            yield from map(_entry, page)
            after = page[-1][0]

    def map_entry(self, map_id: str, number: int) -> MapEntry | None:
        found = self._all(f"{_ENTRY} WHERE map_rows.map = {OF_MAP} AND map_rows.number = ?", map_id, number)
        return _entry(found[0]) if found else None

    def map_spending(self, map_id: str) -> dict[str, Spending]:
        return {stage: Spending(Decimal(usd), *numbers) for stage, usd, *numbers in self._all(_BY_STAGE, map_id)}

    def map_records(self, map_id: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        sql = f"SELECT fingerprint, record FROM map_records WHERE map = {OF_MAP}"
        for fingerprint, record in self._all(sql, map_id):
            yield fingerprint, unpack_data(record)

    def last_row(self, map_id: str) -> int:
        return int(self._all(f"SELECT ifnull(max(number), 0) FROM map_rows WHERE map = {OF_MAP}", map_id)[0][0])


def portions(keys: Sequence[Key]) -> Iterator[Sequence[Key]]:
    """Yield keys in portions that one statement may hold."""
    for at in range(0, len(keys), _KEYS):
        yield keys[at : at + _KEYS]


def _of_pass(seen: int | None) -> str:
    """Return the condition of rows that a pass has seen, if one is given."""
    return "" if seen is None else " AND seen = ?"


def _map_row(row: Any) -> MapRow:
    *about, until, passes, tags, source, output, expected, fingerprint, failure, resumed = row
    seconds = 0.0 if until is None or resumed is None else max(0.0, until - resumed)
    begun = about[4] if resumed is None else resumed
    end = (passes, json.loads(tags), source, output, expected, fingerprint, unpack_failure(failure), begun)
    return MapRow(*(*about, seconds, *end))


def _entry(row: Any) -> MapEntry:
    return MapEntry._make((*row[:6], unpack_money(row[6]), *row[7:]))
