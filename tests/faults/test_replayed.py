"""The group's offsets are set back over everything, and all of it is delivered again while readers read: they see no difference."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from cassandra.cluster import Cluster
from cassandra.io.libevreactor import LibevConnection

from tests.e2e.readers import HOME, Follower, Walk, positions, read_page, walk_down
from tests.faults.deliveries import Log
from tests.faults.world import FULL, LARGE, LIMITS, READERS, SMALL, SMALL_STEPS, Posting, World, open_world, seeded
from tests.stack import until
from timeline.local import Control
from timeline.settings import address

# Some lists are trimmed, by what comes again as well, and some are not
TRIMMED = {
    **LIMITS,
    **SMALL_STEPS,
    "timeline_entries_max": 60,
    "timeline_slack": 15,
    "profile_entries_max": 20,
    "tail_entries": 20,
}
POSTS, POSTS_AGAIN = (700, 200) if FULL else (350, 60)
POSTS_PER_SECOND = 60
SAMPLE = 80 if FULL else 40
READING_THREADS = 3
UNTRIMMED = 20  # a home of so many was never trimmed, three times delivered
DELIVERED_SECONDS = 180


@pytest.fixture
def world(engines: Control, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    settings = {"TIMELINE_LIMITS": json.dumps(TRIMMED)}
    with open_world(engines.env, tmp_path_factory.mktemp("replayed"), "api", "relay", "fanout", **settings) as made:
        yield made


def post(world: World, count: int, seed: int) -> None:
    """So many, and until all is delivered."""
    known = world.known
    wanted = known.counts["posts"] + count
    with Posting(world, POSTS_PER_SECOND, seed):
        until(lambda: known.counts["posts"] >= wanted, DELIVERED_SECONDS, f"{count} posts")


@dataclass
class Reading:
    """One reader: the walk from before, and who goes up from its first page; or from the page of somebody who was shown only some."""

    reader: int
    before: Walk
    top: Follower
    wrong: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    @staticmethod
    def begun(world: World, reader: int, limit: int) -> Reading:
        walk = walk_down(world.stack, reader, limit)
        return Reading(reader, walk, Follower(world.stack, reader, limit, walk.newer_cursor, walk.positions))

    def read(self, world: World, limit: int, *, quiet: bool) -> None:
        """A first page, a walk, and all that is new. `quiet`: nobody posts, so all is as before and nothing is new."""
        first, walk = (
            positions(read_page(world.stack, HOME, self.reader, limit)),
            walk_down(world.stack, self.reader, limit),
        )
        found, before = walk.positions, self.before.positions
        self.counts.update({"first pages": 1, "walks": 1, "items": len(found)})
        if found != sorted(set(found), reverse=True):
            self.wrong.append(f"walk of {self.reader}: something twice, or not newest first")
        if missing := sorted(set(before) - set(found)):
            self.wrong.append(f"walk of {self.reader}: missing {missing[:5]} ({len(missing)})")
        if quiet and (found != before or first != before[: len(first)] or len(first) < min(limit, len(before))):
            self.wrong.append(f"home of {self.reader} is another: {len(found)} of {len(before)}, {first[:3]}")
        items, resets = self.top.items, self.top.resets
        self.top.poll()
        reset = "resets" if len(before) > UNTRIMMED else "resets untrimmed"
        self.counts.update({"polls": 1, "polled": self.top.items - items, reset: self.top.resets - resets})
        if quiet and self.top.items > items:
            self.wrong.append(f"a poll of {self.reader} returned {self.top.items - items} old ones anew")


class Readers:
    """Everybody of a sample reads, again and again, until it is left; each at least once after it was asked to end."""

    def __init__(self, world: World, readings: Sequence[Reading], *, quiet: bool) -> None:
        self._world, self._readings, self._quiet = world, readings, quiet
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(READING_THREADS)

    def __enter__(self) -> Readers:
        self._running = [
            self._pool.submit(self._run, self._readings[at::READING_THREADS]) for at in range(READING_THREADS)
        ]
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._pool.shutdown()
        for one in self._running:
            one.result()

    def _run(self, readings: Sequence[Reading]) -> None:
        is_last = False
        while not is_last:
            is_last = self._stopping.is_set()
            for number, reading in enumerate(readings):
                reading.read(self._world, (100, 20, 7)[number % 3], quiet=self._quiet)


def replay(world: World, log: Log) -> None:
    """Everything from the beginning of both topics, by a worker that was stopped meanwhile. Which slices are done is forgotten, as it
    is after a day: else they would be passed over."""
    stack = world.stack
    stack.stop("fanout")
    log.set_back()
    assert log.behind() >= len(world.known.oracle.rows), "everything is to come again"
    servers = [address(server) for server in stack.settings["TIMELINE_CASSANDRA_HOSTS"].split(",")]
    cluster = Cluster(servers, protocol_version=5, connection_class=LibevConnection)
    try:
        session = cluster.connect(stack.settings["TIMELINE_CASSANDRA_KEYSPACE"])
        session.execute("TRUNCATE fanout_progress", timeout=60)
    finally:
        cluster.shutdown()
    stack.start("fanout")


def sample(chance: random.Random) -> list[int]:
    """Readers and authors, in an order that gives each the same limit each time."""
    return [*LARGE[:2], *SMALL[:4], *chance.sample(READERS, SAMPLE)]


@pytest.mark.timeout(1_800 if FULL else 420)
def test_readers_see_no_difference_while_everything_is_delivered_again(world: World) -> None:
    """First while nobody posts: walks are what they were, id for id, and no poll returns anything. Then while people post: what is new
    is polled once, and nothing old."""
    chance = random.Random(seeded())
    stack, known = world.stack, world.known
    log = Log(stack, stack.settings["TIMELINE_KAFKA_GROUP"])
    post(world, POSTS, chance.randrange(2**32))
    until(lambda: log.behind() == 0, DELIVERED_SECONDS, "fan-out caught up")
    readers = sample(chance)
    assert not world.differences(readers)
    readings = [Reading.begun(world, reader, (100, 20, 7)[number % 3]) for number, reader in enumerate(readers)]
    trims = stack.metric("fanout", "timeline_trims_total")
    assert trims > 0, "lists are trimmed as well"

    began = time.monotonic()
    with Readers(world, readings, quiet=True):
        replay(world, log)
        until(lambda: log.behind() == 0, DELIVERED_SECONDS, "everything was delivered again")
        again, seconds = stack.metric("fanout", "timeline_deliveries_total"), time.monotonic() - began
        meanwhile = told(readings)["walks"]
    print(
        f"quiet: {told(readings)}, of them {meanwhile} walks meanwhile; {again:,.0f} deliveries again in {seconds:.0f} s"
    )
    print(f"trims before {trims:,.0f}, by what came again {stack.metric('fanout', 'timeline_trims_total'):,.0f}")
    assert again > 0
    assert not told(readings).get("resets untrimmed"), "of a list that nothing was cut from all can be told"
    assert not wrong(readings), "\n".join(wrong(readings))

    for reading in readings:
        reading.counts.clear()
    with Readers(world, readings, quiet=False):
        replay(world, log)
        post(world, POSTS_AGAIN, chance.randrange(2**32))
        until(lambda: log.behind() == 0, DELIVERED_SECONDS, "everything was delivered once more")
    said = [
        f"{each.reader}: {text}"
        for each in readings
        if (text := each.top.check(known.oracle, known.oracle.home(each.reader)))
    ]
    print(f"with {POSTS_AGAIN} posts: {told(readings)}")
    log.close()
    assert not wrong(readings), "\n".join(wrong(readings))
    assert not said, "\n".join(said)
    assert not world.differences(readers)


def told(readings: Sequence[Reading]) -> dict[str, int]:
    return dict(sum((each.counts for each in readings), Counter[str]()))


def wrong(readings: Sequence[Reading]) -> list[str]:
    """Some of it."""
    return [what for each in readings for what in each.wrong][:20]
