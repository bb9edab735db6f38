"""Edits: what the last one decided is one row a tweet, changed by compare-and-set; the tweet's own row is its mirror, written with the
decision's version as timestamp.

Two edits at once are decided one after the other, each on top of what the last one decided: so an edit of the text does not undo one
of the visibility. A version means one content: what is cached under it is right for good. A process that dies between decision and
mirror has answered nobody; the next edit goes on from the decision and writes both.
"""

from __future__ import annotations

from functools import partial

from timeline.domain.errors import OutcomeUnknown, after_effect
from timeline.domain.ids import TweetId
from timeline.domain.model import Tweet, TweetKey, Visibility
from timeline.store.session import Cql, Kind, Session
from timeline.store.settle import settle
from timeline.store.tweets import Tweets
from timeline.writing.ports import Edited

_TRIES_MAX = 8  # each lost race is another edit of the same tweet

_GET = Cql("edit_get", "SELECT text, visibility, edited_ms, version FROM tweet_edits WHERE tweet_id = ?")
_FIRST = Cql(
    "edit_first",
    "INSERT INTO tweet_edits (tweet_id, text, visibility, edited_ms, version) VALUES (?, ?, ?, ?, ?) IF NOT EXISTS",
    Kind.cas,
)
_AGAIN = Cql(
    "edit_again",
    "UPDATE tweet_edits SET text = ?, visibility = ?, edited_ms = ?, version = ? WHERE tweet_id = ? IF version = ?",
    Kind.cas,
)


class Edits:
    """EditStore."""

    def __init__(self, session: Session, tweets: Tweets) -> None:
        self._session, self._tweets = session, tweets

    async def edit(self, tweet: Tweet, text: str | None, visibility: Visibility | None, at_us: int) -> Edited:
        """What the tweet says now: the members that are not None changed, the others as the last edit left them. `tweet` is its row as
        read just before. An edit that changes nothing decides nothing; its mirror is written all the same, so a retried call
        repairs what a crash left out."""
        stands = await self._get(tweet.id)
        for _ in range(_TRIES_MAX):
            last = stands or Edited(tweet.text, tweet.visibility, tweet.edited_ms, tweet.version)
            wanted_text = last.text if text is None else text
            wanted_visibility = last.visibility if visibility is None else visibility
            if (wanted_text, wanted_visibility) == (last.text, last.visibility):
                break
            version = max(at_us, last.version + 1, tweet.version + 1)
            wanted = Edited(wanted_text, wanted_visibility, at_us // 1000, version)
            stands = await self._decide(tweet.id, stands, wanted)
            if stands == wanted:
                break
        else:
            raise OutcomeUnknown("edits of one tweet keep overtaking each other")
        if stands is None:
            return last
        key = TweetKey(tweet.author_id, tweet.id)
        with after_effect():
            await self._tweets.edit(key, stands.text, stands.visibility, stands.edited_ms or 0, stands.version)
        return stands

    async def _decide(self, tweet_id: TweetId, stood: Edited | None, wanted: Edited) -> Edited | None:
        """`wanted`, or what stands instead."""
        content = (wanted.text, wanted.visibility.value, wanted.edited_ms, wanted.version)
        values: tuple[object, ...]
        if stood is None:
            statement, values = _FIRST, (tweet_id, *content)
        else:
            statement, values = _AGAIN, (*content, tweet_id, stood.version)
        return await settle(self._session, statement, values, wanted, partial(self._get, tweet_id, serial=True))

    async def _get(self, tweet_id: TweetId, *, serial: bool = False) -> Edited | None:
        row = await self._session.one(_GET, (tweet_id,), serial=serial)
        return Edited(row[0] or "", Visibility(row[1]), row[2], row[3]) if row else None
