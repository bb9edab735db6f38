"""Lists of entries on a real cluster: building, pushing, cutting, reading."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from tests.integration.cache.conftest import OpenCache, eventually
from timeline.assembly.ports import ListView
from timeline.assembly.skeleton import sure_line
from timeline.cache import Cache
from timeline.domain.entries import NO_ENTRIES, Entry, Stretch, of, to_list
from timeline.domain.ids import EPOCH_MS, TweetId, UserId, first_id_at, time_ms
from timeline.domain.records import Header, ListKind
from timeline.fanout.ports import Delivery
from timeline.metrics import DELIVERIES, PUSHES, TRIMS

HOME, PROFILE = ListKind.home, ListKind.profile
READER = UserId(42)
SECOND = 1000


def entry(at_ms: int, author: int = 7) -> Entry:
    """An entry whose id was minted so long after the epoch."""
    return Entry(TweetId(first_id_at(EPOCH_MS + at_ms)), UserId(author))


def history(*times: int, complete_from: int = 0) -> Stretch:
    return Stretch(of([entry(at) for at in sorted(times, reverse=True)]), complete_from)


def delivery(one: Entry, *followers: int, late: bool = False) -> Delivery:
    return Delivery(one, np.array(followers, np.int64), late)


async def push(cache: Cache, *entries: Entry, to: int = READER, late: bool = False) -> int:
    return await cache.lists.push([delivery(one, to, late=late) for one in entries])


async def build(cache: Cache, *times: int, kind: ListKind = HOME, user: UserId = READER, complete_from: int = 0) -> int:
    token = await cache.lists.begin_build(kind, user)
    assert token is not None
    assert await cache.lists.install(kind, user, token, history(*times, complete_from=complete_from), 1234)
    return token


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
    token = await cache.lists.begin_build(HOME, READER)
    await push(cache, entry(5), entry(4))
    assert await cache.lists.install(HOME, READER, token, history(1, 2, 3, complete_from=9), 1234)
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
    token = await cache.lists.begin_build(HOME, READER)
    assert not await cache.lists.install(HOME, READER, token ^ 2, history(1), 1)
    assert (await seen(cache)).header.building
    assert await cache.lists.install(HOME, READER, token, history(1), 1)
    assert not await cache.lists.install(HOME, READER, token, history(2), 1)
    assert times(await seen(cache)) == [1]


async def test_a_builder_that_died_leaves_nothing(opened: OpenCache) -> None:
    cache = await opened(building_seconds=1)
    token = await cache.lists.begin_build(HOME, READER)
    await push(cache, entry(5))

    async def gone() -> bool:
        return await cache.lists.read(HOME, READER, None) is None

    await eventually(gone)
    assert not await cache.lists.install(HOME, READER, token, history(1), 1)
    assert await cache.lists.read(HOME, READER, None) is None


async def test_a_builder_that_is_slow_does_not_install_over_its_successor(opened: OpenCache) -> None:
    cache = await opened()
    slow = await cache.lists.begin_build(HOME, READER)
    await cache.lists.abandon(HOME, READER, slow)
    await build(cache, 9)
    assert not await cache.lists.install(HOME, READER, slow, history(1), 1)
    assert times(await seen(cache)) == [9]


async def test_an_abandoned_list_is_removed_only_while_it_is_built_under_that_token(cache: Cache) -> None:
    token = await cache.lists.begin_build(HOME, READER)
    await cache.lists.abandon(HOME, READER, token ^ 2)
    assert (await seen(cache)).header.building
    await cache.lists.install(HOME, READER, token, history(1), 1)
    await cache.lists.abandon(HOME, READER, token)
    assert times(await seen(cache)) == [1]


async def test_a_late_push_is_noted_by_its_arrival_number(cache: Cache) -> None:
    await build(cache, 1, 2)
    await push(cache, entry(5))
    await push(cache, entry(3), late=True)
    assert (await seen(cache)).header.late == 4
    await push(cache, entry(6))
    assert (await seen(cache)).header.late == 4


async def test_a_late_push_during_building_is_mapped_to_its_arrival_number_after_it(cache: Cache) -> None:
    token = await cache.lists.begin_build(HOME, READER)
    await push(cache, entry(50 * SECOND))
    await push(cache, entry(49 * SECOND), late=True)
    await push(cache, entry(51 * SECOND))
    await cache.lists.install(HOME, READER, token, history(1, 2, 52 * SECOND), 1)
    view = await seen(cache)
    assert view.header.late == 5
    assert to_list(view.entries)[5 - view.first_arrival] == entry(49 * SECOND)


async def test_a_tail_after_a_slow_build_promises_nothing_that_it_lacks(cache: Cache) -> None:
    token = await cache.lists.begin_build(HOME, READER)
    arrived = [entry(at * SECOND) for at in range(100, 105)]
    await push(cache, *arrived)
    pulled_late = 130 * SECOND  # minted 30 s after the first arrival, pulled, and not yet pushed
    await cache.lists.install(HOME, READER, token, history(1, 2, pulled_late), 1)
    for newest in range(1, 8):
        view = await seen(cache, newest)
        line = sure_line(view, 10_000)
        held = {one.tweet_id for one in to_list(view.entries)}
        assert all(one.tweet_id in held for one in [*arrived, entry(pulled_late)] if one.tweet_id >= line)


async def test_a_quick_build_leaves_its_tails_sure(cache: Cache) -> None:
    token = await cache.lists.begin_build(HOME, READER)
    await push(cache, entry(100 * SECOND))
    await cache.lists.install(HOME, READER, token, history(1, 2, 109 * SECOND), 1)
    assert (await seen(cache)).header.late == 0


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
    token = await cache.lists.begin_build(HOME, READER)
    await push(cache, *[entry(at) for at in range(10, 20)])
    await cache.lists.install(HOME, READER, token, history(1), 1)
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
    await cache.lists.push_own(entry(1))
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


async def test_drop_removes_the_epoch_that_was_seen_and_no_other(cache: Cache) -> None:
    await build(cache, 1)
    old = (await seen(cache)).header
    await cache.lists.drop(HOME, READER, old)
    assert await cache.lists.read(HOME, READER, None) is None
    await build(cache, 2)
    await cache.lists.drop(HOME, READER, old)
    assert times(await seen(cache)) == [2]
    assert (await seen(cache)).header.epoch != old.epoch


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
    token = await cache.lists.begin_build(HOME, READER)
    await push(cache, entry(5))
    assert await cache.lists.install(HOME, READER, token, Stretch(NO_ENTRIES, 0), 1)
    assert times(await seen(cache)) == [5]
