"""The service as it is deployed: real processes beside real engines, with names of their own, so that stacks stand side by side."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.conftest import free_base_port

# Times so short that a follow is soon old, and who is pulled soon known to all; one machine has one clock
BRISK = {
    "clock_skew_ms": 100,
    "notices_refresh_ms": 200,
    "notices_lease_ms": 2_500,
    "reader_lease_seconds": 2,
    "audit_second_look_ms": 1_000,
    "follower_cache_ms": 1_500,
    "fresh_follow_ms": 4_000,
}
Value = TypeVar("Value")
START_SECONDS = 60
STOP_SECONDS = 40
PROCESSES = ("api", "fanout", "relay")


def until(question: Callable[[], Value], seconds: float = 30, what: str = "") -> Value:
    """Ask until the answer is true, and return it. Fails, with the last answer, when the time is up."""
    deadline = time.monotonic() + seconds
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or question}; last answer: {answer!r}"
        time.sleep(0.05)


class Stack:
    """A keyspace, a key prefix and topics of its own; processes started and ended one by one."""

    def __init__(self, engines: Mapping[str, str], folder: Path, **settings: str) -> None:
        name = f"t{uuid.uuid4().hex[:12]}"
        self.folder = folder
        base = free_base_port()
        self.ports = {process: base + at for at, process in enumerate(("http", *PROCESSES))}
        self.settings = {
            **engines,
            "TIMELINE_CASSANDRA_KEYSPACE": name,
            "TIMELINE_REDIS_KEY_PREFIX": f"{name}:",
            "TIMELINE_KAFKA_TOPIC_PREFIX": f"{name}.",
            "TIMELINE_KAFKA_GROUP": name,
            "TIMELINE_KAFKA_PARTITIONS": "4",
            "TIMELINE_AUTH": "header",
            "TIMELINE_HOST": "127.0.0.1",
            "TIMELINE_ADMIN_HOST": "127.0.0.1",
            "TIMELINE_PORT": str(self.ports["http"]),
            "TIMELINE_CURSOR_KEYS": "1:a secret of tests alone",
            **settings,
        }
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['http']}"

    @property
    def env(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TIMELINE_")}
        return inherited | self.settings

    def run(self, *arguments: str, seconds: float = 120, **settings: str) -> str:
        """A command that ends by itself, with settings of its own. Fails when it fails."""
        command = [sys.executable, "-m", "timeline", *arguments]
        done = subprocess.run(command, env=self.env | settings, capture_output=True, timeout=seconds, check=False)
        assert done.returncode == 0, f"{arguments}: {done.stdout.decode()[-2000:]} {done.stderr.decode()[-4000:]}"
        return done.stdout.decode()

    def prepare(self) -> None:
        """Schema and topics."""
        self.run("schema", "apply")
        self.run("topics", "apply")

    def start(self, *processes: str, **settings: str) -> None:
        """Start those, with settings of their own, and wait until each is ready. Of one kind there may be several: `fanout:2`."""
        for process in processes:
            port = self.ports.setdefault(process, self.ports["http"] + len(self.ports))
            log = (self.folder / f"{process}.log").open("ab")
            env = self.env | settings | {"TIMELINE_ADMIN_PORT": str(port)}
            command = [sys.executable, "-m", "timeline", process.partition(":")[0]]
            # each a session of its own: Linux shares cores out by session, and the engines have theirs
            self._running[process] = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
            log.close()
        for process in processes:
            until(lambda process=process: self._is_ready(process), START_SECONDS, f"{process} ready")  # type: ignore[misc]

    def stop(self, *processes: str) -> None:
        """SIGTERM; fails unless they end well within their bound."""
        for process in processes:
            self._running[process].send_signal(signal.SIGTERM)
        for process in processes:
            code = self._running.pop(process).wait(STOP_SECONDS)
            assert code == 0, f"{process} ended with {code}: {self.log_of(process)}"

    def kill(self, process: str) -> None:
        """SIGKILL."""
        running = self._running.pop(process)
        running.kill()
        running.wait(STOP_SECONDS)

    def end(self) -> None:
        """Whatever still runs, at once."""
        for process in list(self._running):
            self.kill(process)

    def pid(self, process: str) -> int:
        return self._running[process].pid

    def log_of(self, process: str) -> str:
        return (self.folder / f"{process}.log").read_text(errors="replace")[-4000:]

    def metrics(self, process: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[process]}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    def metric(self, process: str, name: str) -> float:
        """The sum over all labels of a metric; 0 if it was never touched."""
        lines = [line for line in self.metrics(process).splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def _is_ready(self, process: str) -> bool:
        code = self._running[process].poll()
        assert code is None, f"{process} ended with {code}: {self.log_of(process)}"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[process]}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def call(
        self, method: str, path: str, user: int | None = None, body: Any = None, **headers: str
    ) -> tuple[int, Any]:
        """The status and the JSON of an answer (None if it has none)."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=method)
        if data is not None:
            request.add_header("Content-Type", "application/json")
        if user is not None:
            request.add_header("X-User-Id", str(user))
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                content = answer.read()
                return answer.status, json.loads(content) if content else None
        except urllib.error.HTTPError as error:
            content = error.read()
            return error.code, json.loads(content) if content else None

    def walk(self, path: str, user: int | None, limit: int = 100) -> list[int]:
        """Every position of a timeline, by `next_cursor` down to the beginning of history."""
        positions: list[int] = []
        cursor = ""
        while True:
            status, page = self.call("GET", f"{path}?order=recent&limit={limit}{cursor}", user)
            assert status == 200, page
            assert not page["degraded"], page
            positions += [int(tweet["position"]) for tweet in page["tweets"]]
            if page["next_cursor"] is None:
                return positions
            cursor = f"&cursor={page['next_cursor']}"


@contextmanager
def running(engines: Mapping[str, str], folder: Path, *processes: str, **settings: str) -> Iterator[Stack]:
    """A prepared stack with these processes; all ended at the end."""
    stack = Stack(engines, folder, **settings)
    stack.prepare()
    try:
        stack.start(*processes)
        yield stack
    finally:
        stack.end()
