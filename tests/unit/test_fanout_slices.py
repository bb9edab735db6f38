"""Large authors: their tweets become slices, each of which is delivered once, wherever its worker was killed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fake_clock import settle, until
from tests.unit.fake_fanout import LIMITS, FakeEvents, FakeFollowers, FakePushes, Running, Worker, event
from timeline import metrics
from timeline.domain.errors import Unavailable
from timeline.domain.events import FanoutSlice
from timeline.fanout.ports import Progress

FANS = list(range(100, 110))
SMALL_PAGES = replace(LIMITS, fanout_followers_page=2)


async def test_a_large_author_becomes_a_slice_for_each_shard_and_small_ones_are_pushed() -> None:
    worker = Worker({1: FANS, 2: [10, 11]}, shard_size=4)
    large, small = await worker.deliver(1, 2)
    assert (worker.holders(large), worker.holders(small)) == (set(), {10, 11})
    assert [(each.tweet_id, each.author_id, each.shard) for each in worker.slices.produced] == [
        (large, 1, shard) for shard in range(3)
    ]
    for _ in range(3):
        await worker.deliver_slice(-1)
    assert worker.pushes.homes == Counter({**{(fan, large): 1 for fan in FANS}, (10, small): 1, (11, small): 1})
    assert len(worker.slices.done_slices) == 3


async def test_a_slice_is_of_its_tweet_whatever_this_release_does_not_know_of_it() -> None:
    tweet = replace(event(0, 1), reference=1 << 63 | 77, version=2, unknown={"language": "de"})
    running = Running(FakeEvents([tweet, tweet]), FakeFollowers({1: FANS}, shard_size=5), FakePushes())
    await until(lambda: len(running.slices.done_slices) == 2 or running.task.done())
    await running.stop()
    assert running.slices.produced == [FanoutSlice.of(tweet, shard) for shard in range(2)]
    assert {each.entry for push in running.pushes.pushes for each in push} == {tweet.entry}


async def test_a_worker_takes_its_own_slices_and_those_of_others() -> None:
    running = Running(FakeEvents([event(0, 1)]), FakeFollowers({1: FANS}, shard_size=3), FakePushes())
    await until(lambda: len(running.slices.done_slices) == 4 or running.task.done())
    await running.stop()
    assert {user for user, _ in running.pushes.homes} == set(FANS)


async def test_a_batch_is_not_done_before_the_log_has_its_slices() -> None:
    worker = Worker({1: FANS}, shard_size=4)
    worker.slices.failures = [Unavailable("kafka is away")] * 2
    await worker.deliver(1)
    assert Counter(each.shard for each in worker.slices.produced) == {0: 1, 1: 1, 2: 1}
    worker.slices.failures = [ValueError("a bug")]
    with pytest.raises(ValueError, match="a bug"):
        await worker.deliver(1)
    assert len(worker.events.done_tokens) == 1


async def test_a_slice_that_is_done_is_passed_over_when_it_comes_again() -> None:
    worker = Worker({1: FANS}, shard_size=4)
    await worker.deliver(1)
    again = list(worker.slices.waiting)
    for _ in range(3):
        await worker.deliver_slice()
    worker.slices.waiting = again
    for _ in range(3):
        await worker.deliver_slice()
    assert set(worker.pushes.homes.values()) == {1}
    assert len(worker.slices.done_slices) == 6


@given(killed_after=st.integers(0, 5))
async def test_where_a_worker_was_killed_a_page_at_most_is_pushed_again(killed_after: int) -> None:
    """Ten followers in one shard of two are five pages of two; the progress of one is not saved."""
    worker = Worker({1: [*FANS, 1]}, shard_size=10, limits=SMALL_PAGES)
    (tweet,) = await worker.deliver(1)
    first = worker.slices.waiting.pop(0)
    worker.slices.waiting = [first, first]
    saves = 0
    save = worker.progress.save

    async def dying(*arguments: object) -> None:
        nonlocal saves
        saves += 1
        if saves == killed_after + 1:
            raise RuntimeError("killed")
        await save(*arguments)  # type: ignore[arg-type]

    worker.progress.save = dying  # type: ignore[method-assign]
    if killed_after < 5:
        with pytest.raises(RuntimeError, match="killed"):
            await worker.deliver_slice()
        assert worker.slices.done_slices == []
    await worker.deliver_slice()
    got = Counter(user for user, pushed in worker.pushes.homes.elements() if pushed == tweet)
    assert set(got) == set(FANS)
    assert sum(got.values()) <= len(FANS) + 2
    assert worker.progress.of[tweet, 0] == Progress(is_done=True)


async def test_a_slice_of_an_author_who_is_pulled_by_now_is_left_out() -> None:
    worker = Worker({1: FANS}, shard_size=4)
    (tweet,) = await worker.deliver(1)
    worker.classes.standing = {1}
    for _ in range(3):
        await worker.deliver_slice()
    assert worker.holders(tweet) == set()
    assert len(worker.slices.done_slices) == 3


async def test_a_shard_is_read_once_for_many_tweets_of_its_author_and_again_when_that_is_too_old() -> None:
    worker = Worker({1: [*FANS, 7]}, shard_size=10)
    for _ in range(2):
        await worker.deliver(1)
        await worker.deliver_slice()
        worker.slices.waiting.clear()
    assert worker.followers.shards_read == [(1, 0)]
    worker.seconds = LIMITS.follower_cache_ms / 1000 + 0.001
    await worker.deliver(1)
    await worker.deliver_slice()
    assert worker.followers.shards_read == [(1, 0)] * 2


async def test_who_grows_from_below_the_threshold_to_ten_times_of_it_is_pulled_after_the_next_tweet() -> None:
    """Pushing goes on until everybody knows; slices that are taken after that are left out."""
    limits = replace(LIMITS, follower_shard_size=5)
    worker = Worker({1: FANS[:9]}, shard_size=5, push_followers_max=10, limits=limits)
    await worker.deliver(1)
    assert (worker.classes.calls, worker.followers.counted) == ([], [1])  # two shards may hold more than ten
    worker.followers.graph[1] += range(1_000, 1_091)
    worker.seconds += limits.reclassify_seconds
    worker.followers.graph[2] = [50]
    _, small = await worker.deliver(1, 2)
    assert worker.classes.calls == [("begin", 1)]
    assert worker.holders(small) == {50}
    (pulled,) = await worker.deliver(1)
    assert pulled not in {each.tweet_id for each in worker.slices.produced}


async def test_large_authors_below_the_threshold_are_counted_now_and_then_and_one_a_batch() -> None:
    limits = replace(LIMITS, follower_shard_size=4)
    worker = Worker({1: FANS, 2: FANS, 3: FANS[:5]}, shard_size=4, push_followers_max=12, limits=limits)
    for _ in range(4):
        await worker.deliver(1, 2, 3)
    assert worker.followers.counted == [1, 2]
    worker.seconds += limits.reclassify_seconds
    await worker.deliver(1, 2, 3)
    assert worker.followers.counted == [1, 2, 1]
    assert worker.classes.calls == []


async def test_an_interval_that_nobody_ended_is_ended_when_a_large_author_has_few() -> None:
    limits = replace(LIMITS, follower_shard_size=4)
    worker = Worker({1: FANS}, shard_size=4, push_followers_max=1_000, limits=limits)
    worker.classes.standing, worker.classes.skippable = {1}, set()
    await worker.deliver(1)
    assert worker.classes.calls == [("end", 1)]


async def test_the_lag_of_a_slice_is_told_apart_from_that_of_a_tweet() -> None:
    before = metrics.DELIVERY_LAG_SECONDS.labels("slice")._sum.get()
    worker = Worker({1: FANS}, shard_size=4)
    await worker.deliver(1)
    assert metrics.DELIVERY_LAG_SECONDS.labels("slice")._sum.get() == before
    late = replace(worker.slices.waiting[0], tweet_id=worker.slices.waiting[0].tweet_id - (2_000 << 22))
    worker.slices.waiting = [late]
    await worker.deliver_slice()
    assert metrics.DELIVERY_LAG_SECONDS.labels("slice")._sum.get() - before == pytest.approx(2.0)


async def test_who_is_pushed_again_in_slices_is_not_said_to_be_delivered_when_they_are_handed_on() -> None:
    limits = replace(LIMITS, follower_shard_size=4)
    worker = Worker({1: FANS}, shard_size=4, push_followers_max=1_000, limits=limits)
    worker.classes.standing = {1}
    before = metrics.DELIVERY_LAG_SECONDS.labels("tweet")._sum.get()
    worker.now_ms += 5_000
    await worker.deliver(1)
    assert worker.classes.calls == [("end", 1)]
    assert worker.slices.produced
    assert metrics.DELIVERY_LAG_SECONDS.labels("tweet")._sum.get() == before


async def test_batches_hand_on_their_slices_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    worker, at_once, most = Worker({1: FANS, 2: FANS}, shard_size=4), 0, 0
    produce = worker.slices.produce

    async def counted(slices: Sequence[FanoutSlice]) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await settle()
        await produce(slices)
        at_once -= 1

    monkeypatch.setattr(worker.slices, "produce", counted)
    await asyncio.gather(worker.deliver(1), worker.deliver(2))
    assert (most, len({each.author_id for each in worker.slices.produced})) == (1, 2)
