"""The pull path upwards against the pull path downwards, and both against what was written."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from tests.integration.store.conftest import tweet
from tests.integration.store.test_history import BUCKET_MS, NOW, World, make_world, walk
from timeline.domain.entries import Entry, to_list
from timeline.domain.ids import ID_MAX, UserId, bucket
from timeline.domain.limits import Limits
from timeline.domain.model import TweetKey
from timeline.store import Store, history
from timeline.store.history import StoreHistory


async def climb(history: StoreHistory, world: World, authors: list[UserId], above: int, per_author: int) -> list[Entry]:
    """Up to the top, every step checked; what was met, newest first."""
    climbed: list[Entry] = []
    while above < ID_MAX:
        rise = await history.rise(np.array(authors, np.int64), above, per_author)
        assert above < rise.complete_to <= ID_MAX, "no progress"
        assert to_list(rise.entries) == world.expected(authors, above + 1, rise.complete_to + 1)
        newer = any(item.author_id in authors and item.id > rise.complete_to for item in world.tweets)
        assert (rise.complete_to == ID_MAX) == (not newer)
        climbed = to_list(rise.entries) + climbed
        above = rise.complete_to
    return climbed


@pytest.mark.parametrize("seed", range(12))
async def test_up_and_down_yield_the_same(
    store: Store, users: Iterator[UserId], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(history, "BUCKETS_PER_CALL_MAX", rng.choice([1, 2, 3, 12]))
    world = await make_world(store, users, seed, months=rng.choice([1, 3, 9, 30]), most=rng.choice([4, 40]), authors=40)
    pulls = StoreHistory(store.session, Limits(pull_authors_per_query=rng.choice([1, 2, 7, 25])))
    for per_author in (1, 2, 3, 9):
        authors = rng.sample(world.authors, rng.choice([1, 5, 40]))
        down = await walk(pulls, world, authors, ID_MAX, per_author)
        assert await climb(pulls, world, authors, 0, per_author) == down
    for _ in range(6):
        above = rng.choice([item.id - rng.randrange(2) for item in world.tweets])
        up = await climb(pulls, world, world.authors, above, rng.choice([1, 3, 8]))
        down = await walk(pulls, world, world.authors, ID_MAX, 5)
        assert up == [entry for entry in down if entry.tweet_id > above]


async def test_nobody_and_nothing_is_the_top(store: Store, users: Iterator[UserId]) -> None:
    nobody = np.empty(0, np.int64)
    for authors, above in ((nobody, 0), (np.array([next(users)]), 0), (np.array([next(users)]), ID_MAX)):
        rise = await store.history.rise(authors, above, 20)
        assert (len(rise.entries), rise.complete_to) == (0, ID_MAX)


async def test_deleted_tweets_make_an_empty_rise_that_goes_on(store: Store, users: Iterator[UserId]) -> None:
    author = next(users)
    items = [tweet(author, NOW + number) for number in range(6)]
    for item in items:
        await store.tweets.rewrite(item)
    for item in items[:4]:
        await store.tweets.delete(TweetKey(author, item.id), item.version + 1)
    first = await store.history.rise(np.array([author]), 0, 2)
    assert (len(first.entries), first.complete_to) == (0, items[1].id)
    world = World([*(replace(item, deleted=True) for item in items[:4]), *items[4:]], [author])
    assert await climb(store.history, world, [author], 0, 2) == [items[5].entry, items[4].entry]


async def test_a_long_silence_is_passed_upwards_without_reading_it(store: Store, users: Iterator[UserId]) -> None:
    author = next(users)
    items = [tweet(author, NOW - month * BUCKET_MS) for month in (90, 3, 0)]
    for item in items:
        await store.tweets.rewrite(item)
    rise = await store.history.rise(np.array([author]), items[0].id, 1)
    assert to_list(rise.entries) == [items[1].entry]
    assert rise.complete_to == (bucket(items[2].id) << 53) - 1
    rise = await store.history.rise(np.array([author]), rise.complete_to, 1)
    assert (to_list(rise.entries), rise.complete_to) == ([items[2].entry], ID_MAX)
