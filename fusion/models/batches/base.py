"""BatchDoor: the interface of a provider's batch API, for one model."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from decimal import Decimal
from typing import Final, Literal, NamedTuple

from fusion.core.errors import ModelError
from fusion.core.types import Reply, Request, Value
from fusion.models.base import ModelInfo, Price

BATCHES: Final = 2
"""Batches that a call is sent in at most, one after the other, before it is made live."""
BatchStatus = Literal["open", "ended", "failed", "expired", "cancelled"]
"""State of a batch. Only an `open` one changes; every other may have results, for the rows that were answered."""


class Entry(NamedTuple):
    """One row of a batch to submit. `custom_id` is unique over all runs: up to 50 of `[A-Za-z0-9_-]`."""

    custom_id: str
    request: Request


class Ended(NamedTuple):
    """The end of one row: its reply, or the error in its place.

    An error with `sent = False` says that the row was not worked on, so that it is not billed.
    """

    custom_id: str
    reply: Reply | None
    error: ModelError | None


class BatchState(Value):
    """The state of a batch, and the number of its rows: all, answered and failed.

    `message` is the provider's reason for a batch that failed.
    """

    status: BatchStatus
    total: int = 0
    done: int = 0
    failed: int = 0
    message: str = ""


class BatchDoor(ABC):
    """The batch API of a provider for one model. One object serves all runs on one event loop.

    Every method raises ModelError. An error of `submit` that is a ModelConnectionError or ModelTimeoutError leaves
    open if the batch exists, unless it has `sent = False`; after any other error it does not. A BadRequestError of
    `submit` may be for the sake of one row, any other error is for none. `retry_after` and `retryable` are read as
    for live calls.
    """

    info: ModelInfo
    most_rows: int
    """Rows of a batch at most."""
    most_bytes: int
    """Bytes of all lines of a batch at most."""
    share: Decimal = Decimal("0.5")
    """Price of a batch as a share of the live price."""

    @property
    def price(self) -> Price | None:
        """The price of the model in a batch: by the price file, else the share of the live price; None if unknown."""
        return batch_price(self.info, self.share)

    def takes(self, request: Request) -> bool:
        """Return False for a request that a batch of this provider cannot hold, so that it has to go live."""
        return True

    @abstractmethod
    def size(self, entry: Entry) -> int:
        """Return the bytes of a row in a batch, its end of line included.

        Raises BadRequestError for a request that cannot be sent, and PolicyError for one that must not be.
        """

    @abstractmethod
    async def submit(self, entries: Sequence[Entry], name: str) -> str:
        """Submit a batch under a name of ours, by which `find` knows it; return the provider's id of it."""

    @abstractmethod
    async def find(self, name: str, custom_ids: Collection[str]) -> str | None:
        """Return the id of the batch that was submitted under this name; None if there is no such batch.

        A provider that keeps no names is searched for a batch with one of these rows, of which at least one is
        needed. It shows rows only once a batch has ended: as long as an open one may be the one in question, raises
        ModelConnectionError with the time to ask again as `retry_after`.
        """

    @abstractmethod
    async def state(self, batch_id: str) -> BatchState:
        """Return the state of a batch."""

    @abstractmethod
    def results(self, batch_id: str, requests: Mapping[str, Request]) -> AsyncIterator[Ended]:
        """Yield the rows of a batch that is not open, in any order; rows may be missing.

        `requests` are those of the rows by custom id, by which replies are read; rows without one are left out.
        A reply has its latency and cost unset, except for a cost that the provider itself reports for the batch.
        """

    @abstractmethod
    async def cancel(self, batch_id: str) -> None:
        """Ask to cancel an open batch. Rows answered by then are billed, and keep their results."""


def batch_price(info: ModelInfo, share: Decimal) -> Price | None:
    """Return the price of a model in a batch; None if it is unknown."""
    if info.batch_price is not None or info.price is None:
        return info.batch_price
    return at_share(info.price, share)


def at_share(price: Price, share: Decimal) -> Price:
    """Return a price with every class of usage at this share of it.

    >>> at_share(Price(input="2", output="8"), Decimal("0.5")).output
    Decimal('4.0')
    """
    classes = ("input", "output", "cached_read", "cache_write", "reasoning")
    known = {name: value * share for name in classes if (value := getattr(price, name)) is not None}
    beyond = None if price.beyond is None else at_share(price.beyond, share)
    return price.model_copy(update={**known, "beyond": beyond})
