"""Row: one call in a batch, and what becomes of it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Literal, NamedTuple, Protocol

from fusion.core.events import EventBase, OfCall, Span
from fusion.core.types import Request
from fusion.models.batches.base import Ended, Entry


class Left(NamedTuple):
    """The end of a row without a result of its own.

    "unsent" for one whose batch does not exist, "refused" with its whole batch, "missing" in the results of its
    batch, "late" at its deadline, "lost" with a batch that can no longer be read. `billed` is False for one that the
    provider does not bill.
    """

    why: Literal["unsent", "refused", "missing", "late", "lost"]
    billed: bool
    message: str = ""


class Keeper(Protocol):
    """Keeps the place of a row in a batch, so that a later session joins it again."""

    lasting: bool
    """True if a later session can join the batch."""

    @property
    def disk(self) -> object:
        """The store behind it; rows of one store are written in order."""

    def enter(self, name: str) -> None:
        """Keep our name of a batch."""

    def known(self, batch_id: str) -> None:
        """Keep the provider's id of that batch."""

    def written(self) -> Awaitable[None]:
        """Wait until all of it is on disk."""


class Row:
    """A row: its request, its deadline by the clock of the event loop, and its place in a run.

    `sent` is True from the moment at which its batch is submitted. `outcome` has its end.
    """

    __slots__ = ("custom_id", "deadline", "keeper", "model", "outcome", "request", "sent", "size", "span")

    def __init__(
        self,
        custom_id: str,
        request: Request,
        keeper: Keeper,
        *,
        model: str,
        span: Span | None,
        deadline: float | None = None,
    ) -> None:
        self.custom_id = custom_id
        self.request = request
        self.keeper = keeper
        self.model = model
        self.span = span
        self.deadline = deadline
        self.size = 0
        self.sent = False
        self.outcome: asyncio.Future[Ended | Left] = asyncio.get_running_loop().create_future()

    @property
    def entry(self) -> Entry:
        return Entry(self.custom_id, self.request)

    def is_late(self, now: float) -> bool:
        return self.deadline is not None and self.deadline <= now

    def end(self, outcome: Ended | Left) -> None:
        """Set the end of the row; only the first counts."""
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class Group:
    """The rows of one stage of one run in a batch, which share its events."""

    def __init__(self, span: Span, model: str) -> None:
        self._span = span
        self._model = model
        self.rows: list[Row] = []
        self.answered = 0
        self.told = self.over = False

    def emit(self, kind: Callable[..., OfCall], **fields: object) -> None:
        """Send an event to the run. A sink that fails ends the calls of the group, as it would end others."""
        here = self._span
        event: EventBase = kind(run_id=here.run_id, stage=here.stage, role=here.role, model=self._model, **fields)
        try:
            here.sink(event)
        except Exception as error:  # noqa: BLE001 - a fault of the user's sink ends its run, not the batch
            for row in self.rows:
                if not row.outcome.done():
                    row.outcome.set_exception(error)


class Groups:
    """The groups of a batch, by run, stage and role."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str, str], Group] = {}
        self._of: dict[str, Group] = {}

    def add(self, row: Row) -> None:
        here = row.span
        if here is not None:
            key = here.run_id, here.stage, here.role
            group = self._groups.setdefault(key, Group(here, row.model))
            group.rows.append(row)
            self._of[row.custom_id] = group

    def answered(self, row: Row) -> None:
        """Count a row that has its result."""
        if (group := self._of.get(row.custom_id)) is not None:
            group.answered += 1

    def without(self, rows: Iterable[Row]) -> list[tuple[Group, int]]:
        """Take rows out of their groups; return these groups and the numbers of their rows."""
        found: dict[int, tuple[Group, int]] = {}
        for row in rows:
            if (group := self._of.get(row.custom_id)) is not None and row in group.rows:
                group.rows.remove(row)
                found[id(group)] = group, found.get(id(group), (group, 0))[1] + 1
        return list(found.values())

    def __iter__(self) -> Iterator[Group]:
        return iter(self._groups.values())
