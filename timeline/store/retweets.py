"""Who retweeted what: the truth by user, changed by compare-and-set, and its mirror by tweet, written with the decision's version."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from timeline.domain.entries import UserIds
from timeline.domain.errors import OutcomeUnknown, after_effect
from timeline.domain.ids import TweetId, UserId
from timeline.domain.limits import Limits
from timeline.store import by_time
from timeline.store.budget import PullBudget
from timeline.store.by_time import SHARDS, Mark
from timeline.store.counting import COUNTED_MAX, Counting
from timeline.store.parallel import chunks, each
from timeline.store.session import Cql, Kind, Params, Row, Session
from timeline.store.settle import settle
from timeline.writing.ports import Bury, Retweeted

_TRIES_MAX = 8  # each lost race is another decision of the same user about the same tweet

_GET = Cql("retweet_get", "SELECT retweet_id, version, ended FROM retweets_by_user WHERE user_id = ? AND tweet_id = ?")
_FIRST = Cql(
    "retweet_first",
    "INSERT INTO retweets_by_user (user_id, tweet_id, retweet_id, version) VALUES (?, ?, ?, ?) IF NOT EXISTS",
    Kind.cas,
)
_AGAIN = Cql(
    "retweet_again",
    "UPDATE retweets_by_user SET retweet_id = ?, version = ?, ended = null WHERE user_id = ? AND tweet_id = ? IF version = ?",
    Kind.cas,
)
_END = Cql(
    "retweet_end",
    "UPDATE retweets_by_user SET version = ?, ended = ? WHERE user_id = ? AND tweet_id = ? IF version = ?",
    Kind.cas,
)
_MIRROR = Cql(
    "retweet_mirror",
    "INSERT INTO retweets_by_tweet (tweet_id, shard, user_id, retweet_id, version) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?",
    Kind.write,
)
_MIRROR_END = Cql(
    "retweet_mirror_end",
    "DELETE FROM retweets_by_tweet USING TIMESTAMP ? WHERE tweet_id = ? AND shard = ? AND user_id = ?",
    Kind.write,
)
_COUNT = Cql(
    "retweet_count", f"SELECT user_id FROM retweets_by_tweet WHERE tweet_id = ? AND shard IN ? LIMIT {COUNTED_MAX}"
)
_OF = Cql(
    "retweets_of",
    "SELECT user_id, tweet_id, retweet_id, ended FROM retweets_by_user WHERE user_id IN ? AND tweet_id IN ?",
)


class Retweets:
    """RetweetStore and RetweetReader."""

    def __init__(self, session: Session, limits: Limits, budget: PullBudget | None = None) -> None:
        self._session = session
        self._counting = Counting(session, _COUNT)
        self._limits = limits
        self._budget = budget or PullBudget(limits)  # of its own only where nothing else pulls

    async def retweet(self, user_id: UserId, source: TweetId, mine: Retweeted, bury: Bury) -> Retweeted:
        """Make it active: answers `mine` if it was not (its version raised above the last decision's if need be), else the active one
        that was there, unchanged. The mirrors are written in both cases, so a retried call repairs what a crash left out. `bury` is
        called with an ended decision before another takes its place. Nothing is read before the first try: most are the first."""
        stands: Retweeted | None = None
        values: tuple[int, ...]
        for _ in range(_TRIES_MAX):
            if stands is not None and stands.active:
                break
            if stands is None:
                decided = Retweeted(mine.retweet_id, True, mine.version)
                statement, values = _FIRST, (user_id, source, decided.retweet_id, decided.version)
            else:
                await bury(stands)
                decided = Retweeted(mine.retweet_id, True, max(mine.version, stands.version + 1))
                statement, values = _AGAIN, (decided.retweet_id, decided.version, user_id, source, stands.version)
            stands = await self._decide(statement, values, user_id, source, decided)
        else:
            raise OutcomeUnknown("decisions about one retweet keep overtaking each other")
        at = (source, user_id % SHARDS, user_id, stands.retweet_id, stands.version)
        with after_effect():
            mirrors = [(_MIRROR, (*at, stands.version)), by_time.put_of(Mark.retweet, source, user_id, stands.version)]
            await self._session.batch("retweet_mirrors", mirrors, logged=False)
        return stands

    async def undo(
        self, user_id: UserId, source: TweetId, version: int, only: TweetId | None = None
    ) -> Retweeted | None:
        """Make it inactive; the decision that stands now (None: there never was one). The mirror is written too. `only`: unless it is
        another retweet that stands by now."""
        stands = await self._find(user_id, source)
        ended: int | None = None  # the decision that was undone
        for _ in range(_TRIES_MAX):
            if stands is None:
                return None
            if only is not None and stands.retweet_id != only:
                return stands
            if not stands.active:
                break
            decided = Retweeted(stands.retweet_id, False, max(version, stands.version + 1))
            values = (decided.version, decided.version, user_id, source, stands.version)
            ended = stands.version
            stands = await self._decide(_END, values, user_id, source, decided)
        else:
            raise OutcomeUnknown("decisions about one retweet keep overtaking each other")
        with after_effect():
            mirrors: list[tuple[Cql, Params]] = [(_MIRROR_END, (stands.version, source, user_id % SHARDS, user_id))]
            if ended is not None:
                mirrors.append(by_time.end_of(Mark.retweet, source, user_id, ended))
            await self._session.batch("retweet_mirrors_end", mirrors, logged=False)
        return stands

    async def _decide(
        self, statement: Cql, values: tuple[int, ...], user_id: UserId, source: TweetId, decided: Retweeted
    ) -> Retweeted | None:
        """`decided`, or what stands instead."""
        stands = partial(self._find, user_id, source, serial=True)
        return await settle(self._session, statement, values, decided, stands)

    async def _find(self, user_id: UserId, source: TweetId, *, serial: bool = False) -> Retweeted | None:
        row = await self._session.one(_GET, (user_id, source), serial=serial)
        return Retweeted(TweetId(row[0]), row[2] is None, row[1]) if row else None

    async def count(self, source: TweetId) -> int:
        """How many retweets are active, up to 10,000; where they are many, as of a second ago."""
        return await self._counting.count(source)

    async def retweets_of(self, users: UserIds, sources: Sequence[TweetId]) -> list[tuple[UserId, TweetId, TweetId]]:
        """Active retweets of these sources by these users, as (user, source, retweet id), in no order."""
        if not len(users) or not sources:
            return []
        found = []
        size = self._limits.pull_authors_per_query
        parts = [
            (list(some), list(tweets)) for some in chunks(users.tolist(), size) for tweets in chunks(sources, size)
        ]
        async for rows in each(parts, self._rows_of, self._limits.pull_queries_in_flight):
            found += [
                (UserId(user), TweetId(source), TweetId(retweet))
                for user, source, retweet, ended in rows
                if ended is None
            ]
        return found

    async def _rows_of(self, part: tuple[list[int], list[TweetId]]) -> list[Row]:
        async with self._budget.slot():
            return await self._session.rows(_OF, part)
