"""The processes of Timeline as they run in production, one each, on engines that others started."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

FIRST_PORT, LAST_PORT = 25_000, 25_999
START_SECONDS = 90
STOP_SECONDS = 40


def free_port() -> int:
    """One that nobody listens on now; runs of different processes begin to look at different places."""
    ports = range(FIRST_PORT, LAST_PORT + 1)
    start = os.getpid() * 7 % len(ports)
    for at in range(len(ports)):
        port = ports[(start + at) % len(ports)]
        if port not in _given and _is_free(port):
            _given.add(port)
            return port
    raise RuntimeError(f"no free port between {FIRST_PORT} and {LAST_PORT}")


_given: set[int] = set()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def run(*arguments: str, env: dict[str, str]) -> str:
    """A command of one shot, to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "timeline", *arguments],
        env=env,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, f"timeline {' '.join(arguments)}: {done.stderr}\n{done.stdout}"
    return done.stdout


@dataclass
class Service:
    """One process: `timeline NAME`."""

    name: str
    settings: dict[str, str]
    folder: Path
    port: int = field(default_factory=free_port)
    admin_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}-{self.port}.log"

    def start(self) -> None:
        """Returns when it is ready."""
        ports = {"TIMELINE_PORT": str(self.port), "TIMELINE_ADMIN_PORT": str(self.admin_port)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "timeline", self.name], env=self.settings | ports, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.is_ready():
            assert self.process.poll() is None, f"{self.name} ended: {self.tail()}"
            assert time.monotonic() < deadline, f"{self.name} is not ready: {self.tail()}"
            time.sleep(0.1)

    def is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """The exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"{self.name} did not stop: {self.tail()}") from None

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]


@contextmanager
def running(*services: Service) -> Iterator[None]:
    """Started in order, stopped in the other. A process that did not end well fails the test."""
    started: list[Service] = []
    try:
        for service in services:
            started.append(service)
            service.start()
        yield
    finally:
        codes = {}
        for service in reversed(started):
            if service.process is not None and service.process.poll() is None:
                codes[service.name] = service.stop()
    assert set(codes.values()) <= {0}, codes
