"""Which node serves which slot. redis-py's cluster node asks for the map, over a connection of its own: so it is asked for
even while our connections to a node hang.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import Connection as PlainConnection
from redis.asyncio.connection import SSLConnection
from redis.exceptions import RedisError

from timeline.cache.connection import Door, Node
from timeline.cache.errors import Redirect
from timeline.cache.keys import SLOTS
from timeline.domain.errors import Unavailable
from timeline.fanout.ports import Away
from timeline.settings import Settings, address

log = logging.getLogger(__name__)

Address = tuple[str, int]
_PAUSE_SECONDS = 0.2  # between two askings, whoever complains: a slot that moves makes one MOVED a command


@dataclass(frozen=True, slots=True)
class SlotRange:
    """Slots `first` to `last`, both included, with the primary first among their nodes."""

    first: int
    last: int
    nodes: tuple[Address, ...]


class Topology:
    """The nodes by address, and the owner of each slot. `owners[slot]` is None where nobody serves it."""

    def __init__(self, settings: Settings, tasks: asyncio.TaskGroup) -> None:
        self._seeds = [address(server) for server in settings.redis_nodes]
        self._door, self._limits, self._tasks = Door.of(settings), settings.limits, tasks
        self._asking = _asking(settings)
        self._nodes: dict[Address, Node] = {}
        self._ranges: tuple[SlotRange, ...] = ()
        self._wanted = asyncio.Event()
        self._unserved_since: float | None = None
        self.why_unknown = "connections are refused"  # of the last asking that failed
        self.owners: list[Node | None] = [None] * SLOTS
        self.primaries: tuple[Node, ...] = ()
        self.numbers: npt.NDArray[np.int16] = np.full(SLOTS, -1, np.int16)  # of owners, in `numbered`; -1 is nobody
        self.numbered: tuple[Node, ...] = ()

    @property
    def why_away(self) -> str:
        """Why nobody can be asked: what each node said, or why none is known."""
        return "; ".join(f"{node}: {node.down}" for node in self.primaries if node.down) or self.why_unknown

    def away(self) -> list[Away]:
        """The primaries that do not answer, and `nobody`, with the slots that they serve."""
        now = asyncio.get_running_loop().time()
        found = [(str(node), node.away_since, number) for number, node in enumerate(self.numbered) if node.away_since]
        if self._unserved_since is not None:
            found.append(("nobody", self._unserved_since, -1))
        ranges = ((name, since, _ranges(self.numbers == number)) for name, since, number in found)
        return [Away(name, int((now - since) * 1000), slots) for name, since, slots in ranges if slots]

    def want(self) -> None:
        """Ask for the map again soon."""
        self._wanted.set()

    def node(self, at: Address) -> Node:
        """The node at this address, connected to from now on."""
        node = self._nodes.get(at)
        if node is None:
            node = self._nodes[at] = Node(*at, door=self._door, limits=self._limits, on_change=self.want)
            node.start(self._tasks)
        return node

    def follow(self, redirect: Redirect, asked: Node) -> Node:
        """The node that a redirect names; a slot that has moved is known to be there from now on."""
        node = self.node((redirect.host or asked.host, redirect.port))
        if not redirect.ask:
            asked.doubt()
            self.owners[redirect.slot] = node
            if node not in self.numbered:
                self.numbered = (*self.numbered, node)
            self.numbers[redirect.slot] = self.numbered.index(node)
            self.want()
        return node

    async def keep(self) -> None:
        """Ask for the map when it is wanted, and now and then; for ever."""
        while True:
            try:
                async with asyncio.timeout(self._limits.redis_topology_seconds * random.uniform(0.8, 1.2)):
                    await self._wanted.wait()
            except TimeoutError:
                pass  # nobody complained
            self._wanted.clear()
            try:
                await self.refresh()
            except Unavailable as error:
                log.warning("redis_topology_unknown", extra={"reason": str(error)})
            await asyncio.sleep(random.uniform(_PAUSE_SECONDS / 2, _PAUSE_SECONDS))

    async def refresh(self) -> None:
        """Take the fullest map that a node tells, asking those that are up first. Raises Unavailable when none tells any."""
        best: tuple[SlotRange, ...] = ()
        reasons = []
        for at in self._whom_to_ask():
            try:
                ranges = await self._ask(at)
            except (OSError, RedisError) as error:
                reasons.append(f"{at[0]}:{at[1]}: {str(error) or type(error).__name__}")
                continue
            best = max(best, ranges, key=_covered)
            if _covered(best) == SLOTS:
                break
        if not best:
            self.why_unknown = "; ".join(reasons) or "no node knows of any slot"
            raise Unavailable(f"redis: {self.why_unknown}")
        self._take(best)

    def _whom_to_ask(self) -> list[Address]:
        every = list(dict.fromkeys([*random.sample(list(self._nodes), len(self._nodes)), *self._seeds]))
        return sorted(every, key=lambda at: not ((node := self._nodes.get(at)) and node.up))

    async def _ask(self, at: Address) -> tuple[SlotRange, ...]:
        """The map as this node tells it. Raises OSError and RedisError. In a task of its own: redis-py 8.1 loses a cancellation that
        comes at certain moments of connecting (measured), and ours must not be lost."""
        asking = self._tasks.create_task(self._ask_alone(at), name=f"redis map from {at[0]}:{at[1]}")
        await asyncio.wait((asking,))
        answer = asking.result()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _ask_alone(self, at: Address) -> tuple[SlotRange, ...] | OSError | RedisError:
        """Ends within a few timeouts. Returns what went wrong: raising it would end the whole group of tasks."""
        node = ClusterNode(*at, **self._asking)
        try:
            return parse_slots(await node.execute_command("CLUSTER SLOTS"), at[0])
        except (OSError, RedisError) as error:
            return error
        finally:
            await node.disconnect()

    def _take(self, ranges: tuple[SlotRange, ...]) -> None:
        if ranges != self._ranges:
            log.info("redis_topology", extra={"nodes": len({at for part in ranges for at in part.nodes})})
        self._ranges = ranges
        owners: list[Node | None] = [None] * SLOTS
        numbers = np.full(SLOTS, -1, np.int16)
        primaries = dict.fromkeys(self.node(part.nodes[0]) for part in ranges)
        order = {node: number for number, node in enumerate(primaries)}
        for part in ranges:
            node = self.node(part.nodes[0])
            owners[part.first : part.last + 1] = [node] * (part.last + 1 - part.first)
            numbers[part.first : part.last + 1] = order[node]
        self.owners, self.numbers, self.numbered, self.primaries = owners, numbers, tuple(order), tuple(order)
        if _covered(ranges) == SLOTS:
            self._unserved_since = None
        elif self._unserved_since is None:
            self._unserved_since = asyncio.get_running_loop().time()
        self._forget({part.nodes[0] for part in ranges})

    def _forget(self, named: set[Address]) -> None:
        """Leave the nodes that the map no longer names as primaries."""
        for key in [key for key in self._nodes if key not in named]:
            self._nodes.pop(key).close()

    def close(self) -> None:
        self._forget(set())


def _covered(ranges: tuple[SlotRange, ...]) -> int:
    return sum(part.last + 1 - part.first for part in ranges)


def _ranges(mine: npt.NDArray[np.bool_]) -> tuple[tuple[int, int], ...]:
    """First and last of each run of slots that are marked."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mine, [False])).astype(np.int8)))
    return tuple((int(first), int(end) - 1) for first, end in edges.reshape(-1, 2).tolist())


def parse_slots(reply: Iterable[Any], asked: str) -> tuple[SlotRange, ...]:
    """CLUSTER SLOTS: [[first, last, [host, port, id, …], replica…], …]. A node that names no host means the one that was asked."""
    return tuple(
        sorted(
            (
                SlotRange(int(first), int(last), tuple((_host(node[0]) or asked, int(node[1])) for node in nodes))
                for first, last, *nodes in reply
            ),
            key=lambda part: part.first,
        )
    )


def _host(value: bytes | str | None) -> str | None:
    host = value.decode() if isinstance(value, bytes) else value
    return None if host == "?" else host


def _asking(settings: Settings) -> dict[str, Any]:
    """What redis-py needs to know. Its own default is 5 s with 10 retries."""
    seconds = settings.limits.redis_timeout_ms / 1000
    password = settings.redis_password
    options: dict[str, Any] = {
        "connection_class": SSLConnection if settings.redis_tls else PlainConnection,
        "socket_timeout": seconds,
        "socket_connect_timeout": seconds,
        "protocol": 2,
        "username": settings.redis_username,
        "password": password.get_secret_value() if password else None,
    }
    if settings.redis_tls:
        options["ssl_ca_certs"] = str(settings.redis_tls_ca) if settings.redis_tls_ca else None
        options["ssl_certfile"] = str(settings.redis_tls_cert) if settings.redis_tls_cert else None
        options["ssl_keyfile"] = str(settings.redis_tls_key) if settings.redis_tls_key else None
    return options
