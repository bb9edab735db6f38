"""Follower shards: how many a user has, and when the next is opened."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Sequence

from timeline.domain.entries import UserIds
from timeline.domain.errors import Unavailable
from timeline.domain.ids import UserId
from timeline.domain.limits import Limits
from timeline.store.columns import ints
from timeline.store.parallel import chunks, each
from timeline.store.session import Cql, Kind, Session

log = logging.getLogger(__name__)
RANGES = 64  # of tokens in a scan: none takes a node long, and each begins anew with another coordinator

_GET = Cql("shards_get", "SELECT user_id, shards FROM follower_shards WHERE user_id IN ?")
_OPEN_SECOND = Cql(
    "shards_open_second", "INSERT INTO follower_shards (user_id, shards) VALUES (?, ?) IF NOT EXISTS", Kind.cas
)
_OPEN = Cql("shards_open", "UPDATE follower_shards SET shards = ? WHERE user_id = ? IF shards = ?", Kind.cas)
_IN_RANGE = Cql(
    "shards_in_range", "SELECT user_id, shards FROM follower_shards WHERE token(user_id) > ? AND token(user_id) <= ?"
)
_SIZE = Cql("shard_size", "SELECT COUNT(*) FROM followers WHERE user_id = ? AND shard = ?")


class Shards:
    """Shards are numbered from 0; a user without a row has one. New follows go to the last."""

    def __init__(self, session: Session, limits: Limits, rng: random.Random | None = None) -> None:
        self._session = session
        self._per_query = limits.pull_authors_per_query
        self._size = limits.follower_shard_size
        # Counting 5,000 rows takes some 5 ms, so it is done once in about 60 follows: a shard overshoots by about that many
        self._check_every = max(1, self._size // 80)
        self._rng = rng or random.Random()

    async def count(self, user_id: UserId) -> int:
        return (await self.counts([user_id]))[user_id]

    async def counts(self, user_ids: Sequence[UserId]) -> dict[UserId, int]:
        """Of each, how many shards."""
        found = dict.fromkeys(user_ids, 1)
        parts = [(list(part),) for part in chunks(list(found), self._per_query)]
        async for rows in each(parts, lambda part: self._session.rows(_GET, part)):
            found.update(rows)
        return found

    async def large(self, shards_min: int) -> AsyncIterator[UserIds]:
        """Every user with so many shards or more, a few at a time, each once. Reads the whole table, a page at a time: a row for each
        user with more than one shard. Raises Unavailable."""
        width = (
            2**64 // RANGES
        )  # no key has the least token of all, so nothing is missed where ranges exclude their beginning
        for at in range(-(2**63), 2**63, width):
            async for page in self._session.all_columns(_IN_RANGE, (at, min(at + width, 2**63 - 1))):
                found = ints(page["user_id"])[ints(page["shards"]) >= shards_min]
                if len(found):
                    yield found

    async def newest(self, user_id: UserId) -> int:
        """The shard for a new follower."""
        return await self.count(user_id) - 1

    async def size(self, user_id: UserId, shard: int) -> int:
        row = await self._session.one(_SIZE, (user_id, shard))
        return int(row[0]) if row else 0

    async def maybe_open_next(self, user_id: UserId, shard: int) -> None:
        """Now and then, after a follow into `shard`: if that is full and still the last, open the next one. Never raises Unavailable:
        the follow is stored, and a later one looks again."""
        if self._rng.randrange(self._check_every):
            return
        shards = shard + 1
        try:
            if await self.size(user_id, shard) < self._size:
                return
            if shards == 1:
                await self._session.compare_and_set(_OPEN_SECOND, (user_id, 2))
            else:
                await self._session.compare_and_set(_OPEN, (shards + 1, user_id, shards))
        except Unavailable as error:
            log.info("shard_not_opened", extra={"user": user_id, "reason": str(error)})
