"""Posts, states and authors on a real cluster."""

from __future__ import annotations

import pytest

from tests.integration.cache.conftest import OpenCache
from timeline.cache import Cache
from timeline.domain.ids import TweetId, UserId
from timeline.domain.model import Counts
from timeline.domain.records import Author, Post, State
from timeline.metrics import CACHE_READS


def post(tweet: int, version: int = 1, body: bytes = b'"text":"hi"') -> Post:
    return Post(version, TweetId(tweet), UserId(7), body)


def author(user: int, version: int = 1, name: bytes = b"{}") -> Author:
    return Author(version, UserId(user), "alice", name)


async def test_what_was_put_is_there_and_the_rest_is_absent(cache: Cache) -> None:
    posts = [post(tweet, body=b"%d" % tweet) for tweet in range(1, 41)]
    await cache.contents.put_posts(posts, cache.contents.moment())
    hits = CACHE_READS.labels("post", "hit")._value.get()
    misses = CACHE_READS.labels("post", "miss")._value.get()
    found = await cache.contents.posts([TweetId(tweet) for tweet in range(31, 51)])
    assert found == {one.tweet_id: one for one in posts[30:]}
    assert CACHE_READS.labels("post", "hit")._value.get() - hits == 10
    assert CACHE_READS.labels("post", "miss")._value.get() - misses == 10


async def test_nothing_asked_is_nothing_found(cache: Cache) -> None:
    assert await cache.contents.posts([]) == {}
    await cache.contents.put_posts([], cache.contents.moment())
    await cache.contents.put_states({}, cache.contents.moment())


VERSIONS = [
    (1, 2),
    (127, 128),
    (255, 256),
    (2**32 - 1, 2**32),
    (2**53, 2**53 + 1),
    (0xDF, 0xE0),
    (0x41, 0x61),
]


@pytest.mark.parametrize(("older", "newer"), VERSIONS)
async def test_older_is_never_put_over_newer(cache: Cache, older: int, newer: int) -> None:
    tweet = TweetId(9)
    await cache.contents.put_state(tweet, State(older, False, False))
    await cache.contents.put_state(tweet, State(newer, True, False))
    assert (await cache.contents.states([tweet]))[tweet].version == newer
    await cache.contents.put_state(tweet, State(older, False, False))
    assert (await cache.contents.states([tweet]))[tweet] == State(newer, True, False)
    await cache.contents.put_posts([post(9, newer, b"new"), post(9, older, b"old")], cache.contents.moment())
    assert (await cache.contents.posts([tweet]))[tweet].body == b"new"
    await cache.contents.put_authors([author(5, newer, b"new"), author(5, older, b"old")], cache.contents.moment())
    assert (await cache.contents.authors([UserId(5)]))[UserId(5)].body == b"new"


async def test_counts_change_without_a_new_version(cache: Cache) -> None:
    tweet = TweetId(9)
    await cache.contents.put_state(tweet, State(4, False, False, Counts(1)))
    await cache.contents.put_state(tweet, State(4, False, False, Counts(2)))
    assert (await cache.contents.states([tweet]))[tweet].counts.likes == 2


async def test_each_kind_expires_as_its_limit_says(opened: OpenCache) -> None:
    cache: Cache = await opened(post_seconds=100, state_seconds=200, author_seconds=300)
    await cache.contents.put_posts([post(9)], cache.contents.moment())
    await cache.contents.put_state(TweetId(9), State(1, False, False))
    await cache.contents.put_authors([author(9)], cache.contents.moment())
    keys = cache.contents._keys
    for key, seconds in ((keys.post(9), 100), (keys.state(9), 200), (keys.author(9), 300)):
        assert seconds * 1000 - 5_000 < await cache.plane.execute(key, b"PTTL", key) <= seconds * 1000


async def test_a_value_under_the_wrong_id_or_of_an_unknown_layout_is_a_miss(cache: Cache) -> None:
    keys, plane = cache.contents._keys, cache.plane
    await plane.execute(keys.post(1), b"SET", keys.post(1), post(2).pack())
    await plane.execute(keys.author(1), b"SET", keys.author(1), author(2).pack())
    await plane.execute(keys.state(1), b"SET", keys.state(1), b"\x63 from another release")
    assert await cache.contents.posts([TweetId(1)]) == {}
    assert await cache.contents.authors([UserId(1)]) == {}
    assert await cache.contents.states([TweetId(1)]) == {}


async def test_a_value_of_an_unknown_layout_is_replaced(cache: Cache) -> None:
    key = cache.contents._keys.state(1)
    await cache.plane.execute(key, b"SET", key, b"\x63" + b"\xff" * 30)
    await cache.contents.put_state(TweetId(1), State(1, False, False))
    assert (await cache.contents.states([TweetId(1)]))[TweetId(1)].version == 1


async def test_a_dropped_author_is_gone(cache: Cache) -> None:
    await cache.contents.put_authors([author(5)], cache.contents.moment())
    await cache.contents.drop_author(UserId(5))
    assert await cache.contents.authors([UserId(5)]) == {}
