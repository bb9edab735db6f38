"""The pull path's source against a recomputation over everything that was written."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from tests.integration.store.conftest import tweet
from timeline.domain.entries import NO_ENTRIES, Entry, Stretch, to_list
from timeline.domain.ids import ID_MAX, TweetId, UserId, bucket
from timeline.domain.limits import Limits
from timeline.domain.model import Tweet, TweetKey
from timeline.store import Store
from timeline.store.history import BUCKETS_PER_CALL_MAX, StoreHistory

NOW = 1_790_000_000_000
BUCKET_MS = 1 << 31  # 24.8 days


@dataclass
class World:
    """What was written."""

    tweets: list[Tweet]
    authors: list[UserId]

    def expected(self, authors: Sequence[int], low: int, below: int) -> list[Entry]:
        found = [
            item.entry
            for item in self.tweets
            if item.author_id in authors and low <= item.id < below and not item.deleted
        ]
        return sorted(found, key=lambda entry: -entry.tweet_id)

    def has_older(self, authors: Sequence[int], than: int) -> bool:
        return any(item.author_id in authors and item.id < than for item in self.tweets)


async def make_world(store: Store, users: Iterator[UserId], seed: int, months: int, most: int, authors: int) -> World:
    """Authors from silent to busy, over `months` buckets; a tenth of the tweets deleted, replies and retweets among them."""
    rng = random.Random(seed)
    world = World([], [next(users) for _ in range(authors)])
    seen: set[int] = set()
    for author in world.authors:
        busy = rng.choice([0, 1, 3, most])
        for _ in range(rng.randrange(busy + 1)):
            item = tweet(
                author, NOW - rng.randrange(months) * BUCKET_MS - rng.randrange(4) * 1000, rng.randrange(1 << 20)
            )
            if item.id in seen:
                continue
            seen.add(item.id)
            kind = rng.randrange(4)
            if kind == 0:
                item = replace(item, reply_to=TweetId(9), reply_to_user=UserId(rng.randrange(1, 1 << 62)))
            elif kind == 1:
                item = replace(item, text="", retweet_of=TweetId(rng.randrange(1 << 62)), retweet_author=UserId(3))
            await store.tweets.rewrite(item)
            if rng.random() < 0.1:
                item = replace(item, deleted=True, version=item.version + 1)
                await store.tweets.delete(TweetKey(item.author_id, item.id), item.version)
            world.tweets.append(item)
    return world


async def walk(history: StoreHistory, world: World, authors: list[UserId], below: int, per_author: int) -> list[Entry]:
    """Down to the beginning of history, every step checked."""
    walked: list[Entry] = []
    while below > 0:
        stretch = await history.stretch(np.array(authors, np.int64), below, per_author)
        assert stretch.complete_from < below, "no progress"
        assert to_list(stretch.entries) == world.expected(authors, stretch.complete_from, below)
        assert (stretch.complete_from == 0) == (not world.has_older(authors, stretch.complete_from))
        walked += to_list(stretch.entries)
        below = stretch.complete_from
    return walked


@pytest.mark.parametrize("seed", range(8))
async def test_a_walk_yields_exactly_what_was_written(store: Store, users: Iterator[UserId], seed: int) -> None:
    rng = random.Random(seed)
    world = await make_world(store, users, seed, months=rng.choice([1, 3, 30]), most=rng.choice([4, 40]), authors=60)
    history = StoreHistory(store.session, Limits(pull_authors_per_query=rng.choice([1, 7, 25])))
    for per_author in (1, 2, 20):
        authors = rng.sample(world.authors, rng.choice([1, 5, 60]))
        assert await walk(history, world, authors, ID_MAX, per_author) == world.expected(authors, 0, ID_MAX)
    for _ in range(10):
        below = rng.choice([item.id + rng.randrange(2) for item in world.tweets])
        assert await walk(history, world, world.authors, below, 5) == world.expected(world.authors, 0, below)


async def test_nobody_and_nothing_is_the_beginning_of_history(store: Store, users: Iterator[UserId]) -> None:
    nobody = np.empty(0, np.int64)
    for authors, below in ((nobody, ID_MAX), (np.array([next(users)]), ID_MAX), (np.array([next(users)]), 0)):
        stretch = await store.history.stretch(authors, below, 20)
        assert (len(stretch.entries), stretch.complete_from) == (0, 0)
    assert Stretch(NO_ENTRIES, 0).complete_from == 0


async def test_deleted_tweets_make_an_empty_stretch_that_goes_on(store: Store, users: Iterator[UserId]) -> None:
    author = next(users)
    items = [tweet(author, NOW + number) for number in range(6)]
    for item in items:
        await store.tweets.rewrite(item)
    for item in items[2:]:
        await store.tweets.delete(TweetKey(author, item.id), item.version + 1)
    first = await store.history.stretch(np.array([author]), ID_MAX, 2)
    assert (len(first.entries), first.complete_from) == (0, items[4].id)
    world = World([*items[:2], *(replace(item, deleted=True) for item in items[2:])], [author])
    assert await walk(store.history, world, [author], ID_MAX, 2) == [items[1].entry, items[0].entry]


async def test_a_long_silence_is_passed_without_reading_it(store: Store, users: Iterator[UserId]) -> None:
    author = next(users)
    items = [tweet(author, NOW - month * BUCKET_MS) for month in (0, 3, 90)]
    for item in items:
        await store.tweets.rewrite(item)
    stretch = await store.history.stretch(np.array([author]), items[0].id, 1)
    assert to_list(stretch.entries) == [items[1].entry]
    assert stretch.complete_from == (bucket(items[2].id) + 1) << 53
    stretch = await store.history.stretch(np.array([author]), stretch.complete_from, 1)
    assert (to_list(stretch.entries), stretch.complete_from) == ([items[2].entry], 0)


async def test_more_buckets_than_one_call_passes_are_all_walked(store: Store, users: Iterator[UserId]) -> None:
    authors = [next(users), next(users)]
    items = [tweet(authors[0], NOW - month * BUCKET_MS) for month in range(2 * BUCKETS_PER_CALL_MAX + 3)]
    items.append(tweet(authors[1], NOW - 17 * BUCKET_MS, 5))
    for item in items:
        await store.tweets.rewrite(item)
    world = World(items, authors)
    assert await walk(store.history, world, authors, ID_MAX, 100) == world.expected(authors, 0, ID_MAX)


async def test_a_bucket_of_more_than_a_page_comes_whole(store: Store, users: Iterator[UserId]) -> None:
    authors = [next(users) for _ in range(8)]
    items = [tweet(author, NOW, number) for author in authors for number in range(0, 900 * 8, 8)]
    items = [replace(item, id=TweetId(item.id + authors.index(item.author_id))) for item in items]
    for start in range(0, len(items), 100):
        await _write(store, items[start : start + 100])
    stretch = await store.history.stretch(np.array(authors), ID_MAX, 900)
    assert stretch.complete_from == 0
    assert len(stretch.entries) == 7200
    assert np.array_equal(stretch.entries["tweet"], sorted((item.id for item in items), reverse=True))


async def _write(store: Store, items: list[Tweet]) -> None:
    from timeline.store.tweets import _places

    await store.session.batch("t", [part for item in items for part in _places(item)[:2]], logged=False)
