"""What fan-out leaves out on purpose: authors who are pulled, and a Redis node that stays away. Readers are of other processes than
the worker; nothing is missing to any of them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import free_base_port
from tests.integration.scene import LIMITS, LONG_AGO_US, Process, Scene, Stage, open_process
from tests.integration.world import Recorder, SlicesAtHand
from timeline import metrics
from timeline.domain.events import TweetCreated
from timeline.domain.ids import UserId
from timeline.domain.model import Tweet
from timeline.domain.records import ListKind
from timeline.fanout.ports import Batch
from timeline.local import Control, Topology, open_engines
from timeline.settings import Settings
from timeline.store.migrations import apply

THRESHOLD = 2  # me and the second reader: one more is too many; one alone is few enough to come back
SHRUNK = replace(
    LIMITS,
    notices_lease_ms=4_000,  # a busy machine reads them late, and what lapses makes pages degraded
    cassandra_timeout_ms=5_000,
    follower_cache_ms=500,
    reclassify_seconds=1,
    skip_after_ms=2_000,
    hole_ahead_ms=10_000,
    retry_pause_max_ms=200,
)


@asynccontextmanager
async def opened(engines: Mapping[str, str]) -> AsyncIterator[Stage]:
    """Three processes, each with a store, caches and notices of its own."""
    name = f"c{uuid.uuid4().hex[:12]}"
    values = {key.removeprefix("TIMELINE_").lower(): value for key, value in engines.items()}
    settings = Settings(
        **values, cassandra_keyspace=name, redis_key_prefix=f"{name}:", limits=SHRUNK, push_followers_max=THRESHOLD
    )
    await asyncio.to_thread(apply, settings)
    log = Recorder()
    async with AsyncExitStack() as stack:
        one, two, three = [await stack.enter_async_context(open_process(each, settings, log, None)) for each in "123"]
        yield Stage(one, two, three)


@pytest.fixture(scope="module")
async def stage(engines: Control) -> AsyncIterator[Stage]:
    async with opened(engines.env) as made:
        yield made


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Control]:
    """A cluster of this module's own: one of its nodes is held."""
    with open_engines(tmp_path_factory.mktemp("redis"), Topology(free_base_port(), cassandra=0, kafka=0)) as fleet:
        yield fleet


@pytest.fixture(scope="module")
async def fragile(engines: Control, redis: Control) -> AsyncIterator[Stage]:
    async with opened({**engines.env, **redis.env}) as made:
        yield made


async def tweet(scene: Scene, author: int) -> Tweet:
    """Posted by one process, and delivered by another one."""
    posted = await scene.post(scene.stage.two, author)
    scene.due.clear()
    await scene.deliver(scene.stage.three.fanout, posted)
    scene.delivered.add(posted.id)
    return posted


async def have_lists(scene: Scene) -> None:
    """Both readers; one whose building failed on a busy machine tries again."""

    async def there(reader: int) -> bool:
        await scene.walk(scene.stage.one, reader)
        view = await scene.stage.one.cache.lists.read(ListKind.home, UserId(reader), None)
        return view is not None and not view.header.building

    for reader in (scene.me, scene.second):
        await come_to_hold(lambda reader=reader: there(reader), "there is a list")  # type: ignore[misc]


async def come_to_hold(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """Asks until it is so, or fails. An end that could not be written in time lapses hole_ahead_ms later."""
    deadline = time.monotonic() + 2 * (SHRUNK.hole_ahead_ms + SHRUNK.notices_margin_ms) / 1000
    while not await holds():
        assert time.monotonic() < deadline, f"it did not come to hold: {what}"
        await asyncio.sleep(0.05)


async def in_list(process: Process, user: int) -> set[int]:
    """What the home list in Redis holds."""
    view = await process.cache.lists.read(ListKind.home, UserId(user), None)
    assert view is not None
    return set(view.entries["tweet"].tolist())


async def tweets_until(scene: Scene, holds: Callable[[], bool], seconds: float = 30) -> None:
    """One after the other, until it is so; a few a second, so that walks stay short."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold"
        await tweet(scene, scene.author)
        await asyncio.sleep(0.4)


@asynccontextmanager
async def reading(scene: Scene) -> AsyncIterator[None]:
    """Meanwhile both readers read without end, down and up, at a process that does not deliver."""
    one, rounds, end = scene.stage.one, 0, asyncio.Event()
    poller = scene.poller(one, scene.me)
    await poller.start()

    async def read() -> None:
        nonlocal rounds
        while not end.is_set():
            for reader in (scene.me, scene.second):
                await scene.look(one, reader)
            await poller.poll()
            rounds += 1

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read())
        yield
        end.set()
    assert rounds > 5, "hardly anything was read meanwhile"


async def test_an_author_crosses_the_threshold_up_and_down_while_others_read_and_nothing_is_missing(
    stage: Stage,
) -> None:
    scene = await stage.scene()
    author, board = UserId(scene.author), stage.three.store.notices
    await have_lists(scene)
    async with reading(scene):
        pushed = await tweet(scene, scene.author)
        assert pushed.id in await in_list(stage.one, scene.me)
        assert not board.stands(author)

        await scene.follow(stage.two, scene.stranger, scene.author)
        await tweets_until(scene, lambda: author in board.may_skip([author]))
        pulled = [await tweet(scene, scene.author) for _ in range(4)]
        assert not {each.id for each in pulled} & await in_list(stage.one, scene.me), "they were pushed"

        for follower in (scene.second, scene.stranger):
            await scene.unfollow(stage.two, follower, scene.author)
        await tweets_until(scene, lambda: not board.stands(author))
        pushed = await tweet(scene, scene.author)
        assert pushed.id in await in_list(stage.one, scene.me)

        await scene.follow(stage.two, scene.second, scene.author)  # up and down once more, beside a follow
        await scene.follow(stage.two, scene.stranger, scene.author)
        await tweets_until(scene, lambda: author in board.may_skip([author]))
        await scene.unfollow(stage.two, scene.stranger, scene.author)
        await scene.unfollow(stage.two, scene.second, scene.author)
        await tweets_until(scene, lambda: not board.stands(author))
    await scene.check()


async def test_an_author_who_has_ten_times_the_threshold_overnight_is_pulled_soon_and_nothing_is_missing(
    stage: Stage,
) -> None:
    """Then in slices: until everybody knows, the new followers are pushed to as well."""
    scene = await stage.scene()
    author, board = UserId(scene.author), stage.three.store.notices
    left_out = metrics.LEFT_OUT.labels("pulled_slice")
    await have_lists(scene)
    async with reading(scene):
        await tweet(scene, scene.author)
        crowd = np.arange(scene.me + 1_000_000, scene.me + 1_000_000 + 10 * THRESHOLD, dtype=np.int64)
        await stage.two.store.bulk.load_follows(
            np.concatenate([crowd, [scene.me, scene.second]]), np.full(len(crowd) + 2, author), LONG_AGO_US
        )
        await asyncio.sleep(SHRUNK.follower_cache_ms / 1000)  # a night
        in_slices = await tweet(scene, scene.author)
        assert in_slices.id in await in_list(stage.one, scene.me)
        assert board.stands(author)
        late = await scene.post(stage.two, scene.author)  # its slices are taken when everybody knows
        scene.due.clear()
        worker = stage.three.fanout
        await worker.deliver(Batch([TweetCreated(late.id, late.author_id, late.entry.reference)], None))
        await come_to_hold(lambda: settled(stage.three, author), "everybody knows")
        before = left_out._value.get()
        assert isinstance(worker.slices, SlicesAtHand)
        await worker.slices.deliver_all(worker)
        scene.delivered.add(late.id)
        assert left_out._value.get() - before >= 10 * THRESHOLD // LIMITS.follower_shard_size
        assert late.id not in await in_list(stage.one, scene.me)
    await scene.check()


async def settled(process: Process, author: UserId) -> bool:
    return author in process.store.notices.may_skip([author])


async def apart(stage: Stage) -> Scene:
    """A scene of which one reader's list is on another node than the other's, the author's and the other author's."""
    owners = stage.three.cache.plane.topology.owners
    for _ in range(50):
        scene = await stage.scene()
        users = np.array([scene.me, scene.second, scene.author, scene.other], np.int64)
        mine, *others = (owners[slot] for slot in stage.three.cache.lists.slots_of(users).tolist())
        if mine not in others:
            return scene
    raise AssertionError("fifty scenes, and none like that")


@asynccontextmanager
async def held(redis: Control, stage: Stage, user: int) -> AsyncIterator[None]:
    """The node that serves this user stands still, with all that it holds, until the end of the block."""
    slot = int(stage.three.cache.lists.slots_of(np.array([user], np.int64))[0])
    node = str(stage.three.cache.plane.topology.owners[slot])
    pid = redis.pid(f"redis-{redis.env['TIMELINE_REDIS_NODES'].split(',').index(node) + 1}")
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def dirty_until_ms(process: Process, user: int) -> int:
    """Of the user's slot, as that process has read it by itself."""
    (slot,) = process.cache.lists.slots_of(np.array([user], np.int64))
    return int(process.store.notices.read()[0].dirty_until_ms[slot])


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def test_a_node_that_stays_away_is_skipped_its_hole_known_to_everybody_and_its_lists_are_not_trusted_after(
    fragile: Stage, redis: Control
) -> None:
    one, three = fragile.one, fragile.three
    scene = await apart(fragile)
    await have_lists(scene)
    before = await tweet(scene, scene.author)
    async with held(redis, fragile, scene.me):
        began = time.monotonic()
        first = await tweet(scene, scene.author)  # waits for the bound, and until everybody must know the hole
        assert time.monotonic() - began > (SHRUNK.skip_after_ms + SHRUNK.notices_lease_ms) / 1000
        assert dirty_until_ms(one, scene.me) > now_ms(), "the reader's process does not know the hole"
        assert first.id in await in_list(one, scene.second)
        began = time.monotonic()
        others = [await tweet(scene, author) for author in (scene.author, scene.other)]
        assert time.monotonic() - began < SHRUNK.skip_after_ms / 1000, "others waited for the node"
        assert {each.id for each in others} <= await in_list(one, scene.second)

    async def is_back() -> bool:
        return not any(process.cache.lists.away() for process in fragile.processes)

    await come_to_hold(is_back, "all nodes answer")
    after = await tweet(scene, scene.author)
    view = await one.cache.lists.read(ListKind.home, UserId(scene.me), None)
    assert view is not None
    assert view.is_at_home, "no failover: by its primary alone the list would be trusted"
    found = set(view.entries["tweet"].tolist())
    assert {before.id, after.id} <= found
    assert not found & {
        each.id for each in others
    }  # the first was sent before anybody knew, and may have been executed since

    async def is_ended() -> bool:
        return dirty_until_ms(one, scene.me) <= now_ms()

    await come_to_hold(is_ended, "the hole has its end")
    assert 0 < view.header.built_ms < dirty_until_ms(one, scene.me), "the list would be trusted"
    assert dirty_until_ms(one, scene.second) == 0
    assert not three.fanout._pushing._holes._of

    async def is_over() -> bool:
        return now_ms() > dirty_until_ms(one, scene.me) + SHRUNK.notices_margin_ms

    await come_to_hold(is_over, "a list that is built now is trusted")
    await scene.check()
    rebuilt = await one.cache.lists.read(ListKind.home, UserId(scene.me), None)
    assert rebuilt is not None
    assert rebuilt.header.epoch != view.header.epoch
