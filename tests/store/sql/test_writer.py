"""The writer thread: which rows share a write, and who is told of it."""

import asyncio
import threading
from collections.abc import Iterator, Sequence

import pytest

from fusion.core.errors import StoreError
from fusion.store.sql.writer import WriterThread


class Disk:
    """Counts the batches that are written. `open` holds the disk back while it is clear."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = threading.Event()
        self.open.set()
        self.full = False

    @property
    def rows(self) -> list[int]:
        return [row for batch in self.batches for row in batch]

    def write(self, rows: Sequence[int]) -> StoreError | None:
        self.open.wait(10)
        if self.full:
            raise StoreError("the disk is full")
        self.batches.append(list(rows))
        return None


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def writer(disk: Disk) -> Iterator[WriterThread[int]]:
    thread: WriterThread[int] = WriterThread(disk.write, lambda: None, name="writer")
    yield thread
    thread.close()


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.anyio
@pytest.mark.parametrize("apart", [0, 1])
async def test_the_rows_of_many_tasks_share_a_write(writer: WriterThread[int], disk: Disk, apart: int) -> None:
    async def one(number: int) -> None:
        await turns(number * apart)
        writer.put([number])
        await writer.written()

    await asyncio.gather(*(one(number) for number in range(50)))
    assert len(disk.batches) <= 1 + apart * 25
    assert sorted(disk.rows) == list(range(50))


@pytest.mark.anyio
async def test_rows_wait_for_each_other_while_the_disk_is_busy(writer: WriterThread[int], disk: Disk) -> None:
    async def one(number: int) -> None:
        writer.put([number])
        await writer.written()

    disk.open.clear()
    tasks = []
    for number in range(20):
        tasks.append(asyncio.create_task(one(number)))
        await turns(10)
    disk.open.set()
    await asyncio.gather(*tasks)
    assert len(disk.batches) <= 3
    assert disk.rows == list(range(20))


@pytest.mark.anyio
async def test_a_loop_that_is_never_quiet_has_its_rows_written(writer: WriterThread[int], disk: Disk) -> None:
    over = False

    async def chatter() -> None:
        while not over:
            writer.put([0])
            await asyncio.sleep(0)

    talking = asyncio.create_task(chatter())
    writer.put([1])
    await asyncio.wait_for(writer.written(), 5)
    over = True
    await talking
    assert 1 in disk.batches[0]


@pytest.mark.anyio
async def test_calls_come_before_the_tasks_that_wait(writer: WriterThread[int]) -> None:
    order: list[str] = []

    async def wait() -> None:
        await writer.written()
        order.append("task")

    writer.put([1])
    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    writer.when_written(lambda failure: order.append("call"))
    await waiting
    assert order == ["call", "task"]


@pytest.mark.anyio
async def test_a_full_disk_is_said_to_all_that_wait(writer: WriterThread[int], disk: Disk) -> None:
    said: list[StoreError | None] = []
    disk.full = True
    writer.put([1])
    writer.when_written(said.append)
    with pytest.raises(StoreError, match="full"):
        await writer.written()
    writer.when_written(said.append)
    with pytest.raises(StoreError, match="full"):
        await writer.written()
    await turns(1)
    assert [str(error) for error in said] == ["the disk is full"] * 2


def test_loops_that_end_with_rows_in_hand_hold_nobody_up(writer: WriterThread[int], disk: Disk) -> None:
    async def leave(number: int) -> None:
        writer.put([number])

    for number in range(5):
        asyncio.run(leave(number))

    async def wait() -> None:
        writer.put([5])
        await writer.written()

    asyncio.run(wait())
    assert disk.rows == list(range(6))
