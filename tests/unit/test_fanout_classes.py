"""Who is pushed and who is pulled: what the worker skips, and when it begins and ends an interval."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.unit.fake_clock import settle
from tests.unit.fake_fanout import LIMITS, Worker
from timeline import metrics
from timeline.domain import pauses
from timeline.domain.errors import Unavailable
from timeline.domain.pauses import Point

FEW, MANY = list(range(10, 14)), list(range(10, 16))  # with a threshold of 5: at most 3 are few enough to come back


def worker(graph: dict[int, list[int]], push_followers_max: int = 5) -> Worker:
    return Worker(graph, push_followers_max=push_followers_max)


async def test_an_author_at_the_threshold_stays_pushed_and_one_above_it_gets_an_interval_after_the_push() -> None:
    made = worker({1: MANY[:5], 2: MANY})
    tweets = await made.deliver(1, 2)
    assert made.classes.calls == [("begin", 2)]
    assert [made.holders(tweet) for tweet in tweets] == [set(MANY[:5]), set(MANY)]


async def test_pushing_goes_on_until_everybody_must_know_the_interval_and_it_is_written_once() -> None:
    made = worker({1: MANY})
    made.classes.skippable = set()
    for _ in range(3):
        (tweet,) = await made.deliver(1)
        assert made.holders(tweet) == set(MANY)
    assert made.classes.calls == [("begin", 1)]
    made.classes.skippable = {1}
    (tweet,) = await made.deliver(1)
    assert made.holders(tweet) == set()


async def test_a_pulled_authors_tweet_goes_to_the_authors_own_lists_and_no_followers_are_read() -> None:
    made = worker({1: MANY, 2: [10]})
    made.classes.standing = {1}
    before = metrics.LEFT_OUT.labels("pulled")._value.get()
    pulled, pushed = await made.deliver(1, 2)
    assert {entry.tweet_id for entry, _ in made.pushes.own} == {pulled, pushed}
    assert (made.holders(pulled), made.holders(pushed)) == (set(), {10})
    assert made.followers.read == [2]
    assert metrics.LEFT_OUT.labels("pulled")._value.get() == before + 1


async def test_a_pulled_author_with_too_few_followers_is_pushed_again_this_very_batch_included() -> None:
    made = worker({1: FEW[:3]})
    made.classes.standing = {1}
    (tweet,) = await made.deliver(1)
    assert made.classes.calls == [("end", 1)]
    assert made.holders(tweet) == set(FEW[:3])


async def test_who_is_pushed_again_is_not_pulled_for_followers_that_are_only_remembered() -> None:
    made = worker({1: MANY})
    await made.deliver(1)
    made.followers.graph[1] = FEW[:3]
    for _ in range(3):
        (tweet,) = await made.deliver(1)
        assert made.holders(tweet) == set(FEW[:3])
    assert made.classes.calls == [("begin", 1), ("end", 1)]


async def test_between_the_two_bounds_an_author_stays_as_it_is() -> None:
    made = worker({1: FEW, 2: FEW})  # 4 of 5: four fifths, and not below
    made.classes.standing = {1}
    pulled, pushed = await made.deliver(1, 2)
    assert made.classes.calls == []
    assert (made.holders(pulled), made.holders(pushed)) == (set(), set(FEW))


async def test_followers_of_a_pulled_author_are_counted_once_in_reclassify_seconds() -> None:
    made = worker({1: MANY})
    made.classes.standing = {1}
    for _ in range(3):
        await made.deliver(1)
    assert made.followers.counted == [1]
    made.seconds += LIMITS.reclassify_seconds - 1
    await made.deliver(1)
    assert made.followers.counted == [1]
    made.seconds += 1
    await made.deliver(1)
    assert made.followers.counted == [1, 1]


async def test_one_author_a_batch_is_counted_and_all_have_their_turn() -> None:
    made = worker(dict.fromkeys((1, 2, 3), MANY))
    made.classes.standing = {1, 2, 3}
    for _ in range(6):
        before = len(made.followers.counted)
        await made.deliver(1, 2, 3)
        assert len(made.followers.counted) <= before + 1
        made.seconds += LIMITS.reclassify_seconds
    assert sorted(made.followers.counted) == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("left", [0, 3])
async def test_an_interval_that_stands_and_may_not_be_skipped_yet_is_ended_when_followers_have_left(left: int) -> None:
    made = worker({1: FEW[:left]})
    made.classes.standing, made.classes.skippable = {1}, set()
    await made.deliver(1)
    assert made.classes.calls == [("end", 1)]
    assert made.followers.counted == []


async def test_an_interval_that_could_not_be_begun_is_begun_with_the_next_tweet() -> None:
    made = worker({1: MANY})
    made.classes.failures = [Unavailable("cassandra is away")]
    for _ in range(3):
        (tweet,) = await made.deliver(1)
    assert made.classes.calls == [("begin", 1)] * 2
    assert made.holders(tweet) == set()


async def test_an_end_that_may_not_be_written_is_repeated_with_every_tweet_and_the_author_is_pushed_meanwhile() -> None:
    made = worker({1: FEW[:3]})
    made.classes.standing = {1}
    made.classes.failures = [Unavailable("cassandra is away")] * 2
    for _ in range(4):
        (tweet,) = await made.deliver(1)
        assert made.holders(tweet) == set(FEW[:3])
    assert made.classes.calls == [("end", 1)] * 3


async def test_a_worker_waits_for_its_notices_before_it_pushes_for_one_who_may_be_pulled() -> None:
    """One that has just begun, or whose store was away: it would push to all what readers pull."""
    made = worker({1: MANY, 2: FEW[:3]})
    made.classes.standing, made.classes.skippable = {1}, set()
    made.classes.unsettled = [Unavailable("too old to be believed")]
    made.classes.skippable_when_settled = {1}
    theirs, ours = await made.deliver(1, 2)
    assert (made.holders(theirs), made.holders(ours)) == (set(), set(FEW[:3]))


async def test_an_end_that_may_not_be_written_is_repeated_even_if_followers_have_come_back() -> None:
    made = worker({1: FEW[:3]})
    made.classes.standing = {1}
    made.classes.failures = [Unavailable("cassandra is away")]
    await made.deliver(1)
    made.followers.graph[1] = MANY
    made.seconds += 3_600
    (tweet,) = await made.deliver(1)
    assert made.holders(tweet) == set(MANY)
    assert made.classes.calls == [("end", 1)] * 2
    await made.deliver(1)
    assert made.classes.calls[-1] == ("begin", 1)


async def test_with_the_store_away_a_batch_tries_one_interval_and_goes_on() -> None:
    made = worker(dict.fromkeys((1, 2, 3), MANY))
    made.classes.failures = [Unavailable("cassandra is away")] * 10
    tweets = await made.deliver(1, 2, 3)
    assert len(made.classes.calls) == 1
    assert all(made.holders(tweet) == set(MANY) for tweet in tweets)


async def test_followers_that_cannot_be_counted_leave_their_author_pulled() -> None:
    made = worker({1: []})
    made.classes.standing = {1}
    made.followers.failures = [Unavailable("cassandra is away")]
    (tweet,) = await made.deliver(1)
    assert made.classes.calls == []
    assert made.holders(tweet) == set()


async def test_only_the_authors_counted_last_are_remembered() -> None:
    made = Worker({}, limits=replace(LIMITS, notices_max=2), push_followers_max=1)
    made.followers.graph = dict.fromkeys(range(1, 5), MANY)
    made.classes.standing = {1, 2, 3, 4}
    for author in (1, 2, 1, 3):
        made.seconds += LIMITS.reclassify_seconds
        await made.deliver(author)
    assert list(made._fanout._reclassify._counted) == [1, 3]


@pytest.mark.parametrize(("followers", "call"), [(FEW[:3], "end"), (MANY, "begin")])
async def test_an_interval_that_a_dead_worker_left_half_ended_is_ended_or_another_one_begun(
    followers: list[int], call: str
) -> None:
    made = worker({1: followers})
    made.classes.ending = {1}
    (tweet,) = await made.deliver(1)
    assert made.holders(tweet) == set(followers)
    assert made.classes.calls == [(call, 1)]


@pytest.mark.parametrize("upward", [True, False])
async def test_an_actor_can_be_held_before_an_interval_is_written(
    monkeypatch: pytest.MonkeyPatch, upward: bool
) -> None:
    made = worker({1: MANY if upward else []})
    made.classes.standing = set() if upward else {1}
    held: list[tuple[Point, int]] = []
    go_on = asyncio.Event()

    async def hold(point: Point, what: int) -> None:
        held.append((point, what))
        if point is Point.reclassify:
            await go_on.wait()

    monkeypatch.setattr(pauses, "hold", hold)
    delivering = asyncio.create_task(made.deliver(1))
    await settle()
    assert held[-1] == (Point.reclassify, 1)
    assert made.classes.calls == []
    go_on.set()
    await delivering
    assert made.classes.calls == [("begin" if upward else "end", 1)]


async def test_an_actor_can_be_held_before_followers_lists_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    made = worker({1: [10]})
    held: list[tuple[Point, int]] = []
    go_on = asyncio.Event()

    async def hold(point: Point, what: int) -> None:
        held.append((point, what))
        await go_on.wait()

    monkeypatch.setattr(pauses, "hold", hold)
    delivering = asyncio.create_task(made.deliver(1))
    await settle()
    assert [point for point, _ in held] == [Point.push]
    assert made.followers.read == [1]
    assert not made.pushes.homes
    go_on.set()
    (tweet,) = await delivering
    assert held == [(Point.push, tweet)]
    assert made.holders(tweet) == {10}
