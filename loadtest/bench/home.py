"""One first page of a home, of a reader who follows thousands, hundreds of them pulled, against readers of a few hundred.

Correct first: each reader's whole history, walked down, is what a recomputation says; else there are no figures. Then, by turns, so
that what else the machine does falls on all alike: requests one after the other on one connection. Beside them the raw limit: the
bare reads of Redis that such a page needs.
"""

from __future__ import annotations

import http.client
import json
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from loadtest.bench.raw import RawReads
from loadtest.bench.world import FEW, FEW_PULLED, FIRST_PULLED, MANY, NAMES, Size, World
from tests.e2e.inside import Lists, messages_behind
from tests.e2e.readers import HOME, walk_down
from tests.stack import Stack, running, until
from timeline.domain.limits import Limits

__all__ = ["Size", "measure", "open_stack", "report"]

READERS = (MANY, FEW, FEW_PULLED)
LIMIT = 20
COLD_ROUNDS = 5


@contextmanager
def open_stack(engines: Mapping[str, str], folder: Path, size: Size) -> Iterator[Stack]:
    settings = {"TIMELINE_PUSH_FOLLOWERS_MAX": str(size.threshold), "TIMELINE_LIMITS": json.dumps(size.limits)}
    with running(engines, folder, "api", "fanout", "relay", **settings) as stack:
        yield stack


def measure(stack: Stack, folder: Path, size: Size) -> dict[str, Any]:
    """Make the world, check it, measure. Raises AssertionError where a walk is wrong."""
    world = World(folder, size)
    world.write()
    began = time.monotonic()
    _load(stack, world)
    walked = {reader: _check(stack, world, reader) for reader in READERS}
    figures: dict[str, Any] = {
        "what": f"first page of {LIMIT}, order=recent, one request at a time",
        "machine": f"{psutil.cpu_count()} cores, {platform.machine()}, all engines and processes on it",
        "load": psutil.getloadavg(),
        "size": {name: getattr(size, name) for name in ("many", "pulled", "few", "few_pulled", "rounds", "requests")},
        "made_seconds": round(time.monotonic() - began, 1),
        "readers": _measured(stack, world),
    }
    for reader, (items, seconds) in walked.items():
        figures["readers"][NAMES[reader]] |= {"walked_items": items, "walked_seconds": round(seconds, 1)}
    figures["ratio_to_few"] = {
        name: {
            figure: round(of[figure] / figures["readers"][NAMES[FEW]][figure], 2)
            for figure in ("p50_ms", "cpu_ms", "raw_ms", "cold_ms")
        }
        for name, of in figures["readers"].items()
    }
    return figures


def report(figures: Mapping[str, Any]) -> str:
    """For a person."""
    lines = [f"{figures['what']}; {figures['machine']}; load {figures['load'][0]:.1f}", f"{figures['size']}"]
    for name, of in figures["readers"].items():
        lines.append(
            f"{name:18} p50 {of['p50_ms']:6.2f} ms ({of['p50_low_ms']:.2f} to {of['p50_high_ms']:.2f}), p99 {of['p99_ms']:6.1f} ms, "
            f"cpu of api {of['cpu_ms']:6.2f} ms, bare reads {of['raw_ms']:5.2f} ms, without a list {of['cold_ms']:6.0f} ms; "
            f"{of['sources']}; correct: {of['walked_items']:,} items walked in {of['walked_seconds']} s"
        )
    return "\n".join([*lines, f"ratio to few: {figures['ratio_to_few']}"])


def _load(stack: Stack, world: World) -> None:
    size, limits = world.size, Limits(**world.size.limits)
    stack.run(*world.load_arguments(size.rows), seconds=900)
    _until_delivered(stack, size)
    loaded_at = time.monotonic()
    since_s = int((world.folder / "journal").read_text().split(maxsplit=3)[2]) / 1_000_000
    until(lambda: time.time() > since_s + limits.fresh_follow_ms / 1000, 300, "follows that are fresh no more")
    apart = (limits.late_after_ms + limits.clock_skew_ms) / 1000 + 1
    until(lambda: time.monotonic() > loaded_at + apart, 60, "the newest rows stand apart")
    for reader in READERS:
        walk_down(stack, reader, 100)  # from now on there are lists to push to
    stack.run(*world.load_arguments(size.rows + size.newest_rows), seconds=900)
    _until_delivered(stack, size)
    world.tell_oracle()


def _until_delivered(stack: Stack, size: Size) -> None:
    until(lambda: messages_behind(stack) == 0, 300, "fan-out caught up")
    until(lambda: stack.metric("fanout", "timeline_pulled_authors") == size.pulled, 60, f"{size.pulled} pulled")


def _check(stack: Stack, world: World, reader: int) -> tuple[int, float]:
    began = time.monotonic()
    found, wanted = walk_down(stack, reader, 100).positions, world.oracle.home(reader)
    assert found == wanted, f"{NAMES[reader]}: {len(found)} items walked, {len(wanted)} in a recomputation"
    return len(found), time.monotonic() - began


def _measured(stack: Stack, world: World) -> dict[str, dict[str, Any]]:
    """By reader. Rounds are interleaved; each figure is the median of the rounds' own."""
    size = world.size
    raw = RawReads(stack.settings["TIMELINE_REDIS_NODES"], stack.settings["TIMELINE_REDIS_KEY_PREFIX"])
    client = _Client(stack)
    pulled = {MANY: size.pulled, FEW: 0, FEW_PULLED: size.few_pulled}
    trips, sources = {}, {}
    for reader in READERS:
        page = client.page(reader)
        assert len(page["tweets"]) == LIMIT
        shown = {int(tweet["id"]) for tweet in page["tweets"]} | {int(tweet["position"]) for tweet in page["tweets"]}
        trips[reader] = raw.pages(reader, range(FIRST_PULLED, FIRST_PULLED + pulled[reader]), shown)
        sources[reader] = page["source"]
    api = psutil.Process(stack.pid("api"))
    times: dict[int, list[list[float]]] = {reader: [] for reader in READERS}
    cpu: dict[int, list[float]] = {reader: [] for reader in READERS}
    bare: dict[int, list[float]] = {reader: [] for reader in READERS}
    for _ in range(size.rounds):
        for reader in READERS:
            before = sum(api.cpu_times()[:2])
            times[reader].append([client.time_ms(reader) for _ in range(size.requests)])
            cpu[reader].append((sum(api.cpu_times()[:2]) - before) * 1000 / size.requests)
            bare[reader].append(median(raw.time_ms(trips[reader]) for _ in range(size.requests)))
    cold = _cold_ms(stack, client)
    client.close()
    raw.close()
    told = {}
    for reader in READERS:
        medians, every = sorted(map(median, times[reader])), sorted(one for round_ in times[reader] for one in round_)
        told[NAMES[reader]] = {
            "p50_ms": round(median(medians), 3),
            "p50_low_ms": round(medians[0], 3),
            "p50_high_ms": round(medians[-1], 3),
            "p99_ms": round(every[len(every) * 99 // 100], 3),
            "cpu_ms": round(median(cpu[reader]), 3),
            "raw_ms": round(median(bare[reader]), 3),
            "cold_ms": round(median(cold[reader]), 1),
            "pulled": pulled[reader],
            "sources": sources[reader],
        }
    return told


def _cold_ms(stack: Stack, client: _Client) -> dict[int, list[float]]:
    """Of a page whose list is not there: its history is read from the store, and the list is built."""
    lists = Lists(stack)
    cold: dict[int, list[float]] = {reader: [] for reader in READERS}
    for _ in range(COLD_ROUNDS):
        for reader in READERS:
            lists.evict(reader)
            cold[reader].append(client.time_ms(reader))
    lists.close()
    return cold


class _Client:
    """One connection that is kept."""

    def __init__(self, stack: Stack) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", stack.ports["http"], timeout=60)

    def time_ms(self, reader: int) -> float:
        began = time.perf_counter()
        self._read(reader)
        return (time.perf_counter() - began) * 1000

    def page(self, reader: int) -> dict[str, Any]:
        page: dict[str, Any] = json.loads(self._read(reader))
        assert not page["degraded"], page
        return page

    def close(self) -> None:
        self._connection.close()

    def _read(self, reader: int) -> bytes:
        self._connection.request("GET", f"{HOME}?order=recent&limit={LIMIT}", headers={"X-User-Id": str(reader)})
        answer = self._connection.getresponse()
        body = answer.read()
        assert answer.status == 200, body[:1000]
        return body
