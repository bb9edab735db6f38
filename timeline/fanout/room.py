"""Room for what is under way: so many batches of a kind, not counting those that only wait for a Redis node that is away.

So one node holds up nobody else's deliveries, in the seconds before what it lacks may be left out. How much may wait like that is
bounded: then everybody waits, as if all of Redis were away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from time import monotonic

from timeline.domain.limits import Limits


class Parking:
    """What waits for nodes that are away, of all kinds together."""

    def __init__(self, limits: Limits) -> None:
        self._events_max, self._appends_max = limits.fanout_parked_events_max, limits.fanout_parked_appends_max
        self._events = self._appends = 0

    def take(self, events: int, appends: int) -> bool:
        """Whether there is room for one more batch of so many events, of which so many appends are left; it is then taken."""
        if self._events + events > self._events_max or self._appends + appends > self._appends_max:
            return False
        self._events += events
        self._appends += appends
        return True

    def free(self, events: int, appends: int) -> None:
        self._events -= events
        self._appends -= appends


class Room:
    """For batches of one kind. A place is taken before there is a batch for it: then nothing is under way yet."""

    def __init__(self, at_once: int, parking: Parking, clock: Callable[[], float] = monotonic) -> None:
        self._at_once, self._parking, self._clock = at_once, parking, clock
        self._taken = self._under_way = self._parked = 0
        self._changed = asyncio.Event()
        self._used_at = -inf

    def is_quiet(self, seconds: float) -> bool:
        """Whether nothing has been under way for so long."""
        return self._is_idle and self._clock() - self._used_at >= seconds

    async def idle(self, seconds: float) -> None:
        """Wait until nothing is under way, but for what is parked; at most so long."""
        if self._is_idle:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._is_idle:
                    self._changed.clear()
                    await self._changed.wait()

    @property
    def _is_idle(self) -> bool:
        return self._under_way <= self._parked

    async def enter(self) -> None:
        """Wait until there is room, and take it."""
        while self._taken - self._parked >= self._at_once:
            self._changed.clear()
            await self._changed.wait()
        self._taken += 1

    def begin(self) -> None:
        """There is a batch for the place that was taken."""
        self._under_way += 1

    def leave(self) -> None:
        self._taken -= 1
        self._under_way -= 1
        self._used_at = self._clock()
        self._changed.set()

    @contextmanager
    def parked(self, events: int, appends: int) -> Iterator[None]:
        """Meanwhile a batch of so many events, of which so many appends are left, takes no room, if there is parking for it. No
        appends: nothing is waited for, or there is nobody for whom to go on."""
        if not appends or not self._parking.take(events, appends):
            yield
            return
        self._parked += 1
        self._changed.set()
        try:
            yield
        finally:
            self._parking.free(events, appends)
            self._parked -= 1
