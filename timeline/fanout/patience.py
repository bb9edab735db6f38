"""Waiting for an engine that is away: tried again for ever with growing pauses, said once, shown by a gauge."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from timeline import metrics
from timeline.domain.errors import Unavailable
from timeline.domain.limits import Limits

Answer = TypeVar("Answer")
Sleep = Callable[[float], Awaitable[None]]

_FIRST_PAUSE_SECONDS = 0.05
_log = logging.getLogger(__name__)


class Patience:
    """Of one worker. Several calls may wait at once; the outage begins with the first and ends when none waits any more."""

    def __init__(self, worker: str, limits: Limits, sleep: Sleep = asyncio.sleep) -> None:
        self._worker, self._sleep = worker, sleep
        self._pause_max_seconds = limits.retry_pause_max_ms / 1000
        self._paused = metrics.PAUSED.labels(worker)
        self._paused.set(0)
        self._waiting = 0

    async def until_available(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """What the call answers at last. It is repeated whole on Unavailable, so it must be harmless to repeat; any other error
        is raised."""
        try:
            return await call()
        except Unavailable as error:
            self._begin(error)
        try:
            return await self._again(call)
        finally:
            self._end()

    async def _again(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            # half of it at random, so that many workers do not come back in one moment
            await self._sleep(min(pause, self._pause_max_seconds) * random.uniform(0.5, 1))
            pause = min(pause * 2, self._pause_max_seconds)
            try:
                return await call()
            except Unavailable as error:
                _log.debug("%s still waits: %s", self._worker, error)

    def _begin(self, error: Unavailable) -> None:
        self._waiting += 1
        if self._waiting == 1:
            self._paused.set(1)
            _log.warning("%s waits for an engine that is away: %s", self._worker, error)

    def _end(self) -> None:
        self._waiting -= 1
        if not self._waiting:
            self._paused.set(0)
            _log.info("%s goes on", self._worker)
