"""The pull path's budget of queries, apart from everything else that this process asks of the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from timeline.domain.errors import Overloaded
from timeline.domain.limits import Limits


class PullBudget:
    """pull_queries_in_flight of this process: with Redis away, reads must take neither Cassandra down nor what else is asked of it."""

    def __init__(self, limits: Limits) -> None:
        self._places = asyncio.Semaphore(limits.pull_queries_in_flight)
        self._wait_seconds = limits.cassandra_timeout_ms / 1000
        self._waiting = 0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """A place for one query. Raises Overloaded when none is free in time."""
        self._waiting += 1
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._places.acquire()
        except TimeoutError as error:
            raise Overloaded(f"{self._waiting} queries wait for the pull path's budget") from error
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._places.release()
