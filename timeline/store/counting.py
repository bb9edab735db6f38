"""How many like or retweet a tweet: counted by reading its mirror, so that no counter can drift from the rows.

Of a few, each time anew. Of many, not by everybody: a celebrity's tweet that a thousand people like in a second would be read from its
first row to its last by each of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from timeline.domain.ids import TweetId
from timeline.store.by_time import SHARDS
from timeline.store.session import Cql, Session

COUNTED_MAX = 10_000  # rows read for one number, 10 ms: above, a tweet has at least so many
MANY = 1_000  # from here on a count may be a second old: nobody sees a difference of so little
SECONDS = 1.0
TWEETS_MAX = 1_000  # whose counts are remembered: those that many act on within a second are far fewer


@dataclass(slots=True)
class _Counted:
    count: int
    at: float


class Counting:
    """Counts of one kind. Shared by all requests."""

    def __init__(self, session: Session, cql: Cql, *, many: int = MANY, now: Callable[[], float] = monotonic) -> None:
        """`cql` reads the mirror's rows of (tweet_id, shards), COUNTED_MAX at most."""
        self._session, self._cql, self._many, self._now = session, cql, many, now
        self._counted: OrderedDict[TweetId, _Counted] = OrderedDict()  # what was counted last stands last

    async def count(self, tweet_id: TweetId) -> int:
        """How many stand, up to COUNTED_MAX; of many, as of a second ago."""
        before = self._counted.get(tweet_id)
        if before is not None:
            if self._now() - before.at < SECONDS:
                return before.count
            before.at = self._now()  # whoever comes while this one counts is told what was
        count = await self._read(tweet_id)
        self._counted.pop(tweet_id, None)
        if count >= self._many:
            self._counted[tweet_id] = _Counted(count, self._now())
            if len(self._counted) > TWEETS_MAX:
                self._counted.popitem(last=False)
        return count

    async def _read(self, tweet_id: TweetId) -> int:
        counted, state = 0, None
        while True:
            columns, state = await self._session.columns(self._cql, (tweet_id, list(range(SHARDS))), state)
            counted += len(columns["user_id"])
            if state is None:
                return counted
