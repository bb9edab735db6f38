"""A fan-out process, alone on its core, from events that wait in Kafka to the last of them committed: how long, at what cost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from loadtest.bench.flood import Flood
from loadtest.bench.machine import (
    cores_of,
    cpu_by_kind,
    cpu_by_thread,
    cpu_of_all,
    cpu_seconds,
    on_core,
    until_idle,
)
from tests.stack import Stack, until
from timeline.domain.events import TweetCreated
from timeline.local import Control

_LOOK_SECONDS = 0.1
_MEMORY_SECONDS = 1.0
_START_SECONDS, _STOP_SECONDS = 60, 120  # a profile is written at the end
# Told in seconds, a week takes longer than W: what waits in the topic would be marked as late, which it is not where it comes in time
_NEVER_LATE_MS = 3_600_000
_NEVER_PULLED = 1_000_000_000
_DELIVERIES_A_SECOND_MIN = 5_000  # slower, something is wrong


@dataclass(frozen=True, slots=True)
class Place:
    """Where a measured process runs: its stack, its core, the core of everything else."""

    stack: Stack
    engines: Control
    core: int
    other_core: int


@dataclass(frozen=True, slots=True)
class Work:
    """One run. Memory is sampled each second, bytes; `told` is the deliveries that the worker itself has counted.
    `others_cpu_s` is what this machine did besides: where that is much, the figures are worth little."""

    deliveries: int
    wall_s: float
    cpu_s: float
    cpu_by_thread_s: Mapping[str, float]
    engines_cpu_s: Mapping[str, float]
    others_cpu_s: float
    rss_bytes: list[int]
    told: int

    @property
    def deliveries_per_s(self) -> float:
        return self.deliveries / self.wall_s

    @property
    def cpu_us(self) -> float:
        """Of the worker, a delivery."""
        return self.cpu_s / self.deliveries * 1e6

    def told_as(self) -> dict[str, Any]:
        rates = {"deliveries_per_s": round(self.deliveries_per_s), "cpu_us_per_delivery": round(self.cpu_us, 3)}
        return rates | asdict(self)


def settings_of(limits: Mapping[str, int]) -> dict[str, str]:
    """Of a stack whose worker is measured, with these limits: nobody is pulled, nothing is late."""
    return {
        "TIMELINE_PUSH_FOLLOWERS_MAX": str(_NEVER_PULLED),
        "TIMELINE_LIMITS": json.dumps({"late_after_ms": _NEVER_LATE_MS, **limits}),
        "TIMELINE_KAFKA_PARTITIONS": "12",  # as many as a deployment has that says nothing
    }


def work(place: Place, events: Iterable[TweetCreated], deliveries: int, profile: Path | None = None) -> Work:
    """A new worker takes these events from Kafka and makes so many deliveries of them. What it delivers is for the caller to check.
    With `profile`, cProfile writes there what its main thread did, which makes it a good deal slower."""
    flood = Flood(place.stack.settings)
    try:
        with on_core(place.core), _worker(place, profile) as process:
            flood.knock(_now_ms())
            until(flood.is_done, _START_SECONDS, "the worker has every partition")
            flood.fill(events)
            until_idle(place.engines)
            with on_core(place.other_core):
                return _measured(place, process, flood, deliveries)
    finally:
        flood.close()


def _measured(place: Place, process: subprocess.Popen[bytes], flood: Flood, deliveries: int) -> Work:
    pid = process.pid
    if (cores := cores_of(pid)) != {place.core}:
        raise RuntimeError(f"the worker's threads may run on {cores}")
    told, cpu, threads = _told(place), cpu_seconds(pid), cpu_by_thread(pid)
    engines, everything = cpu_by_kind(place.engines), cpu_of_all()
    began = time.monotonic()
    flood.show()
    rss = _wait(process, flood, began + 60 + deliveries / _DELIVERIES_A_SECOND_MIN)
    wall = time.monotonic() - began
    spent, by_engine = cpu_seconds(pid) - cpu, _difference(cpu_by_kind(place.engines), engines)
    return Work(
        deliveries,
        wall,
        spent,
        _difference(cpu_by_thread(pid), threads),
        by_engine,
        round(cpu_of_all() - everything - spent - sum(by_engine.values()), 2),
        rss,
        _told(place) - told,
    )


def _wait(process: subprocess.Popen[bytes], flood: Flood, deadline: float) -> list[int]:
    """Until it is done; meanwhile the process's memory is looked at."""
    watched, rss, due = psutil.Process(process.pid), list[int](), 0.0
    while True:
        if time.monotonic() >= due:
            rss.append(watched.memory_info().rss)
            due = time.monotonic() + _MEMORY_SECONDS
        if flood.is_done():
            return [*rss, watched.memory_info().rss]
        if process.poll() is not None:
            raise RuntimeError(f"the worker has ended with {process.returncode}")
        if time.monotonic() > deadline:
            raise TimeoutError("the worker does not come to the end of its topic")
        time.sleep(_LOOK_SECONDS)


@contextmanager
def _worker(place: Place, profile: Path | None) -> Iterator[subprocess.Popen[bytes]]:
    """Ready, and on the core that this process is on; ended in order at the end."""
    stack = place.stack
    port = stack.ports["fanout"]
    profiled = () if profile is None else ("-m", "cProfile", "-o", str(profile))
    with (stack.folder / "fanout.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *profiled, "-m", "timeline", "fanout"],
            env=stack.env | {"TIMELINE_ADMIN_PORT": str(port)},
            stdout=log,
            stderr=log,
        )
    try:
        until(lambda: _is_ready(process, stack), _START_SECONDS, "fanout ready")
        yield process
        process.send_signal(signal.SIGTERM)
        if code := process.wait(_STOP_SECONDS):
            raise RuntimeError(f"the worker ended with {code}: {stack.log_of('fanout')}")
    finally:
        process.kill()
        process.wait()


def _is_ready(process: subprocess.Popen[bytes], stack: Stack) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"the worker ended with {process.returncode}: {stack.log_of('fanout')}")
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{stack.ports['fanout']}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _told(place: Place) -> int:
    return int(place.stack.metric("fanout", "timeline_deliveries_total"))


def _difference(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {name: round(spent - before.get(name, 0), 2) for name, spent in after.items()}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
