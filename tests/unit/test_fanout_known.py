"""Cached lists of followers: how old they may be, and how much they may hold."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fake_fanout import LIMITS, FakeFollowers, Worker
from timeline.domain.entries import UserIds
from timeline.domain.errors import Unavailable
from timeline.domain.ids import UserId
from timeline.fanout.known import KnownFollowers
from timeline.fanout.ports import Answer, FollowerPage, Patiently, at_once

AGE_SECONDS = LIMITS.follower_cache_ms / 1000


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


async def pages_of(known: KnownFollowers, *authors: int, taken: float = 0.0) -> AsyncGenerator[FollowerPage]:
    """As a worker asks for them."""
    found = known.find([UserId(author) for author in authors], taken)
    async with aclosing(known.pages(found.small)) as pages:
        async for each in pages:
            yield each
    if found.unknown:
        async with aclosing(known.read(await known.sharding(found.unknown))) as pages:
            async for each in pages:
                yield each


async def read(known: KnownFollowers, *authors: int, taken: float = 0.0) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {author: [] for author in authors}
    async for each in pages_of(known, *authors, taken=taken):
        assert len(each.followers) <= LIMITS.fanout_followers_page
        found[each.author_id] += each.followers.tolist()
    return found


async def test_a_list_serves_batches_taken_up_to_follower_cache_ms_after_its_reading_began() -> None:
    made = Worker({1: [10, 11]})
    await made.deliver(1)
    made.seconds = AGE_SECONDS
    await made.deliver(1)
    assert made.followers.read == [1]
    made.seconds = AGE_SECONDS + 0.001
    made.followers.graph[1].append(12)
    (tweet,) = await made.deliver(1)
    assert made.followers.read == [1, 1]
    assert made.holders(tweet) == {10, 11, 12}


async def test_the_age_of_a_list_counts_from_before_its_first_page_was_read() -> None:
    clock = Clock()
    known = KnownFollowers(FakeFollowers({1: list(range(9))}), LIMITS, clock)
    async for _ in pages_of(known, 1):
        clock.seconds += AGE_SECONDS / 3
    assert len(known._lists) == 1
    clock.seconds = AGE_SECONDS + 0.001
    assert known._find((UserId(1), -1), clock.seconds) is None


async def test_a_batch_that_waited_long_is_judged_by_when_it_was_taken() -> None:
    clock = Clock()
    followers = FakeFollowers({1: [10]})
    known = KnownFollowers(followers, LIMITS, clock)
    await read(known, 1, taken=0.0)
    clock.seconds = 10 * AGE_SECONDS
    await read(known, 1, taken=AGE_SECONDS)
    assert followers.read == [1]


async def test_who_has_no_followers_is_known_to_have_none() -> None:
    made = Worker({})
    await made.deliver(1, 2)
    await made.deliver(2, 1)
    assert sorted(made.followers.read) == [1, 2]


async def test_only_a_whole_list_is_kept() -> None:
    followers = FakeFollowers({1: list(range(10, 19)), 2: [10]})
    known = KnownFollowers(followers, LIMITS, Clock())
    followers.failures = [Unavailable("cassandra is away")]
    with pytest.raises(Unavailable):
        await read(known, 1, 2)
    pages = pages_of(known, 1, 2)
    await anext(pages)
    await pages.aclose()
    assert known.bytes == 0
    assert await read(known, 1, 2) == {1: list(range(10, 19)), 2: [10]}
    assert await read(known, 1, 2) == {1: list(range(10, 19)), 2: [10]}
    assert followers.read == [1, 2] * 3


async def test_what_was_used_longest_ago_makes_room() -> None:
    followers = FakeFollowers({author: list(range(100)) for author in range(1, 5)}, page_max=100)
    room = 3 * 1_200 + 800  # three lists of 800 bytes and what stands beside each, and one that is being read
    known = KnownFollowers(followers, replace(LIMITS, follower_cache_bytes_max=room), Clock())
    for author in (1, 2, 3, 1, 4):
        await read(known, author)
    followers.read.clear()
    for author in (1, 3, 4):
        await read(known, author)
    assert followers.read == []
    await read(known, 2)
    assert followers.read == [2]


async def test_a_page_does_not_keep_the_larger_array_that_it_is_a_piece_of_not_even_while_the_rest_is_read() -> None:
    wholes: list[weakref.ref[UserIds]] = []

    class Pieces:
        async def shards(self, authors: Sequence[UserId]) -> Mapping[UserId, int]:
            return dict.fromkeys(authors, 1)

        async def shard(self, author: UserId, shard: int) -> UserIds:
            raise AssertionError("not asked")

        async def pages(self, authors: Sequence[UserId], patiently: Patiently = at_once) -> AsyncIterator[FollowerPage]:
            for _ in range(4):
                assert all(whole() is None for whole in wholes[:-1])  # the last one is still in the loop's hands
                whole = np.arange(100_000)
                wholes.append(weakref.ref(whole))
                yield FollowerPage(authors[0], whole[:10])
                del whole

        async def count(self, author: UserId, at_most: int) -> int:
            raise AssertionError("not asked")

    known = KnownFollowers(Pieces(), LIMITS, Clock())
    async for each in pages_of(known, 1):
        del each
    (kept,) = known._lists.values()
    assert len(kept.followers) == 40
    assert [whole() for whole in wholes] == [None] * 4


async def test_a_younger_reading_replaces_an_older_one_and_its_room_is_free_again() -> None:
    clock = Clock()
    known = KnownFollowers(FakeFollowers({1: [10], 2: [10]}), LIMITS, clock)
    for _ in range(3):
        pages = pages_of(known, 1, 2, taken=clock.seconds)
        await anext(pages)
        clock.seconds += 1
        later = pages_of(known, 1, 2, taken=clock.seconds)
        await anext(later)
        assert len([each async for each in pages]) == len([each async for each in later])
        assert known.bytes == sum(each.bytes for each in known._lists.values())
        clock.seconds += 2 * AGE_SECONDS
    assert known._lists[UserId(1), -1].began == clock.seconds - 2 * AGE_SECONDS


async def test_an_older_reading_that_ends_later_does_not_replace_a_younger_one() -> None:
    clock = Clock()
    followers = FakeFollowers({1: [10]})
    known = KnownFollowers(followers, LIMITS, clock)
    slow = pages_of(known, 1)
    assert (await anext(slow)).followers.tolist() == [10]
    followers.graph[1] = [10, 11]
    clock.seconds = 1
    await read(known, 1, taken=1)
    assert [each async for each in slow] == []
    assert await read(known, 1, taken=1) == {1: [10, 11]}
    assert followers.read == [1, 1]


async def test_how_many_shards_are_known_is_as_old_as_their_reading_however_late_the_followers_are_read() -> None:
    """Or who follows in a shard that was opened since would miss what is posted long after the follow."""
    clock, author = Clock(), UserId(1)
    known = KnownFollowers(FakeFollowers({1: [10, 11]}), LIMITS, clock)
    sharding = await known.sharding([author])
    clock.seconds = AGE_SECONDS - 1
    async for _ in known.read(sharding):
        pass
    assert known.find([author], AGE_SECONDS).small
    assert known.find([author], AGE_SECONDS + 0.001).unknown == [author]


async def test_a_reading_of_one_shard_that_ends_late_does_not_hide_that_there_are_more_by_now() -> None:
    clock, author = Clock(), UserId(1)
    followers = FakeFollowers({1: [10, 11]}, shard_size=2)
    known = KnownFollowers(followers, LIMITS, clock)
    sharding = await known.sharding([author])
    pages = known.read(sharding)
    await anext(pages)
    clock.seconds = 1
    followers.graph[1].append(12)
    assert (await known.sharding([author])).large == {author: 2}
    clock.seconds = 2
    assert [each async for each in pages] == []
    assert known.find([author], clock.seconds).large == {author: 2}


async def test_a_reading_that_had_to_wait_for_the_store_counts_from_when_the_store_was_back() -> None:
    clock, author = Clock(), UserId(1)
    known = KnownFollowers(FakeFollowers({1: [10]}), LIMITS, clock)

    async def patiently(call: Callable[[], Awaitable[Answer]], /) -> Answer:
        clock.seconds += 10 * AGE_SECONDS
        return await call()

    assert (await known.sharding([author], patiently)).began == 10 * AGE_SECONDS


steps = st.lists(
    st.tuples(st.lists(st.integers(1, 8), min_size=1, max_size=5, unique=True), st.integers(0, 6)), max_size=12
)


@given(steps=steps, sizes=st.lists(st.integers(0, 12), min_size=8, max_size=8), room=st.integers(1, 4_000))
def test_it_never_holds_more_than_its_bound_nor_tells_anything_but_all_followers(
    steps: list[tuple[list[int], int]], sizes: list[int], room: int
) -> None:
    """Some readings are left after a few pages; several are under way at once."""
    graph = {author: list(range(100, 100 + size)) for author, size in enumerate(sizes, 1)}
    known = KnownFollowers(FakeFollowers(graph), replace(LIMITS, follower_cache_bytes_max=room), Clock())

    async def one(authors: list[int], pages_read: int) -> None:
        found: dict[int, list[int]] = {author: [] for author in authors}
        pages = pages_of(known, *authors)
        async for each in pages:
            assert known.bytes <= room
            found[each.author_id] += each.followers.tolist()
            await asyncio.sleep(0)
            pages_read -= 1
            if not pages_read:
                await pages.aclose()
                return
        assert found == {author: graph[author] for author in authors}

    async def all_of_them() -> None:
        for start in range(0, len(steps), 3):
            await asyncio.gather(*(one(*step) for step in steps[start : start + 3]))
            assert known.bytes == sum(each.bytes for each in known._lists.values()) <= room

    asyncio.run(all_of_them())


async def test_known_followers_count_as_well_as_those_that_are_read() -> None:
    made = Worker({1: [10, 11, 12]}, push_followers_max=1)
    made.classes.failures = [Unavailable("cassandra is away")]
    await made.deliver(1)
    await made.deliver(1)
    assert made.followers.read == [1]
    assert made.classes.calls == [("begin", 1)] * 2
