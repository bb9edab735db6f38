"""What a reader has liked and retweeted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from timeline.domain.entries import UserIds
from timeline.domain.ids import TweetId, UserId
from timeline.domain.limits import Limits
from timeline.domain.records import Marks
from timeline.store.columns import ints, standing
from timeline.store.parallel import chunks, each
from timeline.store.session import Cql, Session

MARKS_MAX = 1_000  # of each kind: 8 KB; a page shows tweets newer than a reader's thousandth like nearly always

_LIKES = Cql("likes_newest", f"SELECT tweet_id, version, ended FROM likes_by_user WHERE user_id = ? LIMIT {MARKS_MAX}")
_RETWEETS = Cql(
    "retweets_newest", f"SELECT tweet_id, version, ended FROM retweets_by_user WHERE user_id = ? LIMIT {MARKS_MAX}"
)
_LIKES_OF = Cql("likes_among", "SELECT tweet_id, ended FROM likes_by_user WHERE user_id = ? AND tweet_id IN ?")
_RETWEETS_OF = Cql("retweets_among", "SELECT tweet_id, ended FROM retweets_by_user WHERE user_id = ? AND tweet_id IN ?")


class StoreMarks:
    """assembly's MarksReader."""

    def __init__(self, session: Session, limits: Limits) -> None:
        self._session = session
        self._limits = limits

    async def marks(self, user_id: UserId) -> Marks:
        """The newest thousand decisions of each kind, by tweet id. The floor is 0 when there are no more, else the smallest
        tweet decided about; undone ones are left out but count."""
        (likes, likes_floor, one), (retweets, retweets_floor, two) = await asyncio.gather(
            self._newest(_LIKES, user_id), self._newest(_RETWEETS, user_id)
        )
        return Marks(likes, likes_floor, retweets, retweets_floor, max(one, two))

    async def _newest(self, cql: Cql, user_id: UserId) -> tuple[UserIds, int, int]:
        columns, _ = await self._session.columns(cql, (user_id,))
        tweets = ints(columns["tweet_id"])
        floor = int(tweets[-1]) if len(tweets) >= MARKS_MAX else 0
        newest = int(ints(columns["version"]).max(initial=0))
        return np.sort(tweets[standing(columns["ended"])]), floor, newest

    async def marked(self, user_id: UserId, tweet_ids: Sequence[TweetId]) -> tuple[set[TweetId], set[TweetId]]:
        """Of these tweets, those liked and those retweeted by the user."""
        likes, retweets = await asyncio.gather(
            self._among(_LIKES_OF, user_id, tweet_ids), self._among(_RETWEETS_OF, user_id, tweet_ids)
        )
        return likes, retweets

    async def _among(self, cql: Cql, user_id: UserId, tweet_ids: Sequence[TweetId]) -> set[TweetId]:
        found: set[TweetId] = set()
        parts = [(user_id, list(part)) for part in chunks(list(dict.fromkeys(tweet_ids)), 100)]
        async for rows in each(parts, lambda part: self._session.rows(cql, part)):
            found |= {TweetId(tweet) for tweet, ended in rows if ended is None}
        return found
