"""A small world in one process: the rooms of the service on real engines, with deliveries that happen when a test says so."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import orjson

from tests.oracle import Oracle, Row
from timeline.assembly.service import Page, Reading
from timeline.cache import Cache, open_cache
from timeline.domain.cursors import Signer
from timeline.domain.ids import TweetId, UserId
from timeline.domain.limits import Limits
from timeline.domain.model import Tweet, Visibility
from timeline.fanout.plan import is_late
from timeline.fanout.ports import Delivery
from timeline.settings import Settings
from timeline.store import Store, open_store
from timeline.store.migrations import apply
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


@dataclass
class World:
    """`oracle` is told of everything that is acknowledged."""

    settings: Settings
    store: Store
    cache: Cache
    writer: Writer
    relations: Relations
    edits: Edits
    reading: Reading
    log: Recorder
    oracle: Oracle
    first_user: int = 0
    texts: dict[int, str] = field(default_factory=dict)

    def begin(self) -> None:
        """Other users than those before, and nothing has happened among them."""
        self.first_user += 100
        self.log.events.clear()
        self.texts.clear()
        self.oracle = Oracle(self.settings.limits.retweet_window_ms)

    def user(self, number: int) -> int:
        return self.first_user + number

    async def sign_up(self, *users: int) -> None:
        for user in users:
            await self.writer.put_user(UserId(user), f"user_{user}", f"User {user}", None)

    async def follow(self, one: int, other: int) -> None:
        await self.writer.follow(UserId(one), UserId(other))
        self.oracle.follows[one].add(other)

    async def unfollow(self, one: int, other: int) -> None:
        await self.writer.unfollow(UserId(one), UserId(other))
        self.oracle.follows[one].discard(other)

    async def block(self, one: int, other: int) -> None:
        await self.relations.block(UserId(one), UserId(other))
        self.oracle.block(one, other)

    async def unblock(self, one: int, other: int) -> None:
        await self.relations.unblock(UserId(one), UserId(other))
        self.oracle.blocks[one].discard(other)

    async def mute(self, one: int, other: int) -> None:
        await self.relations.mute(UserId(one), UserId(other))
        self.oracle.mutes[one].add(other)

    async def unmute(self, one: int, other: int) -> None:
        await self.relations.unmute(UserId(one), UserId(other))
        self.oracle.mutes[one].discard(other)

    async def edit(self, author: int, tweet_id: int, text: str | None, visibility: Visibility | None = None) -> None:
        edited = await self.edits.edit(UserId(author), TweetId(tweet_id), text, visibility)
        if text is not None:
            self.texts[edited] = text
        if visibility is not None:
            self.oracle.rows[edited].followers_only = visibility is Visibility.followers

    async def post(self, author: int, text: str = "hello", **more: object) -> Tweet:
        tweet = await self.writer.post(UserId(author), Draft(text=text, **more))  # type: ignore[arg-type]
        only = tweet.visibility is Visibility.followers
        self.oracle.add(Row(tweet.id, author, None, tweet.reply_to_user, followers_only=only))
        self.texts[tweet.id] = tweet.text
        return tweet

    async def retweet(self, user: int, tweet_id: int) -> int:
        outcome = await self.writer.retweet(UserId(user), tweet_id)  # type: ignore[arg-type]
        assert outcome.retweet_id is not None
        self.oracle.add(Row(outcome.retweet_id, user, self.oracle.rows[tweet_id].shown))
        return outcome.retweet_id

    async def delete(self, user: int, tweet_id: int) -> None:
        await self.writer.delete(UserId(user), tweet_id)  # type: ignore[arg-type]
        self.oracle.rows[tweet_id].deleted = True

    async def deliver(self, *tweets: Tweet, late: bool = False) -> None:
        """What fan-out does with these, by its own ports."""
        for tweet in tweets:
            followers = [page.followers async for page in self.store.followers.pages([tweet.author_id])]
            whom = np.concatenate([np.empty(0, np.int64), *followers])
            is_marked = late or is_late(tweet.entry, time.time_ns() // 1_000_000, self.settings.limits)
            await self.cache.lists.push([Delivery(tweet.entry, whom, is_marked)])
            await self.cache.lists.push_profiles([(tweet.entry, is_marked)])

    async def deliver_all(self) -> None:
        while self.log.events:
            await self.deliver(self.log.events.pop(0))

    async def evict(self, user: int, kind: str = "timeline") -> None:
        key = f"{self.settings.redis_key_prefix}{kind}:{{{user}}}".encode()
        await self.cache.plane.execute(key, b"DEL", key)

    async def evict_content(self, kind: str, tweet_id: int) -> None:
        key = f"{self.settings.redis_key_prefix}{kind}:{tweet_id}".encode()
        await self.cache.plane.execute(key, b"DEL", key)

    async def settle(self) -> None:
        """Wait until what reads fill beside their answers is in the caches."""
        await self.reading._hydrator.close()

    async def home(self, user: int, cursor: str | None = None, limit: int = 3) -> Page:
        return await self.reading.home(UserId(user), cursor, limit)

    async def walk(self, user: int, limit: int = 3, *, profile_of: int | None = None) -> list[int]:
        """Positions from the newest to the beginning of history."""
        found: list[int] = []
        cursor = None
        for _ in range(len(self.oracle.rows) + 50):  # as many pages as there could be, and some that rules emptied
            if profile_of is None:
                page = await self.home(user, cursor, limit)
            else:
                page = await self.reading.profile(UserId(user), UserId(profile_of), cursor, limit)
            assert not page.degraded
            assert len(page.tweets) <= limit
            for shown in map(orjson.loads, page.tweets):
                assert shown["text"] == self.texts[int(shown["id"])]
            found += positions(page)
            cursor = page.next_cursor
            if cursor is None:
                return found
        raise AssertionError(f"a walk that does not end: {found}")


def positions(page: Page) -> list[int]:
    return [int(orjson.loads(tweet)["position"]) for tweet in page.tweets]


@asynccontextmanager
async def open_world(engines: Mapping[str, str], limits: Limits = SMALL) -> AsyncIterator[World]:
    name = f"w{uuid.uuid4().hex[:12]}"
    values = {key.removeprefix("TIMELINE_").lower(): value for key, value in engines.items()}
    settings = Settings(
        **values,
        cassandra_keyspace=name,
        redis_key_prefix=f"{name}:",
        limits=limits,
    )
    await asyncio.to_thread(apply, settings)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(settings))
        cache = await stack.enter_async_context(open_cache(settings))
        log = Recorder()
        signer = Signer({1: b"a secret of tests alone"})
        reading, _ = await stack.enter_async_context(open_reading(settings, signer, store, cache))
        writer = make_writer(settings, store, cache, log)  # type: ignore[arg-type]
        oracle = Oracle(limits.retweet_window_ms)
        relations, edits = make_relations(settings, store, cache), make_edits(settings, store, cache)
        yield World(settings, store, cache, writer, relations, edits, reading, log, oracle)
