"""What Redis takes from one process that has nothing else to do: the limits beside which fan-out is measured.

- raw: the bytes that fan-out sends, prepared before the clock starts, of the same posts in the same order, into the same lists; no
  trims, no Kafka, no store, no bookkeeping.
- textbook: ZADD and ZREMRANGEBYRANK through redis-py's cluster pipeline.
- raw_zadd: the same two commands, packed by hiredis onto raw sockets.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from hiredis import pack_command

from loadtest.bench.homes import Homes
from loadtest.bench.hybrid import Hybrid, Numbers
from loadtest.bench.wire import Share, Trip, Wire, cluster_client
from timeline.cache.appends import Appends, Frame, blocks
from timeline.domain.entries import UserIds
from timeline.domain.limits import LIMITS

ZADD_DELIVERIES, TEXTBOOK_DELIVERIES = 1_000_000, 100_000

_ROWS_PER_TRIP = 16_384  # as fan-out sends them
_PREPARED_AT_ONCE = 32  # trips: 50 MB of commands
_PIPELINE = 1_000  # deliveries of redis-py's; more at once is no quicker


@dataclass(frozen=True, slots=True)
class Bare:
    """One run of one of them."""

    deliveries: int
    seconds: float

    @property
    def deliveries_per_s(self) -> float:
        return self.deliveries / self.seconds


def raw(wire: Wire, homes: Homes, world: Hybrid) -> Bare:
    """All of the world's deliveries, into lists that are there."""
    frame = Frame((b"RPUSHX",), *homes.parts)
    done, seconds = 0, 0.0
    for prepared in _at_once(_trips(world.appends(world.mint()), frame, wire)):
        began = time.perf_counter()
        for answers in wire.exchange(prepared):
            done += sum(map(len, answers))
        seconds += time.perf_counter() - began
    return Bare(done, seconds)


def raw_zadd(wire: Wire, prefix: str, world: Hybrid) -> Bare:
    """The first ZADD_DELIVERIES, into sets that are not there before; packing them is part of it, finding their nodes is not."""
    users, entries, scores = _sample(world, ZADD_DELIVERIES)
    nodes, keys = wire.node_of(users).tolist(), _keys(prefix, users)
    last = b"-%d" % (LIMITS.timeline_entries_max + 1)

    def trips() -> Iterator[Trip]:
        for start in range(0, len(keys), _ROWS_PER_TRIP):
            parts: list[list[bytes]] = [[] for _ in wire.primaries]
            for at in range(start, min(start + _ROWS_PER_TRIP, len(keys))):
                part, key = parts[nodes[at]], keys[at]
                part.append(pack_command((b"ZADD", key, scores[at], entries[at])))  # type: ignore[arg-type]
                part.append(pack_command((b"ZREMRANGEBYRANK", key, b"0", last)))  # type: ignore[arg-type]
            yield [Share(node, b"".join(part), len(part)) for node, part in enumerate(parts) if part]

    began = time.perf_counter()
    replies = sum(sum(map(len, answers)) for answers in wire.exchange(trips()))
    seconds = time.perf_counter() - began
    _forget(wire, prefix, users)
    return Bare(replies // 2, seconds)


def textbook(nodes: str, wire: Wire, prefix: str, world: Hybrid) -> Bare:
    """The first TEXTBOOK_DELIVERIES, into sets that are not there before."""
    users, entries, scores = _sample(world, TEXTBOOK_DELIVERIES)
    keys, last = _keys(prefix, users), -LIMITS.timeline_entries_max - 1
    client = cluster_client(nodes)
    began = time.perf_counter()
    for start in range(0, len(keys), _PIPELINE):
        pipeline = client.pipeline(transaction=False)  # type: ignore[no-untyped-call]
        for at in range(start, min(start + _PIPELINE, len(keys))):
            mapping: Mapping[bytes, bytes] = {entries[at]: scores[at]}
            pipeline.zadd(keys[at], mapping)
            pipeline.zremrangebyrank(keys[at], 0, last)
        pipeline.execute()
    seconds = time.perf_counter() - began
    client.close()
    _forget(wire, prefix, users)
    return Bare(len(keys), seconds)


def _trips(appends: Iterable[Appends], frame: Frame, wire: Wire) -> Iterator[Trip]:
    for batch in appends:
        for start in range(0, len(batch), _ROWS_PER_TRIP):
            found = blocks(batch[start : start + _ROWS_PER_TRIP], frame, wire.number_of_slot)
            yield [Share(block.node, block.data, len(block.places)) for block in found]


def _at_once(trips: Iterable[Trip]) -> Iterator[list[Trip]]:
    prepared: list[Trip] = []
    for trip in trips:
        prepared.append(trip)
        if len(prepared) == _PREPARED_AT_ONCE:
            yield prepared
            prepared = []
    if prepared:
        yield prepared


def _sample(world: Hybrid, deliveries: int) -> tuple[UserIds, list[bytes], list[bytes]]:
    """Users, entries, scores, of so many deliveries."""
    ids: Numbers = world.mint()
    parts, count = list[Appends](), 0
    for batch in world.appends(ids):
        parts.append(batch)
        count += len(batch)
        if count >= deliveries:
            break
    users = np.concatenate([part.users for part in parts])[:deliveries]
    rows = np.concatenate([part.entries for part in parts])[:deliveries]
    scores = [b"%d" % int.from_bytes(row[:8]) for row in map(bytes, rows)]
    return users, [row.tobytes() for row in rows], scores


def _keys(prefix: str, users: UserIds) -> list[bytes]:
    return [f"{prefix}textbook:{{{user}}}".encode() for user in users.tolist()]


def _forget(wire: Wire, prefix: str, users: UserIds) -> None:
    whom = np.unique(users)
    wire.by_user(whom, [b"*2\r\n$3\r\nDEL\r\n$%d\r\n%s\r\n" % (len(key), key) for key in _keys(prefix, whom)], 1)
