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
from dataclasses import dataclass
from time import perf_counter
from typing import Final

from hiredis import ReplyError as RawError
from prometheus_client import Histogram

from timeline.cache.connection import Call, Command, Node, Reply, pack
from timeline.cache.errors import ReplyError, blames_the_map, outcome_of, redirect_of, translate
from timeline.cache.integers import Values
from timeline.cache.keys import slot_of
from timeline.cache.replication import Told
from timeline.cache.topology import Topology
from timeline.domain.errors import Unavailable
from timeline.domain.records import UNKNOWN_REPLICATION
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


@dataclass(frozen=True, slots=True)
class Parcels:
    """Commands of many keys: `data[i]` goes to the node of `keys[i]`, and has `answers` replies, of which the last one tells."""

    keys: Sequence[bytes]
    data: Sequence[bytes]
    answers: int
    writes: bool


@dataclass(frozen=True, slots=True)
class Sent:
    """What a node was handed: the parcels at these places, and its replication id at that time."""

    node: Node
    call: Call
    places: list[int]
    primary: bytes


class DataPlane:
    """Made by `open_plane`. For one event loop."""

    def __init__(self, topology: Topology, redirects_max: int) -> None:
        self.topology = topology
        self._redirects_max = redirects_max
        self._meter = Meter()

    async def execute(self, key: bytes, *command: bytes | int) -> Reply:
        """One command, its reply."""
        reply, _ = await self.execute_told(key, *command)
        return reply

    async def execute_told(self, key: bytes, *command: bytes | int) -> Told:
        """One command, its reply, and who gave it."""
        return await self._one(key, pack(command), 1, command[0] not in READS, command[0])

    async def execute_many(self, commands: Sequence[Keyed]) -> list[Reply]:
        """(key, command) pairs, their replies in the same order. Raises the first error, after all were answered."""
        replies = await self.try_many(commands)
        for reply in replies:
            if isinstance(reply, Unavailable | ReplyError):
                raise reply
        return replies

    async def try_many(self, commands: Sequence[Keyed]) -> list[Reply]:
        """As execute_many, with the Unavailable or ReplyError of a command in its reply's place: one node away spoils no other's."""
        return [reply for reply, _ in await self.try_many_told(commands)]

    async def try_many_told(self, commands: Sequence[Keyed]) -> list[Told]:
        """As try_many, and who gave each reply."""
        if not commands:
            return []
        writes = any(command[0] not in READS for _, command in commands)
        parcels = Parcels([key for key, _ in commands], [pack(command) for _, command in commands], 1, writes)
        return await self._many(parcels, commands[0][1][0])

    async def transaction(self, key: bytes, commands: Sequence[Command]) -> list[Reply]:
        """MULTI, the commands, EXEC, in one write: the replies to the commands, all of one moment. Every key must be of `key`'s
        slot."""
        data, writes = packed_transaction(commands), any(command[0] not in READS for command in commands)
        results, _ = await self._one(key, data, len(commands) + 2, writes, "transaction")
        _check(results)
        return list(results)

    async def try_reading_transactions(
        self, keys: Sequence[bytes], packed: Sequence[bytes], commands: int
    ) -> list[Told]:
        """Transactions that read, of so many commands each, packed as `packed_transaction` does: the replies to the commands of
        each, or its error, and who gave them."""
        if not keys:
            return []
        answers = await self._many(Parcels(keys, packed, commands + 2, False), "transaction")
        for place, (results, _) in enumerate(answers):
            if not isinstance(results, Exception):
                try:
                    _check(results)
                except (Unavailable, ReplyError) as error:
                    answers[place] = error, UNKNOWN_REPLICATION
        return answers

    def primary_of(self, key: bytes) -> bytes:
        """The replication id of the primary that serves this key, as far as it is known."""
        node = self.topology.owners[slot_of(key)]
        return UNKNOWN_REPLICATION if node is None else node.replication

    async def _one(self, key: bytes, data: bytes, answers: int, writes: bool, operation: bytes | int | str) -> Told:
        """The last of its answers, and the id of the primary that gave it, as known before. Raises as everything here."""
        started = perf_counter()
        try:
            node = self._node_of(key)
            primary = node.replication
            call = node.submit(data, answers, writes=writes)
            replies = await call.wait()
            if call.failed:
                replies, primary = await self._follow(replies, data, node, writes=writes), UNKNOWN_REPLICATION
        except (Unavailable, ReplyError) as error:
            self._meter.observe(operation, started, error)
            raise
        self._meter.observe(operation, started)
        return replies[-1], primary

    async def _many(self, parcels: Parcels, operation: bytes | int | str) -> list[Told]:
        """As `_one` of each parcel, with the error in its reply's place."""
        started = perf_counter()
        answers: list[Told] = [(None, UNKNOWN_REPLICATION)] * len(parcels.keys)
        for sent in self._send_by_node(parcels, answers):
            await self._collect(sent, parcels, answers)
        error = next((reply for reply, _ in answers if isinstance(reply, Unavailable | ReplyError)), None)
        self._meter.observe(operation, started, error)
        return answers

    def _send_by_node(self, parcels: Parcels, answers: list[Told]) -> list[Sent]:
        """Hand each node its share in one piece. Who cannot take it leaves its error in the answers."""
        shares: dict[Node, list[int]] = {}
        for place, key in enumerate(parcels.keys):
            try:
                shares.setdefault(self._node_of(key), []).append(place)
            except Unavailable as error:
                answers[place] = error, UNKNOWN_REPLICATION
        sent = []
        for node, places in shares.items():
            data, primary = b"".join([parcels.data[place] for place in places]), node.replication
            try:
                call = node.submit(data, len(places) * parcels.answers, writes=parcels.writes)
            except Unavailable as error:
                for place in places:
                    answers[place] = error, UNKNOWN_REPLICATION
            else:
                sent.append(Sent(node, call, places, primary))
        return sent

    async def _collect(self, sent: Sent, parcels: Parcels, answers: list[Told]) -> None:
        call, each = sent.call, parcels.answers
        await call.done
        if call.error is not None:
            for place in sent.places:
                answers[place] = call.error, UNKNOWN_REPLICATION
            return
        for place, reply in zip(sent.places, call.replies[each - 1 :: each], strict=True):
            answers[place] = reply, sent.primary
        if not call.failed:
            return
        for at, place in enumerate(sent.places):
            replies = call.replies[at * each : (at + 1) * each]
            if any(reply.__class__ is RawError for reply in replies):
                try:
                    replies = await self._follow(replies, parcels.data[place], sent.node, writes=parcels.writes)
                    answers[place] = replies[-1], UNKNOWN_REPLICATION
                except (Unavailable, ReplyError) as error:
                    answers[place] = error, UNKNOWN_REPLICATION

    async def bulk(self, node: Node, data: bytes, count: int, operation: str) -> Values:
        """Prebuilt commands for one node, when their bytes fit its bound; their replies, integers, with REFUSED in a refused one's
        place, to be sent again by `execute`."""
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

    def _node_of(self, key: bytes) -> Node:
        node = self.topology.owners[slot_of(key)]
        if node is None:
            self.topology.want()
            raise Unavailable(f"redis: nobody serves slot {slot_of(key)}")
        return node

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
                    node.doubt()
                    self.topology.want()
                raise translate(first)
            node = self.topology.follow(redirect, node)
            sent, asking = (_ASKING + data, 1) if redirect.ask else (data, 0)
            replies = (await node.submit(sent, count + asking, writes=writes).wait())[asking:]
        raise Unavailable(f"redis: more than {self._redirects_max} redirects for one command")


def packed_transaction(commands: Sequence[Command]) -> bytes:
    """MULTI, the commands, EXEC."""
    return b"".join([_MULTI, *map(pack, commands), _EXEC])


def _check(results: list[Reply]) -> None:
    """Raises what an error among the replies of a transaction means."""
    for result in results:
        if result.__class__ is RawError:
            raise translate(result)


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
            why = topology.why_away
            topology.close()
            raise Unavailable(
                f"redis: none of {', '.join(settings.redis_nodes)} answered as a node of a cluster within {limits.redis_open_ms} ms "
                f"({why}). Is it running? TIMELINE_REDIS_NODES says where to look"
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
