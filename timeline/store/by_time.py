"""Who liked or retweeted a tweet, newest first: mirrors of the users' own rows, keyed by the version of the decision.

A row counts only while the user's own row says that this very version stands; that is asked of every row before it is answered, so
the order is exact, and what a crash left behind is nobody's.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from timeline.domain.ids import ID_MAX, TweetId, UserId
from timeline.domain.limits import Limits
from timeline.store.parallel import chunks, each
from timeline.store.session import Cql, Kind, Params, Session

SHARDS = 16  # of a tweet's likes or retweets, by user: ten million of them are 16 partitions of some 30 MB
TOP = (ID_MAX, ID_MAX)  # above every row


class Mark(StrEnum):
    """What a user does to a tweet that is listed."""

    like = "like"
    retweet = "retweet"


_PUT = Cql(
    "by_time_put",
    "INSERT INTO marks_by_time (tweet_id, kind, shard, version, user_id) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?",
    Kind.write,
)
_END = Cql(
    "by_time_end",
    "DELETE FROM marks_by_time USING TIMESTAMP ? WHERE tweet_id = ? AND kind = ? AND shard = ? AND version = ? AND user_id = ?",
    Kind.write,
)
_NEWEST = Cql(
    "by_time_newest",
    "SELECT version, user_id FROM marks_by_time WHERE tweet_id = ? AND kind = ? AND shard IN ? "
    "AND (version, user_id) < (?, ?) PER PARTITION LIMIT ?",
)
_LIKED = Cql("liked_at", "SELECT user_id, version, ended FROM likes_by_user WHERE user_id IN ? AND tweet_id = ?")
_RETWEETED = Cql(
    "retweeted_at", "SELECT user_id, version, ended FROM retweets_by_user WHERE user_id IN ? AND tweet_id = ?"
)


def put_of(mark: Mark, tweet_id: TweetId, user_id: UserId, version: int) -> tuple[Cql, Params]:
    """The write of a decision that stands. Repeating it changes nothing."""
    return _PUT, (tweet_id, mark.value, user_id % SHARDS, version, user_id, version)


def end_of(mark: Mark, tweet_id: TweetId, user_id: UserId, version: int) -> tuple[Cql, Params]:
    """The write of a decision, of that version, that stands no more. Repeating it changes nothing."""
    return _END, (version, tweet_id, mark.value, user_id % SHARDS, version, user_id)


class MarksByTime:
    """MarkedBy."""

    def __init__(self, session: Session, limits: Limits) -> None:
        self._session, self._limits = session, limits

    async def likers(
        self, tweet_id: TweetId, below: tuple[int, int] | None, limit: int
    ) -> tuple[list[UserId], tuple[int, int] | None]:
        """Up to `limit` users whose like stands, newest first, below (version, user), and where to go on (None: there are no more).
        A page may be short and have more."""
        return await self._page(Mark.like, tweet_id, below or TOP, limit)

    async def retweeters(
        self, tweet_id: TweetId, below: tuple[int, int] | None, limit: int
    ) -> tuple[list[UserId], tuple[int, int] | None]:
        """The same of retweets."""
        return await self._page(Mark.retweet, tweet_id, below or TOP, limit)

    async def _page(
        self, mark: Mark, tweet_id: TweetId, below: tuple[int, int], limit: int
    ) -> tuple[list[UserId], tuple[int, int] | None]:
        found: list[UserId] = []
        for _ in range(self._limits.refill_rounds_max):
            rows = await self._rows(mark, tweet_id, below, limit + 1)
            some = rows[:limit]
            standing = await self._standing(mark, tweet_id, some)
            for row in some:
                if row in standing and len(found) == limit:
                    return found, below
                if row in standing:
                    found.append(UserId(row[1]))
                below = row
            if len(rows) <= limit:
                return found, None
        return found, below

    async def _rows(self, mark: Mark, tweet_id: TweetId, below: tuple[int, int], limit: int) -> list[tuple[int, int]]:
        """At most 16 times `limit` rows are read: the newest of all are among the newest of each shard."""
        rows = await self._session.rows(_NEWEST, (tweet_id, mark.value, list(range(SHARDS)), *below, limit))
        return sorted(((version, user) for version, user in rows), reverse=True)[:limit]

    async def _standing(self, mark: Mark, tweet_id: TweetId, rows: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
        """Those that the users' own rows know."""
        cql = _LIKED if mark is Mark.like else _RETWEETED
        users = [user for _, user in rows]
        parts = [(list(part), tweet_id) for part in chunks(users, self._limits.pull_authors_per_query)]
        answers = [row async for rows in each(parts, lambda part: self._session.rows(cql, part)) for row in rows]
        return {(version, user) for user, version, ended in answers if ended is None}
