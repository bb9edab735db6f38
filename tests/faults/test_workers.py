"""Workers of the fan-out die, come and go under load: each delivery that should be there is there, in Redis itself and as it is read
through the API, and what is committed is never ahead of what was delivered.

Small by default; `TIMELINE_FAULTS=full` kills 20 times and goes through every change of a group. `TIMELINE_FAULTS_SEED` repeats the
chances of a run, as far as machines can.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from tests.faults.deliveries import Place, Watch
from tests.faults.seen import Stutter
from tests.faults.world import FULL, LIMITS, SMALL_STEPS, Posting, World, open_world, seeded
from tests.stack import until
from timeline.local import Control

# Nobody harms Redis here: a list that is left out because the machine was slow would be rebuilt, and hide what the worker lost
UNHARMED = LIMITS | SMALL_STEPS | {"hole_after_ms": 120_000, "skip_after_ms": 120_000}
UNHARMED["kafka_revoke_wait_ms"] = 100  # some batches are given up with their partitions, and come again elsewhere
PARTITIONS = 4
POSTS_PER_SECOND = 30
READERS_WALKED = 40 if FULL else 30
KILLS = {"classic": 20 if FULL else 5, "consumer": 20 if FULL else 2}
KILLS_MAX = 20  # a few kills may all come between batches: then some more
JOINED_SECONDS = 120  # above the broker's session timeout, on a busy machine
DELIVERED_SECONDS = 180


@pytest.fixture(scope="module")
def world(engines: Control, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    settings = {"TIMELINE_LIMITS": json.dumps(UNHARMED), "TIMELINE_KAFKA_PARTITIONS": str(PARTITIONS)}
    with open_world(engines.env, tmp_path_factory.mktemp("workers"), "api", "relay", **settings) as made:
        yield made


class Group:
    """Workers of one group, by name. A static one has its name in the group as well."""

    def __init__(self, world: World, protocol: str, *, static: bool) -> None:
        self.world, self.stack, self.static = world, world.stack, static
        self.name = f"{world.stack.settings['TIMELINE_KAFKA_GROUP']}-{protocol}-{'static' if static else 'dynamic'}"
        self._settings = {"TIMELINE_KAFKA_GROUP": self.name, "TIMELINE_KAFKA_GROUP_PROTOCOL": protocol}
        self.workers: list[str] = []

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_: object) -> None:
        """Of those that still work after a failure nothing may disturb the next test."""
        for name in list(self.workers):
            self.kill(name)

    def start(self, *names: str) -> None:
        for name in names:
            instance = {"TIMELINE_KAFKA_GROUP_INSTANCE": name} if self.static else {}
            self.stack.start(f"fanout:{name}", **self._settings, **instance)
            self.workers.append(name)

    def stop(self, *names: str) -> None:
        for name in names:
            self.stack.stop(f"fanout:{name}")
            self.workers.remove(name)

    def kill(self, name: str) -> None:
        self.stack.kill(f"fanout:{name}")
        self.workers.remove(name)

    def delivered(self, name: str) -> float:
        """By this process."""
        return self.stack.metric(f"fanout:{name}", "timeline_deliveries_total")

    def owned(self, name: str) -> set[Place]:
        """Partitions of tweets of which it shows a lag: those that are its own, as of a second ago."""
        lines = self.stack.metrics(f"fanout:{name}").splitlines()
        return {
            ("tweet.created", number)
            for number in range(PARTITIONS)
            if any(
                line.startswith("timeline_consumer_lag_messages{")
                and f'partition="{number}"' in line
                and 'tweet.created"' in line
                for line in lines
            )
        }

    def until_shared(self, *names: str) -> None:
        """Each of these has some partitions, and they have all of them between them."""

        def is_shared() -> bool:
            shares = [self.owned(name) for name in names]
            return all(shares) and sum(map(len, shares)) == len(set().union(*shares)) == PARTITIONS

        until(is_shared, JOINED_SECONDS, f"{names} share the partitions of {self.name}")


def rebuilds(world: World) -> float:
    return world.stack.metric("api", "timeline_rebuilds_total")


def pass_time(seconds: float) -> None:
    at = time.monotonic() + seconds
    until(lambda: time.monotonic() > at, seconds + 5, "a moment by chance")


def check_all(world: World, watch: Watch, group: Group, chance: random.Random) -> None:
    """When nobody posts any more: all is committed, all is delivered, and homes are what a recomputation says, from lists alone."""
    until(lambda: watch.log.behind() == 0, DELIVERED_SECONDS, f"{group.name} has caught up")
    lost = watch.lost()
    rebuilt = rebuilds(world)
    wrong = world.differences(world.sample(chance, READERS_WALKED))
    print(f"{group.name}: {watch.told()}; homes walked: {READERS_WALKED + 2}")
    assert not watch.wrong, "\n".join(["committed ahead of what was delivered:", *watch.wrong])
    assert not lost, "\n".join(["lost:", *lost])
    assert not wrong, "\n".join(wrong)
    assert not watch.lists.changed, "a list that was rebuilt or trimmed hides what it lost"
    assert rebuilds(world) == rebuilt, "homes were read from the lists that were pushed to"


@pytest.mark.timeout(3_600 if FULL else 420)
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_worker_killed_at_random_loses_nothing_and_has_committed_nothing_that_it_did_not_deliver(
    world: World, protocol: str
) -> None:
    """SIGKILL in the middle of batches and slices, again and again, under load; each time started again under its name."""
    chance = random.Random(seeded())
    group = Group(world, protocol, static=True)
    found: list[tuple[int, int]] = []
    with group, Watch(world, group.name) as watch:

        def is_enough() -> bool:
            return len(found) >= KILLS[protocol] and sum(map(sum, found)) > 0 and watch.lists.again > 0

        group.start("one")
        with Posting(world, POSTS_PER_SECOND, chance.randrange(2**32)):
            while len(found) < KILLS_MAX and not is_enough():
                until(lambda: group.delivered("one") > 0, JOINED_SECONDS, f"it works, after {len(found)} kills")
                pass_time(chance.uniform(0, 1))
                # pushes are quick: for most kills they are made to hang, so that it comes in the middle of some
                with watch.lists.writes_held() if chance.random() < 0.75 else nullcontext():
                    pass_time(chance.uniform(0, 0.6))
                    group.kill("one")
                found.append(watch.under_way())
                group.start("one")
        some, whole = (sum(column) for column in zip(*found, strict=True))
        print(f"{len(found)} kills: not committed, {some} were half delivered and {whole} wholly; by kill {found}")
        check_all(world, watch, group, chance)
        assert some + whole > 0, "no kill came in the middle of anything: nothing was shown"
        assert watch.lists.again > 0, "nothing came again"
        group.stop("one")


def come_and_go(group: Group) -> None:
    """One, two, three; one of them leaves, and comes again. One with a name is waited for by its partitions."""
    everybody = ("one", "two", "three")
    group.start(*(name for name in everybody[:2] if name not in group.workers))
    group.until_shared("one", "two")
    group.start("three")
    group.until_shared(*everybody)
    group.stop("one")
    if not group.static:
        group.until_shared("two", "three")
    group.start("one")
    group.until_shared(*everybody)


def die_and_come_back(group: Group) -> None:
    """One of three is killed and comes again, and another leaves and comes again while it does. One without a name is missed only
    after the session's timeout: 45 s by the classic protocol, whose client says so."""
    group.kill("two")
    group.start("two")
    group.stop("three")
    group.start("three")
    group.until_shared("one", "two", "three")


@pytest.mark.timeout(1_800 if FULL else 420)
@pytest.mark.parametrize(
    ("protocol", "static"),
    [("consumer", False), ("classic", True), *([("consumer", True), ("classic", False)] if FULL else [])],
)
def test_workers_that_join_and_leave_under_load_lose_nothing_and_never_commit_ahead(
    world: World, protocol: str, static: bool
) -> None:
    """Partitions go from hand to hand in the middle of batches and slices, by either protocol, with names in the group and without."""
    chance = random.Random(seeded())
    group, rounds = Group(world, protocol, static=static), 3 if FULL else 1
    with group, Watch(world, group.name) as watch:
        began = time.monotonic()
        with Stutter(watch.lists), Posting(world, POSTS_PER_SECOND, chance.randrange(2**32)):
            for _ in range(rounds):
                come_and_go(group)
                if FULL:
                    die_and_come_back(group)
                    group.stop("three")
        print(f"{rounds} rounds in {time.monotonic() - began:.0f} s")
        check_all(world, watch, group, chance)
        group.stop(*group.workers)
