"""What can be seen of a worker, and of deliveries, while an engine is away."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import psutil

from tests.faults.deliveries import Lists, node_of
from tests.faults.world import World
from tests.stack import Stack
from timeline.local import Control

ID_EPOCH_MS = 1_262_304_000_000
SAMPLE_SECONDS = 0.2
HELD_MS = 300


def posted_at(tweet: int) -> float:
    """Unix seconds."""
    return ((tweet >> 22) + ID_EPOCH_MS) / 1000


def pids_of(control: Control, *names: str) -> list[int]:
    return [control.pid(each) for name in names for each in control.names(name)]


@contextmanager
def paused(*pids: int) -> Iterator[float]:
    """These processes stand still inside, since the Unix time that it yields: they answer nobody, and close no connection."""
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield time.time()
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


class Sampler:
    """Samples again and again on a thread of its own. What it raises is raised where it is left."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join()
        if self._failures and error is None:
            raise self._failures[0]

    def _run(self) -> None:
        try:
            while not self._stopping.wait(SAMPLE_SECONDS):
                self.sample()
        except BaseException as error:  # noqa: BLE001 - it is raised where the thread is joined
            self._failures.append(error)

    def sample(self) -> None:
        raise NotImplementedError


class Gauges(Sampler):
    """What a worker tells of itself, with its resident memory."""

    def __init__(self, stack: Stack, process: str) -> None:
        super().__init__()
        self._stack, self._process = stack, process
        self._memory = psutil.Process(stack.pid(process))
        self.rss_first = self.rss_last = self.rss_peak = self._memory.memory_info().rss
        self.lag_peak = self.lag_last = 0.0
        self.was_paused = False
        self.is_paused = False
        self.left_out = 0.0  # appends to lists of somebody who is away
        self.left_out_since: float | None = None

    def sample(self) -> None:
        try:
            told = self._stack.metrics(self._process)
        except TimeoutError:  # it stands still itself
            return
        lines = [line for line in told.splitlines() if not line.startswith("#")]
        value = {name: float(number) for name, _, number in (line.rpartition(" ") for line in lines)}
        self.lag_last = sum(each for name, each in value.items() if name.startswith("timeline_consumer_lag_messages{"))
        self.lag_peak = max(self.lag_peak, self.lag_last)
        self.is_paused = value.get('timeline_worker_paused{worker="fanout"}') == 1
        self.was_paused |= self.is_paused
        self.left_out = sum(
            value.get(f'timeline_left_out_total{{cause="{cause}"}}', 0) for cause in ("home", "profile")
        )
        if self.left_out and self.left_out_since is None:
            self.left_out_since = time.time()
        self.rss_last = self._memory.memory_info().rss
        self.rss_peak = max(self.rss_peak, self.rss_last)

    @property
    def grown_mb(self) -> float:
        return float(self.rss_peak - self.rss_first) / 1e6

    def told(self) -> str:
        first, peak, last = (size / 1e6 for size in (self.rss_first, self.rss_peak, self.rss_last))
        return (
            f"consumer lag up to {self.lag_peak:,.0f}; said to be paused: {self.was_paused}; left out {self.left_out:,.0f}; "
            f"memory {first:.0f} MB, at most {peak:.0f}, at last {last:.0f}"
        )


class Arrivals(Sampler):
    """When each tweet had reached the last of its followers whose list is on these nodes, by looking there every 0.2 s."""

    def __init__(self, world: World, nodes: Collection[int]) -> None:
        super().__init__()
        self._world, self._nodes = world, nodes
        self._lists = Lists(world.stack, world.users)
        self._followers = {
            author: [user for user in world.followers[author] if node_of(user) in nodes] for author in world.users
        }
        self._waiting: set[int] = set()
        self._known = len(world.known.oracle.rows)  # what was there before did not come just now
        self.lags: dict[int, float] = {}  # seconds

    def sample(self) -> None:
        self._lists.read(self._nodes)
        now = time.time()
        known = self._world.known
        with known.lock:
            rows = list(known.oracle.rows.values())[self._known :]
        self._known += len(rows)
        self._waiting.update(row.id for row in rows if self._followers[row.author])
        for tweet in list(self._waiting):
            if not self._lists.lack(tweet, self._followers[known.oracle.rows[tweet].author]):
                self._waiting.discard(tweet)
                self.lags[tweet] = now - posted_at(tweet)

    def between(self, first: float, last: float) -> list[float]:
        """Of what was posted in that time, ascending."""
        return sorted(lag for tweet, lag in self.lags.items() if first <= posted_at(tweet) < last)

    @property
    def counted(self) -> int:
        return len(self.lags)


class Stutter(Sampler):
    """Redis takes writes by fits and starts: so, whenever something happens to a worker, batches are under way."""

    def __init__(self, lists: Lists) -> None:
        super().__init__()
        self._lists, self._samples = lists, 0

    def sample(self) -> None:
        self._samples += 1
        if self._samples % 3 == 0:
            self._lists.hold_writes(HELD_MS)


def spread(lags: list[float]) -> str:
    """For a person."""
    if not lags:
        return "none"
    return f"{len(lags)} tweets, p50 {lags[len(lags) // 2]:.2f} s, at most {lags[-1]:.2f} s"
