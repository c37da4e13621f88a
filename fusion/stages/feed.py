"""Feed: an append-only list that any number of readers follow from its start while it is filled."""

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    import asyncio


T = TypeVar("T")


class Feed(Generic[T]):
    """An append-only list with an end. Every reader sees every element, in order.

    It belongs to one event loop. `fail` ends it for its readers with an error.

    >>> feed = Feed[int]()
    >>> feed.append(1); feed.append(2); feed.close()
    >>> asyncio.run(feed.whole())
    [1, 2]
    """

    def __init__(self) -> None:
        self._elements: list[T] = []
        self._ended = False
        self._error: BaseException | None = None
        self._waiters: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        return len(self._elements)

    @property
    def ended(self) -> bool:
        return self._ended

    @property
    def so_far(self) -> Sequence[T]:
        """The elements up to now."""
        return tuple(self._elements)

    def append(self, element: T) -> None:
        if self._ended:
            raise RuntimeError("a feed that has ended takes no more elements")
        self._elements.append(element)
        self._wake()

    def close(self) -> None:
        """End the feed. Later calls have no effect."""
        self._ended = True
        self._wake()

    def fail(self, error: BaseException) -> None:
        """End the feed with `error`, which is raised for readers that reach the end."""
        if not self._ended:
            self._error = error
            self.close()

    async def __aiter__(self) -> AsyncIterator[T]:
        at = 0
        while True:
            while at < len(self._elements):
                yield self._elements[at]
                at += 1
            if self._ended:
                if self._error is not None:
                    raise self._error
                return
            await self._more()

    async def whole(self) -> list[T]:
        """Return every element once the feed has ended."""
        while not self._ended:
            await self._more()
        if self._error is not None:
            raise self._error
        return list(self._elements)

    async def _more(self) -> None:
        import asyncio  # here: checking and drawing stages needs no event loop

        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
