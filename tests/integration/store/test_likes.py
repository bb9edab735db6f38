"""Likes by compare-and-set, and who liked or retweeted a tweet by time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.integration.store.test_decisions import Unsure, nobody
from timeline.domain.errors import OutcomeUnknown
from timeline.domain.ids import TweetId, UserId
from timeline.domain.limits import Limits
from timeline.store import Store, by_time
from timeline.store.by_time import Mark, MarksByTime
from timeline.store.likes import Likes
from timeline.writing.ports import Liked, Retweeted

AT = 1_790_000_000_000_000


async def listed(store: Store, tweet_id: TweetId, limit: int = 3, kind: str = "likers") -> list[int]:
    """Every page; each is full but the last."""
    found: list[int] = []
    below = None
    while True:
        users, below = await getattr(store.by_time, kind)(tweet_id, below, limit)
        found += users
        if below is None:
            return found
        assert len(users) == limit


async def test_a_like_is_one_however_often_and_ends(store: Store, users: Iterator[UserId]) -> None:
    me, tweet = next(users), TweetId(1)
    assert await store.likes.unlike(me, tweet, AT) is None
    assert await store.likes.like(me, tweet, AT) == Liked(True, AT)
    assert await store.likes.like(me, tweet, AT + 9) == Liked(True, AT)
    assert await store.likes.count(tweet) == 1
    assert await store.marks.marked(me, [tweet]) == ({tweet}, set())
    assert await store.likes.unlike(me, tweet, AT - 9) == Liked(False, AT + 1)
    assert await store.likes.unlike(me, tweet, AT + 9) == Liked(False, AT + 1)
    assert (await store.likes.count(tweet), await listed(store, tweet)) == (0, [])
    assert await store.likes.like(me, tweet, AT) == Liked(True, AT + 2)
    assert (await store.likes.count(tweet), await listed(store, tweet)) == (1, [me])


async def test_decisions_at_once_end_with_truth_and_mirrors_equal(store: Store, users: Iterator[UserId]) -> None:
    rng = random.Random(1)
    people, tweet = [next(users) for _ in range(4)], TweetId(2)

    async def decide(person: UserId) -> None:
        with suppress(OutcomeUnknown):  # overtaken too often: whoever was last has written the mirror
            if rng.random() < 0.5:
                await store.likes.like(person, tweet, AT)
            else:
                await store.likes.unlike(person, tweet, AT)

    await asyncio.gather(*(decide(person) for person in people for _ in range(10)))
    liking = {person for person in people if (await store.marks.marked(person, [tweet]))[0]}
    assert await store.likes.count(tweet) == len(liking)
    assert set(await listed(store, tweet)) == liking


@pytest.mark.parametrize("applied", [True, False])
async def test_an_unknown_outcome_of_a_like_is_settled_by_reading(
    store: Store, users: Iterator[UserId], applied: bool
) -> None:
    me, tweet = next(users), TweetId(3)
    assert await Likes(Unsure(store, applied)).like(me, tweet, AT) == Liked(True, AT)  # type: ignore[arg-type]
    assert await Likes(Unsure(store, applied)).unlike(me, tweet, AT + 5) == Liked(False, AT + 5)  # type: ignore[arg-type]


async def test_likers_are_paged_newest_first_each_once(store: Store, users: Iterator[UserId]) -> None:
    """Over all shards, with several at one moment, and in pages of any size."""
    rng = random.Random(2)
    tweet, people = TweetId(4), [next(users) for _ in range(40)]
    at = {person: AT + rng.randrange(15) for person in people}
    for person in people:
        await store.likes.like(person, tweet, at[person])
    expected = sorted(people, key=lambda person: (at[person], person), reverse=True)
    for limit in (1, 7, 40, 100):
        assert await listed(store, tweet, limit) == expected
    await store.likes.unlike(expected[5], tweet, AT + 50)
    await store.likes.unlike(expected[20], tweet, AT + 50)
    await store.likes.like(expected[20], tweet, AT + 60)
    assert await listed(store, tweet, 7) == [expected[20], *expected[:5], *expected[6:20], *expected[21:]]


async def test_a_row_that_a_crash_left_behind_is_nobodys_like(store: Store, users: Iterator[UserId]) -> None:
    tweet, people = TweetId(5), [next(users) for _ in range(6)]
    for number, person in enumerate(people):
        await store.likes.like(person, tweet, AT + number)
    await store.session.run(*by_time.put_of(Mark.like, tweet, people[0], AT + 100))  # no decision of that version
    await store.session.run(*by_time.put_of(Mark.like, tweet, next(users), AT + 101))  # of one who never did
    assert await listed(store, tweet, 2) == people[::-1]


async def test_a_page_under_many_such_rows_is_short_and_goes_on(store: Store, users: Iterator[UserId]) -> None:
    tweet, person = TweetId(6), next(users)
    await store.likes.like(person, tweet, AT)
    for number in range(8):
        await store.session.run(*by_time.put_of(Mark.like, tweet, next(users), AT + 100 + number))
    few = MarksByTime(store.session, Limits(refill_rounds_max=2))
    first, below = await few.likers(tweet, None, 2)
    assert first == []
    assert below is not None
    found, rounds = [], 0
    while below is not None:
        some, below = await few.likers(tweet, below, 2)
        found += some
        rounds += 1
    assert (found, rounds < 6) == ([person], True)


async def test_retweeters_are_listed_in_the_same_way(store: Store, users: Iterator[UserId]) -> None:
    tweet, people = TweetId(7), [next(users) for _ in range(9)]
    for number, person in enumerate(people):
        await store.retweets.retweet(person, tweet, Retweeted(TweetId(100 + number), True, AT + number), nobody)
    await store.retweets.undo(people[4], tweet, AT + 50)
    assert await listed(store, tweet, 4, "retweeters") == [*people[:4:-1], *people[3::-1]]
    assert await listed(store, tweet) == []
