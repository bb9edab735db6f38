"""The fan-out worker: who gets what, in pushes of a bounded size, and nothing is done before Redis has it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fake_clock import settle, until
from tests.unit.fake_fanout import LIMITS, NOW_MS, FakeEvents, FakeFollowers, FakePushes, Running, Worker, event, page
from timeline import metrics
from timeline.domain.errors import Unavailable
from timeline.domain.ids import UserId
from timeline.domain.limits import Limits
from timeline.domain.notices import SLOTS
from timeline.fanout.plan import Gathering, by_author, is_late
from timeline.fanout.ports import Away, Delivery

EVERYWHERE = Away("all", 10, ((0, SLOTS - 1),))  # too short a time for a hole
graphs = st.dictionaries(st.integers(1, 5), st.lists(st.integers(1, 30), unique=True, max_size=12), max_size=5)


@given(graph=graphs, authors=st.lists(st.integers(1, 6), max_size=12), appends_max=st.integers(1, 15))
def test_every_follower_gets_every_entry_once_and_no_push_is_larger_than_the_bound(
    graph: dict[int, list[int]], authors: list[int], appends_max: int
) -> None:
    events = [event(number, author) for number, author in enumerate(authors)]
    gathering = Gathering(by_author(events), appends_max)
    pushes = []
    for author, followers in graph.items():
        for first in range(0, len(followers), 3):
            pushes += gathering.add(page(author, *followers[first : first + 3]))
    pushes += gathering.rest()
    got = Counter((int(follower), entry.tweet_id) for push in pushes for entry, each in push.parts for follower in each)
    assert got == Counter((follower, each.tweet_id) for each in events for follower in graph.get(each.author_id, []))
    assert all(0 < push.appends <= max(appends_max, 3) for push in pushes)


def test_an_event_that_came_twice_in_a_batch_is_planned_once() -> None:
    one, other = event(1, 7), event(2, 7)
    assert by_author([one, other, one]) == {7: [one.entry, other.entry]}


def test_an_entry_is_late_when_a_push_of_it_may_end_after_w() -> None:
    limits = Limits()
    entry = event(0, 7).entry
    edge_ms = NOW_MS + limits.late_after_ms - limits.push_timeout_ms
    assert not is_late(entry, edge_ms, limits)
    assert is_late(entry, edge_ms + 1, limits)
    assert edge_ms + 1 + limits.push_timeout_ms > NOW_MS + limits.late_after_ms


def test_w_is_above_what_a_push_may_take() -> None:
    timeout_ms = Limits().push_timeout_ms
    assert timeout_ms >= 2 * Limits().redis_timeout_ms  # a command, and what was refused once more
    assert Limits(late_after_ms=timeout_ms + 1, clock_skew_ms=1).late_after_ms > timeout_ms
    with pytest.raises(ValueError, match="late without being marked"):
        Limits(late_after_ms=timeout_ms, clock_skew_ms=1)


async def test_a_batch_reaches_all_followers_and_its_authors_own_lists_and_is_done() -> None:
    graph = {1: list(range(10, 18)), 2: [10, 11], 3: []}
    first, second = [event(0, 1), event(1, 2), event(2, 1)], [event(3, 3)]
    worker = Running(FakeEvents(first, second), FakeFollowers(graph), FakePushes())
    observed = metrics.DELIVERY_LAG_SECONDS.labels("tweet")._sum.get()
    worker.now_ms += 1500
    await worker.until_done(2)
    assert worker.pushes.homes == {(follower, each.tweet_id): 1 for each in first for follower in graph[each.author_id]}
    assert sorted(entry.tweet_id for entry, _ in worker.pushes.own) == [each.tweet_id for each in first + second]
    assert metrics.DELIVERY_LAG_SECONDS.labels("tweet")._sum.get() - observed == pytest.approx(4 * 1.5)


async def test_who_is_known_to_have_few_followers_does_not_wait_for_who_has_many_and_its_lag_is_its_own() -> None:
    """Two pushes, a second each: the first is of the small author, whichever came first."""
    worker, push = Worker({1: list(range(10, 19)), 2: list(range(20, 25))}), FakePushes.push

    async def slow(deliveries: Sequence[Delivery]) -> int:
        worker.now_ms += 1_000
        return await push(worker.pushes, deliveries)

    await worker.deliver(1, 2)
    observed = metrics.DELIVERY_LAG_SECONDS.labels("tweet")._sum.get()
    worker.pushes.pushes.clear()
    worker.pushes.push = slow  # type: ignore[method-assign]
    await worker.deliver(1, 2)
    assert [[each.entry.author_id for each in push] for push in worker.pushes.pushes] == [[2], [1]]
    assert metrics.DELIVERY_LAG_SECONDS.labels("tweet")._sum.get() - observed == pytest.approx(1 + 2)


async def test_a_push_that_fails_is_repeated_alone_and_the_batch_is_not_done_before(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pushes = FakePushes()
    pushes.failures = [None, *[Unavailable("redis is away")] * 5, None]  # three pushes, and two of them again
    graph = {1: list(range(10, 40))}
    worker = Running(FakeEvents([event(0, 1)]), FakeFollowers(graph), pushes)
    with caplog.at_level(logging.INFO, "timeline.fanout"):
        await worker.until_done(1)
    assert pushes.homes == {(follower, event(0, 1).tweet_id): 1 for follower in graph[1]}
    assert [record.message for record in caplog.records] == [
        "fanout waits for an engine that is away: redis is away",
        "fanout goes on",
    ]


async def test_a_node_that_is_away_holds_up_nobody_on_the_others_and_what_it_lacks_comes_when_it_is_back() -> None:
    """Before what it lacks may be left out."""
    pushes = FakePushes()
    pushes.unreachable, pushes.nodes_away = {10, 1}, [replace(EVERYWHERE, slots=((0, 10),))]
    sent = [event(number, 1 + number % 2) for number in range(6)]
    events = FakeEvents(*[[each] for each in sent])
    worker = Running(events, FakeFollowers({1: [10, 11], 2: [10, 12]}), pushes)
    await until(lambda: sum(user in (11, 12) for user, _ in pushes.homes) == 6 or worker.task.done())
    assert (events.taken, events.done_tokens) == (6, [])
    pushes.unreachable, pushes.nodes_away = set(), []
    await worker.until_done(6)
    assert pushes.homes == Counter(
        {(user, each.tweet_id): 1 for each in sent for user in (10, 11 if each.author_id == 1 else 12)}
    )
    assert Counter(entry.tweet_id for entry, _ in pushes.own) == Counter(each.tweet_id for each in sent)


async def test_no_more_batches_wait_for_a_node_than_may() -> None:
    pushes = FakePushes()
    pushes.unreachable, pushes.nodes_away = {10}, [replace(EVERYWHERE, slots=((10, 10),))]
    events = FakeEvents(*[[event(number, 1)] for number in range(9)])
    limits = replace(LIMITS, fanout_parked_events_max=3)
    worker = Running(events, FakeFollowers({1: [10]}), pushes, limits)
    await until(lambda: events.taken == 3 + LIMITS.fanout_batches_in_flight and pushes.tries > 40)
    assert events.taken == 3 + LIMITS.fanout_batches_in_flight
    pushes.unreachable, pushes.nodes_away = set(), []
    await worker.until_done(9)
    assert set(pushes.homes.values()) == {1}


async def test_a_batch_of_which_much_is_left_waits_before_it_tries_more() -> None:
    pushes = FakePushes()
    pushes.unreachable, pushes.nodes_away = set(range(10, 40)), [replace(EVERYWHERE, slots=((10, 39),))]
    events = FakeEvents([event(0, 1), event(1, 1), event(2, 2)])
    limits = replace(LIMITS, fanout_left_appends_max=20)
    worker = Running(events, FakeFollowers({1: list(range(10, 40)), 2: [50]}), pushes, limits)
    await until(lambda: pushes.tries > 40)
    assert pushes.homes == {}
    pushes.unreachable, pushes.nodes_away = set(), []
    await worker.until_done(1)
    assert len(pushes.homes) == 61


async def test_what_waits_before_it_tries_more_holds_up_nobody_on_other_nodes() -> None:
    pushes = FakePushes()
    pushes.unreachable, pushes.nodes_away = set(range(10, 40)), [replace(EVERYWHERE, slots=((10, 39),))]
    large = [[event(2 * number, 1), event(2 * number + 1, 1)] for number in range(LIMITS.fanout_batches_in_flight)]
    events = FakeEvents(*large, [event(9, 2)])
    limits = replace(LIMITS, fanout_left_appends_max=20)
    worker = Running(events, FakeFollowers({1: list(range(10, 40)), 2: [50]}), pushes, limits)
    await until(lambda: (50, event(9, 2).tweet_id) in pushes.homes or worker.task.done())
    pushes.unreachable, pushes.nodes_away = set(), []
    await worker.until_done(len(large) + 1)
    assert set(pushes.homes.values()) == {1}


async def test_whose_followers_are_known_waits_for_no_reading_of_others() -> None:
    class Slow(FakeFollowers):
        async def shards(self, authors: Sequence[UserId]) -> Mapping[UserId, int]:
            if 2 in authors:
                await is_back.wait()
            return await super().shards(authors)

    pushes, is_back = FakePushes(), asyncio.Event()
    events = FakeEvents([event(0, 1)], [event(1, 1), event(2, 2)])
    limits = replace(LIMITS, fanout_batches_in_flight=1)
    worker = Running(events, Slow({1: [10], 2: [11]}), pushes, limits)
    await until(lambda: (10, event(1, 1).tweet_id) in pushes.homes or worker.task.done())
    assert (11, event(2, 2).tweet_id) not in pushes.homes
    is_back.set()
    await worker.until_done(2)
    assert len(pushes.homes) == 3


async def test_only_what_was_not_acknowledged_is_pushed_again() -> None:
    pushes = FakePushes()
    graph = {1: list(range(10, 40)), 2: [11, 13, 50]}
    pushes.unreachable = {11, 13, 38}
    events = [event(0, 1), event(1, 2), event(2, 1)]
    worker = Running(FakeEvents(events), FakeFollowers(graph), pushes)
    await until(lambda: pushes.tries > 20)
    pushes.unreachable = {13}
    tries = pushes.tries
    await until(lambda: pushes.tries > tries + 20)
    assert worker.events.done_tokens == []
    pushes.unreachable = set()
    await worker.until_done(1)
    assert pushes.homes == {(follower, each.tweet_id): 1 for each in events for follower in graph[each.author_id]}


async def test_authors_own_lists_that_acknowledged_are_not_told_again() -> None:
    pushes = FakePushes()
    pushes.unreachable = {1}
    events = [event(0, 1), event(1, 2), event(2, 1)]
    worker = Running(FakeEvents(events), FakeFollowers({}), pushes)
    await until(lambda: pushes.tries > 20)
    assert pushes.own == [(events[1].entry, False)]
    worker.now_ms += 60_000
    pushes.unreachable = set()
    await worker.until_done(1)
    assert pushes.own == [(events[1].entry, False), (events[0].entry, True), (events[2].entry, True)]


async def test_while_an_engine_is_away_the_batch_waits_undone_and_the_gauge_says_so() -> None:
    pushes = FakePushes()
    pushes.failures = [Unavailable("redis is away")] * 10_000
    worker = Running(FakeEvents([event(0, 1)]), FakeFollowers({1: [10]}), pushes)
    gauge = metrics.PAUSED.labels("fanout")
    await until(lambda: len(pushes.failures) <= 9_990)
    assert gauge._value.get() == 1
    assert worker.events.done_tokens == []
    pushes.failures = []
    await worker.until_done(1)
    assert gauge._value.get() == 0
    assert pushes.homes == {(10, event(0, 1).tweet_id): 1}


async def test_followers_that_cannot_be_read_are_read_again_and_those_before_get_it_once() -> None:
    followers = FakeFollowers({1: [10, 11, 12]}, page_max=1)
    followers.failures = [Unavailable("cassandra is away")] * 3
    worker = Running(
        FakeEvents([event(0, 1)]), followers, FakePushes(), limits=replace(LIMITS, fanout_appends_per_push=1)
    )
    await worker.until_done(1)
    assert worker.pushes.homes == {(user, event(0, 1).tweet_id): 1 for user in (10, 11, 12)}


async def test_an_entry_that_grows_late_while_redis_is_away_is_marked_when_it_arrives() -> None:
    pushes = FakePushes()
    pushes.failures = [Unavailable("redis is away")] * 10_000
    worker = Running(FakeEvents([event(0, 1)]), FakeFollowers({1: [10]}), pushes)
    await until(lambda: len(pushes.failures) < 10_000)
    worker.now_ms += 60_000
    pushes.failures = []
    await worker.until_done(1)
    assert [delivery.late for push in pushes.pushes for delivery in push] == [True]
    assert [late for _, late in pushes.own] == [False]


async def test_anything_else_that_is_raised_stops_the_worker_with_the_batch_undone() -> None:
    pushes = FakePushes()
    pushes.failures = [ZeroDivisionError("a bug")]
    worker = Running(FakeEvents([event(0, 1)]), FakeFollowers({1: [10]}), pushes)
    with pytest.raises(ExceptionGroup) as raised:
        await worker.task
    assert raised.group_contains(ZeroDivisionError)
    assert worker.events.done_tokens == []


async def test_no_more_batches_are_taken_than_may_be_under_way() -> None:
    pushes = FakePushes()
    pushes.may_go_on.clear()
    events = FakeEvents(*[[event(number, 1)] for number in range(6)])
    worker = Running(events, FakeFollowers({1: [10]}), pushes)
    await settle()
    assert events.taken == LIMITS.fanout_batches_in_flight
    pushes.may_go_on.set()
    await worker.until_done(6)
    assert sorted(map(int, map(str, events.done_tokens))) == list(range(6))


async def test_events_gather_after_a_batch_that_was_not_full_and_stopping_does_not_wait_for_them() -> None:
    limits = replace(LIMITS, fanout_batch_events=2, fanout_gather_ms=60_000)
    events = FakeEvents([event(0, 1), event(1, 1)], [event(2, 1)], [event(3, 1)])
    worker = Running(events, FakeFollowers({1: [10]}), FakePushes(), limits)
    await settle()
    assert (events.taken, events.done_tokens) == (2, [0, 1])
    await worker.stop()
    assert events.taken == 2


async def test_told_to_stop_it_takes_no_more_and_finishes_what_is_under_way() -> None:
    pushes = FakePushes()
    pushes.may_go_on.clear()
    events = FakeEvents(*[[event(number, 1)] for number in range(6)])
    worker = Running(events, FakeFollowers({1: [10]}), pushes)
    await settle()
    worker.stopping.set()
    await settle()
    pushes.may_go_on.set()
    await worker.task
    assert events.taken == 2
    assert sorted(map(int, map(str, events.done_tokens))) == [0, 1]


async def test_what_does_not_end_in_time_is_given_up_undone() -> None:
    pushes = FakePushes()
    pushes.may_go_on.clear()
    worker = Running(FakeEvents([event(0, 1)]), FakeFollowers({1: [10]}), pushes)
    await settle()
    await worker.stop()
    assert worker.events.done_tokens == []


async def test_told_to_stop_while_every_batch_waits_for_an_engine_it_drains_and_ends() -> None:
    pushes = FakePushes()
    pushes.unreachable, pushes.nodes_away = {10}, [EVERYWHERE]
    events = FakeEvents(*[[event(number, 1)] for number in range(6)])
    worker = Running(events, FakeFollowers({1: [10]}), pushes)
    await until(lambda: events.taken == LIMITS.fanout_batches_in_flight and pushes.tries > 20)
    worker.stopping.set()
    await asyncio.wait((worker.task,), timeout=LIMITS.drain_seconds + 5)
    assert worker.task.done()
    worker.task.result()
    assert (events.taken, events.done_tokens) == (LIMITS.fanout_batches_in_flight, [])
