"""Time that a test moves."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count

_TURNS = 30  # of the loop: more than any chain of awaits between two sleeps in what is tested


async def settle() -> None:
    """Let every task run until it waits for time, or for good."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Return when it holds, looked at again and again; TimeoutError if that takes longer."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  what is waited for sets no event
            await asyncio.sleep(0.001)


class FakeClock:
    def __init__(self, now_ms: int) -> None:
        self._now_ms = float(now_ms)
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = count()

    def now_ms(self) -> int:
        return int(self._now_ms)

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now_ms + seconds * 1000, next(self._numbers), woken))
        await woken

    async def advance(self, seconds: float) -> None:
        """Wake every sleeper in its order, those included that begin to sleep meanwhile."""
        end = self._now_ms + seconds * 1000
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self._now_ms, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                woken.set_result(None)
            await settle()
        self._now_ms = end
