"""Edits of a tweet's text and visibility. They hold from the next read: what is cached of a tweet is used only under the version that
its state says, and the new state is put before the edit is answered."""

from __future__ import annotations

from timeline.domain import pauses, tweet_text
from timeline.domain.errors import BadRequest, Fault, Stored, Unavailable
from timeline.domain.ids import TweetId, UserId
from timeline.domain.limits import Limits
from timeline.domain.model import Tweet, Visibility
from timeline.domain.pauses import Point
from timeline.domain.records import State
from timeline.writing.ports import CountsStore, Edited, EditStore, Ids, StateCache
from timeline.writing.sight import Sight


class Edits:
    """Shared by all requests."""

    def __init__(
        self,
        *,
        sight: Sight,
        counts: CountsStore,
        edits: EditStore,
        ids: Ids,
        states: StateCache,
        limits: Limits,
    ) -> None:
        self._sight, self._counts, self._edits = sight, counts, edits
        self._ids, self._states, self._limits = ids, states, limits

    async def edit(self, me: UserId, tweet_id: TweetId, text: str | None, visibility: Visibility | None) -> TweetId:
        """Change what is not None; the tweet edited (of a retweet's id, the retweeted one). One that changes nothing is no edit.

        Raises BadRequest: tweet-not-found, not-yours, invalid-tweet; Stored.
        """
        tweet = await self._sight.source(me, tweet_id)
        if tweet.author_id != me:
            raise BadRequest("not-yours", "Only its author edits a tweet.")
        if text is not None:
            text = self._checked(text, tweet)
        edited = await self._edits.edit(tweet, text, visibility, self._ids.now_us())
        await self._tell(tweet.id, edited)
        return tweet.id

    def _checked(self, text: str, tweet: Tweet) -> str:
        """In NFC, by the rules of a new tweet's."""
        text = tweet_text.normalize(text)
        wrong = tweet_text.text_faults(text, limits=self._limits, may_be_empty=bool(tweet.media_ids))
        if wrong:
            raise BadRequest("invalid-tweet", "The tweet was not changed.", (Fault("/text", wrong),))
        return text

    async def _tell(self, tweet_id: TweetId, edited: Edited) -> None:
        """A deletion meanwhile needs no care here: its state is newer than any edit's."""
        if pauses.hold is not None:
            await pauses.hold(Point.invalidate, tweet_id)
        try:
            # with its counts: they are shown from the state, and an edit is no reason to begin at nought
            counts = (await self._counts.counts_of([tweet_id]))[tweet_id]
            only = edited.visibility is Visibility.followers
            await self._states.put_state(tweet_id, State(edited.version, False, only, counts))
        except Unavailable as error:
            raise Stored(
                f"The edit is stored, and shown on every page within {self._limits.state_seconds} s; repeating it is harmless."
            ) from error
