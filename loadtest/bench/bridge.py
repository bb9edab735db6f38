"""The bridge to Cassandra's driver: its sockets on our event loop, against those on a thread of the driver's beside it.

One process, one trivial question, by turns: closed, so many at once, for the rate and the CPU of a request; and paced, at a fixed rate
beside other work of the loop, for how long a request takes that has to share the interpreter. Beside them the raw limit: a bare socket
that sends the protocol's smallest request, as many at once.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import psutil
import uvloop
from cassandra.connection import Connection
from cassandra.io.libevreactor import LibevConnection

from timeline.domain.limits import Limits
from timeline.settings import Settings, address
from timeline.store.reactor import connection_on
from timeline.store.session import PING, Session, connect

# what the server supports: asked before anything else, in a frame without a body
OPTIONS = struct.pack(">BBhBi", 4, 0, 0, 5, 0)
HEADER_BYTES = 9


@dataclass(frozen=True, kw_only=True)
class Size:
    """`busy_us`: the loop's other work for each paced request. `warm_rounds`: until the server has compiled what it runs; before
    that it is the limit."""

    rounds: int = 5
    warm_rounds: int = 6
    requests: int = 8_000
    at_once: int = 32
    paced: int = 4_000
    rate: int = 1_000
    busy_us: int = 300


def measure(engines: Mapping[str, str], size: Size | None = None) -> dict[str, Any]:
    size = size or Size()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rounds = runner.run(_measured(engines, size))
    figures: dict[str, Any] = {"size": asdict(size), "load": psutil.getloadavg(), "rounds": rounds}
    for name in ("loop", "thread"):
        figures[name] = {what: median(each[name][what] for each in rounds) for what in rounds[0][name]}
    figures["raw_per_s"] = median(each["raw_per_s"] for each in rounds)
    figures["rate_ratio"] = figures["loop"]["per_s"] / figures["thread"]["per_s"]
    return figures


def report(figures: Mapping[str, Any]) -> str:
    lines = [f"requests/s of one process, {figures['size']['at_once']} at once; raw socket {figures['raw_per_s']:,.0f}"]
    for name in ("loop", "thread"):
        each = figures[name]
        lines.append(
            f"  sockets on {'our loop' if name == 'loop' else 'a thread'}: {each['per_s']:,.0f}/s, {each['cpu_us']:.0f} us of CPU; "
            f"paced p50 {each['p50_ms']:.2f} ms, p99 {each['p99_ms']:.2f} ms"
        )
    return "\n".join([*lines, f"  ratio of the rates {figures['rate_ratio']:.2f}"])


async def _measured(engines: Mapping[str, str], size: Size) -> list[dict[str, Any]]:
    kinds = {"loop": connection_on(asyncio.get_running_loop()), "thread": LibevConnection}
    rounds = []
    async with _session(engines, kinds["loop"]) as loop, _session(engines, kinds["thread"]) as thread:
        sessions = {"loop": loop, "thread": thread}
        for _ in range(size.warm_rounds):
            for session in sessions.values():
                await _closed(session, size)
        for _ in range(size.rounds):
            figures: dict[str, Any] = {name: await _round(session, size) for name, session in sessions.items()}
            figures["raw_per_s"] = await asyncio.to_thread(
                _raw, engines["TIMELINE_CASSANDRA_HOSTS"].split(",")[0], size
            )
            rounds.append(figures)
    return rounds


@asynccontextmanager
async def _session(engines: Mapping[str, str], connections: type[Connection]) -> AsyncIterator[Session]:
    settings = Settings(
        cassandra_hosts=tuple(engines["TIMELINE_CASSANDRA_HOSTS"].split(",")),
        cassandra_datacenter=engines["TIMELINE_CASSANDRA_DATACENTER"],
        cassandra_keyspace="system",
        limits=Limits(cassandra_timeout_ms=20_000),
    )
    cluster, driver = await asyncio.to_thread(connect, settings, settings.limits, connections=connections)
    session = Session(cluster, driver, settings.cassandra_keyspace, settings.limits)
    try:
        await session.prepare([PING])
        yield session
    finally:
        await asyncio.to_thread(session.close)


async def _round(session: Session, size: Size) -> dict[str, float]:
    cpu, began = time.process_time(), time.perf_counter()
    await _closed(session, size)
    cpu, took = time.process_time() - cpu, time.perf_counter() - began
    waited = sorted(await _paced(session, size))
    return {
        "per_s": size.requests / took,
        "cpu_us": cpu / size.requests * 1e6,
        "p50_ms": waited[len(waited) // 2] * 1000,
        "p99_ms": waited[len(waited) * 99 // 100] * 1000,
    }


async def _closed(session: Session, size: Size) -> None:
    numbers = iter(range(size.requests))

    async def some() -> None:
        for _ in numbers:
            await session.ping()

    await asyncio.gather(*(some() for _ in range(size.at_once)))


async def _paced(session: Session, size: Size) -> list[float]:
    """How long each took, in seconds."""

    async def one() -> float:
        began = time.perf_counter()
        await session.ping()
        return time.perf_counter() - began

    start, tasks = time.perf_counter(), []
    for number in range(size.paced):
        await asyncio.sleep(max(0.0, start + number / size.rate - time.perf_counter()))
        tasks.append(asyncio.create_task(one()))
        until = time.perf_counter() + size.busy_us / 1e6
        while time.perf_counter() < until:
            pass
    return await asyncio.gather(*tasks)


def _raw(server: str, size: Size) -> float:
    """Requests a second of a bare socket."""
    with socket.create_connection(address(server), timeout=20) as bare, bare.makefile("rb") as answers:
        began = time.perf_counter()
        for _ in range(size.requests // size.at_once):
            bare.sendall(OPTIONS * size.at_once)
            for _ in range(size.at_once):
                header = answers.read(HEADER_BYTES)
                answers.read(struct.unpack(">i", header[5:])[0])
        return size.requests // size.at_once * size.at_once / (time.perf_counter() - began)
