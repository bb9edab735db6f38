"""Records that are cached under a lease: the reader's context, and what the reader has liked and retweeted.

Fails closed where it matters: no context, no page. From the cache if it is there, from the store if not; a cache that is away costs a
read of the store, no more.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from timeline.assembly.ports import LeasedCache
from timeline.domain import pauses
from timeline.domain.errors import Unavailable
from timeline.domain.ids import UserId
from timeline.domain.pauses import Point

Record = TypeVar("Record")
log = logging.getLogger(__name__)


class Leased(Generic[Record]):
    """Read through a leased cache. `load` asks the store."""

    def __init__(self, cache: LeasedCache[Record], load: Callable[[UserId], Awaitable[Record]]) -> None:
        self._cache, self._load = cache, load

    async def get(self, user_id: UserId) -> Record:
        """The record as of now, or as of a moment within the lease with no change since. Raises Unavailable when the store must be
        asked and does not answer."""
        try:
            record = await self._cache.get(user_id)
            if record is not None:
                return record
            token = await self._cache.begin_fill(user_id)
        except Unavailable:
            return await self._load(user_id)
        record = await self._load(user_id)
        if pauses.hold is not None:
            await pauses.hold(Point.fill, user_id)
        if token is not None:
            await self._fill(user_id, token, record)
        return record

    async def _fill(self, user_id: UserId, token: int, record: Record) -> None:
        try:
            await self._cache.fill(user_id, token, record)
        except Unavailable:
            log.debug("fill_left_out")  # the next read tries again; the token bars nobody for longer than the lease
