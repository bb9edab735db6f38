"""Fan-out on engines that are made up: events, followers, Redis as far as fan-out sees it, and the notices."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count

import numpy as np
import numpy.typing as npt

from tests.unit.fake_clock import until
from timeline.domain.entries import Entry, UserIds
from timeline.domain.events import FanoutSlice, TweetCreated
from timeline.domain.ids import TweetId, UserId, first_id_at
from timeline.domain.limits import Limits
from timeline.domain.notices import SLOTS
from timeline.fanout.ports import (
    Away,
    Batch,
    Delivery,
    FollowerPage,
    NotAcknowledged,
    Patiently,
    Progress,
    at_once,
)
from timeline.fanout.room import Room
from timeline.fanout.worker import Fanout, run_fanout

NOW_MS = 1_780_000_000_000
LIMITS = Limits(
    retry_pause_max_ms=1, fanout_appends_per_push=10, fanout_batches_in_flight=2, fanout_batch_events=1, drain_seconds=1
)


def event(number: int, author: int, at_ms: int = NOW_MS) -> TweetCreated:
    return TweetCreated(TweetId(first_id_at(at_ms) + number), UserId(author), 0)


def page(author: int, *followers: int) -> FollowerPage:
    return FollowerPage(UserId(author), np.array(followers, np.int64))


class FakeEvents:
    def __init__(self, *batches: Sequence[TweetCreated]) -> None:
        self._waiting: list[Batch[TweetCreated]] = [Batch(events, at) for at, events in enumerate(batches)]
        self.taken = 0
        self.done_tokens: list[object] = []

    async def batch(self) -> Batch[TweetCreated]:
        if not self._waiting:
            await asyncio.Event().wait()
        self.taken += 1
        return self._waiting.pop(0)

    async def done(self, batch: Batch[TweetCreated]) -> None:
        self.done_tokens.append(batch.token)


class FakeSlices:
    """The event log of slices: what is produced waits to be taken."""

    def __init__(self) -> None:
        self.waiting: list[FanoutSlice] = []
        self.produced: list[FanoutSlice] = []
        self.done_slices: list[FanoutSlice] = []
        self.failures: list[Exception] = []  # of producing, from the last
        self._filled = asyncio.Event()

    async def produce(self, slices: Sequence[FanoutSlice]) -> None:
        for each in slices:
            if self.failures:
                raise self.failures.pop()
            self.produced.append(each)
            self.waiting.append(each)
        self._filled.set()

    async def batch(self) -> Batch[FanoutSlice]:
        while not self.waiting:
            self._filled.clear()
            await self._filled.wait()
        return Batch([self.waiting.pop(0)], None)

    async def done(self, batch: Batch[FanoutSlice]) -> None:
        self.done_slices += batch.events


class FakeProgress:
    """What is stored of slices."""

    def __init__(self) -> None:
        self.of: dict[tuple[int, int], Progress] = {}
        self.saved: list[Progress] = []
        self.failures: list[Exception] = []  # of saving, from the last

    async def read(self, tweet_id: TweetId, shard: int) -> Progress:
        return self.of.get((tweet_id, shard), Progress())

    async def save(self, tweet_id: TweetId, shard: int, progress: Progress) -> None:
        if self.failures:
            raise self.failures.pop()
        self.of[tweet_id, shard] = progress
        self.saved.append(progress)


class FakeFollowers:
    """`shard_size`: with more followers than that an author has several shards; None: never."""

    def __init__(self, graph: dict[int, list[int]], page_max: int = 3, shard_size: int | None = None) -> None:
        self.graph, self._page_max, self._shard_size = graph, page_max, shard_size
        self.failures: list[Exception] = []
        self.read: list[int] = []  # authors, one time for each reading
        self.shards_read: list[tuple[int, int]] = []
        self.counted: list[int] = []

    async def shards(self, authors: Sequence[UserId]) -> Mapping[UserId, int]:
        size = self._shard_size
        return {author: 1 if size is None else max(1, -(-len(self._of(author)) // size)) for author in authors}

    async def shard(self, author: UserId, shard: int) -> UserIds:
        assert self._shard_size is not None
        self.shards_read.append((author, shard))
        mine = sorted(self._of(author)[shard * self._shard_size : (shard + 1) * self._shard_size])
        return np.array(mine, np.int64)

    def _of(self, author: int) -> list[int]:
        return self.graph.get(author, [])

    async def pages(self, authors: Sequence[UserId], patiently: Patiently = at_once) -> AsyncIterator[FollowerPage]:
        """The failures come in the middle, before the last page."""
        assert set((await self.shards(authors)).values()) <= {1}
        assert len(set(authors)) == len(authors)
        self.read += authors

        async def read() -> None:
            if self.failures:
                raise self.failures.pop()

        found = [
            page(author, *self.graph.get(author, [])[first : first + self._page_max])
            for author in authors
            for first in range(0, len(self.graph.get(author, [])), self._page_max)
        ]
        for number, one in enumerate(found, 1):
            if number == len(found):
                await patiently(read)
            yield one
        if not found:
            await patiently(read)

    async def count(self, author: UserId, at_most: int) -> int:
        self.counted.append(author)
        if self.failures:
            raise self.failures.pop()
        return min(len(self.graph.get(author, [])), at_most)


class FakePushes:
    """Redis, as far as it is seen from here: what each home list holds."""

    def __init__(self) -> None:
        self.homes: Counter[tuple[int, int]] = Counter()
        self.own: list[tuple[Entry, bool]] = []
        self.pushes: list[Sequence[Delivery]] = []
        self.failures: list[Exception | None] = []  # of each push to come, from the last
        self.unreachable: set[int] = set()  # users whose lists are on a node that is away
        self.nodes_away: list[Away] = []
        self.tries = 0
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def push(self, deliveries: Sequence[Delivery]) -> int:
        await self.may_go_on.wait()
        if self.failures and (failure := self.failures.pop()):
            raise failure
        self.pushes.append(deliveries)
        return sum([self._append(delivery) for delivery in self._there(deliveries)])

    async def push_profiles(self, entries: Sequence[tuple[Entry, bool]]) -> None:
        deliveries = [Delivery(entry, np.array([entry.author_id], np.int64), late) for entry, late in entries]
        for each in self._there(deliveries):
            self.own.append((each.entry, each.late))

    def away(self) -> Sequence[Away]:
        return list(self.nodes_away)

    def slots_of(self, users: UserIds) -> npt.NDArray[np.int64]:
        """A user's slot is the id."""
        return users % SLOTS

    def _append(self, delivery: Delivery) -> int:
        for follower in delivery.followers.tolist():
            self.homes[follower, delivery.entry.tweet_id] += 1
        return len(delivery.followers)

    def _there(self, deliveries: Sequence[Delivery]) -> Iterator[Delivery]:
        """What reaches a node that answers; at the end the rest is raised."""
        assert deliveries, "a push of nothing"
        self.tries += 1
        left = []
        for each in deliveries:
            is_away = np.isin(each.followers, list(self.unreachable))
            if is_away.any():
                left.append(replace(each, followers=each.followers[is_away]))
            if not is_away.all():
                yield replace(each, followers=each.followers[~is_away])
        if left:
            raise NotAcknowledged("a node is away", left)


class FakeClasses:
    """The notices, known by everybody at once unless a test says otherwise."""

    def __init__(self) -> None:
        self.standing: set[int] = set()
        self.ending: set[int] = set()  # intervals that a worker began to end, and died
        self.skippable: set[int] | None = None  # None: all that stand
        self.may_leave_out = True
        self.unsettled: list[Exception] = []  # why it cannot yet say who may be skipped, from the last
        self.skippable_when_settled: set[int] | None = None  # None: as before
        self.used: bool | None = None  # what the last hole's end said
        self.failures: list[Exception] = []  # of writes, from the last
        self.calls: list[tuple[str, object]] = []
        self.recorded: dict[str, Away] = {}

    def may_skip(self, authors: Sequence[UserId]) -> set[UserId]:
        return set(authors) & (self.standing if self.skippable is None else self.skippable)

    def stands(self, author: UserId) -> bool:
        return author in self.standing or author in self.ending

    async def begin_pull(self, author: UserId) -> None:
        if author not in self.standing:
            self._write("begin", author)
            self.standing.add(author)

    async def end_pull(self, author: UserId) -> None:
        self._write("end", author)
        self.standing.discard(author)
        self.ending.discard(author)

    async def record_hole(self, away: Away) -> bool:
        self._write("hole", away.node)
        self.recorded[away.node] = away
        return self.may_leave_out

    async def settled(self) -> None:
        if self.unsettled:
            raise self.unsettled.pop()
        if self.skippable_when_settled is not None:
            self.skippable = self.skippable_when_settled

    async def end_hole(self, node: str, *, used: bool = True) -> None:
        self.used = used
        self._write("end_hole", node)
        self.recorded.pop(node, None)

    def _write(self, name: str, what: object) -> None:
        self.calls.append((name, what))
        if self.failures:
            raise self.failures.pop()


class Running:
    """A worker on fakes, until the batches given are done."""

    def __init__(
        self,
        events: FakeEvents,
        followers: FakeFollowers,
        pushes: FakePushes,
        limits: Limits = LIMITS,
        *,
        classes: FakeClasses | None = None,
        push_followers_max: int = 1_000,
    ) -> None:
        self.events, self.pushes, self.now_ms = events, pushes, NOW_MS
        self.classes, self.slices, self.progress = classes or FakeClasses(), FakeSlices(), FakeProgress()
        self.stopping = asyncio.Event()
        self.task = asyncio.create_task(
            run_fanout(
                Fanout(
                    events,
                    self.slices,
                    followers,
                    self.progress,
                    pushes,
                    self.classes,
                    limits,
                    push_followers_max=push_followers_max,
                    clock_ms=lambda: self.now_ms,
                ),
                limits,
                self.stopping,
            )
        )

    async def until_done(self, batches: int) -> None:
        await until(lambda: len(self.events.done_tokens) >= batches or self.task.done())
        await self.stop()

    async def stop(self) -> None:
        self.stopping.set()
        await self.task


class Worker:
    """A Fanout whose batches a test hands over one by one. `seconds` is its clock, `now_ms` the time of day."""

    def __init__(
        self,
        graph: dict[int, list[int]],
        *,
        limits: Limits = LIMITS,
        push_followers_max: int = 1_000,
        page_max: int = 3,
        shard_size: int | None = None,
    ) -> None:
        self.events, self.followers = FakeEvents(), FakeFollowers(graph, page_max, shard_size)
        self.slices, self.progress = FakeSlices(), FakeProgress()
        self.pushes, self.classes, self.seconds, self.now_ms = FakePushes(), FakeClasses(), 0.0, NOW_MS
        self._numbers = count()
        self._fanout = Fanout(
            self.events,
            self.slices,
            self.followers,
            self.progress,
            self.pushes,
            self.classes,
            limits,
            push_followers_max=push_followers_max,
            clock_ms=lambda: self.now_ms,
            clock=lambda: self.seconds,
        )

    @property
    def tweets_room(self) -> Room:
        return self._fanout.tweets_room

    async def deliver(self, *authors: int) -> list[int]:
        """A tweet of each: their ids."""
        events = [event(next(self._numbers), author) for author in authors]
        await self._fanout.deliver(Batch(events, events[0].tweet_id))
        assert events[0].tweet_id in self.events.done_tokens
        return [each.tweet_id for each in events]

    async def deliver_slice(self, which: int = 0) -> FanoutSlice:
        """One of those that wait."""
        taken = self.slices.waiting.pop(which)
        await self._fanout.deliver_slices(Batch([taken], None))
        return taken

    def holders(self, tweet_id: int) -> set[int]:
        """Whose home has it."""
        return {user for user, tweet in self.pushes.homes if tweet == tweet_id}
