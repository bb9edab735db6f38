"""The outbox: events that are stored and perhaps not yet in Kafka, in partitions of a shard and ten seconds.

A row is written in its tweet's own logged batch with the tweet's version as timestamp, and cleared by a delete one microsecond
younger than that insert. So a batch log or a hint that delivers the insert late brings nothing back, and neither does a retry of the
same request.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import orjson

from timeline.domain.ids import TweetId, UserId, time_ms
from timeline.domain.limits import Limits
from timeline.domain.model import Tweet, Visibility
from timeline.store.parallel import chunks, each
from timeline.store.session import Cql, Kind, Params, Session

TWEET_CREATED = "tweet.created"

_INSERT = Cql(
    "outbox_insert",
    "INSERT INTO outbox (shard, ten_seconds, event_id, kind, payload) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ? AND TTL ?",
    Kind.write,
)
_CLEAR = Cql(
    "outbox_clear",
    "DELETE FROM outbox USING TIMESTAMP ? WHERE shard = ? AND ten_seconds = ? AND event_id = ?",
    Kind.write,
)
_PAGE = Cql(
    "outbox_page", "SELECT kind, payload FROM outbox WHERE shard = ? AND ten_seconds = ? AND event_id > ? LIMIT ?"
)
_SLOT = Cql("outbox_slot", "SELECT kind, payload FROM outbox WHERE shard IN ? AND ten_seconds = ?")
_PROGRESS = Cql("relay_progress", "SELECT swept_ms FROM relay_progress WHERE name = 'outbox'")
_SAVE_PROGRESS = Cql(
    "relay_progress_save",
    "INSERT INTO relay_progress (name, swept_ms) VALUES ('outbox', ?) USING TIMESTAMP ?",
    Kind.write,
)


def place_of(tweet_id: int, author_id: int, limits: Limits) -> tuple[int, int]:
    """(shard, ten_seconds): the partition that a tweet's event is in."""
    return author_id % limits.outbox_shards, time_ms(tweet_id) // limits.outbox_bucket_ms


def insert_of(tweet: Tweet, limits: Limits) -> tuple[Cql, Params]:
    """The outbox row of a new tweet, for its batch."""
    place = place_of(tweet.id, tweet.author_id, limits)
    return _INSERT, (*place, tweet.id, TWEET_CREATED, encode(tweet), tweet.version, limits.outbox_seconds)


class Outbox:
    """What is pending, and its clearing."""

    def __init__(self, session: Session, limits: Limits) -> None:
        self._session = session
        self._limits = limits

    async def clear(self, tweet: Tweet) -> None:
        """Kafka has it. `tweet.version` must be the insert's. Repeating it changes nothing."""
        await self._session.run(_CLEAR, self._cleared(tweet))

    async def clear_many(self, tweets: Sequence[Tweet]) -> None:
        """The same of several, in one batch: a query each would cost the store, and us, as much as writing the tweets does."""
        await self._session.batch("outbox_clear", [(_CLEAR, self._cleared(tweet)) for tweet in tweets], logged=False)

    def _cleared(self, tweet: Tweet) -> Params:
        return tweet.version + 1, *place_of(tweet.id, tweet.author_id, self._limits), tweet.id

    async def page(self, shard: int, ten_seconds: int, after: int = 0, limit: int = 500) -> list[Tweet]:
        """Pending tweets of one partition as they were first written, by id, above `after`: at most `limit`.
        `ten_seconds` is Unix milliseconds // outbox_bucket_ms."""
        rows = await self._session.rows(_PAGE, (shard, ten_seconds, after, limit))
        return [decode(payload) for kind, payload in rows if kind == TWEET_CREATED]

    async def slot(self, ten_seconds: int) -> AsyncIterator[list[Tweet]]:
        """Pending tweets of all shards of one stretch of ten seconds, page by page: a query for 25 shards, so that sweeping
        three hours of nothing costs some thousands of them, not a hundred thousand."""
        parts = chunks(range(self._limits.outbox_shards), self._limits.pull_authors_per_query)
        states: list[tuple[list[int], object]] = [(list(part), None) for part in parts]
        while states:
            following: list[tuple[list[int], object]] = []
            async for shards, rows, state in each(states, lambda at: self._slot_page(at[0], ten_seconds, at[1])):
                tweets = [decode(payload) for kind, payload in rows if kind == TWEET_CREATED]
                if tweets:
                    yield tweets
                if state is not None:
                    following.append((shards, state))
            states = following

    async def _slot_page(
        self, shards: list[int], ten_seconds: int, state: object
    ) -> tuple[list[int], list[tuple[str, bytes]], object]:
        rows, state = await self._session.page(_SLOT, (shards, ten_seconds), state)
        return shards, rows, state

    async def relay_progress(self) -> int:
        """Unix milliseconds before which everything is known to be swept; 0 when nothing was saved."""
        row = await self._session.one(_PROGRESS)
        return row[0] if row else 0

    async def save_relay_progress(self, swept_ms: int) -> None:
        """The highest value saved stays, whichever relay saved it last."""
        await self._session.run(_SAVE_PROGRESS, (swept_ms, swept_ms))


def encode(tweet: Tweet) -> bytes:
    """A tweet as it is first written, whole, so that the relay can write it again. Members that are not set are left out."""
    members = {
        "id": tweet.id,
        "author_id": tweet.author_id,
        "text": tweet.text,
        "version": tweet.version,
        "visibility": tweet.visibility.value,
        "conversation_id": tweet.conversation_id,
        "media_ids": list(tweet.media_ids),
    }
    for name in _OPTIONAL:
        if (value := getattr(tweet, name)) is not None:
            members[name] = value
    return orjson.dumps(members)


def decode(payload: bytes) -> Tweet:
    """Raises KeyError or orjson.JSONDecodeError on what `encode` did not write: that is a bug."""
    members = orjson.loads(payload)
    return Tweet(
        id=TweetId(members["id"]),
        author_id=UserId(members["author_id"]),
        text=members["text"],
        version=members["version"],
        visibility=Visibility(members["visibility"]),
        conversation_id=TweetId(members["conversation_id"]),
        media_ids=tuple(members["media_ids"]),
        **{name: members[name] for name in _OPTIONAL if name in members},
    )


_OPTIONAL = ("reply_to", "reply_to_user", "quote_of", "quote_author", "retweet_of", "retweet_author")
