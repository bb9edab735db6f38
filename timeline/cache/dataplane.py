"""The data plane: commands by key to the nodes of a Redis Cluster, the hot path's only client.

Commands given in one event-loop turn leave together, one write a node. MOVED and ASK are followed, a bounded number of times.
Nothing is tried again after a lost connection or a timeout: only the caller knows whether that is harmless.

Raises everywhere: Unavailable for a read that was not answered or a node that is down (at once), OutcomeUnknown for a write
that was sent and not answered, Overloaded at a bound, ReplyError for a command that Redis refuses, which is a bug.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Final

from hiredis import ReplyError as RawError
from prometheus_client import Histogram

from timeline.cache.connection import Call, Command, Node, Reply, pack
from timeline.cache.errors import ReplyError, blames_the_map, outcome_of, redirect_of, translate
from timeline.cache.keys import slot_of
from timeline.cache.topology import Topology
from timeline.domain.errors import Unavailable
from timeline.metrics import ENGINE_CALL_SECONDS
from timeline.settings import Settings

READS: Final = frozenset(
    (b"GET", b"STRLEN", b"EXISTS", b"PTTL", b"TTL", b"TYPE", b"LINDEX", b"LRANGE", b"LLEN", b"PING", b"ECHO")
)
_ASKING: Final = pack((b"ASKING",))
_MULTI: Final = pack((b"MULTI",))
_EXEC: Final = pack((b"EXEC",))

Keyed = tuple[bytes, Command]


class Meter:
    """Durations by operation and outcome; children kept, since looking one up costs more than observing."""

    def __init__(self) -> None:
        self._children: dict[tuple[object, str], Histogram] = {}

    def observe(self, operation: bytes | int | str, started: float, error: BaseException | None = None) -> None:
        outcome = "ok" if error is None else outcome_of(error)
        child = self._children.get((operation, outcome))
        if child is None:
            name = operation.decode().lower() if isinstance(operation, bytes) else str(operation)
            child = self._children[operation, outcome] = ENGINE_CALL_SECONDS.labels("redis", name, outcome)
        child.observe(perf_counter() - started)


class DataPlane:
    """Made by `open_plane`. For one event loop."""

    def __init__(self, topology: Topology, redirects_max: int) -> None:
        self.topology = topology
        self._redirects_max = redirects_max
        self._meter = Meter()

    async def execute(self, key: bytes, *command: bytes | int, replica: bool = False) -> Reply:
        """One command, its reply. `replica`: ask a replica of the key's node if there is one, which may be a little behind."""
        started = perf_counter()
        data, writes = pack(command), command[0] not in READS
        try:
            node = self._node_of(key, replica)
            call = node.submit(data, 1, writes=writes)
            (reply,) = await call.wait()
            if call.failed:
                (reply,) = await self._follow(call.replies, data, node, writes=writes)
        except (Unavailable, ReplyError) as error:
            self._meter.observe(command[0], started, error)
            raise
        self._meter.observe(command[0], started)
        return reply

    async def execute_many(self, commands: Sequence[Keyed], *, replica: bool = False) -> list[Reply]:
        """(key, command) pairs, their replies in the same order. Raises the first error, after all were answered."""
        replies = await self.try_many(commands, replica=replica)
        for reply in replies:
            if isinstance(reply, Unavailable | ReplyError):
                raise reply
        return replies

    async def try_many(self, commands: Sequence[Keyed], *, replica: bool = False) -> list[Reply]:
        """As execute_many, with the Unavailable or ReplyError of a command in its reply's place: one node away spoils no other's."""
        if not commands:
            return []
        started = perf_counter()
        packed = [pack(command) for _, command in commands]
        replies: list[Reply] = [None] * len(commands)
        sent = self._send_by_node(commands, packed, replies, replica)
        for node, call, places in sent:
            await self._collect(node, call, places, commands, packed, replies)
        error = next((reply for reply in replies if isinstance(reply, Unavailable | ReplyError)), None)
        self._meter.observe(commands[0][1][0], started, error)
        return replies

    def _send_by_node(
        self, commands: Sequence[Keyed], packed: list[bytes], replies: list[Reply], replica: bool
    ) -> list[tuple[Node, Call, list[int]]]:
        """Hand each node its share in one piece. Who cannot take it leaves its error in the replies."""
        shares: dict[Node, list[int]] = {}
        for place, (key, _) in enumerate(commands):
            try:
                shares.setdefault(self._node_of(key, replica), []).append(place)
            except Unavailable as error:
                replies[place] = error
        sent = []
        for node, places in shares.items():
            writes = any(commands[place][1][0] not in READS for place in places)
            try:
                call = node.submit(b"".join([packed[place] for place in places]), len(places), writes=writes)
            except Unavailable as error:
                for place in places:
                    replies[place] = error
            else:
                sent.append((node, call, places))
        return sent

    async def _collect(
        self,
        node: Node,
        call: Call,
        places: list[int],
        commands: Sequence[Keyed],
        packed: list[bytes],
        replies: list[Reply],
    ) -> None:
        await call.done
        if call.error is not None:
            for place in places:
                replies[place] = call.error
            return
        for place, reply in zip(places, call.replies, strict=True):
            replies[place] = reply
        if not call.failed:
            return
        for place in places:
            if replies[place].__class__ is RawError:
                writes = commands[place][1][0] not in READS
                try:
                    (replies[place],) = await self._follow([replies[place]], packed[place], node, writes=writes)
                except (Unavailable, ReplyError) as error:
                    replies[place] = error

    async def transaction(self, key: bytes, commands: Sequence[Command], *, replica: bool = False) -> list[Reply]:
        """MULTI, the commands, EXEC, in one write: the replies to the commands, all of one moment. Every key must be of `key`'s
        slot."""
        started = perf_counter()
        data = b"".join([_MULTI, *map(pack, commands), _EXEC])
        writes = any(command[0] not in READS for command in commands)
        try:
            node = self._node_of(key, replica)
            call = node.submit(data, len(commands) + 2, writes=writes)
            replies = await call.wait()
            if call.failed:
                replies = await self._follow(replies, data, node, writes=writes)
            results: list[Reply] = replies[-1]
            for result in results:
                if result.__class__ is RawError:
                    raise translate(result)
        except (Unavailable, ReplyError) as error:
            self._meter.observe("transaction", started, error)
            raise
        self._meter.observe("transaction", started)
        return results

    async def bulk(self, node: Node, data: bytes, count: int, operation: str) -> list[Reply]:
        """Prebuilt commands for one node, when their bytes fit its bound; raw replies, with a hiredis error in a refused one's place,
        to be sent again by `execute`."""
        started = perf_counter()
        try:
            replies = await node.bulk(data, count)
        except Unavailable as error:
            self._meter.observe(operation, started, error)
            raise
        self._meter.observe(operation, started)
        return replies

    async def ask(self, node: Node, *command: bytes | int) -> Reply:
        """One command to this very node."""
        (reply,) = await node.submit(pack(command), 1, writes=command[0] not in READS).wait()
        if isinstance(reply, RawError):
            raise translate(reply)
        return reply

    async def ping(self) -> None:
        """Raises Unavailable, naming the nodes that do not answer, or when nobody serves a slot."""
        missing = []
        for node in self.topology.primaries:
            try:
                await self.ask(node, b"PING")
            except Unavailable as error:
                missing.append(str(error))
        if missing:
            raise Unavailable("; ".join(missing))
        if None in self.topology.owners:
            raise Unavailable("redis: a part of the slots is served by nobody")

    def _node_of(self, key: bytes, replica: bool) -> Node:
        node = self.topology.owners[slot_of(key)]
        if node is None:
            self.topology.want()
            raise Unavailable(f"redis: nobody serves slot {slot_of(key)}")
        return self.topology.replica_of(node) if replica else node

    async def _follow(self, replies: list[Reply], data: bytes, node: Node, *, writes: bool) -> list[Reply]:
        """The same bytes sent on while a redirect is among the replies. Raises what any other error reply means."""
        count = len(replies)
        for _ in range(self._redirects_max):
            first = next((reply for reply in replies if reply.__class__ is RawError), None)
            if first is None:
                return replies
            redirect = redirect_of(first)
            if redirect is None:
                if blames_the_map(first):
                    self.topology.want()
                raise translate(first)
            node = self.topology.follow(redirect, node)
            sent, asking = (_ASKING + data, 1) if redirect.ask else (data, 0)
            replies = (await node.submit(sent, count + asking, writes=writes).wait())[asking:]
        raise Unavailable(f"redis: more than {self._redirects_max} redirects for one command")


@asynccontextmanager
async def open_plane(settings: Settings) -> AsyncIterator[DataPlane]:
    """Connected to every node that answers. Raises Unavailable, with the remedy, when none does within redis_open_ms."""
    limits = settings.limits
    async with _open_tasks() as tasks:
        topology = Topology(settings, tasks)
        try:
            async with asyncio.timeout(limits.redis_open_ms / 1000):
                await _until_known(topology)
        except TimeoutError as error:
            topology.close()
            raise Unavailable(
                f"redis: none of {', '.join(settings.redis_nodes)} answered as a node of a cluster within {limits.redis_open_ms} ms "
                f"({topology.why_unknown}). Is it running? TIMELINE_REDIS_NODES says where to look"
            ) from error
        keeper = tasks.create_task(topology.keep(), name="redis topology")
        try:
            yield DataPlane(topology, limits.redis_redirects_max)
        finally:
            keeper.cancel()
            topology.close()


@asynccontextmanager
async def _open_tasks() -> AsyncIterator[asyncio.TaskGroup]:
    """A TaskGroup that raises what was raised. It wraps even its body's exception in a group, and the body is our caller's."""
    try:
        async with asyncio.TaskGroup() as tasks:
            yield tasks
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from group.exceptions[0].__cause__
        raise


async def _until_known(topology: Topology) -> None:
    """Until a map is there and one of its nodes is up."""
    pause = 0.05
    while not any(node.up for node in topology.primaries):
        try:
            await topology.refresh()
        except Unavailable:
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)
            continue
        for node in topology.primaries:
            await node.tried.wait()
        if not any(node.up for node in topology.primaries):
            await asyncio.sleep(pause)
