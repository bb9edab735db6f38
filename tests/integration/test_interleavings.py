"""Two or three actors in every order, up to a bound: after each, every reader's walk equals a recomputation, from every process, and
who polls has seen everything once.

The lists, contexts and records of a scene stand as in everyday life before its actors meet; what an actor does is said in its
name. `TIMELINE_ORDERS` plays more orders of each scenario, `TIMELINE_ORDER` one alone, as a failure prints it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.integration.scene import LIMITS, Clock, Scene, Stage, eventually, open_stage
from tests.interleave import Play, explore, step
from timeline.domain.errors import BadRequest
from timeline.domain.ids import TweetId, UserId
from timeline.domain.pauses import Point
from timeline.local import Control

ORDERS = int(os.environ.get("TIMELINE_ORDERS", "8"))  # of each scenario; twice as many where three actors meet
LEASE_SECONDS = LIMITS.notices_lease_ms / 1000
SEED = int(os.environ.get("TIMELINE_ORDERS_SEED", "0"))
ORDER = [name for name in os.environ.get("TIMELINE_ORDER", "").split(", ") if name]

Make = Callable[[], Awaitable[Play]]
Meet = Callable[..., Awaitable[None]]


@pytest.fixture(scope="module")
async def stage(engines: Control) -> AsyncIterator[Stage]:
    async with open_stage(engines.env) as made:
        yield made


@pytest.fixture(scope="module")
def clock() -> Clock:
    """By which the processes of `timed` believe their notices."""
    return Clock()


@pytest.fixture(scope="module")
async def timed(engines: Control, clock: Clock) -> AsyncIterator[Stage]:
    async with open_stage(engines.env, clock) as made:
        yield made


@pytest.fixture
def meet(request: pytest.FixtureRequest) -> Meet:
    """Plays orders; what was played is printed."""

    async def play(make: Make, times: int = 1, once: str = "") -> None:
        title, failed = request.node.nodeid, [once.split(", ")] if once else []
        report = await explore(title, make, orders_max=times * ORDERS, seed=SEED, only=ORDER, once=failed)
        print(f"{title.split('::')[1]}: {report}")

    return play


async def at_home(stage: Stage, *, tweets: int = 2) -> Scene:
    """A scene whose readers have lists, contexts and all, and whose author has tweeted."""
    scene = await stage.scene()
    for _ in range(tweets):
        await scene.post(stage.two, scene.author)
    for _ in range(2):
        await asyncio.gather(*(scene.walk(stage.one, reader) for reader in (scene.me, scene.second)))
        await scene.deliver_due(stage.three.fanout)
    return scene


# --- lists


@pytest.mark.parametrize("state", ["gone", "on another primary"])
async def test_a_rebuild_meets_a_post_and_its_pushes(stage: Stage, meet: Meet, state: str) -> None:
    """Of a list that is not there, and in the place of one that a failover has robbed of its newest arrivals."""

    async def make() -> Play:
        scene = await at_home(stage)
        if state == "gone":
            await scene.forget("timeline", scene.me)
        else:
            await scene.lose(scene.me)
        poller = scene.poller(stage.one, scene.me)

        async def reader() -> None:
            await poller.start()
            await step("polls")
            await poller.poll()

        async def author() -> None:
            await scene.post(stage.two, scene.author)
            await scene.deliver_due(stage.three.fanout)

        points = {Point.build: [scene.me], Point.install: [scene.me], Point.push: None, Point.produce: None}
        return Play({"reader": reader, "author": author}, scene.check, points)

    await meet(make)


@pytest.mark.parametrize("state", ["gone", "on another primary"])
async def test_two_rebuilds_of_a_list_at_once_and_a_push(stage: Stage, meet: Meet, state: str) -> None:
    async def make() -> Play:
        scene = await at_home(stage)
        if state == "gone":
            await scene.forget("timeline", scene.me)
        else:
            await scene.lose(scene.me)
        pollers = [scene.poller(process, scene.me) for process in (stage.one, stage.two)]

        async def author() -> None:
            await scene.post(stage.two, scene.author)
            await scene.deliver_due(stage.three.fanout)

        points = {Point.build: [scene.me], Point.install: [scene.me], Point.push: None}
        return Play({"one": pollers[0].start, "two": pollers[1].start, "author": author}, scene.check, points)

    await meet(make, 2)


async def test_a_builder_that_dies_or_is_stopped_leaves_nothing_behind(stage: Stage, meet: Meet) -> None:
    """Reads go on meanwhile, and the list is there again soon, so that pushes reach it."""

    async def make() -> Play:
        scene = await at_home(stage)
        await scene.forget("timeline", scene.me)
        tweet = await scene.post(stage.two, scene.author)
        scene.due.clear()

        async def builder() -> None:
            await scene.page(stage.one, scene.me)

        async def worker() -> None:
            await scene.deliver(stage.three.fanout, tweet)

        async def other() -> None:
            await scene.look(stage.two, scene.me)

        async def check() -> None:
            await scene.check_from(stage.two, stage.three)

            async def is_cached() -> bool:
                return (await scene.page(stage.two, scene.me)).source == "cache"

            await eventually(is_cached, "the list is there again")
            await scene.post(stage.two, scene.author)
            await scene.check_from(stage.two, stage.three)
            assert (await scene.page(stage.two, scene.me)).source == "cache"

        points = {Point.build: [scene.me], Point.install: [scene.me], Point.push: None}
        ends = {"builder": [Point.build, Point.install]}
        return Play({"builder": builder, "worker": worker, "other": other}, check, points, ends)

    await meet(make, 2)


async def test_trims_meet_pushes_and_a_reader(stage: Stage, meet: Meet) -> None:
    """Two workers push to a list that is nearly too long, one of them something old."""

    async def make() -> Play:
        scene = await at_home(stage)
        old = [await scene.post(stage.two, author) for author in (scene.author, scene.other)]
        scene.due.clear()
        for _ in range(8):
            await scene.post(stage.two, scene.other)
        await scene.deliver_due(stage.three.fanout)
        young = [await scene.post(stage.two, scene.author) for _ in range(2)]
        scene.due.clear()
        poller = scene.poller(stage.one, scene.me)
        await poller.start()

        async def one() -> None:
            await scene.deliver(stage.two.fanout, young[0])
            await step("old")
            await scene.deliver(stage.two.fanout, old[0])

        async def two() -> None:
            await scene.deliver(stage.three.fanout, old[1], young[1])

        async def reader() -> None:
            await scene.look(stage.one, scene.me)
            await step("polls")
            await poller.poll()

        points = {Point.trim: [scene.me], Point.push: [young[0].id, old[0].id]}
        return Play({"one": one, "two": two, "reader": reader}, scene.check, points)

    await meet(make, 2)


# --- newer


async def test_a_redelivery_after_a_read_is_not_new(stage: Stage, meet: Meet) -> None:
    """And what was stored first and is delivered last is new all the same."""

    async def make() -> Play:
        scene = await at_home(stage)
        first, second = [await scene.post(stage.two, scene.author) for _ in range(2)]
        scene.due.clear()
        poller = scene.poller(stage.one, scene.me)
        await poller.start()

        async def worker() -> None:
            await scene.deliver(stage.three.fanout, second)
            await step("again")
            await scene.deliver(stage.three.fanout, second)
            await step("first")
            await scene.deliver(stage.three.fanout, first)

        async def other() -> None:
            await scene.deliver(stage.two.fanout, first, second)

        async def check() -> None:
            await scene.check()
            assert not poller.resets, "everything can be told"

        async def reader() -> None:
            for turn in ("second", "third", None):
                await poller.poll()
                if turn is not None:
                    await step(turn)

        return Play({"worker": worker, "other": other, "reader": reader}, check, {Point.push: [first.id]})

    await meet(make, 2)


async def test_a_tweet_held_before_it_is_stored_or_handed_on_is_seen_once_when_it_comes(
    stage: Stage, meet: Meet
) -> None:
    """A younger one overtakes it. Nothing is evicted, so nothing need be reset."""

    async def make() -> Play:
        scene = await at_home(stage)
        poller = scene.poller(stage.one, scene.me)
        await poller.start()

        async def slow() -> None:
            await scene.post(stage.two, scene.author)
            await scene.deliver_due(stage.two.fanout)

        async def quick() -> None:
            await scene.post(stage.three, scene.other)
            await scene.deliver_due(stage.three.fanout)

        async def reader() -> None:
            await poller.poll()
            await step("again")
            await poller.poll()
            await scene.look(stage.one, scene.me)

        async def check() -> None:
            await scene.check()
            assert not poller.resets, "everything can be told"

        points = {Point.batch: None, Point.produce: None}
        return Play({"slow": slow, "quick": quick, "reader": reader}, check, points)

    await meet(make, 2)


# --- contents


async def test_that_a_tweet_is_not_there_is_not_remembered(stage: Stage, meet: Meet) -> None:
    """Asked for by its id before it is stored, it is there afterwards, alone and in the home."""

    async def make() -> Play:
        scene = await at_home(stage)

        async def poster() -> None:
            await scene.post(stage.two, scene.author)

        async def reader() -> None:
            await stage.one.reading.tweets(UserId(scene.me), stage.two.ids.minted[-1:])
            await stage.one.settle()

        async def check() -> None:
            (tweet_id,) = scene.oracle.home(scene.me)[:1]
            for process in stage.processes:
                assert len(await process.reading.tweets(UserId(scene.me), [TweetId(tweet_id)])) == 1
            await scene.check()

        return Play({"poster": poster, "reader": reader}, check, {Point.batch: None, Point.produce: None})

    await meet(make)


@pytest.mark.parametrize(
    ("change", "evicted"),
    [
        ("edit", ("state",)),
        ("edit", ("post",)),
        ("delete", ("state",)),
        ("delete", ("state", "post")),
        ("both", ("state", "post")),
    ],
)
async def test_fills_of_a_tweet_meet_its_edit_and_its_deletion(
    stage: Stage, meet: Meet, change: str, evicted: tuple[str, ...]
) -> None:
    async def make() -> Play:
        scene = await at_home(stage)
        (tweet_id,) = scene.oracle.home(scene.me)[:1]
        tweet = await scene.tweet(scene.author, tweet_id)
        for kind in evicted:
            await scene.forget(kind, tweet_id, tagged=False)

        async def reader() -> None:
            await scene.page(stage.one, scene.me)
            await step("again")
            await scene.page(stage.one, scene.me)

        async def editor() -> None:
            await scene.edit(stage.two, tweet, "edited")

        async def deleter() -> None:
            await scene.delete(stage.three, scene.author, tweet)

        changes = {"editor": editor, "deleter": deleter}
        if change != "both":
            del changes["deleter" if change == "edit" else "editor"]
        points = {Point.fill: [tweet_id], Point.invalidate: [tweet_id]}
        return Play({"reader": reader, **changes}, scene.check, points)

    await meet(make, 2)


# --- contexts


@pytest.mark.parametrize("change", ["follow", "unfollow", "mute"])
async def test_fills_of_a_context_meet_changes_on_other_processes(stage: Stage, meet: Meet, change: str) -> None:
    async def make() -> Play:
        scene = await at_home(stage)
        await scene.post(stage.two, scene.stranger)
        await scene.post(stage.two, scene.other)
        await scene.deliver_due(stage.three.fanout)
        await scene.forget("reader", scene.me)

        async def reader() -> None:
            await scene.page(stage.one, scene.me)
            await step("again")
            await scene.page(stage.one, scene.me)

        async def changer() -> None:
            if change == "follow":
                await scene.follow(stage.two, scene.me, scene.stranger)
            elif change == "unfollow":
                await scene.unfollow(stage.two, scene.me, scene.other)
            else:
                await scene.mute(stage.two, scene.me, scene.other)

        async def another() -> None:
            await scene.unfollow(stage.three, scene.me, scene.author)

        points = {Point.fill: [scene.me], Point.invalidate: [scene.me]}
        return Play({"reader": reader, "changer": changer, "another": another}, scene.check, points)

    await meet(make, 2)


@pytest.mark.parametrize("who_blocks", ["author", "me"])
async def test_a_block_meets_a_follow_on_another_process(stage: Stage, meet: Meet, who_blocks: str) -> None:
    """The block stands in the end, whoever was first; its end revives no follow."""

    async def make() -> Play:
        scene = await at_home(stage)
        await scene.unfollow(stage.two, scene.me, scene.author)
        await scene.page(stage.one, scene.me)
        await scene.forget("reader", scene.me)
        sides = (scene.author, scene.me) if who_blocks == "author" else (scene.me, scene.author)

        async def follower() -> None:
            try:
                await stage.two.writer.follow(UserId(scene.me), UserId(scene.author))
            except BadRequest as error:
                assert error.kind == "blocked"  # noqa: PT017 - which is not always raised

        async def blocker() -> None:
            await scene.block(stage.three, *sides)

        async def reader() -> None:
            await scene.page(stage.one, scene.me)

        async def check() -> None:
            assert scene.oracle.is_barred(*sides)
            await scene.check()
            assert not await stage.one.store.graph.follows(UserId(scene.me), UserId(scene.author))
            await stage.one.relations.unblock(UserId(sides[0]), UserId(sides[1]))
            scene.oracle.blocks[sides[0]].discard(sides[1])
            await scene.check()

        people = [scene.me, scene.author]
        points = {Point.fill: people, Point.invalidate: people}
        return Play({"follower": follower, "blocker": blocker, "reader": reader}, check, points)

    await meet(make, 2)


@pytest.mark.parametrize("state", ["there", "gone"])
async def test_a_refollow_meets_a_cached_list_of_followers(stage: Stage, meet: Meet, state: str) -> None:
    """A worker read who follows the author while the reader did not: a list that is built after the follow gets no push of it."""

    async def make() -> Play:
        scene = await at_home(stage)
        await scene.unfollow(stage.two, scene.me, scene.author)
        worker = stage.three.worker(1_000)
        await scene.post(stage.two, scene.author)
        await scene.deliver_due(worker)
        if state == "gone":
            await scene.forget("timeline", scene.me)
        poller = scene.poller(stage.one, scene.me)

        async def refollow() -> None:
            await scene.follow(stage.one, scene.me, scene.author)
            await poller.start()
            await step("polls")
            await poller.poll()

        async def post() -> None:
            await scene.post(stage.two, scene.author)
            await scene.deliver_due(worker)

        async def check() -> None:
            await scene.deliver_due(worker)
            await scene.check()
            await scene.post(stage.two, scene.author)
            await scene.deliver_due(worker)
            await scene.check()

        points = {
            Point.invalidate: [scene.me],
            Point.build: [scene.me],
            Point.install: [scene.me],
            Point.produce: None,
            Point.push: None,
        }
        return Play({"reader": refollow, "author": post}, check, points)

    await meet(make)


# --- who is pulled


@pytest.mark.parametrize("listed", ["profile there", "profile gone"])
async def test_tweets_of_somebody_pulled_are_stored_while_pages_are_read(stage: Stage, meet: Meet, listed: str) -> None:
    """The younger one first; followed just now, so pulled from their own list or from the store."""

    async def make() -> Play:
        scene = await at_home(stage)
        await scene.follow(stage.one, scene.me, scene.stranger)
        for _ in range(3):
            await scene.post(stage.two, scene.stranger)
        scene.due.clear()
        await scene.page(stage.one, scene.me)
        if listed == "profile gone":
            await scene.forget("profile", scene.stranger)
        poller = scene.poller(stage.one, scene.me)

        async def slow() -> None:
            await scene.post(stage.two, scene.stranger)
            await scene.deliver_due(stage.two.fanout)

        async def quick() -> None:
            await scene.post(stage.three, scene.stranger)
            await scene.deliver_due(stage.three.fanout)

        async def reader() -> None:
            await poller.start()
            await step("polls")
            await poller.poll()

        points = {Point.batch: None, Point.fill: None, Point.install: [scene.stranger]}
        return Play({"slow": slow, "quick": quick, "reader": reader}, scene.check, points)

    # the younger one is on the page, and the older one is stored before the page's newer cursor is made
    once = "quick@start, slow@start, slow@batch, reader@start, quick@batch, reader@install, reader@fill, reader@polls"
    await meet(make, 2, once)


async def know(timed: Stage, clock: Clock, seconds: float = 0.1) -> None:
    """Time passes, and everybody reads the notices."""
    clock.now += seconds
    for process in timed.processes:
        await process.store.notices.refresh()


async def test_an_author_comes_to_be_pulled_while_another_process_has_the_old_set(
    timed: Stage, meet: Meet, clock: Clock
) -> None:
    """Deliveries are left out only when everybody knows, or knows that they do not know."""

    async def make() -> Play:
        await know(timed, clock)
        scene = await at_home(timed)
        worker = timed.two.worker(1)
        poller = scene.poller(timed.one, scene.me)
        await poller.start()

        async def deliver() -> None:
            for turn in ("looks", "delivers", None):
                await scene.post(timed.two, scene.author)
                await scene.deliver_due(worker)
                await timed.two.store.notices.refresh()
                if turn is not None:
                    await step(turn)

        async def reader() -> None:
            await scene.look(timed.one, scene.me)
            await step("looks")
            await scene.look(timed.one, scene.me)
            await poller.poll()
            await step("reads the notices")
            await timed.one.store.notices.refresh()
            await scene.look(timed.one, scene.me)
            await poller.poll()

        async def time_passes() -> None:
            for _ in range(2):
                clock.now += LEASE_SECONDS * 3 / 4
                await timed.two.store.notices.refresh()
                await step("goes on")

        async def check() -> None:
            await know(timed, clock, LEASE_SECONDS * 3 / 2)
            await scene.check()
            await scene.post(timed.two, scene.author)
            await scene.deliver_due(worker)
            await scene.check()

        return Play(
            {"worker": deliver, "reader": reader, "time": time_passes}, check, {Point.reclassify: [scene.author]}
        )

    await meet(make, 2)


@pytest.mark.parametrize("state", ["there", "gone"])
async def test_an_author_comes_to_be_pushed_while_another_worker_has_the_old_set(
    timed: Stage, meet: Meet, clock: Clock, state: str
) -> None:
    """It leaves out what is pulled as long as it may."""

    async def make() -> Play:
        await know(timed, clock)
        scene = await at_home(timed)
        await timed.two.store.notices.begin_pull(UserId(scene.author))
        await know(timed, clock)
        await know(timed, clock, LEASE_SECONDS * 3 / 2)
        ends, has_old_set = timed.two.worker(10), timed.three.worker(2)
        assert timed.three.store.notices.may_skip([UserId(scene.author)])
        await scene.walk(timed.one, scene.me)
        if state == "gone":
            await scene.forget("timeline", scene.me)
        poller = scene.poller(timed.one, scene.me)

        async def one() -> None:
            await scene.post(timed.two, scene.author)
            await scene.deliver_due(ends)

        async def two() -> None:
            tweet = await scene.post(timed.three, scene.author)
            scene.due.remove(tweet)
            await scene.deliver(has_old_set, tweet)
            await step("reads the notices")
            await timed.three.store.notices.refresh()
            tweet = await scene.post(timed.three, scene.author)
            scene.due.remove(tweet)
            await scene.deliver(has_old_set, tweet)

        async def reader() -> None:
            await poller.start()
            await step("reads the notices")
            await timed.one.store.notices.refresh()
            await scene.look(timed.one, scene.me)
            await poller.poll()

        async def check() -> None:
            await know(timed, clock)
            await scene.check()
            await scene.post(timed.two, scene.author)
            await scene.check()

        points = {
            Point.reclassify: [scene.author],
            Point.push: None,
            Point.build: [scene.me],
            Point.install: [scene.me],
        }
        return Play({"one": one, "two": two, "reader": reader}, check, points)

    await meet(make, 2)
