"""Follows, their mirrors and shards, and the reader context."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import numpy as np
import pytest

from tests.integration.world import every_follower
from timeline.domain.errors import BadRequest, OutcomeUnknown
from timeline.domain.ids import UserId
from timeline.domain.limits import Limits
from timeline.settings import Settings
from timeline.store import Store, open_store
from timeline.store.graph import Graph
from timeline.store.session import Cql, Kind, Params

AT = 1_790_000_000_000_000
_ALL_MIRRORS = Cql("t", "SELECT follower_id FROM followers WHERE user_id = ? AND shard = ?")
_TRUTH = Cql("t", "SELECT shard, since, version, ended FROM followees WHERE user_id = ? AND followee_id = ?")
_DROP_MIRROR = Cql("t", "DELETE FROM followers USING TIMESTAMP ? WHERE user_id = ? AND shard = ?", Kind.write)
_RELATE = Cql(
    "t", "INSERT INTO relations (user_id, kind, target_id, since, version, ended) VALUES (?, ?, ?, ?, ?, ?)", Kind.write
)
STATEMENTS = [_ALL_MIRRORS, _TRUTH, _DROP_MIRROR, _RELATE]


async def mirrored(store: Store, followee: UserId, shards: int = 1) -> set[int]:
    rows = [await store.session.rows(_ALL_MIRRORS, (followee, shard)) for shard in range(shards)]
    ids = [row[0] for part in rows for row in part]
    assert len(ids) == len(set(ids)), "a follower stands in two shards"
    return set(ids)


async def version_of(store: Store, follower: UserId, followee: UserId) -> int:
    row = await store.session.one(_TRUTH, (follower, followee))
    assert row is not None
    return int(row[2])


@pytest.fixture(autouse=True)
async def _prepared(store: Store) -> None:
    await store.session.prepare(STATEMENTS)


@asynccontextmanager
async def small(settings: Settings, **limits: int) -> AsyncIterator[Store]:
    """A store on the same keyspace with smaller limits."""
    changed = settings.model_copy(update={"limits": Limits(**limits)})
    async with open_store(changed) as opened:
        await opened.session.prepare(STATEMENTS)
        yield opened


async def test_a_follow_stands_and_an_unfollow_ends_it(store: Store, users: Iterator[UserId]) -> None:
    one, two = next(users), next(users)
    assert not await store.graph.follows(one, two)
    assert not await store.graph.unfollow(one, two, AT)
    assert await store.graph.follow(one, two, AT)
    assert await store.graph.follows(one, two)
    assert not await store.graph.follows(two, one)
    assert await mirrored(store, two) == {one}
    assert not await store.graph.follow(one, two, AT + 1)
    assert await store.graph.unfollow(one, two, AT + 2)
    assert not await store.graph.unfollow(one, two, AT + 3)
    assert not await store.graph.follows(one, two)
    assert await mirrored(store, two) == set()


async def since(store: Store, follower: UserId) -> int:
    """Of the one follow of this user."""
    [at] = (await store.graph.reader(follower)).since_ms.tolist()
    return int(at)


async def test_since_is_when_the_store_decided_whatever_the_caller_says(store: Store, users: Iterator[UserId]) -> None:
    """A caller may have looked at its clock, and stood still for an hour before it asked."""
    one, two = next(users), next(users)
    for at_us in (AT, time.time_ns() // 1000 - 3_600_000_000):
        before = time.time_ns() // 1_000_000
        await store.graph.follow(one, two, at_us)
        after = time.time_ns() // 1_000_000
        decided = await since(store, one)
        assert before <= decided <= after
        await store.graph.follow(one, two, at_us + 5_000_000)
        assert await since(store, one) == decided, "of the follow that stands"
        await store.graph.unfollow(one, two, at_us + 6_000_000)


async def test_the_last_decision_holds_whatever_the_clocks_say(store: Store, users: Iterator[UserId]) -> None:
    one, two = next(users), next(users)
    await store.graph.follow(one, two, AT)
    assert await store.graph.unfollow(one, two, AT - 3_600_000_000)  # by a server an hour behind
    assert await mirrored(store, two) == set()
    assert await store.graph.follow(one, two, AT - 7_200_000_000)
    assert await mirrored(store, two) == {one}
    assert await version_of(store, one, two) == AT + 2


def dying(store: Store, method: str, *, after: int) -> Graph:
    """A graph whose process is killed when it calls `method` of its session once more than `after` times."""
    calls = 0

    class Dying:
        def __getattr__(self, name: str) -> object:
            return counted if name == method else getattr(store.session, name)

    async def counted(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls > after:
            raise ConnectionError("killed")
        return await getattr(store.session, method)(*args)

    graph = Graph(store.session, Limits())
    graph._session = Dying()  # type: ignore[assignment]
    return graph


async def test_a_follow_that_dies_half_way_leaves_a_follower_too_many_and_never_one_too_few(
    store: Store, users: Iterator[UserId]
) -> None:
    """Fan-out must know every follower of the truth; whom it knows too much is filtered by the reader."""
    one, two, three = next(users), next(users), next(users)
    with pytest.raises(ConnectionError):
        await dying(store, "compare_and_set", after=0).follow(one, two, AT)
    assert (await store.graph.follows(one, two), await mirrored(store, two)) == (False, {one})
    with pytest.raises(ConnectionError):
        await dying(store, "run", after=1).follow(three, two, AT)
    assert (await store.graph.follows(three, two), await mirrored(store, two)) == (True, {one, three})
    assert await store.graph.follow(one, two, AT + 1)
    assert await store.graph.unfollow(one, two, AT + 2)
    assert await store.graph.unfollow(three, two, AT + 2)
    assert await mirrored(store, two) == set()


async def test_a_repeated_unfollow_mends_the_mirror_that_a_crash_left_wrong(
    store: Store, users: Iterator[UserId]
) -> None:
    one, two = next(users), next(users)
    await store.graph.follow(one, two, AT)
    with pytest.raises(ConnectionError):
        await dying(store, "run", after=0).unfollow(one, two, AT + 2)
    assert await mirrored(store, two) == {one}
    assert not await store.graph.unfollow(one, two, AT + 3)
    assert await mirrored(store, two) == set()


async def test_decisions_at_once_end_with_truth_and_mirror_equal(store: Store, users: Iterator[UserId]) -> None:
    rng = random.Random(7)
    pairs = [(next(users), next(users)) for _ in range(6)]

    async def decide(pair: tuple[UserId, UserId]) -> None:
        call = store.graph.follow if rng.random() < 0.5 else store.graph.unfollow
        with suppress(OutcomeUnknown):  # overtaken too often: whoever was last has written the mirror
            await call(*pair, AT + rng.randrange(-1000, 1000))

    await asyncio.gather(*(decide(pair) for _ in range(12) for pair in pairs))
    for one, two in pairs:
        assert await mirrored(store, two) == ({one} if await store.graph.follows(one, two) else set())


@pytest.mark.parametrize("applied", [True, False])
async def test_an_unknown_outcome_is_settled_by_reading(store: Store, users: Iterator[UserId], applied: bool) -> None:
    one, two = next(users), next(users)
    real = store.session.compare_and_set
    answers = iter([False, True, True, True])

    async def unsure(cql: Cql, params: Params) -> bool:
        if next(answers):
            return await real(cql, params)
        if applied:
            await real(cql, params)
        raise OutcomeUnknown("timed out")

    class Unsure:
        compare_and_set = staticmethod(unsure)

        def __getattr__(self, name: str) -> object:
            return getattr(store.session, name)

    graph = Graph(store.session, Limits())
    graph._session = Unsure()  # type: ignore[assignment]
    assert await graph.follow(one, two, AT)
    assert await mirrored(store, two) == {one}
    answers = iter([False, True, True])
    assert await graph.unfollow(one, two, AT + 1)
    assert await mirrored(store, two) == set()


async def test_a_full_shard_opens_the_next_and_a_refollow_goes_where_it_was(
    settings: Settings, users: Iterator[UserId]
) -> None:
    async with small(settings, follower_shard_size=3) as store:
        star, fans = next(users), [next(users) for _ in range(10)]
        for fan in fans:
            assert await store.graph.follow(fan, star, AT)
        sizes = [len(await mirrored_in(store, star, shard)) for shard in range(5)]
        assert sizes == [3, 3, 3, 1, 0]
        await store.graph.unfollow(fans[0], star, AT + 1)
        await store.graph.follow(fans[0], star, AT + 2)
        assert fans[0] in await mirrored_in(store, star, 0)
        assert await mirrored(store, star, 4) == set(fans)


async def mirrored_in(store: Store, user: UserId, shard: int) -> set[int]:
    return {row[0] for row in await store.session.rows(_ALL_MIRRORS, (user, shard))}


async def test_many_followers_at_once_all_stand_in_one_shard_each(settings: Settings, users: Iterator[UserId]) -> None:
    async with small(settings, follower_shard_size=4, cassandra_timeout_ms=10_000) as store:
        star, fans = next(users), [next(users) for _ in range(60)]
        await asyncio.gather(*(store.graph.follow(fan, star, AT) for fan in fans))
        assert await mirrored(store, star, 40) == set(fans)
        assert sorted((await every_follower(store, star)).tolist()) == fans


async def test_nobody_follows_more_than_the_limit(settings: Settings, users: Iterator[UserId]) -> None:
    async with small(settings, followees_max=3) as store:
        me, others = next(users), [next(users) for _ in range(4)]
        for other in others[:3]:
            await store.graph.follow(me, other, AT)
        with pytest.raises(BadRequest) as refused:
            await store.graph.follow(me, others[3], AT)
        assert refused.value.kind == "too-many-followees"
        assert not await store.graph.follow(me, others[0], AT + 1), "what stands may be repeated"
        await store.graph.unfollow(me, others[0], AT + 2)
        assert await store.graph.follow(me, others[3], AT + 3)
        with pytest.raises(BadRequest):
            await store.graph.follow(me, others[0], AT + 4)


async def test_a_reader_is_what_stands_around_them(store: Store, users: Iterator[UserId]) -> None:
    me, *others = (next(users) for _ in range(9))
    for number, other in enumerate(reversed(others[:5])):
        await store.graph.follow(me, other, AT + number * 1000)
    await store.graph.unfollow(me, others[2], AT + 77)
    for kind, target, version, ended in (
        ("block", others[5], AT + 90, None),
        ("block", others[6], AT + 91, AT + 91),
        ("blocked_by", others[6], AT + 5, None),
        ("mute", others[7], AT + 6, None),
    ):
        await store.session.run(_RELATE, (me, kind, target, AT // 1000, version, ended))
    reader = await store.graph.reader(me)
    assert reader.followees.tolist() == [others[0], others[1], others[3], others[4]]
    assert reader.since_ms.tolist() == sorted(reader.since_ms.tolist(), reverse=True), "side by side with followees"
    assert (reader.blocked.tolist(), reader.blocked_by.tolist(), reader.muted.tolist()) == (
        [others[5]],
        [others[6]],
        [others[7]],
    )
    assert reader.version == AT + 4000
    assert reader.user_id == me
    assert reader.follows(others[0])
    assert not reader.follows(others[2])


async def test_an_unknown_user_follows_nobody(store: Store, users: Iterator[UserId]) -> None:
    reader = await store.graph.reader(next(users))
    assert len(reader.followees) == len(reader.blocked) == len(reader.muted) == reader.version == 0
    assert reader.followees.dtype == np.int64


async def test_a_block_bars_both_whoever_made_it(store: Store, users: Iterator[UserId]) -> None:
    one, two, three = next(users), next(users), next(users)
    await store.session.run(_RELATE, (one, "block", two, 1, AT, None))
    await store.session.run(_RELATE, (one, "block", three, 1, AT, AT))
    assert await store.graph.is_barred(one, two)
    assert await store.graph.is_barred(two, one)
    assert not await store.graph.is_barred(one, three)
    assert not await store.graph.is_barred(two, three)


async def test_a_large_reader_comes_page_by_page(store: Store, users: Iterator[UserId]) -> None:
    me = next(users)
    others = np.arange(5_000_000, 5_000_000 + 12_345, dtype=np.int64)
    await store.bulk.load_follows(np.full(len(others), me), others, AT)
    reader = await store.graph.reader(me)
    assert np.array_equal(reader.followees, others)
    assert (reader.since_ms == AT // 1000).all()


async def test_followees_are_listed_by_id(store: Store, users: Iterator[UserId]) -> None:
    me = next(users)
    others = [UserId(0), *(next(users) for _ in range(9))]
    for other in others:
        await store.graph.follow(me, other, AT)
    for other in others[3:7]:
        await store.graph.unfollow(me, other, AT + 1)
    for limit in (1, 2, 3, 5, 6, 7):
        walked: list[UserId] = []
        after: int | None = -1
        while after is not None:
            page, after = await store.graph.followees_page(me, after, limit)
            assert len(page) <= limit
            walked += page
        assert walked == others[:3] + others[7:]


async def test_followers_are_listed_shard_by_shard(settings: Settings, users: Iterator[UserId]) -> None:
    async with small(settings, follower_shard_size=3) as store:
        star, fans = next(users), [next(users) for _ in range(8)]
        for fan in fans:
            await store.graph.follow(fan, star, AT)
        for limit in (1, 2, 3, 4, 7, 8, 9):
            walked: list[UserId] = []
            at: tuple[int, int] | None = (0, 0)
            while at is not None:
                page, at = await store.graph.followers_page(star, at, limit)
                assert len(page) == limit or at is None
                walked += page
            assert walked == fans
