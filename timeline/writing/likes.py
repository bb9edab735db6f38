"""Likes. They act on the tweet that an id means: of a retweet's, the retweeted one."""

from __future__ import annotations

import logging

from timeline.domain.errors import Unavailable, after_effect
from timeline.domain.ids import TweetId, UserId
from timeline.domain.limits import Limits
from timeline.writing.ports import Ids, Lease, LikeStore, UserStore
from timeline.writing.sight import Sight, must_exist

log = logging.getLogger(__name__)


class Likes:
    """Shared by all requests."""

    def __init__(
        self, *, users: UserStore, sight: Sight, likes: LikeStore, ids: Ids, marks: Lease, limits: Limits
    ) -> None:
        self._users, self._sight, self._likes = users, sight, likes
        self._ids, self._marks, self._limits = ids, marks, limits

    async def like(self, me: UserId, tweet_id: TweetId) -> int:
        """How many like it now. Repeating changes nothing. Raises BadRequest: user-not-found, tweet-not-found."""
        await must_exist(self._users, me)
        source = await self._sight.source(me, tweet_id)
        marked = await self._mark(me)
        await self._likes.like(me, source.id, self._ids.now_us())
        await self._forget(me, marked)
        with after_effect():
            return await self._likes.count(source.id)

    async def unlike(self, me: UserId, tweet_id: TweetId) -> int:
        """How many like it now. Repeating changes nothing. Raises BadRequest: user-not-found, tweet-not-found."""
        await must_exist(self._users, me)
        source = await self._sight.source(me, tweet_id)
        marked = await self._mark(me)
        await self._likes.unlike(me, source.id, self._ids.now_us())
        await self._forget(me, marked)
        with after_effect():
            return await self._likes.count(source.id)

    async def _mark(self, me: UserId) -> bool:
        try:
            await self._marks.mark(me)
        except Unavailable:
            return False
        return True

    async def _forget(self, me: UserId, marked: bool) -> None:
        """The reader's own likes are shown, not ruled by: stale ones are a blemish of seconds, and no 503."""
        try:
            await self._marks.drop(me)
        except Unavailable:
            if not marked:
                log.info("marks_not_told", extra={"until_seconds": self._limits.reader_lease_seconds})
