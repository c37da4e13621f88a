"""Several tables as INPUTS: the rows of one after those of the other."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from fusion.bulk.sources.base import RowSource, SourceRow


class SeveralTables(RowSource):
    """Tables of the same format, one after the other."""

    def __init__(self, tables: Sequence[RowSource], name: str, identity: str | None) -> None:
        self.name = name
        self.identity = identity
        self._tables = tables
        self.columns = tuple(dict.fromkeys(column for one in tables for column in one.columns or ()))
        self.columns_vary = any(one.columns_vary or one.columns != self.columns for one in tables)

    def rows(self) -> Iterator[SourceRow]:
        for table in self._tables:
            yield from table.rows()

    def progress(self) -> tuple[float, float | None]:
        parts = [table.progress() for table in self._tables]
        totals = [total for _, total in parts if total is not None]
        return sum(done for done, _ in parts), sum(totals) if len(totals) == len(parts) else None

    def holds(self, path: Path) -> bool:
        return any(table.holds(path) for table in self._tables)
