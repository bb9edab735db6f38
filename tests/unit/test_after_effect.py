"""A change that was begun is never answered as one of which nothing was done, whatever the engine says after its first effect."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from timeline.domain.errors import OutcomeUnknown, Overloaded, Stored, Unavailable, after_effect
from timeline.domain.ids import TweetId, UserId
from timeline.domain.limits import Limits
from timeline.domain.model import Tweet, Visibility
from timeline.store.edits import Edits
from timeline.store.graph import Graph
from timeline.store.likes import Likes
from timeline.store.relations import Relations
from timeline.store.retweets import Retweets
from timeline.store.session import Cql
from timeline.store.shards import Shards
from timeline.store.tweets import Tweets
from timeline.store.users import Users
from timeline.writing.ports import Retweeted

ME, OTHER, TWEET = UserId(1), UserId(2), TweetId(3)
LIMITS = Limits()


class Refusing:
    """A session without rows, whose compare-and-sets are applied; it refuses the statement of that name, from its n-th call on."""

    nodes = 3

    def __init__(self, refused: str, nth: int = 1, rows: dict[str, tuple[Any, ...]] | None = None) -> None:
        self._refused, self._left, self._rows = refused, nth, rows or {}
        self.sent: list[str] = []

    def _send(self, cql: Cql) -> None:
        if cql.name == self._refused:
            self._left -= 1
            if self._left <= 0:
                raise Overloaded("full")
        self.sent.append(cql.name)

    async def one(self, cql: Cql, params: object = (), *, serial: bool = False) -> tuple[Any, ...] | None:
        self._send(cql)
        return self._rows.get(cql.name)

    async def rows(self, cql: Cql, params: object = (), *, serial: bool = False) -> list[tuple[Any, ...]]:
        row = await self.one(cql)
        return [] if row is None else [row]

    async def run(self, cql: Cql, params: object) -> None:
        self._send(cql)

    async def compare_and_set(self, cql: Cql, params: object) -> bool:
        self._send(cql)
        return True

    async def batch(self, name: str, parts: Sequence[tuple[Cql, object]], *, logged: bool = True) -> None:
        if logged:
            raise OutcomeUnknown("the batch log does not answer")
        for cql, _ in parts:
            self._send(cql)


async def unburied(ended: Retweeted) -> None:
    """There are no rows of tweets."""


TEXT = Tweet(id=TWEET, author_id=ME, text="x", version=5, conversation_id=TWEET)
FOLLOWED, LIKED, RETWEETED, BLOCKED = (0, 1, 5, None), (5, None), (9, 5, None), (1, 5, None)
MINE = Retweeted(TWEET, True, 7)
Call = Callable[[Any], Awaitable[object]]


@pytest.mark.parametrize(
    ("session", "call"),
    [
        (Refusing("follow_first"), lambda on: Graph(on, LIMITS).follow(ME, OTHER, 7)),
        (Refusing("follower_put", 2), lambda on: Graph(on, LIMITS).follow(ME, OTHER, 7)),
        (Refusing("follower_end", rows={"follow_get": FOLLOWED}), lambda on: Graph(on, LIMITS).unfollow(ME, OTHER, 7)),
        (Refusing("like_mirror"), lambda on: Likes(on).like(ME, TWEET, 7)),
        (Refusing("by_time_put"), lambda on: Likes(on).like(ME, TWEET, 7)),
        (Refusing("like_mirror_end", rows={"like_get": LIKED}), lambda on: Likes(on).unlike(ME, TWEET, 7)),
        (Refusing("retweet_mirror"), lambda on: Retweets(on, LIMITS).retweet(ME, TWEET, MINE, unburied)),
        (
            Refusing("retweet_mirror_end", rows={"retweet_get": RETWEETED}),
            lambda on: Retweets(on, LIMITS).undo(ME, TWEET, 7),
        ),
        (Refusing("relation_first"), lambda on: Relations(on, LIMITS).block(ME, OTHER, 7)),
        (Refusing("relation_mirror", 2), lambda on: Relations(on, LIMITS).block(ME, OTHER, 7)),
        (
            Refusing("relation_mirror", rows={"relation_get": BLOCKED}),
            lambda on: Relations(on, LIMITS).unblock(ME, OTHER, 7),
        ),
        (Refusing("tweet_edit"), lambda on: Edits(on, Tweets(on, LIMITS)).edit(TEXT, "y", Visibility.public, 7)),
        (Refusing("outbox_insert"), lambda on: Tweets(on, LIMITS).add(TEXT)),
        (Refusing("tweet_insert"), lambda on: Tweets(on, LIMITS).add(TEXT)),
    ],
    ids=lambda value: value._refused if isinstance(value, Refusing) else "",
)
async def test_a_refusal_after_the_first_effect_leaves_the_outcome_unknown(session: Refusing, call: Call) -> None:
    with pytest.raises(OutcomeUnknown):
        await call(session)


@pytest.mark.parametrize(
    ("session", "call"),
    [
        (Refusing("follower_put"), lambda on: Graph(on, LIMITS).follow(ME, OTHER, 7)),
        (Refusing("like_first"), lambda on: Likes(on).like(ME, TWEET, 7)),
        (Refusing("relation_first"), lambda on: Relations(on, LIMITS).mute(ME, OTHER, 7)),
    ],
    ids=lambda value: value._refused if isinstance(value, Refusing) else "",
)
async def test_a_refusal_of_the_first_effect_is_one(session: Refusing, call: Call) -> None:
    with pytest.raises(Overloaded):
        await call(session)


async def test_a_shard_that_cannot_be_counted_or_opened_fails_no_follow() -> None:
    always = random.Random(0)
    always.randrange = lambda *_: 0  # type: ignore[method-assign,assignment]
    for refused in ("shard_size", "shards_open_second"):
        on = Refusing(refused, rows={"shard_size": (LIMITS.follower_shard_size,)})
        await Shards(on, LIMITS, always).maybe_open_next(OTHER, 0)  # type: ignore[arg-type]


async def test_a_former_handle_that_cannot_be_freed_fails_no_change() -> None:
    await Users(Refusing("claim_free"), LIMITS)._free("Ann", 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [Stored("x"), OutcomeUnknown("x"), ValueError("x")])
def test_what_says_more_than_unavailable_comes_through(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, after_effect():
        raise error
    assert raised.value is error


def test_what_was_begun_says_why_it_was_not_finished() -> None:
    with pytest.raises(OutcomeUnknown, match="no node") as raised, after_effect():
        raise Unavailable("no node")
    assert isinstance(raised.value.__cause__, Unavailable)
