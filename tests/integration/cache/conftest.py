"""A Redis Cluster of this folder's own: its nodes are killed and its slots moved, which nobody else should have to notice."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack

import pytest
import redis

from tests.conftest import free_base_port
from timeline.cache import Cache, open_cache
from timeline.domain.limits import Limits
from timeline.local import Control, Topology, open_engines
from timeline.settings import Settings, address

LIMITS = {"redis_timeout_ms": 2_000}  # a busy machine is slow; tests of timeouts set their own


class Nodes:
    """The nodes of the cluster, for what only a test does to them."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.addresses = control.env["TIMELINE_REDIS_NODES"].split(",")

    def client(self, server: str) -> redis.Redis:
        host, port = address(server)
        return redis.Redis(host, port, socket_timeout=5, decode_responses=False)

    def name(self, server: str) -> str:
        """Its process's."""
        return f"redis-{self.addresses.index(server) + 1}"

    def owner(self, slot: int) -> str:
        """Of a slot, the address."""
        for first, last, primary, *_ in self.client(self.addresses[0]).execute_command("CLUSTER SLOTS"):
            if first <= slot <= last:
                return f"{primary[0].decode()}:{primary[1]}"
        raise AssertionError(f"nobody serves slot {slot}")

    def node_id(self, server: str) -> str:
        return str(self.client(server).execute_command("CLUSTER MYID").decode())

    def other_than(self, server: str) -> str:
        return next(each for each in self.addresses if each != server)


async def eventually(holds: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    """Waits for it, or fails."""
    deadline = time.monotonic() + seconds
    while not await holds():
        assert time.monotonic() < deadline, "it did not come to hold"
        await asyncio.sleep(0.05)


@pytest.fixture(scope="session")
def redis_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    topology = Topology(free_base_port(), cassandra=0, kafka=0)
    with open_engines(tmp_path_factory.mktemp("redis"), topology) as fleet:
        yield Nodes(fleet)


def settings_for(nodes: Nodes, **limits: int) -> Settings:
    """With a key prefix that nobody else has."""
    return Settings(
        redis_nodes=tuple(nodes.addresses),
        redis_key_prefix=f"t{secrets.token_hex(6)}:",
        limits=Limits(**(LIMITS | limits)),
    )


OpenCache = Callable[..., Awaitable[Cache]]


@pytest.fixture
async def opened(redis_nodes: Nodes) -> AsyncIterator[OpenCache]:
    """`await opened(limit=…)` is a cache under a prefix of its own with these limits."""
    async with AsyncExitStack() as stack:

        async def open_one(settings: Settings | None = None, **limits: int) -> Cache:
            return await stack.enter_async_context(open_cache(settings or settings_for(redis_nodes, **limits)))

        yield open_one


@pytest.fixture
async def cache(opened: OpenCache) -> Cache:
    """With production's limits."""
    return await opened()
