"""Retweets, marks and idempotency keys: rows changed by compare-and-set."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pytest

from timeline.domain.errors import OutcomeUnknown, Unavailable
from timeline.domain.ids import TweetId, UserId
from timeline.domain.limits import Limits
from timeline.store import Store
from timeline.store.idempotency import IdempotencyKeys
from timeline.store.marks import MARKS_MAX
from timeline.store.retweets import Retweets
from timeline.store.session import Cql, Kind, Params
from timeline.writing.ports import Reservation, Retweeted

AT = 1_790_000_000_000_000
_LIKE = Cql("t", "INSERT INTO likes_by_user (user_id, tweet_id, version, ended) VALUES (?, ?, ?, ?)", Kind.write)
_TTL = Cql("t", "SELECT TTL(tweet_id) FROM idempotency_keys WHERE user_id = ? AND key = ?")


async def nobody(ended: Retweeted) -> None:
    """Where no decision has ended."""
    raise AssertionError(f"{ended} is to be buried")


async def unburied(ended: Retweeted) -> None:
    """There are no rows of tweets."""


class Unsure:
    """A session whose first compare-and-set has an unknown outcome, done or not."""

    def __init__(self, store: Store, applied: bool) -> None:
        self._session, self._applied, self._first = store.session, applied, True

    def __getattr__(self, name: str) -> object:
        return getattr(self._session, name)

    async def compare_and_set(self, cql: Cql, params: Params) -> bool:
        first, self._first = self._first, False
        if first and self._applied:
            await self._session.compare_and_set(cql, params)
        if first:
            raise OutcomeUnknown("timed out")
        return await self._session.compare_and_set(cql, params)


async def test_a_retweet_is_made_once_undone_and_made_again(store: Store, users: Iterator[UserId]) -> None:
    me, source = next(users), TweetId(500)
    assert await store.retweets.undo(me, source, AT) is None
    first = Retweeted(TweetId(1), True, AT)
    assert await store.retweets.retweet(me, source, first, nobody) == first
    assert await store.retweets.retweet(me, source, Retweeted(TweetId(2), True, AT + 1), nobody) == first
    assert await store.retweets.count(source) == 1
    undone = Retweeted(TweetId(1), False, AT + 1)
    assert await store.retweets.undo(me, source, AT - 100) == undone
    assert await store.retweets.undo(me, source, AT + 100) == undone
    assert await store.retweets.count(source) == 0
    buried = []

    async def bury(ended: Retweeted) -> None:
        buried.append((ended, await store.retweets.count(source)))

    third = Retweeted(TweetId(3), True, AT + 2)
    assert await store.retweets.retweet(me, source, Retweeted(TweetId(3), True, AT), bury) == third
    assert buried == [(undone, 0)], "while nothing else stands yet"
    assert await store.retweets.count(source) == 1


async def test_what_cannot_be_buried_is_not_followed_by_another_decision(store: Store, users: Iterator[UserId]) -> None:
    me, source = next(users), TweetId(499)
    await store.retweets.retweet(me, source, Retweeted(TweetId(1), True, AT), nobody)
    undone = await store.retweets.undo(me, source, AT + 1)

    async def bury(ended: Retweeted) -> None:
        raise Unavailable("its row cannot be removed")

    with pytest.raises(Unavailable):
        await store.retweets.retweet(me, source, Retweeted(TweetId(2), True, AT + 2), bury)
    assert await store.retweets.undo(me, source, AT + 3) == undone


async def test_decisions_at_once_end_with_truth_and_mirror_equal(store: Store, users: Iterator[UserId]) -> None:
    rng = random.Random(1)
    people, source = [next(users) for _ in range(4)], TweetId(501)

    async def decide(person: UserId) -> None:
        with suppress(OutcomeUnknown):  # overtaken too often: whoever was last has written the mirror
            if rng.random() < 0.5:
                mine = Retweeted(TweetId(rng.randrange(1 << 40)), True, AT)
                await store.retweets.retweet(person, source, mine, unburied)
            else:
                await store.retweets.undo(person, source, AT)

    await asyncio.gather(*(decide(person) for person in people for _ in range(10)))
    active = await store.retweets.retweets_of(np.array(people), [source])
    assert await store.retweets.count(source) == len(active)


async def test_retweets_of_some_sources_by_some_users_are_found(store: Store, users: Iterator[UserId]) -> None:
    people = [next(users) for _ in range(60)]
    sources = [TweetId(number) for number in range(600, 640)]
    expected = set()
    for number, person in enumerate(people):
        for source in (sources[number % 40], sources[(number * 7) % 40]):
            mine = Retweeted(TweetId(number * 1000 + source), True, AT)
            stands = await store.retweets.retweet(person, source, mine, nobody)
            expected.add((person, source, stands.retweet_id))
    await store.retweets.undo(people[0], sources[0], AT + 1)
    expected = {found for found in expected if found[:2] != (people[0], sources[0])}
    found = await store.retweets.retweets_of(np.array(people), sources)
    assert set(found) == expected
    assert len(found) == len(expected)
    some = await store.retweets.retweets_of(np.array(people[:30]), sources[:5])
    assert set(some) == {row for row in expected if row[0] in people[:30] and row[1] in sources[:5]}
    assert await store.retweets.retweets_of(np.array(people), []) == []


@pytest.mark.parametrize("applied", [True, False])
async def test_an_unknown_outcome_of_a_retweet_is_settled_by_reading(
    store: Store, users: Iterator[UserId], applied: bool
) -> None:
    me, source, mine = next(users), TweetId(700), Retweeted(TweetId(1), True, AT)
    retweets = Retweets(Unsure(store, applied), Limits())  # type: ignore[arg-type]
    assert await retweets.retweet(me, source, mine, nobody) == mine
    retweets = Retweets(Unsure(store, applied), Limits())  # type: ignore[arg-type]
    assert await retweets.undo(me, source, AT + 1) == Retweeted(TweetId(1), False, AT + 1)


async def test_a_key_answers_what_it_was_first_reserved_with(store: Store, users: Iterator[UserId]) -> None:
    me, other = next(users), next(users)
    first, second = Reservation(TweetId(1), AT, b"one"), Reservation(TweetId(2), AT + 1, b"two")
    assert await store.idempotency.reserve(me, "key", first) == first
    assert await store.idempotency.reserve(me, "key", second) == first
    assert await store.idempotency.reserve(me, "Key", second) == second
    assert await store.idempotency.reserve(other, "key", second) == second
    await store.session.prepare([_TTL])
    row = await store.session.one(_TTL, (me, "key"))
    assert row is not None
    assert 86_000 < row[0] <= 86_400


async def test_of_many_reservations_at_once_all_get_the_same_answer(store: Store, users: Iterator[UserId]) -> None:
    me = next(users)
    wanted = [Reservation(TweetId(number), AT + number, bytes([number])) for number in range(30)]
    answers = await asyncio.gather(*(store.idempotency.reserve(me, "k", mine) for mine in wanted))
    assert set(answers) < set(wanted)
    assert len(set(answers)) == 1


@pytest.mark.parametrize("applied", [True, False])
async def test_an_unknown_outcome_of_a_reservation_is_settled_by_reading(
    store: Store, users: Iterator[UserId], applied: bool
) -> None:
    mine = Reservation(TweetId(1), AT, b"x")
    keys = IdempotencyKeys(Unsure(store, applied), Limits())  # type: ignore[arg-type]
    assert await keys.reserve(next(users), "key", mine) == mine


async def test_marks_are_the_newest_thousand_with_a_floor(store: Store, users: Iterator[UserId]) -> None:
    few, many = next(users), next(users)
    await store.session.prepare([_LIKE])
    for user, liked in ((few, 5), (many, MARKS_MAX + 5)):
        for start in range(0, liked, 100):
            rows = range(start, min(start + 100, liked))
            parts = [(_LIKE, (user, 10 + row, AT + row, AT if row % 10 == 1 else None)) for row in rows]
            await store.session.batch("t", parts, logged=False)
    await store.retweets.retweet(few, TweetId(33), Retweeted(TweetId(1), True, AT + 99), nobody)
    marks = await store.marks.marks(few)
    assert (marks.likes.tolist(), marks.likes_floor) == ([10, 12, 13, 14], 0)
    assert (marks.retweets.tolist(), marks.retweets_floor, marks.version) == ([33], 0, AT + 99)
    marks = await store.marks.marks(many)
    assert marks.likes_floor == 15
    assert marks.likes.tolist() == [10 + row for row in range(5, MARKS_MAX + 5) if row % 10 != 1]
    assert await store.marks.marked(many, [TweetId(10), TweetId(11), TweetId(9), TweetId(33)]) == ({10, 33}, set())
    assert await store.marks.marked(few, [TweetId(33)]) == (set(), {33})


async def test_who_marked_nothing_has_empty_marks(store: Store, users: Iterator[UserId]) -> None:
    marks = await store.marks.marks(next(users))
    assert (len(marks.likes), marks.likes_floor, len(marks.retweets), marks.retweets_floor) == (0, 0, 0, 0)
