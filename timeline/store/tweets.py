"""Tweets: one logged batch writes a tweet wherever it is found by, and its outbox row with it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Sequence

from timeline.domain.errors import OutcomeUnknown, after_effect
from timeline.domain.ids import TweetId, UserId, bucket
from timeline.domain.limits import Limits
from timeline.domain.model import Counts, Tweet, TweetKey, Visibility
from timeline.store.outbox import insert_of
from timeline.store.parallel import chunks, each
from timeline.store.session import UNSET, Cql, Kind, Params, Row, Session

_COLUMNS = (
    "user_id, tweet_id, created_us, text, visibility, conversation_id, reply_to, reply_to_user, quote_of, quote_author, "
    "media_ids, retweet_of, retweet_author, edited_ms, edited_us, deleted_us"
)
_INSERT = Cql(
    "tweet_insert",
    "INSERT INTO tweets (user_id, bucket, tweet_id, created_us, text, visibility, conversation_id, reply_to, reply_to_user, "
    "quote_of, quote_author, media_ids, retweet_of, retweet_author) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?",
    Kind.write,
)
_INSERT_BUCKET = Cql(
    "bucket_insert", "INSERT INTO tweet_buckets (user_id, bucket) VALUES (?, ?) USING TIMESTAMP ?", Kind.write
)
_INSERT_ID = Cql(
    "id_insert", "INSERT INTO tweets_by_id (tweet_id, user_id) VALUES (?, ?) USING TIMESTAMP ?", Kind.write
)
_INSERT_REPLY = Cql(
    "reply_insert",
    "INSERT INTO replies (conversation_id, bucket, tweet_id, user_id) VALUES (?, ?, ?, ?) USING TIMESTAMP ?",
    Kind.write,
)
_DELETE = Cql(
    "tweet_delete",
    "UPDATE tweets USING TIMESTAMP ? SET deleted_us = ? WHERE user_id = ? AND bucket = ? AND tweet_id = ?",
    Kind.write,
)
_EDIT = Cql(
    "tweet_edit",
    "UPDATE tweets USING TIMESTAMP ? SET text = ?, visibility = ?, edited_ms = ?, edited_us = ? "
    "WHERE user_id = ? AND bucket = ? AND tweet_id = ?",
    Kind.write,
)
_GET = Cql("tweet_get", f"SELECT {_COLUMNS} FROM tweets WHERE user_id = ? AND bucket = ? AND tweet_id = ?")
_GET_SEVERAL = Cql("tweets_get", f"SELECT {_COLUMNS} FROM tweets WHERE user_id = ? AND bucket = ? AND tweet_id IN ?")
_AUTHORS = Cql("tweet_authors", "SELECT tweet_id, user_id FROM tweets_by_id WHERE tweet_id IN ?")
_COUNTS = Cql("tweet_counts", "SELECT tweet_id, likes, retweets, replies FROM tweet_counts WHERE tweet_id IN ?")

_NO_COUNTS = Counts()


class Tweets:
    """TweetStore and TweetReader."""

    def __init__(self, session: Session, limits: Limits) -> None:
        self._session = session
        self._limits = limits
        self._authors: OrderedDict[TweetId, UserId] = OrderedDict()  # what was asked for last stands last

    async def add(self, tweet: Tweet) -> None:
        """One logged batch with `tweet.version` as its timestamp, the outbox row included. Repeating it changes nothing.

        The batch log waits for two nodes of the rack, and for some 20 s it may choose one that has just died: with three nodes it
        always does. Then the outbox takes its place: its row holds the whole tweet, so once that is written the relay finishes
        what this process may not. Raises OutcomeUnknown only when that fails too.
        """
        outbox = insert_of(tweet, self._limits)
        try:
            await self._session.batch("tweet_add", [*_places(tweet), outbox])
        except OutcomeUnknown:
            if self._session.nodes == 1:
                raise
            with after_effect():
                await self._session.run(*outbox)
                await asyncio.gather(*(self._session.run(*place) for place in _places(tweet)))
        self._remember(tweet.id, tweet.author_id)

    async def rewrite(self, tweet: Tweet) -> None:
        """The same without the outbox: what the relay does before it produces, so that no event runs ahead of its tweet.
        `tweet` is as it was first written; an edit or a deletion since then stays."""
        await self._session.batch("tweet_rewrite", _places(tweet))

    async def delete(self, key: TweetKey, version: int) -> None:
        """Soft: a column that no insert writes. Repeating it changes nothing."""
        await self._session.run(_DELETE, (version, version, key.author_id, bucket(key.tweet_id), key.tweet_id))

    async def edit(self, key: TweetKey, text: str, visibility: Visibility, edited_ms: int, version: int) -> None:
        """The newest version wins. Repeating it changes nothing."""
        where = (key.author_id, bucket(key.tweet_id), key.tweet_id)
        await self._session.run(_EDIT, (version, text, visibility.value, edited_ms, version, *where))

    async def get_many(self, keys: Sequence[TweetKey]) -> dict[TweetId, Tweet]:
        """Those that exist, deleted ones included (with `deleted` set). One query a partition."""
        found: dict[TweetId, Tweet] = {}
        async for rows in each(list(_by_partition(keys)), self._of_partition):
            for row in rows:
                if row[2] is not None:  # without created_us it is not a tweet
                    tweet = _tweet(row)
                    found[tweet.id] = tweet
        return found

    async def _of_partition(self, wanted: tuple[int, int, list[int]]) -> list[Row]:
        author, at, ids = wanted
        if len(ids) == 1:
            return await self._session.rows(_GET, (author, at, ids[0]))
        return await self._session.rows(_GET_SEVERAL, wanted)

    async def authors_of(self, tweet_ids: Sequence[TweetId]) -> dict[TweetId, UserId]:
        """Who wrote these, as far as they exist (deleted ones too). That never changes, so what was found is remembered."""
        known = {tweet_id: author for tweet_id in tweet_ids if (author := self._authors.get(tweet_id)) is not None}
        unknown = [tweet_id for tweet_id in tweet_ids if tweet_id not in known]
        found = {TweetId(tweet): UserId(author) for tweet, author in await self._by_id(_AUTHORS, unknown)}
        for tweet_id, author in (known | found).items():
            self._remember(tweet_id, author)
        return known | found

    def _remember(self, tweet_id: TweetId, author: UserId) -> None:
        self._authors[tweet_id] = author
        self._authors.move_to_end(tweet_id)
        if len(self._authors) > self._limits.authors_remembered_max:
            self._authors.popitem(last=False)

    async def counts_of(self, tweet_ids: Sequence[TweetId]) -> dict[TweetId, Counts]:
        """Of each id asked for; zeros where nothing was counted."""
        counts = dict.fromkeys(tweet_ids, _NO_COUNTS)
        for tweet, *numbers in await self._by_id(_COUNTS, tweet_ids):
            counts[tweet] = Counts(*(number or 0 for number in numbers))
        return counts

    async def _by_id(self, cql: Cql, tweet_ids: Sequence[TweetId]) -> list[Row]:
        ids = list(dict.fromkeys(tweet_ids))
        parts = [(list(part),) for part in chunks(ids, self._limits.pull_authors_per_query)]
        return [row async for rows in each(parts, lambda part: self._session.rows(cql, part)) for row in rows]


def _places(tweet: Tweet) -> list[tuple[Cql, Params]]:
    at, version = bucket(tweet.id), tweet.version
    places: list[tuple[Cql, Params]] = [
        (
            _INSERT,
            (
                tweet.author_id,
                at,
                tweet.id,
                version,
                tweet.text,
                tweet.visibility.value,
                tweet.conversation_id,
                *map(_or_unset, (tweet.reply_to, tweet.reply_to_user, tweet.quote_of, tweet.quote_author)),
                _or_unset(list(tweet.media_ids) or None),
                _or_unset(tweet.retweet_of),
                _or_unset(tweet.retweet_author),
                version,
            ),
        ),
        (_INSERT_BUCKET, (tweet.author_id, at, version)),
        (_INSERT_ID, (tweet.id, tweet.author_id, version)),
    ]
    if tweet.reply_to is not None:
        places.append((_INSERT_REPLY, (tweet.conversation_id, at, tweet.id, tweet.author_id, version)))
    return places


def _or_unset(value: object) -> object:
    return UNSET if value is None else value


def _by_partition(keys: Iterable[TweetKey]) -> Iterable[tuple[int, int, list[int]]]:
    ids: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
    for key in keys:
        ids[key.author_id, bucket(key.tweet_id)].add(key.tweet_id)
    for (author, at), wanted in ids.items():
        for part in chunks(list(wanted), 100):  # Scylla's limit of values in one IN
            yield author, at, list(part)


def _tweet(row: Row) -> Tweet:
    author, tweet_id, created_us, text, visibility, conversation = row[:6]
    reply_to, reply_to_user, quote_of, quote_author, media_ids, retweet_of, retweet_author = row[6:13]
    edited_ms, edited_us, deleted_us = row[13:]
    return Tweet(
        id=tweet_id,
        author_id=author,
        text=text,
        version=max(created_us, edited_us or 0, deleted_us or 0),
        visibility=Visibility(visibility),
        conversation_id=conversation,
        reply_to=reply_to,
        reply_to_user=reply_to_user,
        quote_of=quote_of,
        quote_author=quote_author,
        media_ids=tuple(media_ids or ()),
        retweet_of=retweet_of,
        retweet_author=retweet_author,
        edited_ms=edited_ms,
        deleted=deleted_us is not None,
    )
