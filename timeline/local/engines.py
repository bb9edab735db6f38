"""The engines of one folder: fetched if need be, started together, and each to be stopped and started by name."""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event

from timeline.local.binaries import Program, find_java, find_redis
from timeline.local.cache import alone, cache_folder
from timeline.local.cassandra_engine import HEAP_MB, HEAP_MB_OF_THREE, Cassandra
from timeline.local.engine import Engine
from timeline.local.failure import LocalFailure
from timeline.local.fleet import Fleet
from timeline.local.jars import count_missing, fetch_jars, read_lock
from timeline.local.kafka_engine import Kafka
from timeline.local.places import Places, check_free
from timeline.local.redis_engine import Redis

Say = Callable[[str], None]

_MARKER = "timeline-local.json"  # says that a folder is ours, and of what topology its data is
_JOURNALS = (".load", ".load.stale")  # of `timeline load`, which may come first
_LOCKS = Path(__file__).parent
KINDS = ("cassandra", "kafka", "redis")


@dataclass(frozen=True, slots=True)
class Topology:
    """Which engines, of how many nodes, from which port on (places.py). An engine of 0 nodes is somebody else's."""

    port: int = 8080
    cassandra: int = 1
    kafka: int = 1
    redis: int = 3
    redis_replicas: int = 0
    cassandra_heap_mb: int | None = None


def quiet(_: str) -> None:
    """For whoever wants no progress."""


@contextmanager
def open_fleet(folder: Path, topology: Topology, *, fresh: bool = False) -> Iterator[Fleet]:
    """A fleet in a folder that is ours alone while it is open; everything in it is stopped at the end.

    Raises LocalFailure when the folder is in use, holds other things, or data of another topology. `fresh` empties it first.
    """
    folder = folder.absolute()
    _claim(folder)
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise LocalFailure(
                f"another process already runs in {folder}",
                f"`timeline local status --dir {folder}` tells which; or name another --dir",
            ) from error
        if fresh:
            _empty(folder)
        shutil.rmtree(folder / "requests", ignore_errors=True)  # left behind: who asked has given up
        _check_topology(folder, topology)
        fleet = Fleet(folder)
        try:
            yield fleet
        finally:
            fleet.close()


@contextmanager
def open_engines(folder: Path, topology: Topology, *, fresh: bool = False, say: Say = quiet) -> Iterator[Fleet]:
    """The engines, serving. `fleet.env` holds the settings that name them; `fleet.stop("kafka")` stops one, and so on."""
    with open_fleet(folder, topology, fresh=fresh) as fleet:
        start_engines(fleet, topology, say)
        yield fleet


def start_engines(fleet: Fleet, topology: Topology, say: Say) -> None:
    """Fetches what is missing, then starts all at once, and returns when all serve. Raises LocalFailure, or Stopping."""
    engines = _provide(fleet, topology, say)
    check_free(address for engine in engines for address in engine.ports)
    for engine in engines:
        fleet.env.update(engine.env)
        for node in engine.nodes:
            fleet.add(node)
    with ThreadPoolExecutor(len(KINDS)) as pool:
        running = [pool.submit(_start, engine, fleet, say) for engine in engines]
        try:
            for one in running:
                one.result()
        except BaseException:
            fleet.stopping.set()  # so that the others stop waiting
            raise
    fleet.write_state()
    (fleet.folder / "engines.env").write_text("".join(f"export {name}={value}\n" for name, value in fleet.env.items()))


def _start(engine: Engine, fleet: Fleet, say: Say) -> None:
    began = time.monotonic()
    engine.prepare()
    fleet.start(engine.kind)
    engine.form(fleet)
    where = ", ".join(address for node in engine.nodes for address in node.addresses)
    say(f"{engine.kind} serves on {where} ({time.monotonic() - began:.1f} s)")


def _provide(fleet: Fleet, topology: Topology, say: Say) -> list[Engine]:
    """The engines that are wanted, with what they need fetched."""
    cache, places, engines = cache_folder(), Places(topology.port), list[Engine]()
    with alone(cache, fleet.stopping):
        if topology.cassandra or topology.kafka:
            java = _program("Java", find_java, cache, fleet, say)
        if topology.cassandra:
            heap = topology.cassandra_heap_mb or (HEAP_MB if topology.cassandra == 1 else HEAP_MB_OF_THREE)
            jars = _jars("cassandra", cache, fleet, say)
            engines.append(Cassandra(fleet.folder, places, java.path, jars, topology.cassandra, heap))
        if topology.kafka:
            jars = _jars("kafka", cache, fleet, say)
            engines.append(Kafka(fleet.folder, places, java.path, jars, topology.kafka))
        if topology.redis:
            redis = _program("redis-server", find_redis, cache, fleet, say)
            engines.append(Redis(fleet.folder, places, redis.path, topology.redis_replicas))
    return engines


def _program(name: str, find: Callable[[Path, Event], Program], cache: Path, fleet: Fleet, say: Say) -> Program:
    began = time.monotonic()
    program = find(cache, fleet.stopping)
    say(f"{name} {program.version}: {program.path} ({time.monotonic() - began:.1f} s)")
    return program


def _jars(engine: str, cache: Path, fleet: Fleet, say: Say) -> tuple[Path, ...]:
    began = time.monotonic()
    jars = read_lock(_LOCKS / f"{engine}.lock")
    if missing := count_missing(jars, cache):
        say(f"{engine}: fetching {missing} jars into {cache}")
    fetched = fetch_jars(jars, cache, fleet.stopping)
    got = (
        f"{fetched.downloads} downloaded, {fetched.downloaded_bytes / 1e6:.0f} MB" if fetched.downloads else "all there"
    )
    say(f"{engine}: {len(fetched.paths)} jars, {got} ({time.monotonic() - began:.1f} s)")
    return fetched.paths


def _claim(folder: Path) -> None:
    """Makes the folder ours. Raises LocalFailure when it holds something that is not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / _MARKER).exists():
            if any(not entry.name.endswith(_JOURNALS) for entry in folder.iterdir()):
                raise LocalFailure(f"{folder} holds other things", "name an empty or a new folder with --dir")
            (folder / _MARKER).write_text("{}\n")
    except OSError as error:
        raise LocalFailure(f"{folder} cannot be used: {error}", "name another folder with --dir") from error


def _empty(folder: Path) -> None:
    """All but the marker and the lock, which we hold."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name not in (_MARKER, "lock"):
            entry.unlink()
    (folder / _MARKER).write_text("{}\n")


def _check_topology(folder: Path, topology: Topology) -> None:
    """Notes the topology with the data. Raises LocalFailure when data is there that another topology made."""
    marker = folder / _MARKER
    before = json.loads(marker.read_text())
    now = {name: value for name, value in asdict(topology).items() if name in ("port", "cassandra", "kafka")}
    for name, flag in (("cassandra", "--cassandra"), ("kafka", "--kafka"), ("port", "--port")):
        # Three Cassandra nodes know each other by port; one node, Kafka and Redis may move.
        if name == "port" and now["cassandra"] != 3:
            continue
        if now[name] and before.get(name, now[name]) != now[name]:
            raise LocalFailure(
                f"the data in {folder} was made with {flag} {before[name]}",
                f"give {flag} {before[name]} again, throw the data away with --fresh, or name another folder with --dir",
            )
    marker.write_text(json.dumps({**before, **{name: value for name, value in now.items() if value}}) + "\n")
