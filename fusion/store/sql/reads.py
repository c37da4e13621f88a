"""Queries of runs in SQL."""

import json
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from fusion.core.errors import StoreError
from fusion.core.types import CallKey, Reply, Request, Usage
from fusion.store.rows import (
    Attempt,
    AttemptEnd,
    AttemptState,
    Call,
    CallIndex,
    Decision,
    Line,
    RowOrder,
    RunFilter,
    RunRow,
    RunStatus,
    Spending,
    Timing,
)
from fusion.store.sql.codec import (
    Packed,
    unpack,
    unpack_content,
    unpack_data,
    unpack_digest,
    unpack_failure,
    unpack_money,
    unpack_request,
    unpack_waited,
)
from fusion.store.sql.map_reads import LAST, OF_MAP, MapReader, portions
from fusion.store.sql.statements import OF_RUN, Values

_PAGE: Final = 5000
_PAGE_OF_TEXTS: Final = 100
_RUN: Final = """
    SELECT run_id, parent, root, pipeline, profile, status, started, ended,
        (SELECT ifnull(sum(CASE WHEN seen > started THEN seen - started ELSE 0.0 END), 0.0)
            FROM sessions WHERE sessions.run = runs.run),
        session, tags, content, fingerprint, usd, unknown_calls, calls, failure,
        (SELECT map_id FROM maps WHERE maps.map = runs.map), row, shared
    FROM runs
"""
_ROW_RUN: Final = _RUN.replace("SELECT", "SELECT map_rows.key,", 1).replace(
    "FROM runs\n", "FROM map_rows JOIN runs ON runs.run = map_rows.run\n"
)
_ROW_AND_INPUTS: Final = _RUN.replace("SELECT", "SELECT records.record,", 1).replace(
    "FROM runs\n", "FROM map_rows JOIN runs ON runs.run = map_rows.run JOIN records ON records.run = runs.run\n"
)
_SESSIONS: Final = 9
"""Column of the number of sessions in `_RUN`."""
_SECONDS: Final = 10
"""Column of the time of a run in `_ROW_RUN`."""
_CALL: Final = """
    SELECT calls.number, stage, item, step, digest, role, asked, state, started, ended, text_digest, failure, reused,
        waited, finish, replied, served, writer, source, input, cached_read, cache_write, output, reasoning, usd,
        latency, first_token, batch_saved
"""
_COUNTED: Final = "FROM attempts WHERE state <> 'refunded' AND run = " + OF_RUN
_ALL_SPENDING: Final = (
    "ifnull(decimal_sum(usd), '0'), CAST(ifnull(sum(tokens), 0) AS bigint), count(*), count(*) - count(usd)"
)
_LINES: Final = f"""
    SELECT stage, role, ifnull(writer, replied), CASE WHEN writer IS NOT NULL THEN asked END, served, source,
        reused IS NOT NULL, count(*), CAST(sum(input) AS bigint), CAST(sum(cached_read) AS bigint),
        CAST(sum(cache_write) AS bigint), CAST(sum(output) AS bigint), CAST(sum(reasoning) AS bigint),
        ifnull(decimal_sum(usd), '0'), count(*) - count(usd),
        count(batch_saved), ifnull(decimal_sum(batch_saved), '0')
    FROM calls WHERE run = {OF_RUN} AND state <> 'failed' AND replied IS NOT NULL
    GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY min(number)
"""


_TIMINGS: Final = f"""
    SELECT stage, item, step, role, ifnull(writer, ifnull(replied, asked)),
        CASE WHEN writer IS NOT NULL THEN asked END, started, ended, waited, ifnull(latency, 0.0),
        reused IS NOT NULL, ifnull(input, 0), ifnull(cached_read, 0), ifnull(cache_write, 0)
    FROM calls WHERE run = {OF_RUN} AND ifnull(reused, 'cache') = 'cache' ORDER BY number
"""


_SHARED: Final = (
    "SELECT map_records.record FROM runs JOIN map_records ON map_records.map = runs.map"
    " AND map_records.fingerprint = runs.shared WHERE run_id = ?"
)


class RunReader(MapReader):
    """The queries of runs."""

    def _pages(self, sql: str, given: Values, after: Values, size: int = _PAGE) -> Iterator[Any]:
        """Yield the rows of a query page by page; the last columns of a page are the start of the next.

        No transaction stays open between pages, so that a write-ahead log can be truncated.
        """
        while True:
            page = self._all(sql, *given, *after, size)
            yield from page
            if len(page) < size:
                return
            after = page[-1][-len(after) :]

    # Runs.

    def run(self, run_id: str) -> RunRow | None:
        row = self._one(f"{_RUN} WHERE run_id = ?", run_id)
        return None if row is None else self._run_row(row)

    def runs(self, which: RunFilter, *, limit: int | None = None) -> list[RunRow]:
        conditions, values = self._filtered(which, "runs")
        for condition, value in (
            (f"map = {OF_MAP}", which.map),
            ("fingerprint = ?", which.fingerprint),
            ("parent = ?", which.parent),
        ):
            if value is not None:
                conditions.append(condition)
                values.append(value)
        if which.map is None:
            conditions.append("map IS NULL")
        sql = f"{_RUN} WHERE {' AND '.join(conditions)} ORDER BY started DESC, run DESC LIMIT ?"
        return [self._run_row(row) for row in self._all(sql, *values, sys.maxsize if limit is None else limit)]

    def run_ids(self, beginning: str, *, limit: int = 10) -> list[str]:
        sql = (
            "SELECT run_id FROM runs WHERE run_id >= ? AND run_id < ? AND map IS NULL"
            " ORDER BY started DESC, run DESC LIMIT ?"
        )
        return [run_id for (run_id,) in self._all(sql, beginning, beginning + LAST, limit)]

    def map_runs(
        self,
        map_id: str,
        *,
        statuses: Collection[RunStatus] = (),
        order: RowOrder = "first",
        limit: int | None = None,
    ) -> Iterator[tuple[str, RunRow]]:
        only = f"AND status IN ({', '.join('?' for _ in statuses)})" if statuses else ""
        found = f"{_ROW_RUN} WHERE map_rows.map = {OF_MAP} {only}"
        if order == "slowest":
            for row in self._all(
                f"{found} ORDER BY {_SECONDS} DESC LIMIT ?",
                map_id,
                *statuses,
                sys.maxsize if limit is None else limit,
            ):
                yield row[0], self._run_row(row[1:])
            return
        direction, compare, last = ("", ">", 0) if order == "first" else ("DESC", "<", sys.maxsize)
        sql = f"{found} AND map_rows.number {compare} ? ORDER BY map_rows.number {direction} LIMIT ?"
        left = sys.maxsize if limit is None else limit
        while left and (page := self._all(sql, map_id, *statuses, last, min(left, _PAGE_OF_TEXTS))):
            for row in page:
                yield row[0], self._run_row(row[1:])
            last, left = page[-1][-2], left - len(page)

    def row_runs(self, map_id: str, numbers: Sequence[int]) -> list[tuple[RunRow, Mapping[str, Any]]]:
        found: list[tuple[RunRow, Mapping[str, Any]]] = []
        for some in portions(numbers):
            marks = ", ".join("?" for _ in some)
            of_rows = f"map_rows.map = {OF_MAP} AND map_rows.number IN ({marks}) ORDER BY map_rows.number"
            for record, *run in self._all(f"{_ROW_AND_INPUTS} WHERE {of_rows}", map_id, *some):
                found.append((self._run_row(run), {} if record is None else unpack_data(record)))
        return found

    def results(self, run_ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        found: dict[str, Mapping[str, Any]] = {}
        for some in portions(run_ids):
            marks = ", ".join("?" for _ in some)
            sql = f"SELECT run_id, result FROM runs JOIN records USING (run) WHERE run_id IN ({marks})"
            rows = self._all(sql, *some)
            found.update((run_id, unpack_data(result)) for run_id, result in rows if result is not None)
        return found

    def own_record(self, run_id: str) -> Mapping[str, Any] | None:
        return self._kept(f"SELECT record FROM records WHERE run = {OF_RUN}", run_id)

    def record(self, run_id: str) -> Mapping[str, Any] | None:
        own = self.own_record(run_id)
        shared = None if own is None else self._kept(_SHARED, run_id)
        return own if own is None or shared is None else {**shared, **own}

    def row_run(self, map_id: str, number: int) -> RunRow | None:
        of_row = f"run = (SELECT run FROM map_rows WHERE map = {OF_MAP} AND number = ?)"
        row = self._one(f"{_RUN} WHERE {of_row}", map_id, number)
        return None if row is None else self._run_row(row)

    def result(self, run_id: str) -> Mapping[str, Any] | None:
        return self._kept(f"SELECT result FROM records WHERE run = {OF_RUN}", run_id)

    def _kept(self, sql: str, run_id: str) -> Mapping[str, Any] | None:
        row = self._one(sql, run_id)
        found: Mapping[str, Any] | None = None if row is None or row[0] is None else unpack_data(row[0])
        return found

    def _run_row(self, row: Any) -> RunRow:
        *about, tags, content, fingerprint, usd, unknown, calls, failure, map_id, number, shared = row
        run_id, ended = row[0], row[7]
        if ended is None:
            begun = row[_SESSIONS] > 0
            spent = self._one(f"SELECT {_ALL_SPENDING} {_COUNTED}", run_id) if begun else ("0", 0, 0, 0)
            usd, _, calls, unknown = spent
        counts = Decimal(usd), unknown, calls
        end = (unpack_failure(failure), map_id, number, shared)
        return RunRow(*(*about, json.loads(tags), content, fingerprint, *counts, *end))

    # Calls.

    def index(self, run_id: str) -> Iterator[CallIndex]:
        sql = (
            f"SELECT state, stage, item, step, digest, number FROM calls WHERE run = {OF_RUN} AND number > ?"
            " ORDER BY number LIMIT ?"
        )
        for state, stage, item, step, digest, number in self._pages(sql, (run_id,), (-1,)):
            key = CallKey(stage=stage, item=item, step=step, digest=unpack_digest(digest))
            yield CallIndex(number, key, state)

    async def answer(self, run_id: str, number: int) -> Call | None:
        return self._call(run_id, number, with_request=False)

    def call(self, run_id: str, number: int) -> Call | None:
        return self._call(run_id, number, with_request=True)

    def _call(self, run_id: str, number: int, *, with_request: bool) -> Call | None:
        sql = (
            f"{_CALL}, text, {'request' if with_request else 'NULL'} FROM calls LEFT JOIN bodies USING (run, number)"
            f" WHERE run = {OF_RUN} AND number = ?"
        )
        row = self._one(sql, run_id, number)
        return None if row is None else self._as_call(run_id, row)

    def calls(self, run_id: str, *, texts: bool = False, after: int = 0, stage: str | None = None) -> Iterator[Call]:
        kept = "text, request" if texts else "NULL, NULL"
        join = "LEFT JOIN bodies USING (run, number)" if texts else ""
        sql = (
            f"{_CALL}, {kept}, calls.number FROM calls {join} WHERE calls.run = {OF_RUN}"
            f"{'' if stage is None else ' AND stage = ?'} AND calls.number > ? ORDER BY calls.number LIMIT ?"
        )
        given = (run_id,) if stage is None else (run_id, stage)
        for row in self._pages(sql, given, (after,), _PAGE_OF_TEXTS if texts else _PAGE):
            yield self._as_call(run_id, row[:-1])

    def _as_call(self, run_id: str, row: Any) -> Call:
        number, stage, item, step, digest, *about, text_digest, failure, reused, waited = row[:14]
        *reply, text, packed = row[14:]
        key = CallKey(stage=stage, item=item, step=step, digest=unpack_digest(digest))
        request = None if packed is None else self._request(run_id, key, packed)
        end = (_reply(reply, text), unpack_digest(text_digest), unpack_failure(failure), reused)
        waits = unpack_waited(waited)
        return Call(*(run_id, number, key, *about, request, *end, waits))

    def _request(self, run_id: str, key: CallKey, kept: Packed) -> Request:
        def found(table: str) -> Callable[[bytes], Any]:
            def of(digest: bytes) -> Any:
                row = self._one(f"SELECT body FROM {table} WHERE run = {OF_RUN} AND digest = ?", run_id, digest)
                if row is None:
                    raise StoreError(f"the store {self.where}: a part of a request of run {run_id!r} is missing")
                return row[0]

            return of

        text = found("texts")
        return unpack_request(kept, key, lambda digest: unpack(text(digest)), found("files"))

    # The rest of a run.

    def attempts(
        self, run_id: str, *, states: Collection[AttemptState] = ()
    ) -> Iterator[tuple[Attempt, AttemptEnd | None]]:
        only = ", ".join(f"'{state}'" for state in states if state.isalpha())
        sql = (
            "SELECT stage, item, step, role, model, opened, worst_usd, worst_tokens, state, closed, usd, tokens,"
            f" session, number FROM attempts WHERE run = {OF_RUN} AND (session, number) > (?, ?)"
            f"{f' AND state IN ({only})' if only else ''} ORDER BY session, number LIMIT ?"
        )
        for row in self._pages(sql, (run_id,), (-1, -1)):
            stage, item, step, role, model, opened, worst_usd, worst_tokens, *ending, session, number = row
            state, closed, usd, tokens = ending
            worst = unpack_money(worst_usd), worst_tokens
            opening = Attempt(run_id, session, number, stage, item, step, role, model, opened, *worst)
            end = AttemptEnd(run_id, session, number, state, closed, unpack_money(usd), tokens)
            yield opening, None if state == "open" else end

    def decisions(self, run_id: str) -> list[Decision]:
        sql = f"SELECT stage, item, name, value FROM decisions WHERE run = {OF_RUN} ORDER BY decision"
        return [
            Decision(run_id, stage, item, name, unpack_data(value))
            for stage, item, name, value in self._all(sql, run_id)
        ]

    def events(self, run_id: str, *, after: int = 0) -> list[Mapping[str, Any]]:
        sql = f"SELECT body FROM events WHERE run = {OF_RUN} AND number > ? ORDER BY number"
        return [unpack_data(body) for (body,) in self._all(sql, run_id, after)]

    def spending(self, run_id: str) -> dict[str, Spending]:
        rows = self._all(f"SELECT stage, {_ALL_SPENDING} {_COUNTED} GROUP BY stage", run_id)
        return {stage: Spending(Decimal(usd), *numbers) for stage, usd, *numbers in rows}

    def lines(self, run_id: str) -> list[Line]:
        rows = self._all(_LINES, run_id)
        return [_line(row) for row in rows]

    def timings(self, run_id: str) -> list[Timing]:
        rows = self._all(_TIMINGS, run_id)
        return [Timing._make((*row[:8], unpack_waited(row[8]), row[9], bool(row[10]), *row[11:])) for row in rows]

    def last_numbers(self, run_id: str) -> tuple[int, int]:
        calls, events = self._one(
            f"SELECT (SELECT max(number) FROM calls WHERE run = {OF_RUN}),"
            f" (SELECT max(number) FROM events WHERE run = {OF_RUN})",
            run_id,
            run_id,
        )
        return calls or 0, events or 0


def _line(row: Any) -> Line:
    *identity, reused = row[:7]
    *counts, usd, unknown, batched, saved = row[7:]
    return Line._make((*identity, bool(reused), *counts, Decimal(usd), unknown, batched, Decimal(saved)))


def _reply(about: list[Any], text: Packed | None) -> Reply | None:
    finish, asked, served, by, source, *tokens, usd, latency, first, saved = about
    if asked is None:
        return None
    given, cached_read, cache_write, output, reasoning = tokens
    said, calls = unpack_content(finish, text)
    return Reply(
        text=said,
        finish_reason=finish,
        tool_calls=calls,
        usage=Usage(
            input=given,
            cached_read=cached_read,
            cache_write=cache_write,
            output=output,
            reasoning=reasoning,
            source=source,
        ),
        asked=asked,
        served=served,
        by=by,
        cost=unpack_money(usd),
        latency=latency,
        first_token=first,
        batch_saved=unpack_money(saved),
    )
