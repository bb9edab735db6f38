"""The jars of an engine: pinned by coordinate and SHA-256, fetched by coordinate, used only when the checksum is right.

A lock file has a line `group:artifact:version[:classifier] sha256` for each jar. What is fetched lies in Maven's own layout
under `<cache>/maven`. jgo knows where jars are published; `TIMELINE_MAVEN_REPOSITORY` names a mirror instead.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from threading import Event

from jgo.constants import default_maven_repo
from jgo.maven import MavenContext

from timeline.local.failure import LocalFailure, Stopping

DOWNLOADS_AT_ONCE = 8  # most jars are small: it is round trips that take the time
DOWNLOAD_TRIES = 3
DOWNLOAD_TIMEOUT_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Jar:
    """One line of a lock."""

    group: str
    artifact: str
    version: str
    classifier: str
    sha256: str

    @property
    def coordinate(self) -> str:
        return ":".join(filter(None, (self.group, self.artifact, self.version, self.classifier)))

    @property
    def path(self) -> Path:
        """Below any folder in Maven's layout."""
        suffix = f"-{self.classifier}" if self.classifier else ""
        return Path(*self.group.split("."), self.artifact, self.version, f"{self.artifact}-{self.version}{suffix}.jar")


@dataclass(frozen=True, slots=True)
class Fetched:
    """All jars of a lock, on disk and checked; how many were downloaded for it, and their bytes."""

    paths: tuple[Path, ...]
    downloads: int
    downloaded_bytes: int


def read_lock(lock: Path) -> tuple[Jar, ...]:
    """Raises ValueError on a line that is none."""
    return tuple(_parse(line) for line in lock.read_text().splitlines() if line and not line.startswith("#"))


def _parse(line: str) -> Jar:
    coordinate, _, digest = line.partition(" ")
    parts = coordinate.split(":")
    if len(parts) not in (3, 4) or len(digest) != 64:
        raise ValueError(f"not a line of a lock: {line!r}")
    group, artifact, version, *classifier = parts
    return Jar(group, artifact, version, classifier[0] if classifier else "", digest)


def count_missing(jars: tuple[Jar, ...], cache: Path) -> int:
    """How many are not there at all: so that a person may be told before the wait."""
    return sum(not (cache / "maven" / jar.path).is_file() for jar in jars)


def fetch_jars(jars: tuple[Jar, ...], cache: Path, stopping: Event) -> Fetched:
    """Every jar below `cache/maven`, in the order of the lock: what is there and right is kept, so an interrupted run goes on.

    Raises LocalFailure naming the first coordinate that could not be had, and Stopping. The caller holds `alone(cache)`.
    """
    root = cache / "maven"
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=root) as staging:
        download = _downloader(Path(staging), stopping)
        pool = ThreadPoolExecutor(DOWNLOADS_AT_ONCE)
        try:
            sizes = list(pool.map(lambda jar: _provide(jar, root, download), jars))
        finally:
            pool.shutdown(cancel_futures=True)
    return Fetched(tuple(root / jar.path for jar in jars), sum(size > 0 for size in sizes), sum(sizes))


def _provide(jar: Jar, root: Path, download: Callable[[Jar], Path]) -> int:
    """Puts the jar in its place; the bytes downloaded, 0 if none were."""
    place = root / jar.path
    if _is_right(place, jar):
        return 0
    maven = default_maven_repo() / jar.path
    if _is_right(maven, jar):
        _put(maven, place)
        return 0
    fetched = download(jar)
    size = fetched.stat().st_size
    _put(fetched, place)
    return size


def _put(source: Path, place: Path) -> None:
    """In one step: a reader sees the whole file or none."""
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f".{place.name}.partial")
    shutil.copyfile(source, partial)
    os.replace(partial, place)


def _is_right(path: Path, jar: Jar) -> bool:
    return path.is_file() and _digest(path) == jar.sha256


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _downloader(staging: Path, stopping: Event) -> Callable[[Jar], Path]:
    mirror = os.environ.get("TIMELINE_MAVEN_REPOSITORY")
    context = MavenContext(
        repo_cache=staging,
        remote_repos={"mirror": mirror.rstrip("/")} if mirror else None,
        timeout=DOWNLOAD_TIMEOUT_SECONDS,
    )

    def download(jar: Jar) -> Path:
        """The file in the staging folder, checked."""
        artifact = context.project(jar.group, jar.artifact).at_version(jar.version).artifact(jar.classifier)
        if stopping.is_set():
            raise Stopping
        for left in reversed(range(DOWNLOAD_TRIES)):
            (staging / jar.path).unlink(missing_ok=True)  # jgo takes any file, even half of one, for the whole
            try:
                path = Path(context.resolver.download(artifact))
                break
            except (OSError, RuntimeError) as error:  # every error of its HTTP library is an OSError
                if not left:
                    raise LocalFailure(f"{jar.coordinate} could not be downloaded: {error}", _REMEDY) from error
        digest = _digest(path)
        if digest != jar.sha256:
            raise LocalFailure(
                f"{jar.coordinate} came with the wrong checksum: {digest} instead of {jar.sha256}",
                "somebody or something changed it on the way: check the mirror or proxy, then run this again",
            )
        return path

    return download


_REMEDY = (
    "check the network (and HTTPS_PROXY), or name a mirror in TIMELINE_MAVEN_REPOSITORY; "
    "run this again, and it goes on where it stopped"
)
