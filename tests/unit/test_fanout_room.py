"""Room for what is under way, and how slices give way to tweets."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.unit.fake_clock import settle
from tests.unit.fake_fanout import LIMITS, Worker
from timeline.fanout.room import Parking, Room

SMALL = replace(LIMITS, fanout_parked_batches_max=2, fanout_parked_appends_max=10)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def entered(room: Room) -> bool:
    """Whether there is room now; then it is taken."""
    task = asyncio.create_task(room.enter())
    await settle()
    if not task.done():
        task.cancel()
    return not task.cancelled() and task.done()


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
    await room.enter()
    with room.parked(10):
        assert await entered(room)
        assert not await entered(room)
    room.leave()
    assert not await entered(room), "the one that was parked is under way again"


@pytest.mark.parametrize("appends", [0, 11])
async def test_nothing_and_too_much_are_not_parked(appends: int) -> None:
    room = Room(1, Parking(SMALL))
    await room.enter()
    with room.parked(appends):
        assert not await entered(room)


async def test_all_rooms_share_one_parking_and_free_it() -> None:
    parking = Parking(SMALL)
    one, other = Room(1, parking), Room(1, parking)
    await one.enter()
    await other.enter()
    with one.parked(1), other.parked(1):
        assert not parking.take(1)
    assert parking.take(10)


async def test_a_room_is_quiet_when_nothing_was_under_way_for_so_long() -> None:
    clock = Clock()
    room = Room(2, Parking(SMALL), clock)
    assert room.is_quiet(1.0)
    await room.enter()
    clock.now += 10
    assert not room.is_quiet(1.0)
    room.leave()
    assert not room.is_quiet(1.0)
    clock.now += 1
    assert room.is_quiet(1.0)


async def test_waiting_for_a_room_to_be_idle_ends_when_it_is_or_when_it_takes_too_long() -> None:
    room = Room(2, Parking(SMALL))
    await room.idle(60)
    await room.enter()
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
    await worker.tweets_room.enter()
    await worker.deliver_slice(-2)
    assert [len(push[0].followers) for push in worker.pushes.pushes] == [3, 3, 3, 1]
