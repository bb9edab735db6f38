"""The fan-out worker: events in, entries appended to every follower's home list, offsets done.

Fails closed: a batch is done only when Redis has acknowledged every append of it, or what it lacks is recorded where every reader
knows it: who is pulled, and which slots have holes. While the store, or the whole cache, is away the batch waits here, at most
fanout_batches_in_flight of them, and the event log keeps this worker's membership. Whatever else is raised stops the worker; a
batch that was not done is delivered again elsewhere, and what came twice vanishes on read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import monotonic, time

from timeline import metrics
from timeline.domain.ids import UserId, time_ms
from timeline.domain.limits import Limits
from timeline.fanout.holes import Holes
from timeline.fanout.known import KnownFollowers
from timeline.fanout.patience import Patience
from timeline.fanout.plan import ByAuthor, Gathering, by_author
from timeline.fanout.ports import Batch, Classes, Events, Followers, Pushes
from timeline.fanout.pushing import Pushing
from timeline.fanout.reclassify import Reclassify
from timeline.fanout.stopping import closing, drain, unless

_LEFT_OUT_PULLED = metrics.LEFT_OUT.labels("pulled")
_log = logging.getLogger(__name__)


def _now_ms() -> int:
    return int(time() * 1000)


async def run_fanout(
    events: Events,
    followers: Followers,
    pushes: Pushes,
    classes: Classes,
    limits: Limits,
    stopping: asyncio.Event,
    *,
    push_followers_max: int,
    clock_ms: Callable[[], int] = _now_ms,
) -> None:
    """Work until `stopping` is set; then take no more, and finish what is under way within drain_seconds.

    Raises an ExceptionGroup with whatever the event log, or a bug, raised.
    """
    fanout = Fanout(
        events, followers, pushes, classes, limits, push_followers_max=push_followers_max, clock_ms=clock_ms
    )
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
        self,
        events: Events,
        followers: Followers,
        pushes: Pushes,
        classes: Classes,
        limits: Limits,
        *,
        push_followers_max: int,
        clock_ms: Callable[[], int] = _now_ms,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._events, self._limits, self._clock_ms, self._clock = events, limits, clock_ms, clock
        self._classes, self._patience = classes, Patience("fanout", limits)
        self._pushing = Pushing(pushes, Holes(pushes, classes, limits), self._patience, limits, clock_ms)
        self._followers = KnownFollowers(followers, limits, clock)
        self._reclassify = Reclassify(classes, followers, limits, push_followers_max, clock)

    async def deliver(self, batch: Batch) -> None:
        """Return when everything of it is in Redis, or recorded as left out, and it is done; waits for engines that are away, for
        ever.

        Profiles come first: whoever may skip an author's followers may do so because readers pull the profile.
        """
        taken = self._clock()  # by now all of it is stored
        entries = by_author(batch.events)
        await self._pushing.profiles(entry for each in entries.values() for entry in each)
        pulled = await self._pulled(list(entries))
        pushed = {author: each for author, each in entries.items() if author not in pulled}
        counts = await self._push_followers(pushed, taken)
        await self._reclassify.after_push(counts)
        again = await self._reclassify.recount(pulled)
        for author in again:
            self._followers.forget(author)  # from when there were more: by its length the author would be pulled again
        await self._push_followers({author: entries[author] for author in again}, taken)
        _LEFT_OUT_PULLED.inc(sum(len(entries[author]) for author in pulled.difference(again)))
        self._observe(batch)
        await self._events.done(batch)

    async def _pulled(self, authors: list[UserId]) -> set[UserId]:
        """Who is not pushed. A worker that has just begun, or whose notices have grown old while the store was away, waits until it
        knows: to push for a celebrity what nobody needs would hold up everybody else."""
        pulled = self._reclassify.pulled(authors)
        if any(self._classes.stands(author) for author in authors if author not in pulled):
            await self._patience.until_available(self._classes.settled)
            pulled = self._reclassify.pulled(authors)
        return pulled

    async def _push_followers(self, entries: ByAuthor, taken: float) -> dict[UserId, int]:
        """How many followers each of the authors has. A push or a read that fails is repeated alone, so that what others have is not
        appended again."""
        counts = dict.fromkeys(entries, 0)
        gathering = Gathering(entries, self._limits.fanout_appends_per_push)
        async with closing(self._followers.pages(list(entries), taken, self._patience.until_available)) as pages:
            async for page in pages:
                counts[page.author_id] += len(page.followers)
                for push in gathering.add(page):
                    await self._pushing.homes(push)
        for push in gathering.rest():
            await self._pushing.homes(push)
        return counts

    def _observe(self, batch: Batch) -> None:
        now_ms = self._clock_ms()
        for event in batch.events:
            metrics.DELIVERY_LAG_SECONDS.observe(max(0, now_ms - time_ms(event.tweet_id)) / 1000)
