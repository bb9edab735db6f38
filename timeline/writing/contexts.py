"""Readers' contexts, around a change of the graph: marked before the store is written, forgotten before the change is answered."""

from __future__ import annotations

import logging

from timeline.domain import pauses
from timeline.domain.errors import Stored, Unavailable
from timeline.domain.ids import UserId
from timeline.domain.limits import Limits
from timeline.domain.pauses import Point
from timeline.writing.ports import Lease

log = logging.getLogger(__name__)


class Contexts:
    """Shared by all requests."""

    def __init__(self, readers: Lease, limits: Limits) -> None:
        self._readers, self._limits = readers, limits

    async def mark(self, *changed: UserId) -> None:
        """Before the store is written: from now on no read fills the cache with what was there before."""
        for user_id in changed:
            try:
                await self._readers.mark(user_id)
            except Unavailable:
                log.info("reader_not_marked", extra={"then": "what is answered depends on forget"})

    async def forget(self, *changed: UserId) -> None:
        """After the store was written: the next read of each asks it. Raises Stored when that cannot be promised for all of them; a
        mark alone promises nothing, since another change of the same reader may have removed it."""
        if pauses.hold is not None:
            await pauses.hold(Point.invalidate, changed[0])
        failed: Unavailable | None = None
        for user_id in changed:
            try:
                await self._readers.drop(user_id)
            except Unavailable as error:
                failed = error
        if failed is not None:
            raise Stored(
                f"The change is stored, and holds within {self._limits.reader_lease_seconds} s; repeating it is harmless."
            ) from failed
