"""Counts of likes on a real Cassandra: exact where they are few, shared for a second where they are many."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from timeline.domain.ids import TweetId, UserId
from timeline.store import Store, counting
from timeline.store.counting import Counting
from timeline.store.likes import _COUNT
from timeline.store.session import Columns, Cql, Params

AT = 1_790_000_000_000_000


class Counted:
    """A session that says how often the mirror was read, and a clock that stands."""

    def __init__(self, store: Store) -> None:
        self._session, self.reads, self.time = store.session, 0, 100.0

    async def columns(self, cql: Cql, params: Params, state: Any = None) -> tuple[Columns, Any]:
        self.reads += 1
        return await self._session.columns(cql, params, state)

    def counting(self, many: int) -> Counting:
        session: Any = self  # of a whole session, counting asks for columns alone
        return Counting(session, _COUNT, many=many, now=lambda: self.time)


async def test_a_few_are_counted_each_time(store: Store, users: Iterator[UserId]) -> None:
    session, tweet = Counted(store), TweetId(9_001)
    likes = session.counting(many=5)
    for number in range(4):
        assert await likes.count(tweet) == number
        await store.likes.like(next(users), tweet, AT)
    assert session.reads == 4


async def test_many_are_counted_once_a_second_and_nobody_waits_for_who_counts(
    store: Store, users: Iterator[UserId]
) -> None:
    session, tweet, people = Counted(store), TweetId(9_002), [next(users) for _ in range(7)]
    likes = session.counting(many=5)
    for person in people[:5]:
        await store.likes.like(person, tweet, AT)
    assert await likes.count(tweet) == 5
    await store.likes.like(people[5], tweet, AT)
    assert [await likes.count(tweet) for _ in range(20)] == [5] * 20
    session.time += counting.SECONDS
    told = await asyncio.gather(*(likes.count(tweet) for _ in range(20)))
    assert sorted(told) == [5] * 19 + [6], "one of them has counted"
    assert session.reads == 2
    for person in people[:4]:
        await store.likes.unlike(person, tweet, AT + 1)
    session.time += counting.SECONDS
    assert [await likes.count(tweet) for _ in range(3)] == [2] * 3
    assert session.reads == 5, "they are few again"


async def test_a_count_that_fails_leaves_what_was_known_for_a_second(
    store: Store, users: Iterator[UserId], monkeypatch: pytest.MonkeyPatch
) -> None:
    session, tweet = Counted(store), TweetId(9_003)
    likes = session.counting(many=1)
    await store.likes.like(next(users), tweet, AT)
    assert await likes.count(tweet) == 1
    session.time += counting.SECONDS
    with monkeypatch.context() as patch:
        patch.setattr(session, "columns", None)
        with pytest.raises(TypeError):
            await likes.count(tweet)
        assert await likes.count(tweet) == 1
    session.time += counting.SECONDS
    assert await likes.count(tweet) == 1
    assert session.reads == 2


async def test_what_is_remembered_is_bounded(
    store: Store, users: Iterator[UserId], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "TWEETS_MAX", 3)
    likes, person = Counted(store).counting(many=1), next(users)
    for number in range(9_010, 9_018):
        await store.likes.like(person, TweetId(number), AT)
        assert await likes.count(TweetId(number)) == 1
    assert list(likes._counted) == [9_015, 9_016, 9_017]
