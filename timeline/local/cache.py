"""The folder of fetched things, shared by every run on this machine, and filled by one process at a time.

`TIMELINE_CACHE_DIR`, else `$XDG_CACHE_HOME/timeline`, else `~/.cache/timeline`. Deleting it costs a download and nothing more.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import TextIO

from timeline.local.failure import LocalFailure, Stopping

POLL_SECONDS = 0.1


def cache_folder() -> Path:
    """The folder, made if need be. Raises LocalFailure when it cannot be."""
    named = os.environ.get("TIMELINE_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME")
    folder = Path(named) if named else (Path(base) if base else Path.home() / ".cache") / "timeline"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LocalFailure(
            f"the cache folder {folder} cannot be made: {error}", "name another in TIMELINE_CACHE_DIR"
        ) from error
    return folder.resolve()


@contextmanager
def alone(folder: Path, stopping: Event) -> Iterator[None]:
    """Waits until no other process fills the folder; the lock goes with its holder, however that ends. Raises Stopping."""
    with open(folder / "lock", "w") as lock:
        while not _is_locked(lock):
            if stopping.wait(POLL_SECONDS):
                raise Stopping
        yield


def _is_locked(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def install_wheel(requirements: Path, folder: Path, stopping: Event) -> Path:
    """Where the wheel pinned in `requirements` is unpacked: `folder/wheels/<name>-<pin>`, installed there if it is not yet.

    Raises LocalFailure when pip cannot, and Stopping. The caller holds `alone(folder)`.
    """
    pin = sha256(requirements.read_bytes()).hexdigest()[:12]
    target = folder / "wheels" / f"{requirements.stem}-{pin}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
    try:
        _pip_install(requirements, partial, stopping)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _pip_install(requirements: Path, target: Path, stopping: Event) -> None:
    argv = [
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore",
        "--no-deps", "--no-compile", "--only-binary=:all:", "--require-hashes", "--target", str(target),
        "-r", str(requirements),
    ]  # fmt: skip
    with tempfile.TemporaryFile() as output:
        pip = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            while pip.poll() is None:
                if stopping.wait(POLL_SECONDS):
                    raise Stopping
        finally:
            if pip.poll() is None:
                pip.kill()
                pip.wait()
        output.seek(0)
        said = output.read().decode(errors="replace").strip()
    if pip.returncode:
        raise LocalFailure(
            f"pip could not install {requirements}:\n{said}",
            f"check the network and pip's settings, then run this again; or install {requirements.stem} yourself, "
            "so that it is on PATH",
        )
