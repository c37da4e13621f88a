"""Statements that write the rows of maps."""

from typing import Any, Final

from fusion.store.encoding import as_json
from fusion.store.rows import LinesFound, MapEnded, MapPass, MapStarted, RowSeen, RowStarted
from fusion.store.sql.codec import pack, pack_failure
from fusion.store.sql.map_reads import OF_MAP

_STARTED: Final = (
    "INSERT INTO maps (map_id, pipeline, profile, started, tags, source, output) VALUES (?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT DO NOTHING"
)
_RECORD: Final = (
    "INSERT INTO map_records (map, fingerprint, record) SELECT map, ?2, ?3 FROM maps WHERE map_id = ?1"
    " ON CONFLICT (map, fingerprint) DO UPDATE SET record = excluded.record"
)
_BEGUN: Final = (
    "UPDATE maps SET status = 'running', pass = ?2, resumed = ?3, ended = NULL, failure = NULL, fingerprint = ?4,"
    " expected = ?5 WHERE map_id = ?1 AND pass < ?2"
)
_ENDED: Final = (
    "UPDATE maps SET status = ?3, ended = ?4, failure = ?5 WHERE map_id = ?1 AND pass = ?2 AND status = 'running'"
)
_RUN: Final = (
    "INSERT INTO runs"
    " (run_id, parent, root, pipeline, profile, started, tags, content, fingerprint, row, shared, map)"
    " SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, map FROM maps WHERE map_id = ? ON CONFLICT DO NOTHING"
)
_INPUTS: Final = "INSERT INTO records (run, record) SELECT run, ? FROM runs WHERE run_id = ? ON CONFLICT DO NOTHING"
_ROW: Final = (
    "INSERT INTO map_rows (map, number, key, run, seen, position) SELECT map, ?, ?, run, ?, ? FROM runs"
    " WHERE run_id = ? ON CONFLICT (map, number) DO UPDATE SET run = excluded.run, seen = excluded.seen,"
    " position = excluded.position"
)
_SEEN: Final = f"UPDATE map_rows SET seen = ?3, position = ?4 WHERE map = {OF_MAP.replace('?', '?1')} AND number = ?2"
_NO_LINES: Final = f"DELETE FROM map_lines WHERE map = {OF_MAP}"
_LINE: Final = (
    "INSERT INTO map_lines (map, key, line) SELECT map, ?2, ?3 FROM maps WHERE map_id = ?1"
    " ON CONFLICT (map, key) DO UPDATE SET line = excluded.line"
)

MANY: Final = (_RUN, _INPUTS, _ROW, _SEEN, _LINE)
"""The statements of many rows at once, in the order in which they are executed."""

Statement = tuple[Any, ...]
"""SQL, and the values of one execution."""


def started(row: MapStarted) -> list[Statement]:
    about = (row.map_id, row.pipeline, row.profile, row.started, as_json(row.tags), row.source, row.output)
    return [(_STARTED, *about)]


def begun(row: MapPass) -> list[Statement]:
    return [
        (_RECORD, row.map_id, row.fingerprint, pack(row.record)),
        (_BEGUN, row.map_id, row.number, row.started, row.fingerprint, row.expected),
    ]


def ended(row: MapEnded) -> list[Statement]:
    return [(_ENDED, row.map_id, row.number, row.status, row.ended, pack_failure(row.failure))]


def row_started(row: RowStarted) -> list[Statement]:
    run = row.run
    about = (run.run_id, run.parent, run.root, run.pipeline, run.profile, run.started, as_json(run.tags), run.content)
    return [
        (_RUN, *about, run.fingerprint, row.number, row.shared, row.map_id),
        (_INPUTS, None if run.record is None else pack(run.record), run.run_id),
        (_ROW, row.number, row.key, row.number_of_pass, row.position, run.run_id),
    ]


def row_seen(row: RowSeen) -> list[Statement]:
    return [(_SEEN, row.map_id, row.number, row.number_of_pass, row.position)]


def no_lines(row: LinesFound) -> list[Statement]:
    return [(_NO_LINES, row.map_id)] if row.first else []


def lines(row: LinesFound) -> list[Statement]:
    return [(_LINE, row.map_id, key, line) for key, line in row.lines]
