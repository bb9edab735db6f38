"""Which core does what, what it costs them, and when they are idle.

A figure of one process alone on a core is only one if everything else is kept off that core: so every thread of every engine is put
on the other one, and of this process too while the clock runs.
"""

from __future__ import annotations

import os
import platform
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from timeline.local import Control

KINDS = ("cassandra", "kafka", "redis")
IDLE_SECONDS = 1.0
IDLE_SHARE = 0.1  # of a core, by all engines together: what they do when nobody asks anything
IDLE_WITHIN_SECONDS = 300  # compactions of a graph that was just loaded


def two_cores() -> tuple[int, int]:
    """The worker's and the engines'. Raises RuntimeError where there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise RuntimeError("two cores are needed: one for the process that is measured, one for the engines")
    return usable[0], usable[1]


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """This process on that core, all threads of it and whatever it starts meanwhile; then where it was before."""
    before = os.sched_getaffinity(0)
    _pin(os.getpid(), {core})
    try:
        yield
    finally:
        _pin(os.getpid(), before)


@contextmanager
def engines_on(engines: Control, core: int) -> Iterator[None]:
    """Every thread of every engine on that core; then where they were before."""
    before = {pid: set(os.sched_getaffinity(pid)) for pid in engine_pids(engines)}
    for pid in before:
        _pin(pid, {core})
    try:
        yield
    finally:
        for pid, cores in before.items():
            if psutil.pid_exists(pid):
                _pin(pid, cores)


def engine_pids(engines: Control) -> list[int]:
    """With their children."""
    found = [engines.pid(name) for kind in KINDS for name in engines.names(kind)]
    return found + [child.pid for pid in found for child in psutil.Process(pid).children(recursive=True)]


def cpu_by_kind(engines: Control) -> dict[str, float]:
    """Seconds that the engines of each kind have worked so far."""
    spent: defaultdict[str, float] = defaultdict(float)
    for kind in KINDS:
        for name in engines.names(kind):
            spent[kind] += cpu_seconds(engines.pid(name))
    return dict(spent)


def cpu_seconds(pid: int) -> float:
    """User and system."""
    return float(sum(psutil.Process(pid).cpu_times()[:2]))


def cpu_by_thread(pid: int) -> dict[str, float]:
    """Seconds of a Python process: its main thread, librdkafka's, and all others (the drivers')."""
    spent: defaultdict[str, float] = defaultdict(float)
    for thread in psutil.Process(pid).threads():
        spent[_thread_name(pid, thread.id)] += thread.user_time + thread.system_time
    return dict(spent)


def cpu_of_all() -> float:
    """Seconds that all cores together have worked so far, whoever for."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def cores_of(pid: int) -> set[int]:
    """Where its threads may run."""
    return set().union(*(os.sched_getaffinity(thread) for thread in _threads(pid)))


def until_idle(engines: Control) -> float:
    """Wait until nothing goes on in them any more; how long that took. Raises TimeoutError."""
    began = time.monotonic()
    while True:
        before = sum(map(cpu_seconds, engine_pids(engines)))
        time.sleep(IDLE_SECONDS)  # what is looked at is a stretch of time
        if sum(map(cpu_seconds, engine_pids(engines))) - before < IDLE_SHARE * IDLE_SECONDS:
            return time.monotonic() - began
        if time.monotonic() - began > IDLE_WITHIN_SECONDS:
            raise TimeoutError(f"the engines still work after {IDLE_WITHIN_SECONDS} s with nothing to do")


def facts() -> dict[str, Any]:
    """What a reader of figures wants to know of where they are from."""
    return {
        "machine": f"{psutil.cpu_count()} cores, {platform.machine()}, {psutil.virtual_memory().total / 2**30:.0f} GiB",
        "python": platform.python_version(),
        "load": psutil.getloadavg(),
    }


def _pin(pid: int, cores: Iterable[int]) -> None:
    for thread in _threads(pid):
        try:
            os.sched_setaffinity(thread, cores)
        except ProcessLookupError:  # it has ended meanwhile
            continue


def _threads(pid: int) -> list[int]:
    return [int(each.name) for each in Path(f"/proc/{pid}/task").iterdir()]


def _thread_name(pid: int, thread: int) -> str:
    if thread == pid:
        return "main"
    try:
        name = Path(f"/proc/{pid}/task/{thread}/comm").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        return "others"
    return "librdkafka" if name.startswith("rdk:") else "others"
