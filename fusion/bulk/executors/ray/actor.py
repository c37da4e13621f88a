"""RayNode: the actor of one node of a Ray cluster. It runs rows with the node's own environment and settings."""

import asyncio
import os
from typing import TYPE_CHECKING

from fusion.bulk.executors.base import RowEnd, Slice, Terms
from fusion.core.errors import FusionError, UnfitError
from fusion.core.paths import is_url

if TYPE_CHECKING:
    from fusion.bulk.executors.node import Node
    from fusion.bulk.fusion import Fusion
    from fusion.client.loop import LoopThread


class RayNode:
    """One Fusion on one node. Keys and the password of the store are those of the environment of the node.

    Errors of Fusion are returned, since Ray wraps those that are raised.
    """

    def __init__(self, terms: Terms, place: str, concurrency: int) -> None:
        self._terms = terms
        self._place = place
        self._concurrency = concurrency
        self._opening = asyncio.Lock()
        self._opened: tuple[Fusion, Node, LoopThread] | None = None

    async def hello(self) -> FusionError | None:
        """Open the store; return the error if this node cannot run the map."""
        try:
            await self._node()
        except FusionError as error:
            return error
        return None

    async def run(self, numbers: tuple[int, ...]) -> tuple[list[RowEnd], FusionError | None]:
        """Run rows, and return their ends, and the error that kept the other rows from ending."""
        return await self._ends(numbers, None)

    async def give_up(self, numbers: tuple[int, ...], reason: str) -> tuple[list[RowEnd], FusionError | None]:
        """End rows as failed without running them."""
        return await self._ends(numbers, reason)

    async def close(self) -> None:
        """Interrupt the rows that run, and close the store."""
        async with self._opening:
            opened, self._opened = self._opened, None
        if opened is not None:
            fusion, node, loop = opened
            await asyncio.wrap_future(loop.submit(node.drain(0)).done)
            await asyncio.to_thread(fusion.close)

    async def _ends(self, numbers: tuple[int, ...], reason: str | None) -> tuple[list[RowEnd], FusionError | None]:
        ends: list[RowEnd] = []
        part = Slice(self._terms.map_id, numbers)
        try:
            node, loop = await self._node()
            if reason is None:
                work = loop.submit(node.run(self._terms, part, ends.append))
            else:
                work = loop.submit(node.give_up(self._terms, part, ends.append, reason=reason))
            await asyncio.wrap_future(work.done)
        except FusionError as error:
            return ends, error
        return ends, None

    async def _node(self) -> "tuple[Node, LoopThread]":
        async with self._opening:
            if self._opened is None:
                self._opened = await asyncio.to_thread(self._open)
            return self._opened[1:]

    def _open(self) -> "tuple[Fusion, Node, LoopThread]":
        from fusion.bulk.fusion import Fusion, node_of

        try:
            fusion = Fusion(store=_own_url_of(self._place))
            return fusion, *node_of(fusion, concurrency=self._concurrency)
        except FusionError as error:
            raise UnfitError(str(error)) from error


def _own_url_of(place: str) -> str:
    """Return FUSION_STORE if it names this database: it may hold the password."""
    from fusion.store.open import is_same_database

    own = os.environ.get("FUSION_STORE")
    return own if own is not None and is_url(own) and is_same_database(own, place) else place
