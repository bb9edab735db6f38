"""One child process: its log, its end, and that it never outlives us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

_LEASH = str(Path(__file__).with_name("leash.py"))
TAIL_LINES = 25
TAIL_BYTES = 16_384

# The kernel's parent of a process is a thread: what it forked dies with it. So one thread, which lives as long as we do, forks all.
_forker = ThreadPoolExecutor(1, thread_name_prefix="forker")


class Process:
    """A program that runs in a session of its own (Ctrl-C in our terminal is ours to handle), its output appended to `log`."""

    def __init__(self, argv: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        """Starts it. Raises OSError when it cannot be started at all."""
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log_start = log.stat().st_size if log.exists() else 0
        self._popen = _forker.submit(self._fork, argv, env).result()
        self.pid = self._popen.pid
        self.created = psutil.Process(self.pid).create_time()

    def _fork(self, argv: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with open(self.log, "ab") as output:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", _LEASH, str(os.getpid()), *argv],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=dict(env), start_new_session=True,
            )  # fmt: skip

    @property
    def code(self) -> int | None:
        """What it ended with (negative: the signal), or None while it lives."""
        return self._popen.poll()

    def terminate(self) -> None:
        """Asks for its end; a process that was stopped (SIGSTOP) hears it as well."""
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def wait(self, seconds: float) -> bool:
        """Whether it ended within that time."""
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _signal(self, number: int) -> None:
        if self._popen.poll() is None:
            os.killpg(self.pid, number)

    def output(self) -> str:
        """What it has written to its log since this start."""
        with open(self.log, "rb") as file:
            file.seek(self.log_start)
            return file.read().decode(errors="replace")

    def tail(self) -> str:
        """The last lines of the above, indented."""
        lines = self.output()[-TAIL_BYTES:].splitlines()[-TAIL_LINES:]
        return "\n".join(f"    {line}" for line in lines) or "    (nothing in its log)"
