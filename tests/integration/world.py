"""A small world: the rooms of the service on real engines, once or more (each what one process has open), with deliveries that happen
when a test says so."""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import orjson

from tests.oracle import Oracle, Row
from timeline.assembly.service import Page, Reading
from timeline.cache import Cache, open_cache
from timeline.cache.keys import slot_of
from timeline.domain.cursors import Signer
from timeline.domain.entries import Entry, UserIds
from timeline.domain.events import FanoutSlice, TweetCreated
from timeline.domain.ids import TweetId, UserId
from timeline.domain.limits import Limits
from timeline.domain.model import Tweet, User, Visibility
from timeline.domain.records import ListKind
from timeline.fanout.plan import is_late
from timeline.fanout.ports import Away, Batch, Delivery, NotAcknowledged
from timeline.fanout.worker import Fanout
from timeline.metrics import DEGRADED_PAGES
from timeline.settings import Settings
from timeline.store import Store, intervals, open_store
from timeline.store.migrations import apply
from timeline.store.notices import StoreNoticeBoard
from timeline.store.session import Cql, Kind
from timeline.wiring.rooms import make_edits, make_relations, make_writer, open_reading
from timeline.writing.drafts import Draft
from timeline.writing.edits import Edits
from timeline.writing.relations import Relations
from timeline.writing.service import Writer

SMALL = Limits(
    timeline_entries_max=8,
    timeline_slack=2,
    profile_entries_max=6,
    tail_entries=4,
    pull_rows_per_author=2,
    page_default=3,
    follower_shard_size=3,
    fanout_followers_page=2,
    late_after_ms=3_000,
    clock_skew_ms=1,
    retweet_window_ms=300,
    redis_timeout_ms=1_000,
)


@dataclass
class Recorder:
    """An event log that only remembers: fan-out happens when a test delivers."""

    events: list[Tweet] = field(default_factory=list)

    def tweet_created(self, tweet: Tweet) -> None:
        self.events.append(tweet)

    async def produce_created(self, tweet: Tweet) -> None:
        self.events.append(tweet)


class Clock:
    """Seconds of a clock that a test may put forward, and that is never slower than the real one."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self._ahead

    def put_forward(self, seconds: float) -> None:
        self._ahead += seconds


class Pushes:
    """Pushes of a worker that cannot reach some slots, as long as a test says so. `late` counts what was marked so."""

    def __init__(self, cache: Cache) -> None:
        self._lists = cache.lists
        self.lost: dict[str, Away] = {}
        self.late = self.left_out = 0

    async def push(self, deliveries: Sequence[Delivery]) -> int:
        reached, left = self._divide(deliveries)
        self.late += sum(each.late for each in deliveries)
        appended = 0
        try:
            appended = await self._lists.push(reached)
        except NotAcknowledged as error:
            left += error.left
        if left:
            raise NotAcknowledged("out of this worker's reach", left)
        return appended

    async def push_profiles(self, entries: Sequence[tuple[Entry, bool]]) -> None:
        own = [Delivery(entry, np.array([entry.author_id], np.int64), late) for entry, late in entries]
        reached, left = self._divide(own)
        self.late += sum(each.late for each in own)
        try:
            await self._lists.push_profiles([(each.entry, each.late) for each in reached])
        except NotAcknowledged as error:
            left += error.left
        if left:
            raise NotAcknowledged("out of this worker's reach", left)

    def away(self) -> Sequence[Away]:
        return [*self._lists.away(), *self.lost.values()]

    def slots_of(self, users: UserIds) -> Any:
        return self._lists.slots_of(users)

    def _divide(self, deliveries: Sequence[Delivery]) -> tuple[list[Delivery], list[Delivery]]:
        reached, left = list[Delivery](), list[Delivery]()
        for each in deliveries:
            slots = self.slots_of(each.followers)
            is_lost = np.zeros(len(slots), np.bool_)
            for away in self.lost.values():
                for first, last in away.slots:
                    is_lost |= (slots >= first) & (slots <= last)
            for into, mask in ((reached, ~is_lost), (left, is_lost)):
                if mask.any():
                    into.append(replace(each, followers=each.followers[mask]))
        return reached, left


def people(user_ids: Iterable[int], at_us: int) -> list[User]:
    """Users as if signed up then."""
    return [
        User(
            id=UserId(user),
            handle=f"user_{user}",
            name=f"User {user}",
            avatar_url=None,
            created_ms=at_us // 1000,
            version=at_us,
        )
        for user in user_ids
    ]


async def every_follower(store: Store, author: UserId) -> UserIds:
    """Of all shards."""
    count = (await store.followers.shards([author]))[author]
    return np.concatenate([await store.followers.shard(author, shard) for shard in range(count)])


class NoLog:
    """An event log's end without a log: a worker is called with its batch."""

    async def batch(self) -> Batch[TweetCreated]:
        raise AssertionError("nobody takes batches here")

    async def done(self, batch: Batch[TweetCreated]) -> None:
        pass


class SlicesAtHand:
    """Slices without a log: what is produced waits in a list until a test delivers it."""

    def __init__(self) -> None:
        self.waiting: list[FanoutSlice] = []

    async def produce(self, slices: Sequence[FanoutSlice]) -> None:
        self.waiting += slices

    async def batch(self) -> Batch[FanoutSlice]:
        raise AssertionError("nobody takes batches here")

    async def done(self, batch: Batch[FanoutSlice]) -> None:
        pass

    async def deliver_all(self, fanout: Fanout) -> None:
        """Those that wait, the newest first: in a log they would come in any order."""
        while self.waiting:
            await fanout.deliver_slices(Batch([self.waiting.pop()], None))


@dataclass
class Process:
    """What one process has open. `shift_ms`: how far ahead of the real clock its worker's is, by which it tells what is late."""

    settings: Settings
    store: Store
    cache: Cache
    writer: Writer
    relations: Relations
    edits: Edits
    reading: Reading
    clock: Callable[[], float]
    pushes: Pushes
    fanout: Fanout
    slices: SlicesAtHand
    shift_ms: int = 0

    def new_worker(self) -> None:
        """One that remembers nothing."""
        self.pushes = Pushes(self.cache)
        self.shift_ms = 0
        self.slices = SlicesAtHand()
        self.fanout = Fanout(
            NoLog(),
            self.slices,
            self.store.followers,
            self.store.progress,
            self.pushes,
            self.store.notices,
            self.settings.limits,
            push_followers_max=self.settings.push_followers_max,
            clock_ms=lambda: time.time_ns() // 1_000_000 + self.shift_ms,
            clock=self.clock,
        )

    async def settle(self) -> None:
        """Wait for what reads have begun beside their answers: fills and rebuilds."""
        reading: Any = self.reading
        while under_way := [*reading._hydrator._fills, *reading._walks.rebuilder._flights.values()]:
            await asyncio.gather(*under_way, return_exceptions=True)


@dataclass
class World:
    """`oracle` is told of everything that is acknowledged. What says no process happens in the first."""

    processes: list[Process]
    signer: Signer
    log: Recorder
    oracle: Oracle
    clock: Clock | None = None
    first_user: int = 0
    texts: dict[int, str] = field(default_factory=dict)
    users: list[int] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        return self.processes[0].settings

    @property
    def store(self) -> Store:
        return self.processes[0].store

    @property
    def cache(self) -> Cache:
        return self.processes[0].cache

    @property
    def writer(self) -> Writer:
        return self.processes[0].writer

    @property
    def relations(self) -> Relations:
        return self.processes[0].relations

    @property
    def edits(self) -> Edits:
        return self.processes[0].edits

    @property
    def reading(self) -> Reading:
        return self.processes[0].reading

    def begin(self) -> None:
        """Other users than those before, and nothing has happened among them."""
        self.first_user += 100
        self.log.events.clear()
        self.texts.clear()
        self.users.clear()
        self.oracle = Oracle(self.settings.limits.retweet_window_ms)
        for process in self.processes:
            process.new_worker()

    def user(self, number: int) -> int:
        return self.first_user + number

    async def sign_up(self, *users: int) -> None:
        for user in users:
            await self.writer.put_user(UserId(user), f"user_{user}", f"User {user}", None)
        self.users += users

    async def follow(self, one: int, other: int, on: int = 0) -> None:
        await self.processes[on].writer.follow(UserId(one), UserId(other))
        self.oracle.follows[one].add(other)

    async def unfollow(self, one: int, other: int, on: int = 0) -> None:
        await self.processes[on].writer.unfollow(UserId(one), UserId(other))
        self.oracle.follows[one].discard(other)

    async def block(self, one: int, other: int, on: int = 0) -> None:
        await self.processes[on].relations.block(UserId(one), UserId(other))
        self.oracle.block(one, other)

    async def unblock(self, one: int, other: int, on: int = 0) -> None:
        await self.processes[on].relations.unblock(UserId(one), UserId(other))
        self.oracle.blocks[one].discard(other)

    async def mute(self, one: int, other: int, on: int = 0) -> None:
        await self.processes[on].relations.mute(UserId(one), UserId(other))
        self.oracle.mutes[one].add(other)

    async def unmute(self, one: int, other: int, on: int = 0) -> None:
        await self.processes[on].relations.unmute(UserId(one), UserId(other))
        self.oracle.mutes[one].discard(other)

    async def edit(
        self, author: int, tweet_id: int, text: str | None, visibility: Visibility | None = None, on: int = 0
    ) -> None:
        edited = await self.processes[on].edits.edit(UserId(author), TweetId(tweet_id), text, visibility)
        if text is not None:
            self.texts[edited] = text
        if visibility is not None:
            self.oracle.rows[edited].followers_only = visibility is Visibility.followers

    async def post(self, author: int, text: str = "hello", on: int = 0, **more: object) -> Tweet:
        posted = await self.processes[on].writer.post(UserId(author), Draft(text=text, **more))  # type: ignore[arg-type]
        tweet = posted.tweet
        only = tweet.visibility is Visibility.followers
        self.oracle.add(Row(tweet.id, author, None, tweet.reply_to_user, followers_only=only, quote_of=tweet.quote_of))
        self.texts[tweet.id] = tweet.text
        return tweet

    async def retweet(self, user: int, tweet_id: int, on: int = 0) -> int:
        outcome = await self.processes[on].writer.retweet(UserId(user), TweetId(tweet_id))
        assert outcome.retweet_id is not None
        self.oracle.add(Row(outcome.retweet_id, user, self.oracle.rows[tweet_id].shown))
        return outcome.retweet_id

    async def unretweet(self, user: int, tweet_id: int, on: int = 0) -> None:
        await self.processes[on].writer.unretweet(UserId(user), TweetId(tweet_id))
        self.oracle.undo(user, self.oracle.rows[tweet_id].shown)

    async def delete(self, user: int, tweet_id: int, on: int = 0) -> None:
        """Of a retweet: undo it, and no other."""
        await self.processes[on].writer.delete(UserId(user), TweetId(tweet_id))
        self.oracle.rows[tweet_id].deleted = True

    async def deliver(self, *tweets: Tweet, late: bool = False) -> None:
        """Push these to everybody, by the ports of fan-out alone: nobody is left out."""
        for tweet in tweets:
            whom = await every_follower(self.store, tweet.author_id)
            is_marked = late or is_late(tweet.entry, time.time_ns() // 1_000_000, self.settings.limits)
            await self.cache.lists.push([Delivery(tweet.entry, whom, is_marked)])
            await self.cache.lists.push_profiles([(tweet.entry, is_marked)])

    async def deliver_all(self) -> None:
        while self.log.events:
            await self.deliver(self.log.events.pop(0))

    async def fan_out(self, *tweets: Tweet, on: int = 0) -> None:
        """One batch, by a process's worker."""
        events = [TweetCreated(each.id, each.author_id, each.entry.reference) for each in tweets]
        process = self.processes[on]
        await process.fanout.deliver(Batch(events, None))
        await process.slices.deliver_all(process.fanout)

    async def evict(self, user: int, kind: str = "timeline") -> None:
        key = f"{self.settings.redis_key_prefix}{kind}:{{{user}}}".encode()
        await self.cache.plane.execute(key, b"DEL", key)

    async def evict_content(self, kind: str, tweet_id: int) -> None:
        key = f"{self.settings.redis_key_prefix}{kind}:{tweet_id}".encode()
        await self.cache.plane.execute(key, b"DEL", key)

    # --- what happens to Redis

    def nodes(self) -> list[str]:
        """The primaries by address."""
        return sorted(map(str, self.cache.plane.topology.primaries))

    def slots_of(self, node: str) -> tuple[tuple[int, int], ...]:
        """The ranges of slots that it serves."""
        mine = np.array([str(owner) == node for owner in self.cache.plane.topology.owners], np.int8)
        edges = np.flatnonzero(np.diff(np.concatenate(([0], mine, [0]))))
        return tuple((int(first), int(end) - 1) for first, end in edges.reshape(-1, 2).tolist())

    def keys(self, node: str | None = None) -> list[bytes]:
        """Everything that may be cached of these users and their tweets (on one node)."""
        keys, found = self.cache.keys, list[bytes]()
        for user in self.users:
            found += [keys.list_of(kind, user) for kind in ListKind]
            found += [keys.leased(record, user) for record in ("reader", "marks")] + [keys.author(user)]
        for tweet_id in self.oracle.rows:
            found += [keys.post(tweet_id), keys.state(tweet_id)]
        owners = self.cache.plane.topology.owners
        return [key for key in found if node is None or str(owners[slot_of(key)]) == node]

    async def wipe(self, node: str | None = None) -> None:
        """Redis comes back empty."""
        await self.cache.plane.execute_many([(key, (b"DEL", key)) for key in self.keys(node)])

    async def snapshot(self, node: str) -> dict[bytes, tuple[bytes, int]]:
        """What a replica of this node has that hears nothing from now on: the value of each key, and when it expires (Unix ms; 0:
        never)."""
        keys, now_ms = self.keys(node), time.time_ns() // 1_000_000
        values = await self.cache.plane.execute_many([(key, (b"DUMP", key)) for key in keys])
        lives = await self.cache.plane.execute_many([(key, (b"PTTL", key)) for key in keys])
        found = zip(keys, values, lives, strict=True)
        return {key: (value, now_ms + left if left > 0 else 0) for key, value, left in found if value is not None}

    async def fail_over(self, node: str, replica: Mapping[bytes, tuple[bytes, int]] | None) -> None:
        """Another primary serves these slots from now on, with what that replica has (None: with everything), and every process
        knows it by another replication id."""
        if replica is not None:
            await self.wipe(node)
            now_ms = time.time_ns() // 1_000_000
            alive = {key: each for key, each in replica.items() if not 0 < each[1] <= now_ms}
            await self.cache.plane.execute_many(
                [(key, (b"RESTORE", key, each[1], each[0], b"ABSTTL")) for key, each in alive.items()]
            )
        replication = secrets.token_bytes(20)
        for process in self.processes:
            for each in process.cache.plane.topology.primaries:
                if str(each) == node:
                    each.replication = replication

    async def clear(self) -> None:
        """Leave nothing behind of these users that others would have to read."""
        await self.wipe()
        session = self.store.session
        await session.prepare([_NO_INTERVALS, _NO_HOLES])
        for user in self.users:
            await session.run(_NO_INTERVALS, (user % intervals.SHARDS, user))
        today = time.time_ns() // 86_400_000_000_000
        for day in (today - 1, today, today + 1):
            await session.run(_NO_HOLES, (day,))

    async def settle(self) -> None:
        """Wait until what reads fill and build beside their answers is in the caches."""
        for process in self.processes:
            await process.settle()

    # --- reading

    async def home(self, user: int, cursor: str | None = None, limit: int = 3, on: int = 0) -> Page:
        return await self.processes[on].reading.home(UserId(user), cursor, limit)

    async def profile(self, user: int, of: int, cursor: str | None = None, limit: int = 3, on: int = 0) -> Page:
        return await self.processes[on].reading.profile(UserId(user), UserId(of), cursor, limit)

    def boundary(self, user: int, cursor: str | None) -> int:
        """Below which, or above which, a cursor of this user's home goes on; 0 is the end."""
        return 0 if cursor is None else self.signer.read(cursor, f"home:recent:{user}:{user}").boundary

    def check_contents(self, page: Page, limit: int) -> None:
        """Nothing is left out, and every text is the one of now."""
        assert not page.degraded, f"degraded; counts of causes so far: {causes_of_degraded_pages()}"
        assert page.missing == 0
        assert len(page.tweets) <= limit
        for shown in map(orjson.loads, page.tweets):
            assert shown["text"] == self.texts[int(shown["id"])]

    async def walk(self, user: int, limit: int = 3, *, profile_of: int | None = None, on: int = 0) -> list[int]:
        """Positions from the newest to the beginning of history."""
        found: list[int] = []
        cursor = None
        for _ in range(len(self.oracle.rows) + 50):  # as many pages as there could be, and some that rules emptied
            if profile_of is None:
                page = await self.home(user, cursor, limit, on)
            else:
                page = await self.profile(user, profile_of, cursor, limit, on)
            self.check_contents(page, limit)
            found += positions(page)
            cursor = page.next_cursor
            if cursor is None:
                return found
        raise AssertionError(f"a walk that does not end: {found}")


_NO_INTERVALS = Cql("test_no_intervals", "DELETE FROM pull_intervals WHERE shard = ? AND user_id = ?", Kind.write)
_NO_HOLES = Cql("test_no_holes", "DELETE FROM dirty_intervals WHERE day = ?", Kind.write)


def causes_of_degraded_pages() -> dict[str, int]:
    """Of all processes, since the start."""
    samples = next(iter(DEGRADED_PAGES.collect())).samples
    return {str(each.labels): int(each.value) for each in samples if each.name.endswith("_total")}


def positions(page: Page) -> list[int]:
    return [int(orjson.loads(tweet)["position"]) for tweet in page.tweets]


@asynccontextmanager
async def open_world(
    engines: Mapping[str, str],
    limits: Limits = SMALL,
    *,
    processes: int = 1,
    push_followers_max: int = 100_000,
    clock: Clock | None = None,
) -> AsyncIterator[World]:
    """With a clock, notices age by it, and are read when a test says so."""
    name = f"w{uuid.uuid4().hex[:12]}"
    values = {key.removeprefix("TIMELINE_").lower(): value for key, value in engines.items()}
    settings = Settings(
        **values,
        cassandra_keyspace=name,
        redis_key_prefix=f"{name}:",
        push_followers_max=push_followers_max,
        limits=limits,
    )
    await asyncio.to_thread(apply, settings)
    signer, log = Signer({1: b"a secret of tests alone"}), Recorder()
    async with AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(_open_process(settings, signer, log, clock)) for _ in range(processes)
        ]
        yield World(opened, signer, log, Oracle(limits.retweet_window_ms), clock)


@asynccontextmanager
async def _open_process(
    settings: Settings, signer: Signer, log: Recorder, clock: Clock | None
) -> AsyncIterator[Process]:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(settings))
        if clock is not None:
            store = replace(store, notices=StoreNoticeBoard(store.session, settings.limits, monotonic=clock))
        cache = await stack.enter_async_context(open_cache(settings))
        reading, _ = await stack.enter_async_context(open_reading(settings, signer, store, cache))
        made = Process(
            settings=settings,
            store=store,
            cache=cache,
            writer=make_writer(settings, store, cache, log),  # type: ignore[arg-type]
            relations=make_relations(settings, store, cache),
            edits=make_edits(settings, store, cache),
            reading=reading,
            clock=clock or time.monotonic,
            pushes=None,  # type: ignore[arg-type]
            fanout=None,  # type: ignore[arg-type]
            slices=SlicesAtHand(),
        )
        made.new_worker()
        if clock is not None:
            yield made
            return
        reading_notices = asyncio.create_task(store.notices.run(asyncio.Event()), name="notices")
        try:
            yield made
        finally:
            reading_notices.cancel()
            await asyncio.wait((reading_notices,))
