"""The fan-out worker: events in, entries appended to every follower's home list, offsets done.

Fails closed: a batch is done only when Redis has acknowledged every append of it. While the store or the cache is away the batch
waits here, at most fanout_batches_in_flight of them, and the event log keeps this worker's membership. Whatever else is raised
stops the worker; a batch that was not done is delivered again elsewhere, and what came twice vanishes on read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import time

from timeline import metrics
from timeline.domain.ids import time_ms
from timeline.domain.limits import Limits
from timeline.fanout.patience import Patience
from timeline.fanout.plan import ByAuthor, Gathering, Push, by_author, is_late
from timeline.fanout.ports import Batch, Events, Followers, NotAcknowledged, Pushes
from timeline.fanout.stopping import closing, drain, unless

_log = logging.getLogger(__name__)


def _now_ms() -> int:
    return int(time() * 1000)


async def run_fanout(
    events: Events,
    followers: Followers,
    pushes: Pushes,
    limits: Limits,
    stopping: asyncio.Event,
    *,
    clock_ms: Callable[[], int] = _now_ms,
) -> None:
    """Work until `stopping` is set; then take no more, and finish what is under way within drain_seconds.

    Raises an ExceptionGroup with whatever the event log, or a bug, raised.
    """
    fanout = Fanout(events, followers, pushes, limits, clock_ms)
    room = asyncio.Semaphore(limits.fanout_batches_in_flight)
    under_way: set[asyncio.Task[None]] = set()

    async def deliver(batch: Batch) -> None:
        try:
            await fanout.deliver(batch)
        finally:
            room.release()

    async with asyncio.TaskGroup() as group:
        while await unless(stopping, room.acquire()):
            batch = await unless(stopping, events.batch()) if not stopping.is_set() else None
            if batch is None:
                break
            task = group.create_task(deliver(batch), name="fanout-batch")
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        if given_up := await drain(set(under_way), limits.drain_seconds):
            _log.warning("%d batches not finished in time: their events come again", given_up)


class Fanout:
    """Delivers batches. Two at once may reach a list in either order: a list is sorted when it is read."""

    def __init__(
        self, events: Events, followers: Followers, pushes: Pushes, limits: Limits, clock_ms: Callable[[], int]
    ) -> None:
        self._events, self._followers, self._pushes = events, followers, pushes
        self._limits, self._clock_ms = limits, clock_ms
        self._patience = Patience("fanout", limits)

    async def deliver(self, batch: Batch) -> None:
        """Return when everything of it is in Redis and it is done; waits for engines that are away, for ever."""
        entries = by_author(batch.events)
        await self._push_profiles(entries)
        await self._push_followers(entries)
        now_ms = self._clock_ms()
        for event in batch.events:
            metrics.DELIVERY_LAG_SECONDS.observe(max(0, now_ms - time_ms(event.tweet_id)) / 1000)
        await self._events.done(batch)

    async def _push_profiles(self, entries: ByAuthor) -> None:
        """As _push."""
        left = [entry for each in entries.values() for entry in each]

        async def once() -> None:
            nonlocal left
            now_ms = self._clock_ms()
            try:
                await self._pushes.push_profiles([(entry, is_late(entry, now_ms, self._limits)) for entry in left])
            except NotAcknowledged as error:
                left = [each.entry for each in error.left]
                raise

        await self._patience.until_available(once)

    async def _push_followers(self, entries: ByAuthor) -> None:
        """A push or a read that fails is repeated alone, so that what others have is not appended again."""
        gathering = Gathering(entries, self._limits.fanout_appends_per_push)
        async with closing(self._followers.pages(list(entries), self._patience.until_available)) as pages:
            async for page in pages:
                for push in gathering.add(page):
                    await self._push(push)
        for push in gathering.rest():
            await self._push(push)

    async def _push(self, push: Push) -> None:
        """Until all of it is acknowledged; only what was not is pushed again. What is late is decided anew each time: it grows late
        while Redis is away."""
        left = push

        async def once() -> None:
            nonlocal left
            try:
                await self._pushes.push(left.deliveries(self._clock_ms(), self._limits))
            except NotAcknowledged as error:
                left = Push.of(error.left)
                raise

        await self._patience.until_available(once)
