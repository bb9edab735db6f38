"""Steering the processes of a folder from outside of the process that supervises them.

`Attached` writes what it wants into `DIR/requests`, the supervisor does it between two looks at its children. So an end that was
asked for is no death, and what is started again is supervised like before.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from timeline.local.failure import LocalFailure
from timeline.local.fleet import Fleet
from timeline.local.state import Entry, State, read_state

POLL_SECONDS = 0.1
ANSWER_SECONDS = 240  # longer than the slowest engine may take to start


class Control(Protocol):
    """What a test needs of engines, whether it started them itself (Fleet) or found them running (Attached).

    A name is of one process (`redis-1`) or of a kind (`redis`), except for `pid`, which must name one. Raises KeyError for an
    unknown name, LocalFailure when a process does not start.
    """

    @property
    def env(self) -> dict[str, str]:
        """The settings that name the engines."""

    def names(self, kind: str = "") -> tuple[str, ...]: ...
    def pid(self, name: str) -> int: ...
    def is_alive(self, name: str) -> bool: ...
    def start(self, name: str) -> None:
        """Returns when it serves."""

    def stop(self, name: str) -> None:
        """SIGTERM, then SIGKILL after a bound. Returns when it is gone."""

    def kill(self, name: str) -> None:
        """SIGKILL. Returns when it is gone."""

    def restart(self, name: str) -> None: ...


class Attached:
    """The processes that another process supervises in `folder`."""

    def __init__(self, folder: Path) -> None:
        """Raises LocalFailure when nobody does."""
        self.folder = folder.absolute()
        self._state()

    @property
    def env(self) -> dict[str, str]:
        return self._state().env

    def names(self, kind: str = "") -> tuple[str, ...]:
        every = (entry.name for entry in self._state().processes)
        return tuple(name for name in every if kind in ("", name, name.partition("-")[0]))

    def pid(self, name: str) -> int:
        return self._entry(name).pid

    def is_alive(self, name: str) -> bool:
        return self._entry(name).condition() != "dead"

    def start(self, name: str) -> None:
        self._request("start", name)

    def stop(self, name: str) -> None:
        self._request("stop", name)

    def kill(self, name: str) -> None:
        self._request("kill", name)

    def restart(self, name: str) -> None:
        self._request("restart", name)

    def _state(self) -> State:
        state = read_state(self.folder)
        if state is None or state.supervisor.condition() == "dead":
            raise LocalFailure(
                f"nothing runs in {self.folder}", "start it with `timeline local`, or name its folder with --dir"
            )
        return state

    def _entry(self, name: str) -> Entry:
        found = self.names(name)
        if len(found) != 1:
            raise KeyError(f"{name} is not one of {', '.join(self.names())}")
        return next(entry for entry in self._state().processes if entry.name == found[0])

    def _request(self, action: str, name: str) -> None:
        if not self.names(name):
            raise KeyError(f"{name} is none of {', '.join(self.names())}")
        requests = self.folder / "requests"
        requests.mkdir(exist_ok=True)
        request = requests / f"{time.time_ns()}-{os.getpid()}.json"
        partial = request.with_suffix(".partial")
        partial.write_text(json.dumps({"action": action, "name": name}))
        partial.rename(request)
        self._await_answer(request)

    def _await_answer(self, request: Path) -> None:
        deadline = time.monotonic() + ANSWER_SECONDS
        while request.exists():
            self._state()
            if time.monotonic() > deadline:
                request.unlink(missing_ok=True)
                raise LocalFailure(f"the supervisor of {self.folder} does not answer", "stop it, and start it again")
            time.sleep(POLL_SECONDS)
        failed = request.with_suffix(".failed")
        if failed.exists():
            problem, remedy = json.loads(failed.read_text())
            failed.unlink()
            raise LocalFailure(problem, remedy)


def serve_requests(fleet: Fleet) -> None:
    """Does what is asked for in the fleet's folder, oldest first. What cannot be done is answered so."""
    for request in sorted((fleet.folder / "requests").glob("*.json")):
        wanted = json.loads(request.read_text())
        actions: dict[str, Callable[[str], None]] = {
            "start": fleet.start, "stop": fleet.stop, "kill": fleet.kill, "restart": fleet.restart
        }  # fmt: skip
        try:
            actions[wanted["action"]](wanted["name"])
        except LocalFailure as failure:
            request.with_suffix(".failed").write_text(json.dumps([failure.problem, failure.remedy]))
        except KeyError as error:  # a process that has ended since it was asked for, or a word that is none of ours
            told = [str(error.args[0]), "see `timeline local status`"]
            request.with_suffix(".failed").write_text(json.dumps(told))
        request.unlink(missing_ok=True)
