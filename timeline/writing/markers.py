"""The reading place in one's home: a tweet's id or a retweet's, as `position` says it. Whether it still exists does not matter: what
lies above it is unread all the same."""

from __future__ import annotations

from timeline.domain.ids import TweetId, UserId
from timeline.writing.ports import Ids, Marker, MarkerStore, UserStore
from timeline.writing.sight import must_exist


class Markers:
    """Shared by all requests."""

    def __init__(self, *, users: UserStore, markers: MarkerStore, ids: Ids) -> None:
        self._users, self._markers, self._ids = users, markers, ids

    async def get(self, me: UserId) -> Marker | None:
        """None: it was never set."""
        return await self._markers.get(me)

    async def move(self, me: UserId, tweet_id: TweetId, *, rewind: bool) -> Marker:
        """Forward only, unless `rewind`; the marker that stands now. Raises BadRequest("user-not-found")."""
        await must_exist(self._users, me)
        return await self._markers.move(me, Marker(tweet_id, self._ids.now_us()), rewind=rewind)
