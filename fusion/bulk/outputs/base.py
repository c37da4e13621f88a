"""Output: where a map writes its rows, and what it finds there."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from fusion.core.types import Failure

RowStatus = Literal["ok", "partial", "failed"]


class OutputRow(NamedTuple):
    """A finished row.

    `usd` is its known cost in dollars, and `unknown_calls` counts the calls whose cost is unknown. `data` is the
    answer's JSON data, if it has any, and `text` is the answer as text.
    """

    key: str
    status: RowStatus
    text: str = ""
    data: Any = None
    usd: Decimal | None = None
    unknown_calls: int = 0
    run_id: str = ""
    failure: Failure | None = None


class Present(NamedTuple):
    """A row that the output holds already. `usd` is its cost as it is in the file."""

    key: str
    run_id: str
    status: str
    usd: str


Replacing = Callable[[str], OutputRow | Literal["drop"] | None]
"""Returns for a key the row as it is to be now, "drop" to remove its line, or None to keep it."""


class RowOutput(ABC):
    """The file of a map's rows. Each line is whole: a torn last one is cut off, and none is written in part."""

    name: str
    """Name in messages."""

    @abstractmethod
    def present(self) -> Iterator[Present]:
        """Yield the rows that the output holds, in their order; a torn last line is cut off first."""

    @abstractmethod
    def append(self, rows: Sequence[OutputRow]) -> None:
        """Write rows behind the others, handed to the system in one piece.

        Raises UsageError if they cannot be written; the output then holds none of them.
        """

    @abstractmethod
    def replace(self, rows: Replacing) -> None:
        """Write the output anew with other rows in the place of some, beside it, and rename it.

        `rows` is called for each line in order. Raises UsageError; the output is then as before.
        """

    @abstractmethod
    def close(self) -> None:
        """Finish the output, and release its file."""
