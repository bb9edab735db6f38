"""Who likes a tweet, and who has retweeted it: a page of users, newest first, as one reader may see them."""

from __future__ import annotations

from typing import Literal

from timeline.assembly.people import People
from timeline.assembly.ports import MarkedBy
from timeline.assembly.service import Reading
from timeline.domain.cursors import Cursor, Signer
from timeline.domain.ids import TweetId, UserId


class Marked:
    """Shared by all requests."""

    def __init__(self, *, reading: Reading, people: People, marked_by: MarkedBy, signer: Signer) -> None:
        self._reading, self._people, self._marked_by, self._signer = reading, people, marked_by, signer

    async def page(
        self, me: UserId | None, tweet_id: TweetId, mark: Literal["likes", "retweets"], cursor: str | None, limit: int
    ) -> tuple[list[bytes], str | None]:
        """Users, and the next cursor. Erased ones and those across a block are left out, so a page may be short. By a retweet's id
        those of the retweeted tweet. Raises BadRequest: bad-cursor, tweet-not-found; Unavailable."""
        scope = f"{mark}:{tweet_id}:{me or 0}"
        at = self._signer.read(cursor, scope) if cursor is not None else None
        source = await self._reading.source_of(me, tweet_id)
        ask = self._marked_by.likers if mark == "likes" else self._marked_by.retweeters
        # a place is a version and a user: the cursor's two numbers
        ids, below = await ask(source, None if at is None else (at.epoch, at.boundary), limit)
        shown = await self._people.some(me, ids)
        onward = None if below is None else Cursor("older", below[1], below[0])
        return shown, None if onward is None else self._signer.write(onward, scope)
