"""What a delivery costs, by how many followers an author has: from 10 to a million.

Each size is the same work for Redis: the population, in an order by chance, is cut into authors' followers of that size, and each
author tweets twice, so every list gets two entries. Lists are short, so that a million of them fit, and all are full from the
beginning, so that each run cuts as many. Sizes take turns, each run a new worker. No figures of wrong work: after each round, each
list must have had exactly two entries of each size.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from loadtest.bench.graph import patient
from loadtest.bench.homes import Homes, Numbers
from loadtest.bench.machine import engines_on, facts, two_cores, until_idle
from loadtest.bench.throughput import WrongWork
from loadtest.bench.wire import Wire
from loadtest.bench.worker import Place, Work, settings_of, work
from tests.stack import Stack
from timeline.domain.entries import UserIds
from timeline.domain.events import TweetCreated
from timeline.domain.ids import TweetId, UserId, first_id_at
from timeline.domain.limits import LIMITS
from timeline.local import Control
from timeline.store.parallel import each
from timeline.store.session import Cql, Kind, Params, Session, open_session

TWEETS = 2  # of each author in each run
WANTED_FLAT, FLAT_FROM = 1.25, 100

_ENTRIES_MAX = 50
_SLACK = 50  # as large as may be: a cut costs as much as many appends, and comes once in 200 of them in production
_FIRST_AUTHOR = 10_000_000  # above the population, and a decimal size for each size
_MINTED_A_MS = 100
_BATCH_ROWS, _BATCHES_AT_ONCE = 100, 24  # as timeline/store/bulk.py
_AGE_US = 86_400 * 1_000_000

_FOLLOWER = Cql(
    "bench_follower",
    "INSERT INTO followers (user_id, shard, follower_id) VALUES (?, ?, ?) USING TIMESTAMP ?",
    Kind.write,
)
_SHARDS = Cql(
    "bench_shards", "INSERT INTO follower_shards (user_id, shards) VALUES (?, ?) USING TIMESTAMP ?", Kind.write
)


@dataclass(frozen=True, kw_only=True)
class Size:
    """`population` is a multiple of each of `sizes`."""

    population: int = 1_000_000
    sizes: Sequence[int] = (10, 100, 1_000, 10_000, 100_000, 1_000_000)
    rounds: int = 5

    @property
    def deliveries(self) -> int:
        """A run."""
        return TWEETS * self.population

    @property
    def users(self) -> UserIds:
        return np.arange(1, self.population + 1, dtype=np.int64)

    @property
    def held(self) -> Numbers:
        """How many entries each of their lists begins with: at every point between the cap and where it is cut."""
        return _ENTRIES_MAX + self.users % (_SLACK + 1)

    def authors(self, size: int) -> UserIds:
        first = _FIRST_AUTHOR * (self.sizes.index(size) + 1)
        return np.arange(first, first + self.population // size, dtype=np.int64)


def measure(engines: Control, folder: Path, size: Size) -> dict[str, Any]:
    """Raises WrongWork."""
    core, other_core = two_cores()
    settings = settings_of({"timeline_entries_max": _ENTRIES_MAX, "timeline_slack": _SLACK})
    stack = Stack(engines.env, folder, **settings)
    stack.prepare()
    began = time.monotonic()
    asyncio.run(_load(stack.settings, size))
    loaded_s = time.monotonic() - began
    with engines_on(engines, other_core), _lists(stack, size) as homes:
        until_idle(engines)
        place = Place(stack, engines, core, other_core)
        runs: dict[int, list[Work]] = {of: [] for of in size.sizes}
        for number in range(1, size.rounds + 1):
            for of in size.sizes:
                runs[of].append(work(place, _events(size.authors(of)), size.deliveries))
            _check(homes.read(size.users).arrived, size.held + number * TWEETS * len(size.sizes))
    return _figures(size, settings, runs) | {"loaded_seconds": round(loaded_s, 1)}


def report(figures: Mapping[str, Any]) -> list[str]:
    """For a person."""
    lines = [figures["what"], f"{figures['of']}; {figures['machine']}"]
    lines += [
        f"  {size:>9} followers: cpu {of['cpu_us']:.3f} us, wall {of['wall_us']:.3f} us a delivery"
        for size, of in figures["by_followers"].items()
    ]
    return [
        *lines,
        f"dearest to cheapest from {FLAT_FROM} on: cpu {figures['cpu_ratio']}, wall {figures['wall_ratio']} (wanted: {WANTED_FLAT})",
    ]


@contextmanager
def _lists(stack: Stack, size: Size) -> Iterator[Homes]:
    wire = Wire(stack.settings["TIMELINE_REDIS_NODES"])
    homes = Homes(wire, stack.settings["TIMELINE_REDIS_KEY_PREFIX"])
    try:
        with wire.room():
            try:
                homes.make(size.users, size.held)
                yield homes
            finally:
                homes.drop(size.users)
    finally:
        wire.close()


def _figures(size: Size, settings: Mapping[str, str], runs: Mapping[int, Sequence[Work]]) -> dict[str, Any]:
    cpu = {of: median(run.cpu_us for run in runs[of]) for of in size.sizes}
    wall = {of: median(run.wall_s / run.deliveries * 1e6 for run in runs[of]) for of in size.sizes}
    flat = [of for of in size.sizes if of >= FLAT_FROM]
    return {
        "what": "cost of a delivery by followers of the author, by one process alone on a core",
        "of": f"{size.deliveries:,} deliveries a run, {size.population:,} full lists of {_ENTRIES_MAX} to {_ENTRIES_MAX + _SLACK}",
        "settings": dict(settings),
        "by_followers": {str(of): {"cpu_us": round(cpu[of], 3), "wall_us": round(wall[of], 3)} for of in size.sizes},
        "cpu_ratio": round(_spread([cpu[of] for of in flat]), 3),
        "wall_ratio": round(_spread([wall[of] for of in flat]), 3),
        **facts(),
        "runs": {str(of): [run.told_as() for run in runs[of]] for of in size.sizes},
    }


def _spread(costs: Sequence[float]) -> float:
    return max(costs) / min(costs) if costs else 1.0


def _check(arrived: Numbers, wanted: Numbers) -> None:
    wrong = np.flatnonzero(arrived != wanted)
    if len(wrong):
        first = wrong[0]
        raise WrongWork(
            f"{arrived[first]:,} entries have arrived in list {first + 1}, not {wanted[first]:,}; {len(wrong):,} lists are wrong"
        )


def _events(authors: UserIds) -> Iterator[TweetCreated]:
    """Each author once, and then each once more; the last ids are of now."""
    count = TWEETS * len(authors)
    first_ms = time.time_ns() // 1_000_000 - count // _MINTED_A_MS
    at = np.arange(count, dtype=np.int64)
    ids = int(first_id_at(first_ms)) + (at // _MINTED_A_MS << 22) + at % _MINTED_A_MS
    for tweet, author in zip(ids.tolist(), np.tile(authors, TWEETS).tolist(), strict=True):
        yield TweetCreated(TweetId(tweet), UserId(author), 0)


async def _load(settings: Mapping[str, str], size: Size) -> None:
    """Who follows whom, as fan-out reads it: nobody here reads it from the other side."""
    made = patient(settings)
    shard_size, at_us = LIMITS.follower_shard_size, time.time_ns() // 1000 - _AGE_US
    by_chance = np.random.default_rng(1)
    async with open_session(made, made.limits, (_FOLLOWER, _SHARDS)) as session:
        for of in size.sizes:
            authors = size.authors(of)
            followers = np.sort(by_chance.permutation(size.population).reshape(len(authors), of) + 1, axis=1)
            batches = _batches(authors, followers, shard_size, at_us)
            async for _ in each(batches, lambda batch: _write(session, batch), _BATCHES_AT_ONCE):
                pass


async def _write(session: Session, batch: list[tuple[Cql, Params]]) -> None:
    await session.batch("bench_followers", batch, logged=False)


def _batches(authors: UserIds, followers: UserIds, shard_size: int, at_us: int) -> Iterator[list[tuple[Cql, Params]]]:
    """Of one partition each."""
    shards = -(-followers.shape[1] // shard_size)
    for author, row in zip(authors.tolist(), followers, strict=True):
        if shards > 1:
            yield [(_SHARDS, (author, shards, at_us))]
        for start in range(0, len(row), _BATCH_ROWS):  # a shard holds a whole number of batches
            shard = start // shard_size
            yield [(_FOLLOWER, (author, shard, int(who), at_us)) for who in row[start : start + _BATCH_ROWS]]
