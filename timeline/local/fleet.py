"""The processes of one folder: started, watched, stopped, started again.

A node is named `kafka-1`; its kind (`kafka`) names all of that kind. An end that was asked for here is no death: `dead()` tells
only of the others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, RLock

import psutil

from timeline.local.failure import LocalFailure, Stopping
from timeline.local.process import Process
from timeline.local.state import Entry, State, shown, write_state

POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Node:
    """How to start one process, and how to tell that it serves.

    `is_ready` gets what the process has logged since its start as a function, must return within a second or so, and may raise
    OSError for "not yet".
    """

    name: str
    argv: tuple[str, ...]
    addresses: tuple[str, ...]
    is_ready: Callable[[Callable[[], str]], bool]
    env: Mapping[str, str] = field(default_factory=dict)
    start_seconds: float = 120
    stop_seconds: float = 15
    remedy: str = "see its log; if its data is damaged, start with --fresh"

    @property
    def kind(self) -> str:
        return self.name.partition("-")[0]


class Fleet:
    """All processes of a folder, and the settings (`TIMELINE_*`) that name the engines among them.

    Methods may be called from several threads for different kinds. Raises LocalFailure where a process does not start, or dies.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env: dict[str, str] = {}
        self.stopping = Event()
        self._nodes: dict[str, Node] = {}
        self._processes: dict[str, Process] = {}
        self._unwatched: set[str] = set()
        self._lock = RLock()

    def add(self, node: Node) -> None:
        """Makes it known; `start` starts it."""
        with self._lock:
            self._nodes[node.name] = node

    def names(self, kind: str = "") -> tuple[str, ...]:
        """Of one kind, or all, in the order in which they were made known."""
        with self._lock:
            return tuple(name for name, node in self._nodes.items() if kind in ("", name, node.kind))

    def pid(self, name: str) -> int:
        """Of a process that was started, alive or not. `kafka` will do where there is one. Raises KeyError."""
        (only,) = self._select(name)
        return self._processes[only].pid

    def is_alive(self, name: str) -> bool:
        process = self._processes.get(name)
        return process is not None and process.code is None

    def start(self, name: str) -> None:
        """Starts the process, or all of a kind, as far as they do not run, and waits until they serve."""
        fresh = [one for one in self._select(name) if not self.is_alive(one)]
        for one in fresh:
            self._spawn(self._nodes[one])
        for one in fresh:
            self._await_ready(self._nodes[one])

    def stop(self, name: str) -> None:
        """SIGTERM; SIGKILL to those that are still there after their bound. They are gone when this returns."""
        ending = self._ending(name)
        for one in ending:
            self._processes[one].terminate()
        deadline = time.monotonic() + max((self._nodes[one].stop_seconds for one in ending), default=0)
        for one in ending:
            if not self._processes[one].wait(max(0.0, deadline - time.monotonic())):
                self._processes[one].kill()
        self._reap(ending)

    def kill(self, name: str) -> None:
        """SIGKILL. They are gone when this returns."""
        ending = self._ending(name)
        for one in ending:
            self._processes[one].kill()
        self._reap(ending)

    def kill_all(self) -> None:
        """SIGKILL to everything, without waiting."""
        for process in self._processes.values():
            process.kill()

    def restart(self, name: str) -> None:
        self.stop(name)
        self.start(name)

    def run(self, node: Node, say: Callable[[str], None] = lambda _: None) -> str:
        """Starts it, waits for its end, and answers what it printed. Raises LocalFailure when its code is not 0.

        `start_seconds` bounds all of it; `is_ready` is not asked. What it prints is said as it comes, its log lines left out.
        """
        self.add(node)
        self._spawn(node)
        process = self._processes[node.name]
        late = LocalFailure(f"{node.name} is not done after {node.start_seconds:.0f} s", node.remedy)
        said = 0

        def has_ended() -> bool:
            nonlocal said
            code = process.code  # before the output is read: what it printed last is not missed
            *lines, _ = process.output().split("\n")
            for line in lines[said:]:
                if line and not line.startswith("{"):
                    say(f"  {line}")
            said = len(lines)
            return code is not None

        self.wait_until(has_ended, node.start_seconds, lambda: late)
        with self._lock:
            self._unwatched.add(node.name)
        if process.code:
            raise self.obituary(node.name)
        self._forget(node.name)
        return process.output()

    def dead(self) -> tuple[str, ...]:
        """Who has ended unasked; each is told once."""
        with self._lock:
            found = [name for name in self._processes if name not in self._unwatched and not self.is_alive(name)]
            self._unwatched.update(found)
        return tuple(found)

    def obituary(self, name: str) -> LocalFailure:
        """How it ended, with the last lines of its log."""
        process, node = self._processes[name], self._nodes[name]
        code = process.code or 0
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return LocalFailure(f"{name} {how}. The end of {process.log}:\n{process.tail()}", node.remedy)

    def close(self) -> None:
        """Stops everything: whoever was made known last first, the engines (all at once, they need not each other) at the end."""
        self.stopping.set()
        engines = [name for name in self._processes if self._nodes[name].kind in ("cassandra", "kafka", "redis")]
        for name in reversed(self._processes):
            if name not in engines:
                self.stop(name)
        for name in engines:
            self._processes[name].terminate()
        for name in engines:
            self.stop(name)
        (self.folder / "state.json").unlink(missing_ok=True)

    def wait_until(self, condition: Callable[[], bool], seconds: float, otherwise: Callable[[], LocalFailure]) -> None:
        """Polls; raises `otherwise()` after that time, and Stopping when the fleet is being stopped."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise otherwise()
            if self.stopping.wait(POLL_SECONDS):
                raise Stopping

    def _select(self, name: str) -> tuple[str, ...]:
        found = self.names(name)
        if not found:
            raise KeyError(f"{name} is none of {', '.join(self.names())}")
        return found

    def _ending(self, name: str) -> list[str]:
        ending = [one for one in self._select(name) if self.is_alive(one)]
        with self._lock:
            self._unwatched.update(ending)
        return ending

    def _forget(self, name: str) -> None:
        with self._lock:
            del self._nodes[name], self._processes[name]
            self.write_state()

    def _reap(self, names: list[str]) -> None:
        for name in names:
            self._processes[name].wait(10)  # SIGKILL leaves no choice; only the kernel's own work takes time

    def _spawn(self, node: Node) -> None:
        if self.stopping.is_set():
            raise Stopping
        base = {name: value for name, value in os.environ.items() if not name.startswith("TIMELINE_")}
        process = Process(node.argv, self.folder / "log" / f"{node.name}.log", {**base, **node.env})
        with self._lock:
            self._processes[node.name] = process
            self._unwatched.discard(node.name)
            self.write_state()

    def _await_ready(self, node: Node) -> None:
        process = self._processes[node.name]

        def is_ready() -> bool:
            if process.code is not None:
                with self._lock:
                    self._unwatched.add(node.name)
                raise self.obituary(node.name)
            try:
                return node.is_ready(process.output)
            except OSError:
                return False

        self.wait_until(
            is_ready, node.start_seconds,
            lambda: LocalFailure(
                f"{node.name} runs, but does not serve after {node.start_seconds:.0f} s. The end of {process.log}:\n"
                f"{process.tail()}",
                node.remedy,
            ),
        )  # fmt: skip

    def write_state(self) -> None:
        """`state.json` as things are now."""
        with self._lock:
            processes = tuple(
                Entry(name, process.pid, process.created, self._nodes[name].addresses, str(process.log),
                      shown(self._nodes[name].env))
                for name in self._nodes
                if (process := self._processes.get(name))
            )  # fmt: skip
            me = psutil.Process()
            supervisor = Entry("supervisor", me.pid, me.create_time(), (), "", {})
            write_state(self.folder, State(supervisor, self.env, processes))
