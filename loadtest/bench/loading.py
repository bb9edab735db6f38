"""A graph that is old: follows of days ago, so that nobody is pulled for having been followed just now; and one with a million
followers, of whom fan-out alone needs to know: the side of the followers is written, and no users."""

from __future__ import annotations

from collections.abc import Iterator
from time import time

from loadtest.bench.graph import patient
from loadtest.bench.mix import Graph
from tests.stack import Stack
from timeline.domain.entries import UserIds
from timeline.ops.people import make_users
from timeline.store import Store, open_store
from timeline.store.bulk import BATCH_ROWS
from timeline.store.parallel import each
from timeline.store.session import Cql, Kind, Params

_AGE_SECONDS = 2 * 86_400
_BATCHES_AT_ONCE = 24
_FOLLOWER = Cql(
    "bench_follower",
    "INSERT INTO followers (user_id, shard, follower_id) VALUES (?, ?, ?) USING TIMESTAMP ?",
    Kind.write,
)
_SHARDS = Cql(
    "bench_shards", "INSERT INTO follower_shards (user_id, shards) VALUES (?, ?) USING TIMESTAMP ?", Kind.write
)


async def load(stack: Stack, graph: Graph, celebrity: int, fans: UserIds) -> None:
    """All of it. Raises Unavailable."""
    at_us = int((time() - _AGE_SECONDS) * 1_000_000)
    settings = patient(stack.settings)
    async with open_store(settings) as store:
        await store.bulk.load_users(list(make_users(graph.users.tolist(), at_us)))
        await store.bulk.load_follows(graph.follower, graph.followee, at_us)
        await _load_fans(store, celebrity, fans, settings.limits.follower_shard_size, at_us)


async def _load_fans(store: Store, celebrity: int, fans: UserIds, shard_size: int, at_us: int) -> None:
    """As Bulk writes them: shards in order of id, their number first."""
    await store.session.prepare([_FOLLOWER, _SHARDS])
    await store.session.run(_SHARDS, (celebrity, -(-len(fans) // shard_size), at_us))

    def batches() -> Iterator[list[tuple[Cql, Params]]]:
        assert not shard_size % BATCH_ROWS
        for start in range(0, len(fans), BATCH_ROWS):
            part = fans[start : start + BATCH_ROWS].tolist()
            yield [(_FOLLOWER, (celebrity, start // shard_size, fan, at_us)) for fan in part]

    async def write(parts: list[tuple[Cql, Params]]) -> None:
        await store.session.batch("bench_followers", parts, logged=False)

    async for _ in each(batches(), write, _BATCHES_AT_ONCE):
        pass
