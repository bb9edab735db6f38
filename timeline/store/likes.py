"""Who likes what: the truth by user, changed by compare-and-set, and its mirrors by tweet, written with the decision's version."""

from __future__ import annotations

from functools import partial

from timeline.domain.errors import OutcomeUnknown, after_effect
from timeline.domain.ids import TweetId, UserId
from timeline.store import by_time
from timeline.store.by_time import SHARDS, Mark
from timeline.store.counting import COUNTED_MAX, Counting
from timeline.store.session import Cql, Kind, Params, Session
from timeline.store.settle import settle
from timeline.writing.ports import Liked

_TRIES_MAX = 8  # each lost race is another decision of the same user about the same tweet

_GET = Cql("like_get", "SELECT version, ended FROM likes_by_user WHERE user_id = ? AND tweet_id = ?")
_FIRST = Cql(
    "like_first", "INSERT INTO likes_by_user (user_id, tweet_id, version) VALUES (?, ?, ?) IF NOT EXISTS", Kind.cas
)
_AGAIN = Cql(
    "like_again",
    "UPDATE likes_by_user SET version = ?, ended = null WHERE user_id = ? AND tweet_id = ? IF version = ?",
    Kind.cas,
)
_END = Cql(
    "like_end",
    "UPDATE likes_by_user SET version = ?, ended = ? WHERE user_id = ? AND tweet_id = ? IF version = ?",
    Kind.cas,
)
_MIRROR = Cql(
    "like_mirror",
    "INSERT INTO likes_by_tweet (tweet_id, shard, user_id, version) VALUES (?, ?, ?, ?) USING TIMESTAMP ?",
    Kind.write,
)
_MIRROR_END = Cql(
    "like_mirror_end",
    "DELETE FROM likes_by_tweet USING TIMESTAMP ? WHERE tweet_id = ? AND shard = ? AND user_id = ?",
    Kind.write,
)
_COUNT = Cql("like_count", f"SELECT user_id FROM likes_by_tweet WHERE tweet_id = ? AND shard IN ? LIMIT {COUNTED_MAX}")


class Likes:
    """LikeStore."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._counting = Counting(session, _COUNT)

    async def like(self, user_id: UserId, tweet_id: TweetId, at_us: int) -> Liked:
        """Make it active: the decision that stands now, which may be one from before. The mirrors are written in both cases, so a
        retried call repairs what a crash left out."""
        stands = await self._get(user_id, tweet_id)
        values: tuple[int, ...]
        for _ in range(_TRIES_MAX):
            if stands is not None and stands.active:
                break
            if stands is None:
                decided = Liked(True, at_us)
                statement, values = _FIRST, (user_id, tweet_id, at_us)
            else:
                decided = Liked(True, max(at_us, stands.version + 1))
                statement, values = _AGAIN, (decided.version, user_id, tweet_id, stands.version)
            stands = await self._decide(statement, values, user_id, tweet_id, decided)
        else:
            raise OutcomeUnknown("decisions about one like keep overtaking each other")
        at = (tweet_id, user_id % SHARDS, user_id, stands.version, stands.version)
        with after_effect():
            mirrors: list[tuple[Cql, Params]] = [
                (_MIRROR, at),
                by_time.put_of(Mark.like, tweet_id, user_id, stands.version),
            ]
            await self._session.batch("like_mirrors", mirrors, logged=False)
        return stands

    async def unlike(self, user_id: UserId, tweet_id: TweetId, at_us: int) -> Liked | None:
        """Make it inactive; the decision that stands now (None: there never was one). The mirrors are written too."""
        stands = await self._get(user_id, tweet_id)
        ended: int | None = None  # the decision that was undone
        for _ in range(_TRIES_MAX):
            if stands is None:
                return None
            if not stands.active:
                break
            decided = Liked(False, max(at_us, stands.version + 1))
            ended = stands.version
            values = (decided.version, decided.version, user_id, tweet_id, stands.version)
            stands = await self._decide(_END, values, user_id, tweet_id, decided)
        else:
            raise OutcomeUnknown("decisions about one like keep overtaking each other")
        with after_effect():
            mirrors: list[tuple[Cql, Params]] = [(_MIRROR_END, (stands.version, tweet_id, user_id % SHARDS, user_id))]
            if ended is not None:
                mirrors.append(by_time.end_of(Mark.like, tweet_id, user_id, ended))
            await self._session.batch("like_mirrors_end", mirrors, logged=False)
        return stands

    async def count(self, tweet_id: TweetId) -> int:
        """How many likes are active, up to 10,000; where they are many, as of a second ago."""
        return await self._counting.count(tweet_id)

    async def _decide(
        self, statement: Cql, values: tuple[int, ...], user_id: UserId, tweet_id: TweetId, decided: Liked
    ) -> Liked | None:
        """`decided`, or what stands instead."""
        return await settle(
            self._session, statement, values, decided, partial(self._get, user_id, tweet_id, serial=True)
        )

    async def _get(self, user_id: UserId, tweet_id: TweetId, *, serial: bool = False) -> Liked | None:
        row = await self._session.one(_GET, (user_id, tweet_id), serial=serial)
        return Liked(row[1] is None, row[0]) if row else None
