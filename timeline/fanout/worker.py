"""The fan-out worker: events in, entries appended to every follower's home list, offsets done.

Fails closed: a batch is done only when Redis has acknowledged every append of it, or what it lacks is recorded: slices of large
fan-outs in the event log, who is pulled, and which slots have holes, where every reader knows it. While the store, or the whole
cache, is away the batch waits here, at most fanout_batches_in_flight of them, and the event log keeps this worker's membership.
Whatever else is raised stops the worker; a batch that was not done is delivered again elsewhere, and what came twice vanishes on read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from time import monotonic, time

from timeline import metrics
from timeline.domain.events import FanoutSlice, TweetCreated
from timeline.domain.ids import UserId
from timeline.domain.limits import Limits
from timeline.fanout.holes import Holes
from timeline.fanout.known import KnownFollowers
from timeline.fanout.patience import Patience
from timeline.fanout.plan import ByAuthor, Gathering, by_author, lag_seconds
from timeline.fanout.ports import Batch, Classes, Event, Events, FollowerPage, Followers, ProgressStore, Pushes, Slices
from timeline.fanout.pushing import Left, Pushing
from timeline.fanout.reclassify import Reclassify
from timeline.fanout.room import Parking, Room
from timeline.fanout.slicing import Slicing
from timeline.fanout.stopping import closing, drain, unless

_LAG = metrics.DELIVERY_LAG_SECONDS.labels("tweet")
_LEFT_OUT_PULLED = metrics.LEFT_OUT.labels("pulled")
_log = logging.getLogger(__name__)


def _now_ms() -> int:
    return int(time() * 1000)


async def run_fanout(fanout: Fanout, limits: Limits, stopping: asyncio.Event) -> None:
    """Work until `stopping` is set; then take no more, and finish what is under way within drain_seconds.

    Raises an ExceptionGroup with whatever the event log, or a bug, raised.
    """
    under_way: set[asyncio.Task[None]] = set()
    async with asyncio.TaskGroup() as group:

        async def take(
            events: Events[Event],
            deliver: Callable[[Batch[Event]], Awaitable[None]],
            room: Room,
            gathers: Callable[[Batch[Event]], bool],
        ) -> None:
            """Batches of one kind. After which of them events are left to gather, decides `gathers`."""

            async def one(batch: Batch[Event]) -> None:
                try:
                    await deliver(batch)
                finally:
                    room.leave()

            while not stopping.is_set():
                await unless(stopping, room.enter())
                batch = await unless(stopping, events.batch()) if not stopping.is_set() else None
                if batch is None:
                    break
                room.begin()
                task = group.create_task(one(batch), name="fanout-batch")
                under_way.add(task)
                task.add_done_callback(under_way.discard)
                if gathers(batch):
                    await unless(stopping, asyncio.sleep(limits.fanout_gather_ms / 1000))

        def is_small(batch: Batch[TweetCreated]) -> bool:
            return len(batch.events) < limits.fanout_batch_events

        intakes = {
            group.create_task(take(fanout.tweets, fanout.deliver, fanout.tweets_room, is_small), name="tweets"),
            group.create_task(
                take(fanout.slices, fanout.deliver_slices, fanout.slices_room, lambda _: False), name="slices"
            ),
        }
        await asyncio.wait(intakes)
        if given_up := await drain(set(under_way), limits.drain_seconds):
            _log.warning("%d batches not finished in time: their events come again", given_up)


class Fanout:
    """Delivers batches. Two at once may reach a list in either order: a list is sorted when it is read."""

    def __init__(
        self,
        tweets: Events[TweetCreated],
        slices: Slices,
        followers: Followers,
        progress: ProgressStore,
        pushes: Pushes,
        classes: Classes,
        limits: Limits,
        *,
        push_followers_max: int,
        clock_ms: Callable[[], int] = _now_ms,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.tweets, self.slices = tweets, slices
        self._limits, self._clock_ms, self._clock = limits, clock_ms, clock
        self._classes, self._patience = classes, Patience("fanout", limits)
        self._pushing = Pushing(pushes, Holes(pushes, classes, limits), self._patience, limits, clock_ms)
        self._followers = KnownFollowers(followers, limits, clock)
        parking = Parking(limits)
        self.tweets_room = Room(limits.fanout_batches_in_flight, parking)
        self.slices_room = Room(limits.fanout_slices_in_flight, parking)
        self._slicing = Slicing(
            slices,
            progress,
            self._followers,
            self._pushing,
            self._patience,
            self.slices_room,
            self.tweets_room,
            limits,
            clock_ms,
        )
        self._reclassify = Reclassify(classes, followers, limits, push_followers_max, clock)

    async def deliver(self, batch: Batch[TweetCreated]) -> None:
        """Return when everything of it is in Redis, or recorded as left out, and it is done; waits for engines that are away, for
        ever.

        Profiles come first: whoever may skip an author's followers may do so because readers pull the profile.
        """
        taken = self._clock()  # by now all of it is stored
        entries, left = by_author(batch.events), Left(len(batch.events))
        await self._pushing.profiles((entry for each in entries.values() for entry in each), left)
        pulled = await self._pulled(list(entries))
        pushed = {author: each for author, each in entries.items() if author not in pulled}
        counts, large = await self._push(batch, pushed, taken, left)
        await self._reclassify.after_push(counts)
        await self._reclassify.after_slicing(large)
        again = await self._reclassify.recount(pulled)
        for author in again:
            self._followers.forget(author)  # from when there were more: by its length the author would be pulled again
        again_pushed = {author: entries[author] for author in again}
        _, more = await self._push(batch, again_pushed, taken, left)
        _LEFT_OUT_PULLED.inc(sum(len(entries[author]) for author in pulled.difference(again)))
        await self._pushing.finish(left, self.tweets_room)
        self._observe(pushed | again_pushed, {*large, *more}, left.reached_ms)
        await self.tweets.done(batch)

    async def deliver_slices(self, batch: Batch[FanoutSlice]) -> None:
        """As `deliver`. An author who has come to be pulled since the slice was made is pushed no further."""
        taken = self._clock()
        for event in batch.events:
            if await self._pulled([event.author_id]):
                self._slicing.leave_out()
            else:
                await self._slicing.deliver(event, taken)
        await self.slices.done(batch)

    async def _pulled(self, authors: Sequence[UserId]) -> set[UserId]:
        """Who is not pushed. A worker that has just begun, or whose notices have grown old while the store was away, waits until it
        knows: to push for a celebrity what nobody needs would hold up everybody else."""
        pulled = self._reclassify.pulled(authors)
        if any(self._classes.stands(author) for author in authors if author not in pulled):
            await self._patience.until_available(self._classes.settled)
            pulled = self._reclassify.pulled(authors)
        return pulled

    async def _push(
        self, batch: Batch[TweetCreated], entries: ByAuthor, taken: float, left: Left
    ) -> tuple[Mapping[UserId, int], Mapping[UserId, int]]:
        """What of a batch is by these: small authors first, to each of their followers, and of them those whose followers are known,
        who wait for no reading of others'; then large ones, in slices. How many followers each of the small ones has, and how many
        shards each of the large ones."""
        patiently = self._patience.until_available
        found = self._followers.find(list(entries), taken)
        large = dict(found.large)
        counts = await self._push_followers(entries, found.small, self._followers.pages(found.small), left)
        if found.unknown:
            sharding = await self._followers.sharding(found.unknown, patiently)
            large |= sharding.large
            pages = self._followers.read(sharding, patiently)
            counts |= await self._push_followers(entries, sharding.small, pages, left)
        await self._slicing.hand_on(batch.events, large)
        return counts, large

    async def _push_followers(
        self, entries: ByAuthor, authors: Iterable[UserId], pages: AsyncGenerator[FollowerPage], left: Left
    ) -> dict[UserId, int]:
        """How many followers each of the authors has. A push or a read that fails is repeated alone, so that what others have is not
        appended again."""
        counts = dict.fromkeys(authors, 0)
        gathering = Gathering(entries, self._limits.fanout_appends_per_push)
        async with closing(pages):
            async for page in pages:
                counts[page.author_id] += len(page.followers)
                for push in gathering.add(page):
                    await self._pushing.homes(push, left, self.tweets_room)
        for push in gathering.rest():
            await self._pushing.homes(push, left, self.tweets_room)
        return counts

    def _observe(self, entries: ByAuthor, large: Collection[UserId], reached_ms: Mapping[int, int]) -> None:
        """`reached_ms`: when Redis had the last append of each; of who has no followers there is none. Slices tell of themselves."""
        now_ms = self._clock_ms()
        for author, each in entries.items():
            if author not in large:
                for entry in each:
                    _LAG.observe(lag_seconds(entry.tweet_id, reached_ms.get(entry.tweet_id, now_ms)))
