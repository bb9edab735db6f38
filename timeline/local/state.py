"""`DIR/state.json`: which processes run in a folder. Written by the one that supervises them, read by `status` and by tests."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

_SECRET = ("_SECRET", "_PASSWORD", "_KEYS")
_USER_IN_URL = re.compile(r"//[^/@\s]+@")


@dataclass(frozen=True, slots=True)
class Entry:
    """One process. `created` (seconds since 1970) tells it from another that got its pid later."""

    name: str
    pid: int
    created: float
    addresses: tuple[str, ...]
    log: str
    env: dict[str, str]

    def condition(self) -> str:
        """running, stopped (by SIGSTOP) or dead."""
        try:
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.created) > 1 or process.status() == psutil.STATUS_ZOMBIE:
                return "dead"
            return "stopped" if process.status() == psutil.STATUS_STOPPED else "running"
        except psutil.NoSuchProcess:
            return "dead"


@dataclass(frozen=True, slots=True)
class State:
    """What stands in the file: the supervisor, the settings that name the engines, and every process."""

    supervisor: Entry
    env: dict[str, str]
    processes: tuple[Entry, ...]


def write_state(folder: Path, state: State) -> None:
    """In one step: a reader sees the old or the new."""
    partial = folder / ".state.json.partial"
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        os.fchmod(file.fileno(), 0o600)  # one left behind keeps the mode that it had
        file.write(json.dumps(asdict(state), indent=1) + "\n")
    os.replace(partial, folder / "state.json")


def read_state(folder: Path) -> State | None:
    """None when nothing has been started there, or everything was stopped in order."""
    try:
        found = json.loads((folder / "state.json").read_text())
    except FileNotFoundError:
        return None
    return State(_entry(found["supervisor"]), found["env"], tuple(_entry(entry) for entry in found["processes"]))


def _entry(found: dict[str, object]) -> Entry:
    return Entry(**{**found, "addresses": tuple(found["addresses"])})  # type: ignore[arg-type]  # as written by asdict


def is_ours(name: str) -> bool:
    return name.startswith("TIMELINE_")


def shown(env: Mapping[str, str]) -> dict[str, str]:
    """Our settings in `env`, without the secret ones, and without the user in any URL."""
    return {
        name: _USER_IN_URL.sub("//***@", value)
        for name, value in env.items()
        if is_ours(name) and not name.endswith(_SECRET)
    }
