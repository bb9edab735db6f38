"""Some large authors and many small ones, and readers who all have a list to push to, built when every follow was old: nobody is
pulled, and no rebuild may hide that a delivery was lost. Authors post over the API, at a steady rate."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.readers import HOME, read_page, walk_down
from tests.faults.crowd import Acknowledged, Client
from tests.stack import BRISK, Stack, running, until

FULL = os.environ.get("TIMELINE_FAULTS") == "full"
SHARD = 50
LARGE, SMALL, READERS = range(1, 7), range(7, 41), range(1_001, 1_401)
LIMITS = {
    **BRISK,
    "follower_shard_size": SHARD,
    # nothing is trimmed: a list is all that was ever delivered to it
    "timeline_entries_max": 100_000,
    "timeline_slack": 10_000,
    "rebuilds_per_second": 1_000,
    "consumer_lag_seconds": 1,
    # production's times for people who wait; the machine may be busy
    "redis_timeout_ms": 1_000,
    "cassandra_timeout_ms": 5_000,
}
# Batches, pushes and pages are small, so that whatever happens to a worker finds one under way
SMALL_STEPS = {
    "fanout_batch_events": 20,
    "fanout_appends_per_push": 60,
    "fanout_followers_page": 20,
    "kafka_commit_interval_ms": 100,
}
LISTS_SECONDS = 120


def seeded() -> int:
    """Of this test; said, so that it can be repeated."""
    seed = int(os.environ.get("TIMELINE_FAULTS_SEED") or random.SystemRandom().randrange(2**32))
    print(f"\nTIMELINE_FAULTS_SEED={seed}")
    return seed


class World:
    """Its people, and what they were acknowledged."""

    def __init__(self, stack: Stack, follows: Mapping[int, set[int]]) -> None:
        self.stack, self.known = stack, Acknowledged()
        self.client = Client(stack, self.known)
        self.users = [*LARGE, *SMALL, *READERS]
        self.followers: defaultdict[int, list[int]] = defaultdict(list)
        for user in self.users:
            self.known.oracle.follows[user] = set(follows[user])
            for author in follows[user]:
                self.followers[author].append(user)

    def shard(self, author: int, number: int) -> list[int]:
        """The followers in one shard: `timeline load` fills them in order of id."""
        return self.followers[author][number * SHARD : (number + 1) * SHARD]

    def shards(self, author: int) -> int:
        return max(1, -(-len(self.followers[author]) // SHARD))

    def load(self) -> None:
        """Users and follows, in bulk, until the follows are old; then everybody reads, and has a list."""
        files = {name: self.stack.folder / name for name in ("follows", "posts", "journal")}
        pairs = ((user, author) for user in self.users for author in sorted(self.known.oracle.follows[user]))
        files["follows"].write_text("".join(f"{user} {author}\n" for user, author in pairs))
        files["posts"].touch()
        self.stack.run("load", *(f"--{name}={path}" for name, path in files.items()))
        old_at = time.monotonic() + BRISK["fresh_follow_ms"] / 1000
        until(lambda: time.monotonic() > old_at, 10, "the follows are old")
        self.make_lists()

    def make_lists(self) -> None:
        """Everybody reads, until it is from a list that is trusted."""
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self._make_list, self.users))

    def _make_list(self, user: int) -> None:
        until(
            lambda: read_page(self.stack, HOME, user, 20)["source"] == "cache",
            LISTS_SECONDS,
            f"{user} reads from a list",
        )

    def differences(self, readers: Sequence[int]) -> list[str]:
        """Of homes as they are walked by clients, from what a recomputation says."""
        wrong = []
        for number, reader in enumerate(readers):
            walk, wanted = walk_down(self.stack, reader, (100, 100, 20)[number % 3]), self.known.oracle.home(reader)
            if walk.positions != wanted:
                missing, extra = sorted(set(wanted) - set(walk.positions)), sorted(set(walk.positions) - set(wanted))
                wrong.append(
                    f"home of {reader}: missing {missing[:5]} ({len(missing)}), extra {extra[:5]} ({len(extra)})"
                )
        return wrong

    def sample(self, chance: random.Random, readers: int) -> list[int]:
        """Some readers, and an author of either kind."""
        return [LARGE[0], SMALL[0], *chance.sample(READERS, readers)]


def _graph(chance: random.Random) -> dict[int, set[int]]:
    """Large ones have some 300 followers, so several shards; small ones some 25, in one."""
    follows: dict[int, set[int]] = {}
    for user in READERS:
        follows[user] = {large for large in LARGE if chance.random() < 0.75} | set(chance.sample(SMALL, 2))
    for user in (*LARGE, *SMALL):
        follows[user] = set(chance.sample([one for one in (*LARGE, *SMALL) if one != user], 5))
    return follows


@contextmanager
def open_world(engines: Mapping[str, str], folder: Path, *processes: str, **settings: str) -> Iterator[World]:
    """Loaded, with these processes: the api at least, and no worker unless it is named."""
    with running(engines, folder, *processes, **settings) as stack:
        world = World(stack, _graph(random.Random(1)))
        world.load()
        yield world


class Posting:
    """People post, and retweet now and then, until it is left. Large authors post as often as small ones together; so do people whom
    nobody follows, of whom only their own homes are."""

    def __init__(self, world: World, per_second: float, seed: int, threads: int = 3) -> None:
        self._world, self._stopping = world, threading.Event()
        self._pause_seconds = threads / per_second
        self._failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(number, threads, random.Random(seed * 100 + number)))
            for number in range(threads)
        ]

    def __enter__(self) -> Posting:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        if self._failures:
            raise self._failures[0]

    def _run(self, number: int, threads: int, chance: random.Random) -> None:
        try:
            self._post([kind[number::threads] for kind in (LARGE, SMALL, READERS)], chance)
        except BaseException as error:  # noqa: BLE001 - it is raised where the threads are joined
            self._failures.append(error)

    def _post(self, kinds: Sequence[Sequence[int]], chance: random.Random) -> None:
        client, tweets, due = self._world.client, list[int](), time.monotonic()
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            due = max(due + self._pause_seconds, time.monotonic() - 1)  # what an outage held up is not made good for
            author = chance.choice(chance.choice(kinds))
            if tweets and chance.random() < 0.15:
                client.retweet(author, chance.choice(tweets[-50:]))
            else:
                tweets.append(client.post(author))
