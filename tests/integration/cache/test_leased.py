"""Leased records on a real cluster: what may be read after a change was answered, for every order of steps that matters."""

from __future__ import annotations

import asyncio
import itertools

import numpy as np
import pytest

from tests.integration.cache.conftest import OpenCache, eventually
from timeline.cache import Cache
from timeline.domain.ids import UserId
from timeline.domain.model import Reader
from timeline.domain.records import Marks

ME = UserId(42)
NONE = np.empty(0, np.int64)


def reader(version: int, *followees: int) -> Reader:
    ids = np.array(sorted(followees), np.int64)
    return Reader(ME, ids, np.full(len(ids), 5), NONE, NONE, NONE, version)


async def test_what_was_filled_is_read(cache: Cache) -> None:
    token = await cache.readers.begin_fill(ME)
    assert token is not None
    assert await cache.readers.get(ME) is None
    assert await cache.readers.fill(ME, token, reader(3, 7, 9))
    found = await cache.readers.get(ME)
    assert found is not None
    assert (found.version, found.followees.tolist(), found.since_ms.tolist()) == (3, [7, 9], [5, 5])


async def test_readers_and_marks_do_not_meet(cache: Cache) -> None:
    token = await cache.marks.begin_fill(ME)
    assert token is not None
    await cache.marks.fill(ME, token, Marks(np.array([5]), 1, np.array([6]), 2, 3))
    assert await cache.readers.get(ME) is None
    marks = await cache.marks.get(ME)
    assert marks is not None
    assert (marks.likes.tolist(), marks.likes_floor, marks.retweets.tolist(), marks.retweets_floor) == ([5], 1, [6], 2)


async def test_one_fill_at_a_time(cache: Cache) -> None:
    tokens = await asyncio.gather(*(cache.readers.begin_fill(ME) for _ in range(5)))
    assert sum(token is not None for token in tokens) == 1


async def test_a_record_bars_another_fill(cache: Cache) -> None:
    token = await cache.readers.begin_fill(ME)
    await cache.readers.fill(ME, token, reader(1))
    assert await cache.readers.begin_fill(ME) is None


async def test_a_fill_counts_once(cache: Cache) -> None:
    token = await cache.readers.begin_fill(ME)
    assert await cache.readers.fill(ME, token, reader(1))
    assert not await cache.readers.fill(ME, token, reader(2))


async def test_a_mark_hides_the_record_and_bars_fills(cache: Cache) -> None:
    token = await cache.readers.begin_fill(ME)
    await cache.readers.fill(ME, token, reader(1))
    await cache.readers.mark(ME)
    assert await cache.readers.get(ME) is None
    assert await cache.readers.begin_fill(ME) is None


async def test_who_marked_may_fill(cache: Cache) -> None:
    token = await cache.readers.mark(ME)
    assert await cache.readers.fill(ME, token, reader(2))
    assert await cache.readers.get(ME) is not None


async def test_a_fill_that_began_before_a_change_is_refused_during_and_after_it(cache: Cache) -> None:
    begun = await cache.readers.begin_fill(ME)
    await cache.readers.mark(ME)
    assert not await cache.readers.fill(ME, begun, reader(1))
    await cache.readers.drop(ME)
    assert not await cache.readers.fill(ME, begun, reader(1))
    assert await cache.readers.get(ME) is None


async def test_a_process_that_dies_after_its_mark_bars_fills_no_longer_than_the_lease(opened: OpenCache) -> None:
    cache = await opened(reader_lease_seconds=1, audit_second_look_ms=500)
    await cache.readers.mark(ME)
    assert await cache.readers.begin_fill(ME) is None
    token = None

    async def begun() -> bool:
        nonlocal token
        token = await cache.readers.begin_fill(ME)
        return token is not None

    await eventually(begun)
    assert await cache.readers.fill(ME, token, reader(2))


async def test_a_record_is_believed_no_longer_than_the_lease(opened: OpenCache) -> None:
    cache = await opened(reader_lease_seconds=1, audit_second_look_ms=500)
    token = await cache.readers.begin_fill(ME)
    await cache.readers.fill(ME, token, reader(2))

    async def gone() -> bool:
        return await cache.readers.get(ME) is None

    await eventually(gone)


@pytest.mark.parametrize("value", [b"", b"V", b"V\x09what", b"Vx", b"what", b"D", b"D12345678"])
async def test_a_value_that_is_no_record_is_a_miss(cache: Cache, value: bytes) -> None:
    key = cache.readers._key(ME)
    await cache.plane.execute(key, b"SET", key, value)
    assert await cache.readers.get(ME) is None


def interleavings(*lengths: int) -> list[tuple[int, ...]]:
    """Every order of the steps of so many actors that keeps each one's own."""
    steps = [actor for actor, length in enumerate(lengths) for _ in range(length)]
    return sorted(set(itertools.permutations(steps)))


async def test_no_read_after_an_answer_gets_what_was_before_it(cache: Cache) -> None:
    """Two changes, a and b (mark, write, drop), and a read through the cache, r (begin_fill, read, fill), in all of 1,680 orders."""
    for number, order in enumerate(interleavings(3, 3, 3)):
        await play(cache, UserId(1000 + number), order)


async def play(cache: Cache, user: UserId, order: tuple[int, ...]) -> None:
    """Actors 0 and 1 are the changes, 2 is the read. After each step, what the cache says has every change that was answered."""
    store: set[int] = set()
    token: int | None = None
    loaded: set[int] = set()
    done = [0, 0, 0]
    answered: set[int] = set()
    for actor in order:
        step = done[actor]
        done[actor] += 1
        if actor < 2:
            if step == 0:
                await cache.readers.mark(user)
            elif step == 1:
                store.add(actor + 1)
            else:
                await cache.readers.drop(user)
                answered.add(actor + 1)
        elif step == 0:
            token = await cache.readers.begin_fill(user)
        elif step == 1:
            loaded = set(store)
        elif token is not None:
            await cache.readers.fill(user, token, reader(1, *loaded))
        cached = await cache.readers.get(user)
        assert cached is None or answered <= set(cached.followees.tolist()), "".join("abr"[each] for each in order)
