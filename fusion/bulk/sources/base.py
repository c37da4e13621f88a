"""Source: what a map reads its rows from."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

SourceFormat = Literal["jsonl", "csv", "tsv", "parquet", "files"]


class SourceRow(NamedTuple):
    """One row of INPUTS.

    `values` maps columns to values: text from CSV, JSON values from JSONL and Parquet, and `path` with `text` or
    `file` for a file. `where` names the row in errors, such as "tickets.csv line 12". `path` is the key of a file:
    its path relative to the folder. `problem` tells why the row cannot be read, though its source can.
    """

    values: Mapping[str, Any]
    where: str
    path: str | None = None
    problem: str | None = None


class RowSource(ABC):
    """The rows of INPUTS, read in one streaming pass whose memory does not grow with their number."""

    name: str
    """Name in messages."""
    identity: str | None = None
    """Absolute text that identifies INPUTS, also once they have grown; None for a stream and for rows from Python."""
    rewindable: bool = True
    """True if a second pass is possible."""
    columns: tuple[str, ...] | None = None
    """Columns known before the pass; of JSONL, those of its first rows."""
    columns_vary: bool = False
    """True if rows may have other columns than the first ones."""
    is_files: bool = False
    """True if each row is a file."""
    note: str | None = None
    """Note to the user on how INPUTS are read."""

    @abstractmethod
    def rows(self) -> Iterator[SourceRow]:
        """Yield the rows in order; files are closed at the end, or with the generator.

        Raises InputError that names the line of what cannot be read.
        """

    def progress(self) -> tuple[float, float | None]:
        """Return what the pass has read and the total, in bytes, rows or files; a total of None is unknown."""
        return 0.0, None

    def holds(self, path: Path) -> bool:
        """Return True if the source reads this file, or would if it existed."""
        return False
