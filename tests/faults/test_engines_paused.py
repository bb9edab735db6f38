"""Engines stand still for a while (SIGSTOP: connections stay, nobody answers): one Redis node, all of Redis, Cassandra. Nothing is
lost, nobody waits for a node that is not theirs, the worker says that it waits and stays small, and all is well again by itself.

Small by default; `TIMELINE_FAULTS=full` is for 30 s, by production's times.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from confluent_kafka import Producer

from tests.conftest import free_base_port
from tests.faults.deliveries import NODES, Lists, Log, node_of
from tests.faults.seen import Arrivals, Gauges, paused, pids_of, spread
from tests.faults.world import FULL, LARGE, LIMITS, READERS, Posting, World, open_world, seeded
from tests.stack import until
from timeline.domain.limits import Limits
from timeline.local import Control, Topology, open_engines

PAUSE_SECONDS = 30 if FULL else 9
FLOOD, FLOOD_EVENT_BYTES = 400_000 if FULL else 80_000, 1_000  # far more than a worker may hold
# Production's: no hole is used before all nodes are back, and the store is asked several times while it is away
PATIENT = LIMITS | {name: getattr(Limits(), name) for name in ("notices_lease_ms", "cassandra_timeout_ms")}
ONE_AWAY = PATIENT if FULL else LIMITS | {"skip_after_ms": 3_000}
POSTS_PER_SECOND = 20
QUIET_POSTS = 40  # before an outage, and after it
GROWN_MB_MAX = 64  # 16 MB fetched, for tweets and for slices, with what the allocator keeps of them
SLACK_SECONDS = 4
CAUGHT_UP_SECONDS = 1.5  # what had waited before a node was left out is delivered, and then all else in its usual time
NEVER = float("inf")
OTHERS_LAG_SECONDS_MAX = 3.0
READERS_WALKED = 100 if FULL else 30
DELIVERED_SECONDS = 180


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Control]:
    """Engines of these tests' own."""
    topology = Topology(free_base_port(), cassandra_heap_mb=768)
    with open_engines(tmp_path_factory.mktemp("paused-engines"), topology) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def world(control: Control, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    settings = {"TIMELINE_LIMITS": json.dumps(LIMITS)}
    with open_world(control.env, tmp_path_factory.mktemp("paused"), "api", "relay", **settings) as made:
        yield made


@pytest.fixture
def log(world: World) -> Iterator[Log]:
    made = Log(world.stack, world.stack.settings["TIMELINE_KAFKA_GROUP"])
    yield made
    made.close()


@pytest.fixture
def lists(world: World) -> Iterator[Lists]:
    """Of everybody, as they are when the test begins."""
    world.make_lists()  # some are left as an outage before left them, until they are read
    made = Lists(world.stack, world.users)
    made.read()
    yield made
    made.close()


def post(world: World, count: int, seed: int) -> None:
    known = world.known
    wanted = known.counts["posts"] + count
    with Posting(world, POSTS_PER_SECOND, seed):
        until(lambda: known.counts["posts"] >= wanted, DELIVERED_SECONDS, f"{count} posts")


@contextmanager
def fanout(world: World, limits: dict[str, int]) -> Iterator[Gauges]:
    """A worker that has caught up with some posts, and what is seen of it."""
    stack = world.stack
    log = Log(stack, stack.settings["TIMELINE_KAFKA_GROUP"])
    stack.start("fanout", TIMELINE_LIMITS=json.dumps(limits))
    try:
        post(world, QUIET_POSTS, 0)
        until(lambda: log.behind() == 0, DELIVERED_SECONDS, "quiet deliveries")
        with Gauges(stack, "fanout") as gauges:
            yield gauges
    finally:
        log.close()
        stack.stop("fanout")


def stand_still(since: float) -> None:
    until(lambda: time.time() > since + PAUSE_SECONDS, PAUSE_SECONDS + 30, "the outage has lasted")


def lost(world: World, lists: Lists, nodes: set[int] | None = None) -> list[str]:
    """What was acknowledged and is not in the list of everybody on these nodes."""
    on = set(range(NODES)) if nodes is None else nodes
    lists.read(on)
    said = []
    for row in world.known.oracle.rows.values():
        wanted = [user for user in (row.author, *world.followers[row.author]) if node_of(user) in on]
        if lacking := lists.lack(row.id, wanted):
            said.append(f"{row.id} of {row.author}: {len(lacking)} lack it: {lacking[:5]}")
    return [*said[:20], f"{len(said)} in all"] if said else []


def flood(world: World, log: Log, tweet: int) -> None:
    """The event of READERS[0]'s tweet, whom nobody follows, very often, in every partition: the backlog of an hour, and harmless. It
    is large by a member that nobody knows."""
    topic = next(iter(log.groups))
    members = {"version": 1, "tweet_id": str(tweet), "author_id": str(READERS[0]), "later": "x" * FLOOD_EVENT_BYTES}
    value = json.dumps(members).encode()
    partitions = [number for name, number in log.places if name == topic]
    bootstrap = world.stack.settings["TIMELINE_KAFKA_BOOTSTRAP"]
    producer = Producer({"bootstrap.servers": bootstrap, "queue.buffering.max.messages": FLOOD, "linger.ms": 50})
    for number in range(FLOOD):
        producer.produce(topic, value, partition=partitions[number % len(partitions)])
    assert producer.flush(60) == 0


def until_well(world: World, log: Log, gauges: Gauges, readers: list[int]) -> None:
    """Nobody lends a hand: all is committed, the worker does not wait, and homes are what a recomputation says."""
    began = time.monotonic()
    until(lambda: log.behind() == 0, DELIVERED_SECONDS, "fan-out caught up")
    caught_up = time.monotonic() - began
    until(lambda: not gauges.is_paused and gauges.lag_last == 0, 30, "the worker says so")
    wrong = world.differences(readers)
    print(f"caught up {caught_up:.1f} s later; {len(readers)} homes walked; {gauges.told()}")
    assert not wrong, "\n".join(wrong)
    assert gauges.was_paused, "it said that it waits"
    assert gauges.grown_mb < GROWN_MB_MAX, "what waits is in Kafka, and not in memory"


@pytest.mark.timeout(900 if FULL else 420)
def test_one_redis_node_that_stands_still_delays_nobody_on_the_others_and_takes_nothing_away(
    control: Control, world: World, log: Log, lists: Lists
) -> None:
    """Its lists are left out past a short bound and rebuilt when they are read; everybody else's deliveries go on as usual."""
    chance = random.Random(seeded())
    away, limits = 1, Limits(**ONE_AWAY)
    others = {0, 1, 2} - {away}
    with fanout(world, ONE_AWAY) as gauges:
        with Arrivals(world, others) as arrivals, Posting(world, POSTS_PER_SECOND, chance.randrange(2**32)):
            until(lambda: arrivals.counted >= QUIET_POSTS, DELIVERED_SECONDS, "quiet deliveries")
            with paused(control.pid(f"redis-{away + 1}")) as began:
                stand_still(began)
                ended, since, is_paused = time.time(), gauges.left_out_since, gauges.is_paused
            wanted = arrivals.counted + QUIET_POSTS
            until(lambda: arrivals.counted >= wanted, DELIVERED_SECONDS, "deliveries afterwards")
        assert since is not None, "nothing was left out: nothing was shown"
        during = arrivals.between(since + CAUGHT_UP_SECONDS, ended)
        print(f"on the other nodes, posted before: {spread(arrivals.between(0, began - 1))}")
        print(f"until it was left out, {since - began:.1f} s later: {spread(arrivals.between(began, since))}")
        print(f"{CAUGHT_UP_SECONDS} s after that, while it was away: {spread(during)}")
        print(f"and when it was back: {spread(arrivals.between(ended, NEVER))}")
        on_node = [user for user in READERS if node_of(user) == away]
        until_well(world, log, gauges, [*chance.sample(on_node, READERS_WALKED), *world.sample(chance, READERS_WALKED)])
    said = lost(world, lists, others)
    assert (
        since - began < max(limits.skip_after_ms, limits.hole_after_ms + limits.notices_lease_ms) / 1000 + SLACK_SECONDS
    )
    assert not is_paused, "it waits for a node that it leaves out"
    assert during, "nobody posted meanwhile"
    assert during[-1] < OTHERS_LAG_SECONDS_MAX, "others wait for a node that is not theirs"
    assert not said, "\n".join(said)
    assert not lists.changed & {user for user in world.users if node_of(user) in others}, "their lists were rebuilt"


@pytest.mark.timeout(900 if FULL else 420)
def test_when_all_of_redis_stands_still_fan_out_waits_and_then_delivers_everything(
    control: Control, world: World, log: Log, lists: Lists
) -> None:
    """Nobody is left out, since there is nobody for whom to go on; a flood that comes meanwhile stays in Kafka."""
    chance = random.Random(seeded())
    with fanout(world, PATIENT) as gauges:
        with Posting(world, POSTS_PER_SECOND, chance.randrange(2**32)), paused(*pids_of(control, "redis")) as began:
            flood(world, log, world.client.post(READERS[0]))
            stand_still(began)
            until(
                lambda: gauges.is_paused and gauges.lag_last >= FLOOD / 2,
                30,
                "it says that it waits, and how much does",
            )
        until_well(world, log, gauges, world.sample(chance, READERS_WALKED))
    said = lost(world, lists)
    assert not said, "\n".join(said)
    assert not gauges.left_out
    assert not lists.changed, "a list that was rebuilt hides what it lost"


@pytest.mark.timeout(900 if FULL else 420)
def test_when_cassandra_stands_still_fan_out_waits_and_then_delivers_everything(
    control: Control, world: World, log: Log, lists: Lists
) -> None:
    """What was posted just before waits for its followers, with a flood behind it; nobody gets it from a list that is too old."""
    chance = random.Random(seeded())
    with fanout(world, PATIENT) as gauges:
        with Posting(world, POSTS_PER_SECOND, chance.randrange(2**32)), ExitStack() as still:
            with paused(world.stack.pid("fanout")):  # so that it meets them when the store is away
                waiting = [world.client.post(author) for author in (*LARGE, READERS[0])]
                began = still.enter_context(paused(*pids_of(control, "cassandra")))
            flood(world, log, waiting[-1])
            stand_still(began)
            until(
                lambda: gauges.is_paused and gauges.lag_last >= FLOOD / 2,
                30,
                "it says that it waits, and how much does",
            )
            lists.read()
            held_back = [
                tweet
                for tweet, author in zip(waiting, LARGE, strict=False)
                if lists.lack(tweet, world.followers[author])
            ]
        until_well(world, log, gauges, world.sample(chance, READERS_WALKED))
    said = lost(world, lists)
    assert len(held_back) == len(LARGE), "it was delivered without the store: nothing was shown"
    assert not said, "\n".join(said)
    assert not gauges.left_out
    assert not lists.changed, "a list that was rebuilt hides what it lost"
