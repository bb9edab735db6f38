"""Large fan-outs in slices: one event for each of the author's follower shards, delivered by whichever worker is free, small authors'
tweets in between.

A slice's progress is stored page by page, so that where a worker was killed another one repeats a page at most. A slice that is done
is done for a day: set back the group's offsets, and it is passed over.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from timeline import metrics
from timeline.domain.entries import Entry, UserIds
from timeline.domain.events import FanoutSlice, TweetCreated
from timeline.domain.ids import UserId
from timeline.domain.limits import Limits
from timeline.fanout.known import KnownFollowers
from timeline.fanout.patience import Patience
from timeline.fanout.plan import Push, lag_seconds
from timeline.fanout.ports import Progress, ProgressStore, Slices
from timeline.fanout.pushing import Left, Pushing
from timeline.fanout.room import Room

_LAG = metrics.DELIVERY_LAG_SECONDS.labels("slice")
_LEFT_OUT_PULLED = metrics.LEFT_OUT.labels("pulled_slice")


class Slicing:
    """Of one worker. Waits for engines that are away, for ever."""

    def __init__(
        self,
        slices: Slices,
        progress: ProgressStore,
        followers: KnownFollowers,
        pushing: Pushing,
        patience: Patience,
        room: Room,
        tweets_room: Room,
        limits: Limits,
        clock_ms: Callable[[], int],
    ) -> None:
        self._slices, self._progress, self._followers = slices, progress, followers
        self._pushing, self._patience, self._clock_ms = pushing, patience, clock_ms
        self._room, self._tweets_room, self._limits = room, tweets_room, limits
        self._page, self._produced_at_once = limits.fanout_followers_page, limits.produces_in_flight // 2
        self._producing = asyncio.Lock()

    async def hand_on(self, events: Iterable[TweetCreated], shards: Mapping[UserId, int]) -> None:
        """Put one slice for each event and shard of these authors into the event log; return when it has them all."""
        waiting = list[FanoutSlice]()
        for each in _slices(events, shards):
            waiting.append(each)
            if len(waiting) == self._produced_at_once:
                await self._produce(waiting)
                waiting = []
        if waiting:
            await self._produce(waiting)

    async def _produce(self, slices: Sequence[FanoutSlice]) -> None:
        """One batch's at a time: several would overflow the producer's queue, and be put there again."""
        async with self._producing:
            await self._patience.until_available(lambda: self._slices.produce(slices))

    async def deliver(self, event: FanoutSlice, taken: float) -> None:
        """Return when Redis has all of a slice that was taken at that time of the clock, and that is stored."""
        key = event.tweet_id, event.shard
        progress = await self._patience.until_available(lambda: self._progress.read(*key))
        if progress.is_done:
            return
        patiently = self._patience.until_available
        followers = await self._followers.shard(event.author_id, event.shard, taken, patiently)
        left = followers[np.searchsorted(followers, progress.after, side="right") :]
        while len(left) > self._page:
            await self._push(event.entry, left[: self._page])
            await self._save(event, Progress(after=int(left[self._page - 1])))
            left = left[self._page :]
        reached_ms = await self._push(event.entry, left) if len(left) else self._clock_ms()
        await self._save(event, Progress(is_done=True))
        _LAG.observe(lag_seconds(event.tweet_id, reached_ms))

    def leave_out(self) -> None:
        """Of a slice whose author is pulled by now."""
        _LEFT_OUT_PULLED.inc()

    async def _push(self, entry: Entry, followers: UserIds) -> int:
        """When Redis had the last of it."""
        left = Left(events=1)
        async for some in self._pieces(followers):
            await self._pushing.homes(Push([(entry, some)]), left, self._room)
        await self._pushing.finish(left, self._room)
        return left.reached_ms[entry.tweet_id]

    async def _pieces(self, followers: UserIds) -> AsyncIterator[UserIds]:
        """All at once while there are no tweets; else in pieces between which tweets have their turn."""
        at, limits = 0, self._limits
        while at < len(followers):
            is_quiet = self._tweets_room.is_quiet(limits.slice_quiet_ms / 1000)
            if not is_quiet:
                await self._tweets_room.idle(limits.slice_waits_ms / 1000)
            size = len(followers) if is_quiet else limits.slice_piece
            yield followers[at : at + size]
            at += size

    async def _save(self, event: FanoutSlice, progress: Progress) -> None:
        await self._patience.until_available(lambda: self._progress.save(event.tweet_id, event.shard, progress))


def _slices(events: Iterable[TweetCreated], shards: Mapping[UserId, int]) -> Iterator[FanoutSlice]:
    """An event that came twice is sliced once."""
    for event in {each.tweet_id: each for each in events if each.author_id in shards}.values():
        for shard in range(shards[event.author_id]):
            yield FanoutSlice.of(event, shard)
