"""What the first request under an idempotency key reserved, so that a retry replays the same batch."""

from __future__ import annotations

from functools import partial

from timeline.domain.errors import OutcomeUnknown
from timeline.domain.ids import TweetId, UserId
from timeline.domain.limits import Limits
from timeline.store.session import Cql, Kind, Session
from timeline.store.settle import settle
from timeline.writing.ports import Reservation

_RESERVE = Cql(
    "key_reserve",
    "INSERT INTO idempotency_keys (user_id, key, tweet_id, version, body_hash) VALUES (?, ?, ?, ?, ?) "
    "IF NOT EXISTS USING TTL ?",
    Kind.cas,
)
_GET = Cql("key_get", "SELECT tweet_id, version, body_hash FROM idempotency_keys WHERE user_id = ? AND key = ?")
_TRIES_MAX = 3  # a row may expire between the refusal and the read, or an unknown outcome be a no


class IdempotencyKeys:
    """IdempotencyStore."""

    def __init__(self, session: Session, limits: Limits) -> None:
        self._session = session
        self._seconds = limits.idempotency_key_seconds

    async def reserve(self, user_id: UserId, key: str, mine: Reservation) -> Reservation:
        """By compare-and-set: `mine` if the key was free, else what was there. An unknown outcome is settled by a serial read."""
        values = (user_id, key, mine.tweet_id, mine.version, mine.body_hash, self._seconds)
        for _ in range(_TRIES_MAX):
            stands = partial(self.find, user_id, key)
            if reservation := await settle(self._session, _RESERVE, values, mine, stands):
                return reservation
        raise OutcomeUnknown("an idempotency key neither could be reserved nor is there")

    async def find(self, user_id: UserId, key: str) -> Reservation | None:
        """What stands under the key, if anything; nothing is written."""
        row = await self._session.one(_GET, (user_id, key), serial=True)
        return Reservation(TweetId(row[0]), row[1], row[2]) if row else None
