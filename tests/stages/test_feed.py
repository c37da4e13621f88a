"""Feed: every reader sees every element from the start."""

import asyncio

import pytest

from fusion.stages.feed import Feed


def test_readers_see_everything_whenever_they_begin() -> None:
    async def main() -> None:
        feed: Feed[int] = Feed()
        feed.append(1)
        early = asyncio.create_task(_all(feed))
        await asyncio.sleep(0)
        feed.append(2)
        late = asyncio.create_task(_all(feed))
        await asyncio.sleep(0)
        feed.append(3)
        feed.close()
        assert await early == await late == [1, 2, 3] == await feed.whole()

    asyncio.run(main())


def test_a_feed_that_failed_gives_what_it_has_and_then_its_error() -> None:
    async def main() -> None:
        feed: Feed[int] = Feed()
        feed.append(1)
        feed.fail(ValueError("broken"))
        seen: list[int] = []
        with pytest.raises(ValueError, match="broken"):
            await _into(seen, feed)
        assert seen == [1]
        with pytest.raises(ValueError, match="broken"):
            await feed.whole()

    asyncio.run(main())


def test_an_ended_feed_takes_no_more_and_ends_once() -> None:
    async def main() -> None:
        feed: Feed[int] = Feed()
        feed.close()
        feed.close()
        feed.fail(ValueError("too late"))
        assert await feed.whole() == []
        with pytest.raises(RuntimeError):
            feed.append(1)

    asyncio.run(main())


def test_a_cancelled_reader_disturbs_nobody() -> None:
    async def main() -> None:
        feed: Feed[int] = Feed()
        gone, stays = asyncio.create_task(_all(feed)), asyncio.create_task(_all(feed))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        feed.append(1)
        feed.close()
        assert await stays == [1]

    asyncio.run(main())


async def _into(seen: list[int], feed: Feed[int]) -> None:
    async for element in feed:
        seen.append(element)


async def _all(feed: Feed[int]) -> list[int]:
    return [element async for element in feed]
