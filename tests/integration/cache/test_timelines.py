"""Lists of entries on a real cluster: building, pushing, cutting, reading."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import pytest

from tests.integration.cache.conftest import Nodes, OpenCache, eventually
from tests.integration.cache.test_dataplane import hanging, killed
from tests.unit.fake_fanout import FakeProgress, FakeSlices
from timeline.assembly.ports import Building, ListView
from timeline.assembly.sure import sure_line
from timeline.cache import Cache
from timeline.cache.connection import Call, Node
from timeline.cache.keys import slot_of
from timeline.cache.pushing import TooLong
from timeline.cache.replication import Told
from timeline.domain import pauses
from timeline.domain.entries import NO_ENTRIES, Entry, Stretch, UserIds, of, to_list
from timeline.domain.errors import Unavailable
from timeline.domain.events import TweetCreated
from timeline.domain.ids import EPOCH_MS, TweetId, UserId, first_id_at, time_ms
from timeline.domain.limits import LIMITS
from timeline.domain.pauses import Point
from timeline.domain.records import UNKNOWN_REPLICATION, Header, ListKind
from timeline.fanout.ports import Away, Batch, Delivery, FollowerPage, NotAcknowledged, Patiently, at_once
from timeline.fanout.worker import Fanout, run_fanout
from timeline.metrics import DELIVERIES, PUSHES, TRIMS

HOME, PROFILE = ListKind.home, ListKind.profile
READER = UserId(42)
SECOND = 1000
APART_MS = LIMITS.late_after_ms + LIMITS.clock_skew_ms  # of an id's time and the ids of what arrived before it, at most


def entry(at_ms: int, author: int = 7) -> Entry:
    """An entry whose id was minted so long after the epoch."""
    return Entry(TweetId(first_id_at(EPOCH_MS + at_ms)), UserId(author))


def history(*times: int, complete_from: int = 0) -> Stretch:
    return Stretch(of([entry(at) for at in sorted(times, reverse=True)]), complete_from)


def delivery(one: Entry, *followers: int, late: bool = False) -> Delivery:
    return Delivery(one, np.array(followers, np.int64), late)


async def push(cache: Cache, *entries: Entry, to: int = READER, late: bool = False) -> int:
    return await cache.lists.push([delivery(one, to, late=late) for one in entries])


async def begun(cache: Cache, kind: ListKind = HOME, user: UserId = READER) -> Building:
    building = await cache.lists.begin_build(kind, user)
    assert building is not None
    return building


def another(building: Building) -> Building:
    """Another builder's."""
    return replace(building, token=building.token ^ 2)


async def build(
    cache: Cache, *times: int, kind: ListKind = HOME, user: UserId = READER, complete_from: int = 0
) -> Building:
    building = await begun(cache, kind, user)
    assert await cache.lists.install(kind, user, building, history(*times, complete_from=complete_from), 1234)
    return building


async def seen(cache: Cache, newest: int | None = None, kind: ListKind = HOME, user: UserId = READER) -> ListView:
    view = await cache.lists.read(kind, user, newest)
    assert view is not None
    return view


def times(view: ListView) -> list[int]:
    return [time_ms(one.tweet_id) - EPOCH_MS for one in to_list(view.entries)]


def raw(cache: Cache, kind: ListKind = HOME, user: UserId = READER) -> bytes:
    return cache.lists._keys.list_of(kind, user)


async def test_a_list_that_is_not_there_reads_as_none(cache: Cache) -> None:
    assert await cache.lists.read(HOME, READER, 10) is None
    assert await cache.lists.read(HOME, READER, None) is None


async def test_a_push_writes_only_lists_that_exist(cache: Cache) -> None:
    await build(cache, 1)
    pushes, deliveries = PUSHES._value.get(), DELIVERIES._value.get()
    assert await cache.lists.push([delivery(entry(5), 42, 43, 44), delivery(entry(6), 43)]) == 1
    assert await cache.lists.read(HOME, UserId(43), None) is None
    assert times(await seen(cache)) == [1, 5]
    assert (PUSHES._value.get() - pushes, DELIVERIES._value.get() - deliveries) == (4, 1)


async def test_a_late_push_writes_only_lists_that_exist(cache: Cache) -> None:
    await build(cache, 1)
    assert await cache.lists.push([delivery(entry(5), 42, 43, late=True)]) == 1
    assert await cache.lists.read(HOME, UserId(43), None) is None


async def test_pushes_of_one_call_arrive_in_its_order(cache: Cache) -> None:
    await build(cache)
    order = [5, 3, 9, 1, 7, 2]
    assert await push(cache, *[entry(at) for at in order]) == 6
    assert times(await seen(cache)) == order


async def test_a_push_reaches_many_followers_with_ids_of_every_length(cache: Cache) -> None:
    users = [0, 7, 99, 1_000, 123_456_789, 10**15, 2**62, 2**63 - 1]
    for user in users:
        await build(cache, user=UserId(user))
    assert await cache.lists.push([delivery(entry(3), *users), delivery(entry(4), *users, late=True)]) == 2 * len(users)
    for user in users:
        assert times(await seen(cache, user=UserId(user))) == [3, 4]


async def test_a_push_of_more_rows_than_leave_in_one_round_is_whole(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timeline.cache.pushing._ROWS_PER_ROUND", 7)
    users = list(range(100, 200))
    await asyncio.gather(*(build(cache, user=UserId(user)) for user in users))
    assert await cache.lists.push([delivery(entry(at), *users) for at in (1, 2)]) == 200
    for user in users:
        assert times(await seen(cache, user=UserId(user))) == [1, 2]


async def test_bytes_in_flight_are_bounded_and_everything_arrives(
    opened: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timeline.cache.pushing._ROWS_PER_ROUND", 16)
    cache: Cache = await opened(fanout_bytes_in_flight=2_000)
    peak = 0
    for node in cache.plane.topology.primaries:
        submit = node.submit

        def watched(*args: object, node=node, submit=submit, **options: object) -> object:
            nonlocal peak
            peak = max(peak, node._bulk_bytes)
            return submit(*args, **options)

        monkeypatch.setattr(node, "submit", watched)
    users = list(range(100, 200))
    await asyncio.gather(*(build(cache, user=UserId(user)) for user in users))
    assert sum(await asyncio.gather(*(cache.lists.push([delivery(entry(at), *users)]) for at in range(5)))) == 500
    assert 0 < peak <= 2_000
    assert all(node._bulk_bytes == 0 for node in cache.plane.topology.primaries)


async def test_the_newest_n_are_read_with_their_arrival_numbers(cache: Cache) -> None:
    await build(cache, 1, 2, 3)
    await push(cache, entry(4), entry(5))
    for newest, first, whole in (
        (1, 5, False),
        (3, 3, False),
        (4, 2, False),
        (5, 1, True),
        (6, 1, True),
        (100, 1, True),
    ):
        view = await seen(cache, newest)
        assert (times(view), view.first_arrival, view.whole) == ([1, 2, 3, 4, 5][-newest:], first, whole)
    view = await seen(cache, None)
    assert (times(view), view.first_arrival, view.whole) == ([1, 2, 3, 4, 5], 1, True)
    with pytest.raises(ValueError, match="newest"):
        await cache.lists.read(HOME, READER, 0)


async def test_an_empty_list_names_the_arrival_to_come(cache: Cache) -> None:
    await build(cache)
    view = await seen(cache, 10)
    assert (len(view.entries), view.first_arrival, view.whole) == (0, 1, True)


async def test_only_one_builds(cache: Cache) -> None:
    first, second = await asyncio.gather(*(cache.lists.begin_build(HOME, READER) for _ in range(2)))
    assert (first is None) != (second is None)
    view = await seen(cache)
    assert view.header.building


async def test_nobody_builds_a_list_that_is_there(cache: Cache) -> None:
    await build(cache, 1)
    assert await cache.lists.begin_build(HOME, READER) is None


async def test_an_install_puts_history_before_what_arrived_meanwhile(cache: Cache) -> None:
    building = await begun(cache)
    await push(cache, entry(5), entry(4))
    assert await cache.lists.install(HOME, READER, building, history(1, 2, 3, complete_from=9), 1234)
    view = await seen(cache)
    assert times(view) == [1, 2, 3, 5, 4]
    header = view.header
    assert (header.floor, header.base, header.late, header.built_ms, header.token) == (9, 0, 0, 1234, 0)


async def test_a_history_above_the_cap_loses_its_oldest_and_raises_the_floor_just_above_them(opened: OpenCache) -> None:
    cache = await opened(timeline_entries_max=3, timeline_slack=1)
    await build(cache, 1, 2, 3, 4, 5, complete_from=1)
    view = await seen(cache)
    assert times(view) == [3, 4, 5]
    assert view.header.floor == entry(2).tweet_id + 1


async def test_a_history_of_800_is_installed_in_order(cache: Cache) -> None:
    await build(cache, *range(1, 801))
    await push(cache, entry(801))
    assert times(await seen(cache)) == list(range(1, 802))


async def test_an_install_under_another_token_changes_nothing(cache: Cache) -> None:
    building = await begun(cache)
    assert not await cache.lists.install(HOME, READER, another(building), history(1), 1)
    assert (await seen(cache)).header.building
    assert await cache.lists.install(HOME, READER, building, history(1), 1)
    assert not await cache.lists.install(HOME, READER, building, history(2), 1)
    assert times(await seen(cache)) == [1]


async def test_a_builder_that_died_leaves_nothing(opened: OpenCache) -> None:
    cache = await opened(building_seconds=1)
    building = await begun(cache)
    await push(cache, entry(5))

    async def gone() -> bool:
        return await cache.lists.read(HOME, READER, None) is None

    await eventually(gone)
    assert not await cache.lists.install(HOME, READER, building, history(1), 1)
    assert await cache.lists.read(HOME, READER, None) is None


async def test_a_builder_that_is_slow_does_not_install_over_its_successor(opened: OpenCache) -> None:
    cache = await opened()
    slow = await begun(cache)
    await cache.lists.abandon(HOME, READER, slow)
    await build(cache, 9)
    assert not await cache.lists.install(HOME, READER, slow, history(1), 1)
    assert times(await seen(cache)) == [9]


async def test_an_abandoned_list_is_removed_only_while_it_is_built_under_that_token(cache: Cache) -> None:
    building = await begun(cache)
    await cache.lists.abandon(HOME, READER, another(building))
    assert (await seen(cache)).header.building
    await cache.lists.install(HOME, READER, building, history(1), 1)
    await cache.lists.abandon(HOME, READER, building)
    assert times(await seen(cache)) == [1]


async def test_a_late_push_is_noted_by_its_arrival_number(cache: Cache) -> None:
    await build(cache, 1, 2)
    await push(cache, entry(5))
    await push(cache, entry(3), late=True)
    assert (await seen(cache)).header.late == 4
    await push(cache, entry(6))
    assert (await seen(cache)).header.late == 4


async def test_a_late_push_during_building_is_mapped_to_its_arrival_number_after_it(cache: Cache) -> None:
    building = await begun(cache)
    await push(cache, entry(50 * SECOND))
    await push(cache, entry(49 * SECOND), late=True)
    await push(cache, entry(51 * SECOND))
    await cache.lists.install(HOME, READER, building, history(1, 2, 52 * SECOND), 1)
    view = await seen(cache)
    assert view.header.late == 5
    assert to_list(view.entries)[5 - view.first_arrival] == entry(49 * SECOND)


async def test_a_tail_after_a_slow_build_promises_nothing_that_it_lacks(cache: Cache) -> None:
    building = await begun(cache)
    arrived = [entry(at * SECOND) for at in range(100, 105)]
    await push(cache, *arrived)
    pulled_late = 130 * SECOND  # minted 30 s after the first arrival, pulled, and not yet pushed
    await cache.lists.install(HOME, READER, building, history(1, 2, pulled_late), 1)
    for newest in range(1, 8):
        view = await seen(cache, newest)
        line = sure_line(view, APART_MS)
        held = {one.tweet_id for one in to_list(view.entries)}
        assert all(one.tweet_id in held for one in [*arrived, entry(pulled_late)] if one.tweet_id >= line)


@pytest.mark.parametrize(("too_far_ms", "late"), [(0, 0), (1, 4)])
async def test_a_build_leaves_its_tails_sure_unless_history_is_further_ahead_than_w_and_the_clocks_allow(
    cache: Cache, too_far_ms: int, late: int
) -> None:
    building = await begun(cache)
    await push(cache, entry(100 * SECOND))
    newest = 100 * SECOND + APART_MS + too_far_ms
    await cache.lists.install(HOME, READER, building, history(1, 2, newest), 1)
    assert (await seen(cache)).header.late == late
    line = sure_line(await seen(cache, 1), APART_MS)
    assert line > entry(newest).tweet_id


async def again(cache: Cache, view: ListView, *times: int, complete_from: int = 0, built_ms: int = 99) -> bool:
    return await cache.lists.reinstall(HOME, READER, view, history(*times, complete_from=complete_from), built_ms)


async def test_a_list_built_again_is_its_history_and_what_arrived_since_it_was_seen(cache: Cache) -> None:
    await build(cache, 1, 2, complete_from=1)
    await push(cache, entry(5))
    before = await seen(cache, 2)
    await push(cache, entry(8), entry(7))
    assert await again(cache, before, 1, 3, 5, complete_from=9)
    view = await seen(cache)
    assert times(view) == [1, 3, 5, 8, 7]
    header = view.header
    assert (header.floor, header.base, header.late, header.built_ms, header.token) == (9, 0, 0, 99, 0)
    assert header.epoch != before.header.epoch
    assert view.is_at_home
    assert not await again(cache, before, 4)  # of an epoch that is over
    assert times(await seen(cache)) == [1, 3, 5, 8, 7]


async def test_nothing_that_arrived_is_nothing_kept_and_a_list_stays(cache: Cache) -> None:
    await build(cache, 1)
    assert await again(cache, await seen(cache, 1), 2)
    assert times(await seen(cache)) == [2]
    assert await again(cache, await seen(cache, 1))
    view = await seen(cache)
    assert (times(view), view.first_arrival) == ([], 1)


async def test_a_list_that_is_gone_is_not_built_again(cache: Cache) -> None:
    await build(cache, 1)
    view = await seen(cache)
    await cache.plane.execute(raw(cache), b"DEL", raw(cache))
    assert not await again(cache, view, 1)
    assert await cache.lists.read(HOME, READER, None) is None
    building = await begun(cache)
    half = await seen(cache)
    assert not await again(cache, half, 1)
    await cache.lists.install(HOME, READER, building, history(3), 1)
    assert not await again(cache, half, 1)  # its arrivals have other numbers now
    assert times(await seen(cache)) == [3]


async def test_a_list_is_not_built_again_for_a_primary_that_is_unknown(cache: Cache) -> None:
    await build(cache, 1)
    assert not await again(cache, replace(await seen(cache), primary=UNKNOWN_REPLICATION), 2)
    assert times(await seen(cache)) == [1]


async def test_a_list_built_again_trusts_the_primary_that_was_seen_and_no_later_one(cache: Cache) -> None:
    await build(cache, 1)
    earlier = replace(await seen(cache), primary=b"an earlier primary..")
    assert await again(cache, earlier, 1)
    view = await seen(cache)
    assert view.header.replication == earlier.primary
    assert not view.is_at_home


async def test_what_was_cut_since_a_list_was_seen_is_below_the_new_floor(opened: OpenCache) -> None:
    cache = await opened(timeline_entries_max=3, timeline_slack=1)
    await build(cache, 1)
    await push(cache, entry(2))
    view = await seen(cache)
    await push(cache, entry(3), entry(6), entry(5))  # 1 and 2 go: both were seen
    assert (await seen(cache)).header.base == 2
    assert await again(cache, view, 1, 2)
    assert (times(await seen(cache)), (await seen(cache)).header.floor) == ([1, 2, 3, 6, 5], 0)
    view = await seen(cache)
    for at in (9, 7, 10, 11, 12, 13):
        await push(cache, entry(at))  # 9 goes, and was not seen
    now = await seen(cache)
    assert now.header.base > view.last_arrival
    assert await again(cache, view, 1, 2, 3, 6)
    assert (await seen(cache)).header.floor == now.header.floor == entry(9).tweet_id + 1
    assert times(await seen(cache)) == [1, 2, 3, 6, *times(now)][-3 - len(times(now)) :]


async def test_a_late_arrival_is_known_by_its_number_and_time_after_a_list_was_built_again(cache: Cache) -> None:
    await build(cache, 1, 2)
    await push(cache, entry(3), late=True)
    view = await seen(cache)
    first_late_ms = view.header.late_ms
    assert await again(cache, view, 1, 2, 3)
    assert ((await seen(cache)).header.late, (await seen(cache)).header.late_ms) == (0, first_late_ms)
    view = await seen(cache)
    await push(cache, entry(6))
    await push(cache, entry(5), late=True)
    await push(cache, entry(7))
    assert await again(cache, view, 1, 2, 3, 4)
    after = await seen(cache)
    assert times(after) == [1, 2, 3, 4, 6, 5, 7]
    assert after.header.late == 6
    assert after.header.late_ms >= first_late_ms


@pytest.mark.parametrize(("too_far_ms", "late"), [(0, 0), (1, 4)])
async def test_building_again_leaves_tails_sure_unless_history_is_further_ahead_than_w_and_the_clocks_allow(
    cache: Cache, too_far_ms: int, late: int
) -> None:
    await build(cache, 1)
    view = await seen(cache)
    await push(cache, entry(100 * SECOND))
    newest = 100 * SECOND + APART_MS + too_far_ms
    assert await again(cache, view, 1, 2, newest)
    assert (await seen(cache)).header.late == late
    assert sure_line(await seen(cache, 1), APART_MS) > entry(newest).tweet_id


async def test_whoever_pushes_while_a_list_is_built_again_and_again_is_in_it_once(opened: OpenCache) -> None:
    cache = await opened(timeline_entries_max=500)
    await build(cache)
    stored: list[int] = []
    acknowledged: list[int] = []

    async def pusher() -> None:
        for at in range(1, 301):
            stored.append(at)
            await push(cache, entry(at), late=at % 9 == 0)
            acknowledged.append(at)

    async def builder() -> None:
        while len(stored) < 300:
            view = await seen(cache, 1)
            pulled = list(stored)
            for _ in range(3):
                await cache.ping()  # some arrive meanwhile
            assert await again(cache, view, *pulled)
            by_now = list(acknowledged)
            assert set(by_now) <= set(times(await seen(cache)))

    await asyncio.gather(pusher(), builder())
    assert set(times(await seen(cache))) == set(range(1, 301))


async def test_many_lists_are_read_at_once_as_one_by_one(cache: Cache) -> None:
    users = [UserId(user) for user in range(1, 301)]
    for user in users[:200]:
        await build(cache, *range(1, user % 7 + 1), kind=PROFILE, user=user)
    await begun(cache, PROFILE, users[250])
    for newest in (1, 3, None):
        found = await cache.lists.read_many(PROFILE, np.array(users, np.int64), newest)
        assert sorted(found) == users[:200]
        for user in users[:200]:
            alone = await seen(cache, newest, PROFILE, user)
            many = found[user]
            assert (many.header, many.first_arrival, many.whole) == (alone.header, alone.first_arrival, alone.whole)
            assert (many.primary, many.slot) == (alone.primary, slot_of(raw(cache, PROFILE, user)))
            assert times(many) == times(alone)
            assert many.is_at_home
    assert await cache.lists.read_many(PROFILE, np.empty(0, np.int64), 3) == {}


async def test_many_lists_are_read_in_one_write_a_node(
    cache: Cache, redis_nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    for node in cache.plane.topology.primaries:
        connection = node._connection
        assert connection is not None

        def counted(calls: list[Call], node: Node = node, send: Callable[..., None] = connection.send) -> None:
            written.extend([str(node)] * any(b"INFO" not in call.data for call in calls))  # a check may come
            send(calls)

        monkeypatch.setattr(connection, "send", counted)
    await cache.lists.read_many(PROFILE, np.arange(1, 301), 20)
    assert sorted(written) == sorted(redis_nodes.addresses)


async def test_lists_on_a_node_that_is_away_are_left_out_of_many(opened: OpenCache, redis_nodes: Nodes) -> None:
    cache = await opened(redis_timeout_ms=300)
    users = [UserId(user) for user in range(1, 31)]
    for user in users:
        await build(cache, 1, user=user)
    server = redis_nodes.addresses[2]
    there = [user for user in users if redis_nodes.owner(slot_of(raw(cache, user=user))) == server]
    assert 0 < len(there) < len(users)
    with hanging(redis_nodes, server):
        for _ in range(3):  # at first it does not answer in time, then it is known to be down
            found = await cache.lists.read_many(HOME, np.array(users, np.int64), 10)
            assert sorted(found) == [user for user in users if user not in there]


async def test_reading_many_renews_and_removes_as_reading_one_does(opened: OpenCache) -> None:
    cache = await opened(timeline_seconds=100)
    users = np.arange(1, 21)
    for user in users.tolist():
        await build(cache, 1, user=UserId(user))
        await cache.plane.execute(raw(cache, user=user), b"PEXPIRE", raw(cache, user=user), 50_000)
    foreign = raw(cache, user=UserId(99))
    await cache.plane.execute(foreign, b"RPUSH", foreign, b"what")

    async def expiries() -> list[int]:
        return [await cache.plane.execute(raw(cache, user=user), b"PTTL", raw(cache, user=user)) for user in users]

    await cache.lists.read_many(HOME, users, 1, renew=False)
    await cache.lists.read(HOME, UserId(1), 1, renew=False)
    assert max(await expiries()) <= 50_000
    assert len(await cache.lists.read_many(HOME, np.append(users, 99), 1)) == 20
    assert min(await expiries()) > 99_000
    assert await cache.plane.execute(foreign, b"EXISTS", foreign) == 0


async def test_a_late_push_is_noted_with_its_time_by_the_nodes_clock(cache: Cache) -> None:
    await build(cache, 1)
    assert (await seen(cache)).header.late_ms == 0
    before = now_ms()
    await push(cache, entry(3), late=True)
    first = (await seen(cache)).header.late_ms
    assert before <= first <= now_ms()  # of this machine

    async def later() -> bool:
        await push(cache, entry(4), late=True)
        return (await seen(cache)).header.late_ms > first

    await eventually(later)


async def test_the_time_of_a_late_push_during_building_is_kept(cache: Cache) -> None:
    building = await begun(cache)
    await push(cache, entry(50 * SECOND), late=True)
    noted = (await seen(cache)).header.late_ms
    await cache.lists.install(HOME, READER, building, history(1), 1)
    assert (await seen(cache)).header.late_ms == noted > 0


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[], Awaitable[object]]) -> list[tuple[Point, int]]:
    """What is done at the first point that anybody comes to; and all the points, as they are come to."""
    held: list[tuple[Point, int]] = []

    async def hold(point: Point, number: int) -> None:
        held.append((point, number))
        if len(held) == 1:
            await act()

    monkeypatch.setattr(pauses, "hold", hold)
    return held


async def test_a_late_push_between_reading_and_cutting_spoils_no_cut_and_stays_noted(
    opened: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = await opened(timeline_entries_max=4, timeline_slack=2)
    await build(cache, 1, 2, 3, 4)
    late = entry(6).pack()
    held = meanwhile(monkeypatch, lambda: cache.lists._functions.call("push_late", raw(cache), late))
    trims, before = TRIMS._value.get(), now_ms()
    await push(cache, entry(5), entry(7), entry(8))
    assert held == [(Point.trim, READER)]
    view = await seen(cache)
    assert (times(view), view.first_arrival) == ([4, 5, 7, 8, 6], 4)
    assert (view.header.late, view.header.floor) == (8, entry(3).tweet_id + 1)
    assert view.header.late_ms >= before
    assert TRIMS._value.get() - trims == 1


async def test_another_trim_between_reading_and_cutting_spoils_the_cut_whatever_stands_at_the_front_then(
    opened: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = await opened(timeline_entries_max=4, timeline_slack=2)
    await build(cache)
    held = meanwhile(monkeypatch, lambda: push(cache, entry(9)))
    trims = TRIMS._value.get()
    await push(cache, *[entry(3)] * 7)  # delivered again and again
    assert held == [(Point.trim, READER)] * 2
    view = await seen(cache)
    assert (times(view), view.header.base) == ([3, 3, 3, 9], 4)
    assert TRIMS._value.get() - trims == 1


async def test_a_list_built_again_between_reading_and_cutting_is_not_cut(
    opened: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = await opened(timeline_entries_max=4, timeline_slack=2)
    await build(cache, 1, 2, 3, 4)

    async def build_again() -> None:
        assert await again(cache, await seen(cache), 1, 2, 3, 4)

    held = meanwhile(monkeypatch, build_again)
    await push(cache, entry(5), entry(6), entry(7))
    assert held == [(Point.trim, READER)]
    view = await seen(cache)
    assert (times(view), view.header.base, view.header.floor) == ([1, 2, 3, 4], 0, 0)


async def test_a_list_that_goes_between_reading_and_cutting_stays_away(
    opened: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = await opened(timeline_entries_max=4, timeline_slack=2)
    await build(cache, 1, 2, 3, 4)
    held = meanwhile(monkeypatch, lambda: cache.plane.execute(raw(cache), b"DEL", raw(cache)))
    trims = TRIMS._value.get()
    assert await push(cache, entry(5), entry(6), entry(7)) == 3
    assert held == [(Point.trim, READER)]
    assert await cache.lists.read(HOME, READER, None) is None
    assert TRIMS._value.get() == trims


async def test_only_what_was_read_is_cut(cache: Cache) -> None:
    async def trim(header: Header, count: int, last: Entry) -> int:
        own = header.epoch.to_bytes(8), header.base.to_bytes(8)
        done: int = await cache.lists._functions.call("trim", raw(cache), *own, count, last.pack(), bytes(8))
        return done

    building = await begun(cache)
    await push(cache, entry(3), entry(4), entry(5))
    half = (await seen(cache)).header
    assert await trim(half, 2, entry(4)) == 0, "it is being built"
    await cache.lists.install(HOME, READER, building, history(1, 2, complete_from=7), 1)
    header = (await seen(cache)).header
    assert await trim(replace(header, epoch=header.epoch ^ 2), 2, entry(2)) == 0
    assert await trim(replace(header, base=1), 2, entry(2)) == 0
    assert await trim(header, 2, entry(3)) == 0, "another is at its place"
    assert await trim(header, 6, entry(5)) == 0, "there are not so many"
    assert times(await seen(cache)) == [1, 2, 3, 4, 5]
    assert await trim(header, 2, entry(2)) == 1
    view = await seen(cache)
    assert (times(view), view.header.base, view.header.floor) == ([3, 4, 5], 2, 7)


def owner_of(cache: Cache, user: int) -> Node | None:
    return cache.plane.topology.owners[slot_of(raw(cache, user=UserId(user)))]


async def far_too_long(cache: Cache) -> list[int]:
    """A list of 11; the numbers of the oldest entries that each reading gives to be cut from now on."""
    building = await begun(cache)
    await push(cache, *[entry(at) for at in range(10, 20)])
    await cache.lists.install(HOME, READER, building, history(1), 1)
    read = cache.plane.try_reading_transactions
    given: list[int] = []

    async def watched(keys: Sequence[bytes], packed: Sequence[bytes], commands: int) -> list[Told]:
        told = await read(keys, packed, commands)
        given.extend(len(reply[1]) for reply, _ in told if commands == 3)
        return told

    cache.plane.try_reading_transactions = watched  # type: ignore[method-assign]
    return given


async def test_a_list_far_too_long_is_cut_to_its_cap_in_bounded_readings(opened: OpenCache) -> None:
    cache = await opened(timeline_entries_max=2, timeline_slack=1)
    given = await far_too_long(cache)
    await push(cache, entry(17), entry(20))
    view = await seen(cache)
    assert (times(view), view.header.base, view.header.floor) == ([17, 20], 11, entry(19).tweet_id + 1)
    assert given == [2, 2, 2, 2, 2, 1]


async def test_what_is_left_of_a_list_far_too_long_is_cut_by_later_pushes(
    opened: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timeline.cache.pushing._CUTS_MAX", 3)
    cache = await opened(timeline_entries_max=2, timeline_slack=1)
    given = await far_too_long(cache)
    await push(cache, entry(20))
    view = await seen(cache)
    assert (times(view), view.header.floor) == ([*range(15, 21)], entry(14).tweet_id + 1)
    await push(cache, entry(21))
    view = await seen(cache)
    assert (times(view), view.header.floor) == ([20, 21], entry(19).tweet_id + 1)
    assert given == [2, 2, 2, 2, 2, 1]


async def test_pushes_under_way_cut_a_bounded_number_of_lists_at_once_together(
    opened: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"redis_trims_in_flight": 5, "redis_trims_per_round": 3}
    cache = await opened(timeline_entries_max=2, timeline_slack=1, **limits)
    users = list(range(100, 160))
    await asyncio.gather(*(build(cache, 1, 2, user=UserId(user)) for user in users))
    pusher, now, peak = cache.lists._pusher, 0, 0
    cut = pusher._cut

    async def watched(lists: Sequence[TooLong], cap: int) -> list[TooLong]:
        nonlocal now, peak
        now += len(lists)
        peak = max(peak, now)
        left = await cut(lists, cap)
        now -= len(lists)
        return left

    monkeypatch.setattr(pusher, "_cut", watched)
    thirds = [users[start::3] for start in range(3)]
    await asyncio.gather(
        *(cache.lists.push([delivery(entry(at), *some) for at in (3, 4)]) for some in thirds),
    )
    for user in users:
        assert times(await seen(cache, user=UserId(user))) == [3, 4]
    assert (3 < peak <= 5, now) == (True, 0)


async def test_a_push_that_is_cancelled_while_it_waits_to_cut_keeps_nobody_from_it(
    opened: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = await opened(timeline_entries_max=2, timeline_slack=1, redis_trims_in_flight=3, redis_trims_per_round=3)
    users = [UserId(user) for user in range(1, 100) if owner_of(cache, user) == owner_of(cache, 1)][:4]
    for user in users:
        await build(cache, 1, 2, user=user)
    is_held, go_on = asyncio.Event(), asyncio.Event()

    async def hold(point: Point, number: int) -> None:
        is_held.set()
        await go_on.wait()

    monkeypatch.setattr(pauses, "hold", hold)
    first, second = (
        asyncio.create_task(cache.lists.push([delivery(entry(at), *two) for at in (3, 4)]))
        for two in (users[:2], users[2:])
    )
    await is_held.wait()

    async def waits() -> bool:
        pusher = cache.lists._pusher
        return pusher._trims_free.locked() and pusher._trims_turn.locked()

    await eventually(waits)
    for push_ in (second, first):
        push_.cancel()
        await asyncio.wait((push_,))
        assert push_.cancelled()
    go_on.set()
    async with asyncio.timeout(10):
        await cache.lists.push([delivery(entry(5), *users)])
    for user in users:
        assert times(await seen(cache, user=user)) == [4, 5]


async def test_lists_on_other_nodes_are_cut_while_one_node_hangs(opened: OpenCache, redis_nodes: Nodes) -> None:
    cache = await opened(timeline_entries_max=2, timeline_slack=1, redis_timeout_ms=4_000)
    users = [UserId(user) for user in range(1, 31)]
    for user in users:
        await build(cache, 1, 2, user=user)
    server = redis_nodes.addresses[2]
    others = [user for user in users if redis_nodes.owner(slot_of(raw(cache, user=user))) != server]
    assert 0 < len(others) < len(users)
    for user in users:
        await cache.plane.execute(raw(cache, user=user), b"RPUSHX", raw(cache, user=user), entry(3).pack())

    async def cut() -> bool:
        found = await cache.lists.read_many(HOME, np.array(others, np.int64), None)
        return all(times(view) == [2, 3] for view in found.values())

    with hanging(redis_nodes, server):
        trim = asyncio.create_task(cache.lists._pusher._trim(HOME, dict.fromkeys(users, 4)))
        await eventually(cut)
        assert not trim.done()
    await trim
    assert times(await seen(cache, user=next(user for user in users if user not in others))) == [2, 3]


async def test_a_list_a_quarter_over_is_cut_and_says_so_exactly(opened: OpenCache) -> None:
    cache = await opened(timeline_entries_max=4, timeline_slack=2)
    await build(cache, 10, 20, 30, 40, complete_from=5)
    trims = TRIMS._value.get()
    await push(cache, entry(25), entry(60))
    view = await seen(cache)
    assert (times(view), view.header.base, view.header.floor) == ([10, 20, 30, 40, 25, 60], 0, 5)
    await push(cache, entry(70))
    view = await seen(cache)
    assert (times(view), view.first_arrival) == ([40, 25, 60, 70], 4)
    assert (view.header.base, view.header.floor) == (3, entry(30).tweet_id + 1)
    assert TRIMS._value.get() - trims == 1


async def test_the_floor_is_above_the_newest_that_was_cut_whenever_it_arrived(opened: OpenCache) -> None:
    cache = await opened(timeline_entries_max=4, timeline_slack=2)
    await build(cache, 10)
    await push(cache, *[entry(at) for at in (50, 20, 30, 60, 70, 80)])
    view = await seen(cache)
    assert (times(view), view.header.floor) == ([30, 60, 70, 80], entry(50).tweet_id + 1)


async def test_the_floor_never_sinks(opened: OpenCache) -> None:
    cache = await opened(timeline_entries_max=2, timeline_slack=1)
    floor = int(entry(1000).tweet_id)
    await build(cache, 1001, 1002, complete_from=floor)
    await push(cache, entry(1), entry(2))
    view = await seen(cache)
    assert (times(view), view.header.floor) == ([1, 2], entry(1002).tweet_id + 1)
    await push(cache, entry(3), entry(4))
    assert (await seen(cache)).header.floor == entry(1002).tweet_id + 1


async def test_arrival_numbers_survive_cutting_and_late_pushes(opened: OpenCache) -> None:
    cache = await opened(timeline_entries_max=4, timeline_slack=2)
    await build(cache, 1, 2)
    numbers: dict[int, int] = {}
    for at in range(3, 40):
        await push(cache, entry(at), late=at % 5 == 0)
        view = await seen(cache)
        for place, one in enumerate(times(view)):
            assert numbers.setdefault(one, view.first_arrival + place) == view.first_arrival + place
        if at % 5 == 0:
            assert view.header.late == numbers[at]
        assert times(view) == list(range(at - len(view.entries) + 1, at + 1))
        assert len(view.entries) <= 6


async def test_many_who_push_at_once_cut_without_losing_what_the_header_promises(opened: OpenCache) -> None:
    cache = await opened(timeline_entries_max=8, timeline_slack=2)
    await build(cache)
    sent = list(range(1, 201))

    async def sender(part: Sequence[int]) -> None:
        for at in part:
            await push(cache, entry(at), late=at % 7 == 0)

    await asyncio.gather(*(sender(sent[start::8]) for start in range(8)))
    view = await seen(cache)
    held = {one.tweet_id for one in to_list(view.entries)}
    assert all(entry(at).tweet_id in held for at in sent if entry(at).tweet_id >= view.header.floor)
    assert view.header.base + len(view.entries) == len(sent)


async def test_a_list_that_is_being_built_is_not_cut(opened: OpenCache) -> None:
    cache = await opened(timeline_entries_max=2, timeline_slack=1)
    building = await begun(cache)
    await push(cache, *[entry(at) for at in range(10, 20)])
    await cache.lists.install(HOME, READER, building, history(1), 1)
    assert times(await seen(cache)) == [1, *range(10, 20)]


async def test_profiles_have_their_own_cap(opened: OpenCache) -> None:
    cache = await opened(profile_entries_max=2, timeline_slack=1)
    author = UserId(7)
    await build(cache, kind=PROFILE, user=author)
    await build(cache, kind=HOME, user=author)
    await cache.lists.push_profiles([(entry(at), False) for at in range(1, 5)])
    assert times(await seen(cache, kind=PROFILE, user=author)) == [3, 4]
    assert times(await seen(cache, kind=HOME, user=author)) == [1, 2, 3, 4]


async def test_late_ones_are_marked_in_profiles_too(cache: Cache) -> None:
    author = UserId(7)
    await build(cache, kind=PROFILE, user=author)
    await build(cache, kind=HOME, user=author)
    await cache.lists.push_profiles([(entry(2), False), (entry(1), True)])
    for kind in ListKind:
        assert (await seen(cache, kind=kind, user=author)).header.late == 2


async def test_ones_own_tweet_goes_to_both_of_ones_lists_where_they_exist(opened: OpenCache) -> None:
    cache = await opened(timeline_entries_max=2, profile_entries_max=2, timeline_slack=1)
    author = UserId(7)
    await cache.lists.push_own(entry(1))  # as old as can be: late
    assert await cache.lists.read(PROFILE, author, None) is None
    await build(cache, kind=PROFILE, user=author)
    await build(cache, kind=HOME, user=author)
    for at in (2, 3, 4, 5):
        await cache.lists.push_own(entry(at))
    assert times(await seen(cache, kind=PROFILE, user=author)) == [4, 5]
    assert times(await seen(cache, kind=HOME, user=author)) == [4, 5]


@pytest.mark.parametrize(
    "elements", [[b"what"], [b"\x09" + bytes(69)], [Header(0, 1, 0, 1, 0).pack(), b"x" * 23], [b"x" * 24, b"y" * 24]]
)
async def test_a_list_that_is_none_of_ours_is_absent_and_removed(cache: Cache, elements: list[bytes]) -> None:
    key = raw(cache)
    await cache.plane.execute(key, b"RPUSH", key, *elements)
    assert await cache.lists.read(HOME, READER, None) is None
    assert await cache.plane.execute(key, b"EXISTS", key) == 0
    await build(cache, 1)


async def test_a_late_push_leaves_a_foreign_list_alone(cache: Cache) -> None:
    key = raw(cache)
    await cache.plane.execute(key, b"RPUSH", key, b"what")
    assert await push(cache, entry(1), late=True) == 0
    assert await cache.plane.execute(key, b"LLEN", key) == 1


async def test_reading_renews_the_expiry_and_pushing_does_not(opened: OpenCache) -> None:
    cache = await opened(timeline_seconds=100)
    key = raw(cache)
    await build(cache, 1)
    assert 99_000 < await cache.plane.execute(key, b"PTTL", key) <= 100_000
    await cache.plane.execute(key, b"PEXPIRE", key, 50_000)
    await push(cache, entry(2))
    assert await cache.plane.execute(key, b"PTTL", key) <= 50_000
    await seen(cache, 1)
    assert await cache.plane.execute(key, b"PTTL", key) > 99_000


async def test_reading_does_not_keep_a_list_that_is_being_built(opened: OpenCache) -> None:
    cache = await opened(timeline_seconds=1000, building_seconds=5)
    await cache.lists.begin_build(HOME, READER)
    await seen(cache)
    assert await cache.plane.execute(raw(cache), b"PTTL", raw(cache)) <= 5_000


async def test_an_install_without_history_keeps_what_arrived(cache: Cache) -> None:
    building = await begun(cache)
    await push(cache, entry(5))
    assert await cache.lists.install(HOME, READER, building, Stretch(NO_ENTRIES, 0), 1)
    assert times(await seen(cache)) == [5]


def now_ms() -> int:
    return int(time.time() * 1000)


async def test_an_own_push_is_marked_as_late_by_the_rule_of_fan_out(cache: Cache) -> None:
    author = UserId(7)
    limits = cache.lists._limits
    fresh = Entry(first_id_at(now_ms()), author)
    old = Entry(first_id_at(now_ms() - limits.late_after_ms + limits.push_timeout_ms - 1), author)
    for kind in ListKind:
        await build(cache, kind=kind, user=author)
    await cache.lists.push_own(fresh)
    assert [(await seen(cache, kind=kind, user=author)).header.late for kind in ListKind] == [0, 0]
    await cache.lists.push_own(old)
    for kind in ListKind:
        view = await seen(cache, kind=kind, user=author)
        assert (view.header.late, to_list(view.entries)) == (2, [fresh, old])


async def test_an_own_push_that_grew_late_on_its_way_is_marked_all_the_same(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    author, limits = UserId(7), cache.lists._limits
    one = Entry(first_id_at(now_ms()), author)
    for kind in ListKind:
        await build(cache, kind=kind, user=author)
    clock = iter([now_ms(), now_ms() + limits.late_after_ms])
    monkeypatch.setattr(cache.lists._pusher, "_clock_ms", lambda: next(clock))
    await cache.lists.push_own(one)
    for kind in ListKind:
        assert (await seen(cache, kind=kind, user=author)).header.late == 2


async def test_an_own_push_to_a_node_that_hangs_ends_as_unavailable(opened: OpenCache, redis_nodes: Nodes) -> None:
    cache = await opened(redis_timeout_ms=300)
    author = UserId(7)
    with hanging(redis_nodes, redis_nodes.owner(slot_of(raw(cache, user=author)))):
        for at_ms in (0, now_ms() - EPOCH_MS):
            started = time.monotonic()
            with pytest.raises(Unavailable):
                await cache.lists.push_own(entry(at_ms, author))
            assert time.monotonic() - started < 1


class OneBatch:
    """fanout's Events and Followers: this entry, for these users."""

    def __init__(self, one: Entry, users: Sequence[int]) -> None:
        self._batches = [Batch([TweetCreated(one.tweet_id, one.author_id, 0)], None)]
        self._page = FollowerPage(one.author_id, np.array(users, np.int64))
        self.is_done = asyncio.Event()

    async def batch(self) -> Batch[TweetCreated]:
        if not self._batches:
            await asyncio.Event().wait()
        return self._batches.pop()

    async def done(self, batch: Batch[TweetCreated]) -> None:
        self.is_done.set()

    async def shards(self, authors: Sequence[UserId]) -> Mapping[UserId, int]:
        return dict.fromkeys(authors, 1)

    async def pages(self, authors: Sequence[UserId], patiently: Patiently = at_once) -> AsyncIterator[FollowerPage]:
        yield self._page

    async def shard(self, author: UserId, shard: int) -> UserIds:
        raise AssertionError("nobody has so many followers")

    async def count(self, author: UserId, at_most: int) -> int:
        raise AssertionError("nobody is pulled")


class NoClasses:
    """fanout's Classes: everybody is pushed, and a hole cannot be recorded."""

    def may_skip(self, authors: Sequence[UserId]) -> set[UserId]:
        return set()

    def stands(self, author: UserId) -> bool:
        return False

    async def begin_pull(self, author: UserId) -> None:
        raise AssertionError("nobody has so many followers")

    async def end_pull(self, author: UserId) -> None:
        raise AssertionError("nobody is pulled")

    async def record_hole(self, away: Away) -> bool:
        return False

    async def settled(self) -> None:
        return None

    async def end_hole(self, node: str, *, used: bool = True) -> None:
        return


class Counted:
    """fanout's Pushes, and how often it was asked."""

    def __init__(self, cache: Cache) -> None:
        self._lists = cache.lists
        self.tries = 0
        self.push_profiles, self.away = cache.lists.push_profiles, cache.lists.away
        self.slots_of = cache.lists.slots_of

    async def push(self, deliveries: Sequence[Delivery]) -> int:
        self.tries += 1
        return await self._lists.push(deliveries)


@pytest.mark.parametrize("age_ms", [0, 60_000])
@pytest.mark.parametrize(("away", "keeps_lists"), [(hanging, True), (killed, False)])
async def test_while_a_node_is_away_lists_on_the_others_get_what_is_repeated_for_it_once(
    opened: OpenCache,
    redis_nodes: Nodes,
    away: Callable[[Nodes, str], AbstractContextManager[None]],
    keeps_lists: bool,
    age_ms: int,
) -> None:
    cache = await opened(redis_timeout_ms=300, retry_pause_max_ms=100, timeline_entries_max=4, timeline_slack=2)
    users = list(range(1, 61))
    for user in users:
        await build(cache, 1, 2, user=UserId(user))
    server = redis_nodes.addresses[1]
    there = [user for user in users if redis_nodes.owner(slot_of(raw(cache, user=UserId(user)))) == server]
    assert 0 < len(there) < len(users)
    author = next(
        UserId(user) for user in range(100, 200) if redis_nodes.owner(slot_of(raw(cache, user=UserId(user)))) != server
    )
    await build(cache, kind=PROFILE, user=author)
    one = Entry(first_id_at(now_ms() - age_ms), author)
    work, pushes, stopping = OneBatch(one, users), Counted(cache), asyncio.Event()
    with away(redis_nodes, server):
        limits = cache.lists._limits
        worker = Fanout(work, FakeSlices(), work, FakeProgress(), pushes, NoClasses(), limits, push_followers_max=1_000)
        running = asyncio.create_task(run_fanout(worker, limits, stopping))

        async def tried_often() -> bool:
            return pushes.tries >= 20

        await eventually(tried_often)
        assert not work.is_done.is_set()
    async with asyncio.timeout(20):
        await work.is_done.wait()
    stopping.set()
    await running
    assert to_list((await seen(cache, kind=PROFILE, user=author)).entries) == [one]
    for user in users:
        if user in there and not keeps_lists:
            assert await cache.lists.read(HOME, UserId(user), None) is None
            continue
        view = await seen(cache, user=UserId(user))
        copies = Counter(each.tweet_id for each in to_list(view.entries))
        if user in there:
            assert copies[one.tweet_id] >= 1
            assert view.header.late > 0 or age_ms == 0
        else:
            assert copies == {entry(1).tweet_id: 1, entry(2).tweet_id: 1, one.tweet_id: 1}
            assert (view.header.late, view.header.floor) == (3 if age_ms else 0, 0)


async def test_a_push_names_the_followers_who_remain_and_authors_as_their_own(
    opened: OpenCache, redis_nodes: Nodes
) -> None:
    cache = await opened(redis_timeout_ms=300)
    users = list(range(1, 31))
    server = redis_nodes.addresses[2]
    there = [user for user in users if redis_nodes.owner(slot_of(raw(cache, user=UserId(user)))) == server]
    fresh, old = entry(now_ms() - EPOCH_MS), entry(1)
    own = [(entry(at, user), at % 2 == 0) for at, user in enumerate(users)]
    with hanging(redis_nodes, server):
        for _ in range(3):  # at first it does not answer in time, then it is known to be down
            with pytest.raises(NotAcknowledged) as raised:
                await cache.lists.push([delivery(fresh, *users), delivery(old, *users[::-1], late=True)])
            left = [(each.entry, each.late, each.followers.tolist()) for each in raised.value.left]
            assert left == [(fresh, False, there), (old, True, there[::-1])]
            with pytest.raises(NotAcknowledged) as raised:
                await cache.lists.push_profiles(own)
            owners = [(each.entry, each.late) for each in raised.value.left for _ in each.followers.tolist()]
            assert sorted(owners, key=str) == sorted([each for each in own if each[0].author_id in there], key=str)


async def test_what_is_acknowledged_too_late_to_go_unmarked_is_not(
    opened: OpenCache, redis_nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = await opened(redis_timeout_ms=200)
    bulk = cache.plane.bulk

    async def slow(*arguments: object) -> object:
        replies = await bulk(*arguments)  # type: ignore[arg-type]
        time.sleep(0.5)  # the process stands still  # noqa: ASYNC251
        return replies

    await build(cache)
    monkeypatch.setattr(cache.plane, "bulk", slow)
    with pytest.raises(NotAcknowledged):
        await push(cache, entry(1))
    assert await push(cache, entry(1), late=True) == 1
    assert (await seen(cache)).header.late == 2


async def test_bytes_in_flight_that_stay_do_not_hold_up_a_push_for_longer_than_its_time(
    opened: OpenCache, redis_nodes: Nodes
) -> None:
    cache = await opened(redis_timeout_ms=500)
    server = redis_nodes.addresses[0]
    user = next(user for user in range(99) if redis_nodes.owner(slot_of(raw(cache, user=UserId(user)))) == server)
    node = cache.plane.topology.owners[slot_of(raw(cache, user=UserId(user)))]
    assert node is not None
    await build(cache, user=UserId(user))
    node._bulk_bytes += cache.lists._limits.fanout_bytes_in_flight
    started = time.monotonic()
    with pytest.raises(NotAcknowledged):
        await push(cache, entry(1), to=user)
    assert time.monotonic() - started < 1.5
    node._release(cache.lists._limits.fanout_bytes_in_flight)
    assert node._bulk_bytes == 0
    assert await push(cache, entry(1), to=user) == 1


async def test_a_library_that_cannot_be_loaded_spoils_only_the_calls_that_lack_it(
    cache: Cache, redis_nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = [UserId(user) for user in range(1, 31)]
    for user in users:
        await build(cache, user=user)
    server = redis_nodes.addresses[0]
    redis_nodes.client(server).execute_command("FUNCTION", "FLUSH", "SYNC")

    async def away(node: object) -> None:
        raise Unavailable("it has just gone away")

    with monkeypatch.context() as patched:
        patched.setattr(cache.lists._functions, "_load_once", away)
        calls = [(raw(cache, user=user), (entry(1).pack(),)) for user in users]
        replies = await cache.lists._functions.try_many("push_late", calls)
        there = [redis_nodes.owner(slot_of(key)) == server for key, _ in calls]
        assert [isinstance(reply, Unavailable) for reply in replies] == there
        with pytest.raises(NotAcknowledged) as raised:
            await cache.lists.push([delivery(entry(2), *users, late=True)])
        (left,) = raised.value.left
        assert left.followers.tolist() == [user for user, is_there in zip(users, there, strict=True) if is_there]
    assert await cache.lists.push(raised.value.left) == sum(there)
