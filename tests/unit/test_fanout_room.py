"""Room for what is under way, and how slices give way to tweets."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.unit.fake_clock import settle, until
from tests.unit.fake_fanout import LIMITS, FakeEvents, FakeFollowers, FakePushes, Running, Worker, event
from timeline.domain.events import FanoutSlice
from timeline.fanout.room import Parking, Room

SMALL = replace(LIMITS, fanout_parked_events_max=5, fanout_parked_appends_max=10)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def entered(room: Room) -> bool:
    """Whether there is room now; then it is taken."""
    task = asyncio.create_task(room.enter())
    await settle()
    if task.done():
        room.begin()
    else:
        task.cancel()
    return task.done() and not task.cancelled()


async def test_who_enters_last_waits_until_somebody_leaves() -> None:
    room = Room(1, Parking(SMALL))
    assert await entered(room)
    waiting = asyncio.create_task(room.enter())
    await settle()
    assert not waiting.done()
    room.leave()
    await waiting


async def test_what_is_parked_takes_no_room_and_takes_it_again() -> None:
    room = Room(1, Parking(SMALL))
    assert await entered(room)
    with room.parked(1, 10):
        assert await entered(room)
        assert not await entered(room)
    room.leave()
    assert not await entered(room), "the one that was parked is under way again"


@pytest.mark.parametrize(("events", "appends"), [(1, 0), (1, 11), (6, 1)])
async def test_nothing_and_too_much_are_not_parked(events: int, appends: int) -> None:
    room = Room(1, Parking(SMALL))
    assert await entered(room)
    with room.parked(events, appends):
        assert not await entered(room)


async def test_all_rooms_share_one_parking_and_free_it() -> None:
    parking = Parking(SMALL)
    one, other = Room(1, parking), Room(1, parking)
    assert await entered(one)
    assert await entered(other)
    with one.parked(3, 1), other.parked(2, 1):
        assert not parking.take(1, 1)
    assert parking.take(5, 10)


async def test_a_room_is_quiet_when_nothing_was_under_way_for_so_long() -> None:
    clock = Clock()
    room = Room(2, Parking(SMALL), clock)
    assert room.is_quiet(1.0)
    assert await entered(room)
    clock.now += 10
    assert not room.is_quiet(1.0)
    room.leave()
    assert not room.is_quiet(1.0)
    clock.now += 1
    assert room.is_quiet(1.0)


async def test_a_place_without_a_batch_disturbs_nobody() -> None:
    clock = Clock()
    room = Room(1, Parking(SMALL), clock)
    await room.enter()
    assert room.is_quiet(1.0)
    await asyncio.wait_for(room.idle(60), 1)
    room.begin()
    assert not room.is_quiet(1.0)


async def test_waiting_for_a_room_to_be_idle_ends_when_it_is_or_when_it_takes_too_long() -> None:
    room = Room(2, Parking(SMALL))
    await room.idle(60)
    assert await entered(room)
    await room.idle(0.01)
    waiting = asyncio.create_task(room.idle(60))
    await settle()
    assert not waiting.done()
    room.leave()
    await waiting


async def test_a_slice_goes_in_pieces_where_tweets_are_under_way_and_whole_where_there_are_none() -> None:
    limits = replace(LIMITS, fanout_followers_page=100, slice_piece=3, slice_waits_ms=1)
    worker = Worker({1: list(range(100, 110))}, shard_size=10, limits=limits)
    worker.followers.graph[1].append(1)
    await worker.deliver(1)
    await worker.deliver_slice()
    assert [len(push[0].followers) for push in worker.pushes.pushes] == [10]
    worker.pushes.pushes.clear()
    await worker.deliver(1)
    assert await entered(worker.tweets_room)
    await worker.deliver_slice(-2)
    assert [len(push[0].followers) for push in worker.pushes.pushes] == [3, 3, 3, 1]


async def test_a_slice_goes_whole_where_a_worker_waits_for_tweets() -> None:
    pushes, graph = FakePushes(), {1: list(range(100, 110))}
    limits = replace(LIMITS, fanout_followers_page=100, slice_piece=3, slice_waits_ms=1)
    worker = Running(FakeEvents(), FakeFollowers(graph, shard_size=10), pushes, limits)
    await worker.slices.produce([FanoutSlice.of(event(0, 1), 0)])
    await until(lambda: bool(worker.slices.done_slices) or worker.task.done())
    await worker.stop()
    assert [len(push[0].followers) for push in pushes.pushes] == [10]
