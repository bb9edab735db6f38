"""Somebody with a cached timeline on real engines, and every way of damaging it on purpose."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace

import numpy as np
import orjson

from tests.integration.world import World, open_world
from timeline.assembly.compare import Comparison
from timeline.domain.entries import Entry
from timeline.domain.ids import TweetId, UserId, first_id_at
from timeline.domain.limits import LIMITS, Limits
from timeline.domain.model import Reader, Tweet, User
from timeline.domain.records import Header, State
from timeline.fanout.ports import Delivery
from timeline.ops.doctor import diagnose
from timeline.wiring.rooms import make_examiner

SHRUNK = Limits(
    timeline_entries_max=16,
    timeline_slack=4,
    profile_entries_max=6,
    tail_entries=4,
    pull_rows_per_author=2,
    late_after_ms=3_000,
    clock_skew_ms=1,
    redis_timeout_ms=1_000,
    audit_grace_ms=1,
    audit_second_look_ms=300,
    doctor_second_look_ms=300,
)
LONG_AGO_US = 3_600_000_000


@dataclass
class Home:
    """`me` follows `ann`, `bob` and `star` since long ago; `star` is pulled from the beginning. Deliveries happen when a test
    says so."""

    world: World
    me: int
    ann: int
    bob: int
    star: int
    stranger: int

    # What happens

    async def post(self, author: int, text: str = "hello", **more: object) -> Tweet:
        """Posted, and delivered as fan-out does: a pulled author's to no list but their own."""
        tweet = await self.world.post(author, text, **more)
        await self.deliver(tweet)
        return tweet

    async def deliver(self, tweet: Tweet) -> None:
        self.world.log.events.clear()
        if tweet.author_id == self.star:
            await self.world.cache.lists.push_profiles([(tweet.entry, False)])
        else:
            await self.world.deliver(tweet)

    async def read(self) -> None:
        """A first page, by which what is not there is built."""
        await self.world.store.notices.refresh()
        await self.world.home(self.me)
        await self.world.settle()

    # What is asked

    async def found(self) -> Comparison:
        """What the doctor finds."""
        await self.world.store.notices.refresh()
        examiner = make_examiner(self.world.settings, self.world.store, self.world.cache)
        return await diagnose(examiner, UserId(self.me), self.world.settings.limits)

    async def causes(self) -> list[tuple[str, str, int | None]]:
        """In words: how, why, which tweet."""
        found = (await self.found()).differences
        return [(each.what.value, each.cause.value, each.tweet_id) for each in found]

    # What is damaged

    def key(self, kind: str, user: int) -> bytes:
        return f"{self.world.settings.redis_key_prefix}{kind}:{{{user}}}".encode()

    async def redis(self, *command: bytes | int) -> object:
        """A command on the key that is its second word."""
        key = command[1]
        assert isinstance(key, bytes)
        return await self.world.cache.plane.execute(key, *command)

    async def remove(self, kind: str, user: int, entry: Entry) -> None:
        assert await self.redis(b"LREM", self.key(kind, user), 0, entry.pack()), "it was not there"

    async def append(self, entry: Entry, *, late: bool = False) -> None:
        """To my list alone."""
        await self.world.cache.lists.push([Delivery(entry, np.array([self.me], np.int64), late)])

    async def change_header(self, **changes: object) -> None:
        key = self.key("timeline", self.me)
        packed = await self.redis(b"LINDEX", key, 0)
        assert isinstance(packed, bytes)
        header = Header.unpack(packed)
        assert header is not None
        await self.redis(b"LSET", key, 0, replace(header, **changes).pack())  # type: ignore[arg-type]

    async def cache_context(self, context: Reader) -> None:
        user_id = UserId(self.me)
        await self.world.cache.readers.drop(user_id)
        token = await self.world.cache.readers.begin_fill(user_id)
        assert token is not None
        assert await self.world.cache.readers.fill(user_id, token, context)

    async def cache_state(self, tweet_id: int, state: State) -> None:
        await self.world.evict_content("state", tweet_id)
        await self.world.cache.contents.put_state(TweetId(tweet_id), state)

    async def expiry_ms(self, kind: str, user: int) -> int:
        left = await self.redis(b"PTTL", self.key(kind, user))
        assert isinstance(left, int)
        return left


def old_entry(author: int, seconds: float, reference: int = 0) -> Entry:
    return Entry(TweetId(first_id_at(int((time.time() - seconds) * 1000)) + 1), UserId(author), reference)


def limits_as_setting(limits: Limits) -> str:
    """TIMELINE_LIMITS for a process that is to have these."""
    default = asdict(LIMITS)
    return orjson.dumps({name: value for name, value in asdict(limits).items() if value != default[name]}).decode()


def environment_of(world: World, engines: Mapping[str, str]) -> dict[str, str]:
    """Of a process that looks at the same data."""
    return {
        **engines,
        "TIMELINE_CASSANDRA_KEYSPACE": world.settings.cassandra_keyspace,
        "TIMELINE_REDIS_KEY_PREFIX": world.settings.redis_key_prefix,
        "TIMELINE_LIMITS": limits_as_setting(world.settings.limits),
        "TIMELINE_ADMIN_HOST": "127.0.0.1",
    }


@asynccontextmanager
async def open_homes(engines: Mapping[str, str], limits: Limits = SHRUNK) -> AsyncIterator[World]:
    async with open_world(engines, limits) as world:
        yield world


async def move_in(world: World) -> Home:
    """People of their own, whose lists are built, with something from before and something since."""
    world.begin()
    home = Home(world, *(world.user(number) for number in range(1, 6)))
    at_us = time.time_ns() // 1000 - LONG_AGO_US
    everybody = (home.me, home.ann, home.bob, home.star, home.stranger)
    await world.store.bulk.load_users(
        [
            User(
                id=UserId(user),
                handle=f"u{user}",
                name=f"User {user}",
                avatar_url=None,
                created_ms=at_us // 1000,
                version=at_us,
            )
            for user in everybody
        ]
    )
    followees = np.array([home.ann, home.bob, home.star], np.int64)
    await world.store.bulk.load_follows(np.full(3, home.me, np.int64), followees, at_us)
    await world.store.notices.begin_pull(UserId(home.star))
    for author in (home.ann, home.bob, home.star):
        await home.post(author, "before")
    await home.read()
    for author in (home.ann, home.bob, home.star):
        await home.post(author, "since")
    await home.read()
    return home
