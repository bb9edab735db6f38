"""A scene: some people of one order of an interleaving, several processes of the service over the same engines, and what must be so
afterwards."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import orjson

from tests.integration.world import NoLog, Recorder, SlicesAtHand, people, positions
from tests.oracle import Oracle, Row
from timeline.assembly.service import Page, Reading
from timeline.cache import Cache, open_cache
from timeline.domain.cursors import Signer
from timeline.domain.errors import BadRequest
from timeline.domain.events import TweetCreated
from timeline.domain.ids import TweetId, UserId
from timeline.domain.limits import Limits
from timeline.domain.model import Tweet, TweetKey, Visibility
from timeline.domain.records import Header
from timeline.fanout.ports import Batch
from timeline.fanout.worker import Fanout
from timeline.settings import Settings
from timeline.store import Store, open_store
from timeline.store.migrations import apply
from timeline.store.notices import StoreNoticeBoard
from timeline.wiring.rooms import make_edits, make_relations, make_writer, open_reading
from timeline.writing.drafts import Draft
from timeline.writing.edits import Edits
from timeline.writing.ports import Ids
from timeline.writing.relations import Relations
from timeline.writing.service import Writer

# Single digits, so that a few tweets reach every bound; but a busy machine has the time that it needs.
LIMITS = Limits(
    timeline_entries_max=8,
    timeline_slack=2,
    profile_entries_max=6,
    tail_entries=4,
    pull_rows_per_author=2,
    follower_shard_size=4,
    fanout_followers_page=3,
    building_seconds=1,
    rebuilds_per_second=10_000,
    clock_skew_ms=1,
    late_after_ms=30_000,
    redis_timeout_ms=5_000,
    cassandra_timeout_ms=10_000,
    notices_refresh_ms=200,
    notices_lease_ms=20_000,
    follower_cache_ms=20_000,
    fresh_follow_ms=60_000,
)
WALKS_MAX = 60
LONG_AGO_US = 3_600_000_000  # follows of the cast are as old as that
_SECONDS = 10


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Minting:
    """A process's ids; `minted` are known before anything is stored under them."""

    def __init__(self, ids: Ids) -> None:
        self._ids, self.minted = ids, list[TweetId]()

    async def mint(self) -> TweetId:
        self.minted.append(await self._ids.mint())
        return self.minted[-1]

    def now_us(self) -> int:
        return self._ids.now_us()


@dataclass
class Process:
    """What one process of each kind has open. All share `log`: what was handed on and not yet delivered."""

    name: str
    settings: Settings
    store: Store
    cache: Cache
    writer: Writer
    relations: Relations
    edits: Edits
    reading: Reading
    fanout: Fanout
    log: Recorder
    clock: Callable[[], float]
    ids: Minting

    def worker(self, push_followers_max: int) -> Fanout:
        """A fan-out worker with this threshold, that knows nothing yet."""
        return Fanout(
            NoLog(),
            SlicesAtHand(),
            self.store.followers,
            self.store.progress,
            self.cache.lists,
            self.store.notices,
            self.settings.limits,
            push_followers_max=push_followers_max,
            clock=self.clock,
        )

    async def settle(self) -> None:
        """Wait for what reads have begun beside their answers. By gathers, which a scheduler sees through."""
        reading: Any = self.reading
        while under_way := [*reading._hydrator._fills, *reading._walks.rebuilder._flights.values()]:
            await asyncio.gather(*under_way, return_exceptions=True)


@asynccontextmanager
async def open_process(name: str, settings: Settings, log: Recorder, clock: Clock | None) -> AsyncIterator[Process]:
    """With a clock, notices are read when a test says so, and age by it."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(settings))
        ids = Minting(store.ids)
        store = replace(store, ids=ids)  # type: ignore[arg-type]
        if clock is not None:
            store = replace(store, notices=StoreNoticeBoard(store.session, settings.limits, monotonic=clock))
        cache = await stack.enter_async_context(open_cache(settings))
        reading, _ = await stack.enter_async_context(
            open_reading(settings, Signer({1: b"a secret of tests alone"}), store, cache)
        )
        made = Process(
            name,
            settings,
            store,
            cache,
            make_writer(settings, store, cache, log),  # type: ignore[arg-type]
            make_relations(settings, store, cache),
            make_edits(settings, store, cache),
            reading,
            None,  # type: ignore[arg-type]
            log,
            clock or time.monotonic,
            ids,
        )
        made.fanout = made.worker(settings.push_followers_max)
        if clock is not None:
            yield made
            return
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(store.notices.run(stopping), name=f"notices of {name}")
            yield made
            stopping.set()


@dataclass
class Stage:
    """Everything that scenes share: three processes, and casts that wait for their scene."""

    one: Process
    two: Process
    three: Process
    first_user: int = 1_000
    casts: list[int] = field(default_factory=list)

    @property
    def processes(self) -> tuple[Process, ...]:
        return self.one, self.two, self.three

    async def scene(self) -> Scene:
        """With people of its own: `me` and `second` follow `author` and `other`, since long ago; `stranger` is followed by nobody."""
        if not self.casts:
            await self._hire(50)
        for process in self.processes:
            process.log.events.clear()
            process.ids.minted.clear()
        return Scene(self, self.casts.pop())

    async def _hire(self, count: int) -> None:
        store, at_us = self.one.store, time.time_ns() // 1_000 - LONG_AGO_US
        firsts = [self.first_user + 10 * at for at in range(count)]
        self.first_user += 10 * count
        users = people((user for first in firsts for user in range(first, first + 5)), at_us)
        await store.bulk.load_users(users)
        pairs = [(first + one, first + other) for first in firsts for one in (0, 1) for other in (2, 3)]
        followers, followees = np.array(pairs, np.int64).T
        await store.bulk.load_follows(followers, followees, at_us)
        self.casts = firsts


@asynccontextmanager
async def open_stage(engines: Mapping[str, str], clock: Clock | None = None) -> AsyncIterator[Stage]:
    name = f"i{uuid.uuid4().hex[:12]}"
    values = {key.removeprefix("TIMELINE_").lower(): value for key, value in engines.items()}
    settings = Settings(**values, cassandra_keyspace=name, redis_key_prefix=f"{name}:", limits=LIMITS)
    await asyncio.to_thread(apply, settings)
    log = Recorder()
    async with AsyncExitStack() as stack:
        names = ("one", "two", "three")
        opened = [await stack.enter_async_context(open_process(each, settings, log, clock)) for each in names]
        yield Stage(*opened)


class Scene:
    """Of one order. What an actor does through it is told to the oracle when it is acknowledged."""

    def __init__(self, stage: Stage, first: int) -> None:
        self.stage = stage
        self.me, self.second, self.author, self.other, self.stranger = range(first, first + 5)
        self.oracle = Oracle(stage.one.settings.limits.retweet_window_ms)
        for reader in (self.me, self.second):
            self.oracle.follows[reader] |= {self.author, self.other}
        self.texts: dict[int, str] = {}
        self.delivered: set[int] = set()
        self.losers: Counter[int] = Counter()  # by reader: changes under way that take something away
        self.pollers: list[Poller] = []

    @property
    def due(self) -> list[Tweet]:
        """Handed on, and not yet delivered."""
        return self.stage.one.log.events

    async def post(self, process: Process, author: int, text: str = "hello", **more: object) -> Tweet:
        posted = await process.writer.post(UserId(author), Draft(text=text, **more))  # type: ignore[arg-type]
        tweet = posted.tweet
        only = tweet.visibility is Visibility.followers
        self.oracle.add(Row(tweet.id, author, None, tweet.reply_to_user, followers_only=only))
        self.texts[tweet.id] = tweet.text
        return tweet

    async def deliver(self, worker: Fanout, *tweets: Tweet) -> None:
        events = [TweetCreated(each.id, each.author_id, each.entry.reference) for each in tweets]
        await worker.deliver(Batch(events, None))
        slices = worker.slices
        assert isinstance(slices, SlicesAtHand)
        await slices.deliver_all(worker)
        self.delivered |= {each.id for each in tweets}

    async def deliver_due(self, worker: Fanout) -> None:
        """What is due now, in one batch."""
        tweets, self.due[:] = list(self.due), []
        if tweets:
            await self.deliver(worker, *tweets)

    async def follow(self, process: Process, one: int, other: int) -> None:
        await process.writer.follow(UserId(one), UserId(other))
        self.oracle.follows[one].add(other)

    async def unfollow(self, process: Process, one: int, other: int) -> None:
        with self._losing(one):
            await process.writer.unfollow(UserId(one), UserId(other))
            self.oracle.follows[one].discard(other)

    async def mute(self, process: Process, one: int, other: int) -> None:
        with self._losing(one):
            await process.relations.mute(UserId(one), UserId(other))
            self.oracle.mutes[one].add(other)

    async def block(self, process: Process, one: int, other: int) -> None:
        with self._losing(one, other):
            await process.relations.block(UserId(one), UserId(other))
            self.oracle.block(one, other)

    async def delete(self, process: Process, author: int, tweet: Tweet) -> None:
        with self._losing(*self.oracle.follows, author):
            await process.writer.delete(UserId(author), tweet.id)
            self.oracle.rows[tweet.id].deleted = True

    async def edit(self, process: Process, tweet: Tweet, text: str) -> None:
        """One that comes after a deletion is refused."""
        try:
            await process.edits.edit(tweet.author_id, tweet.id, text, None)
        except BadRequest as error:
            if error.kind != "tweet-not-found":
                raise
            return
        self.texts[tweet.id] = text

    async def tweet(self, author: int, tweet_id: int) -> Tweet:
        """As stored."""
        key = TweetKey(UserId(author), TweetId(tweet_id))
        return (await self.stage.one.store.tweets.get_many([key]))[key.tweet_id]

    async def forget(self, kind: str, name: int, *, tagged: bool = True) -> None:
        """Evict one record; `tagged`: of a user."""
        key = f"{self.stage.one.settings.redis_key_prefix}{kind}:{f'{{{name}}}' if tagged else name}".encode()
        await self.stage.one.cache.plane.execute(key, b"DEL", key)

    async def lose(self, user: int) -> None:
        """A failover: the list of this user stands on another primary than it was built on, and what arrived last is gone."""
        plane = self.stage.one.cache.plane
        key = f"{self.stage.one.settings.redis_key_prefix}timeline:{{{user}}}".encode()
        await plane.execute(key, b"LREM", key, 0, await plane.execute(key, b"LINDEX", key, -1))
        header = Header.unpack(await plane.execute(key, b"LINDEX", key, 0))
        assert header is not None
        await plane.execute(key, b"LSET", key, 0, replace(header, replication=b"another primary's id").pack())

    async def page(self, process: Process, user: int, cursor: str | None = None, limit: int = 3) -> Page:
        page = await process.reading.home(UserId(user), cursor, limit)
        await process.settle()
        return page

    async def walk(self, process: Process, user: int, limit: int = 3) -> list[int]:
        """Positions of the home, from the newest to the beginning of history. Texts must be those of now."""
        found: list[int] = []
        page = await self.page(process, user, None, limit)
        for _ in range(WALKS_MAX):
            assert not page.degraded, f"{process.name} could not read everything"
            for shown in map(orjson.loads, page.tweets):
                text = self.texts.get(int(shown["id"]), "of a tweet that is not told of yet")
                assert shown["text"] == text, (
                    f"{self.named([int(shown['id'])])} says {shown['text']} at {process.name}, and now {text}"
                )
            found += positions(page)
            if page.next_cursor is None:
                return found
            page = await self.page(process, user, page.next_cursor, limit)
        raise AssertionError(f"a walk that does not end: {found}")

    @contextmanager
    def _losing(self, *users: int) -> Iterator[None]:
        """Around a change that takes something away from these: the store has it before the oracle can be told."""
        self.losers.update(users)
        try:
            yield
        finally:
            self.losers.subtract(users)

    async def look(self, process: Process, user: int, limit: int = 3) -> None:
        """A walk, while others act: what was delivered before it, and belongs there before and after, is in it. A page that says that
        it is degraded promises nothing."""
        before = self.delivered & set(self.oracle.home(user))
        found: list[int] = []
        page = await self.page(process, user, None, limit)
        while not page.degraded:
            found += positions(page)
            if page.next_cursor is None:
                assert found == sorted(set(found), reverse=True)
                if self.losers[user]:
                    return  # something is taken away this moment: whether it was there by now is open
                missing = before & set(self.oracle.home(user)) - set(found)
                assert not missing, (
                    f"delivered, and not seen by {self._name(user)} at {process.name}: {self.named(missing)}"
                )
                return
            page = await self.page(process, user, page.next_cursor, limit)

    def poller(self, process: Process, user: int, limit: int = 2) -> Poller:
        self.pollers.append(Poller(self, process, user, limit))
        return self.pollers[-1]

    async def check(self) -> None:
        """Everything due is delivered: then every reader sees, from every process, what a recomputation says, with the texts of now;
        and every poller has seen everything once."""
        await self.check_from(*self.stage.processes)
        for poller in self.pollers:
            await poller.check()

    async def check_from(self, *processes: Process) -> None:
        """The same from these processes: first from one alone, then from the others at once."""
        await self.deliver_due(self.stage.three.fanout)
        first, *others = processes
        await self._check_walk(first, self.me, 3)
        limits = (100, 2, 4)
        checks = [self._check_walk(process, self.me, limit) for process, limit in zip(others, limits, strict=False)]
        await asyncio.gather(*checks, self._check_walk(processes[-1], self.second, 3))

    async def _check_walk(self, process: Process, user: int, limit: int) -> None:
        wanted, walked = self.oracle.home(user), await self.walk(process, user, limit)
        assert walked == wanted, self._told(f"{self._name(user)} at {process.name} by {limit}", walked, wanted)

    def _told(self, what: str, found: Sequence[int], wanted: Sequence[int]) -> str:
        lacks, extra = self.named(set(wanted) - set(found)), self.named(set(found) - set(wanted))
        return f"{what}: {self.named(found)}, and should be {self.named(wanted)}; lacks {lacks}, has {extra}"

    def named(self, ids: Sequence[int] | set[int]) -> list[str]:
        """Tweets by their author and number, for who reads a failure."""
        every = sorted(self.oracle.rows)
        rows = self.oracle.rows
        ordered = sorted(ids, reverse=True) if isinstance(ids, set) else ids
        return [f"{self._name(rows[one].author)}#{every.index(one)}" if one in rows else str(one) for one in ordered]

    def _name(self, user: int) -> str:
        people = ("me", "second", "author", "other", "stranger")
        return next(name for name in people if getattr(self, name) == user)


class Poller:
    """A reader who has read everything once, and polls by `newer_cursor`."""

    def __init__(self, scene: Scene, process: Process, user: int, limit: int) -> None:
        self.scene, self.process, self.user, self.limit = scene, process, user, limit
        self.cursor: str | None = None
        self.seen: set[int] = set()
        self.resets = 0

    async def start(self) -> None:
        """The first page, and all below it."""
        page = await self.scene.page(self.process, self.user, None, self.limit)
        self.cursor, self.seen = page.newer_cursor, set(positions(page))
        while page.next_cursor is not None:
            page = await self.scene.page(self.process, self.user, page.next_cursor, self.limit)
            self.seen |= set(positions(page))

    async def poll(self) -> None:
        for _ in range(WALKS_MAX):
            page = await self.scene.page(self.process, self.user, self.cursor, self.limit)
            if page.reset:
                self.resets += 1
                await self.start()
                return
            found, self.cursor = positions(page), page.newer_cursor
            assert found == sorted(set(found), reverse=True)
            again = self.seen & set(found)
            assert not again, f"seen twice: {self.scene.named(again)}"
            self.seen |= set(found)
            if not page.gap:
                return
        raise AssertionError("a gap that never closes")

    async def check(self) -> None:
        if self.cursor is None:
            return  # it never began
        await self.poll()
        missing = set(self.scene.oracle.home(self.user)) - self.seen
        assert not missing, f"never seen: {self.scene.named(missing)}"


async def eventually(holds: Any, what: str) -> None:
    """Asks until it is so, or fails."""
    deadline = time.monotonic() + _SECONDS
    while not await holds():
        assert time.monotonic() < deadline, f"not within {_SECONDS} s: {what}"
        await asyncio.sleep(0.02)
