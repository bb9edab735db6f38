"""`timeline local` with real processes: downloads, ports, engines that stop and start, and that nothing is left running."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event

import psutil
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from tests.conftest import free_base_port
from timeline.local import Attached, Fleet, LocalFailure, Topology, open_engines
from timeline.local import everything as everything_module
from timeline.local.engines import open_fleet
from timeline.local.everything import run_everything
from timeline.local.fleet import Node
from timeline.local.jars import Jar, fetch_jars
from timeline.local.places import check_free
from timeline.local.process import Process

LOCAL = (sys.executable, "-m", "timeline", "local")
REDIS_ALONE = {"TIMELINE_CASSANDRA_HOSTS": "127.0.0.1:1", "TIMELINE_KAFKA_BOOTSTRAP": "127.0.0.1:1"}


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# Downloads


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is served as the repository of jars."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("TIMELINE_MAVEN_REPOSITORY", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("M2_REPO", str(tmp_path / "no-m2"))
    yield folder
    server.shutdown()
    server.server_close()


def publish(folder: Path, artifact: str, content: bytes) -> Jar:
    jar = Jar("org.example", artifact, "1.0", "", hashlib.sha256(content).hexdigest())
    (folder / jar.path).parent.mkdir(parents=True)
    (folder / jar.path).write_bytes(content)
    return jar


def test_only_what_is_missing_or_damaged_is_downloaded(mirror: Path, tmp_path: Path) -> None:
    """An interrupted fetch goes on where it stopped, and a damaged file is replaced."""
    jars = tuple(publish(mirror, name, name.encode()) for name in ("a", "b", "c"))
    assert fetch_jars(jars[:1], tmp_path, Event()).downloads == 1
    first = fetch_jars(jars, tmp_path, Event())
    assert (first.downloads, [path.read_bytes() for path in first.paths]) == (2, [b"a", b"b", b"c"])
    first.paths[1].write_bytes(b"half")
    assert fetch_jars(jars, tmp_path, Event()).downloads == 1
    assert first.paths[1].read_bytes() == b"b"
    assert fetch_jars(jars, tmp_path, Event()).downloads == 0


def test_wrong_checksum_is_not_used(mirror: Path, tmp_path: Path) -> None:
    """A jar that is not the pinned one is refused by name, and does not stay in the cache."""
    jar = publish(mirror, "a", b"a")
    (mirror / jar.path).write_bytes(b"evil")
    with pytest.raises(LocalFailure, match=r"org\.example:a:1\.0 came with the wrong checksum"):
        fetch_jars((jar,), tmp_path, Event())
    assert not (tmp_path / "maven" / jar.path).exists()


def test_failed_download_names_jar_and_remedy(mirror: Path, tmp_path: Path) -> None:
    """What cannot be had is named by coordinate, with what to do about it."""
    jar = Jar("org.example", "gone", "1.0", "", "0" * 64)
    with pytest.raises(
        LocalFailure, match=r"org\.example:gone:1\.0 could not be downloaded[\s\S]*TIMELINE_MAVEN_REPOSITORY"
    ):
        fetch_jars((jar,), tmp_path, Event())


# Processes


def script(name: str, body: str, **more: object) -> Node:
    return Node(name, (sys.executable, "-c", textwrap.dedent(body)), (), lambda output: "up" in output(), **more)  # type: ignore[arg-type]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with open_fleet(tmp_path / "fleet", Topology()) as fleet:
        yield fleet


def test_taken_port_is_named_with_its_holder() -> None:
    """Who holds the port, and what to do."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        host, port = holder.getsockname()
        with pytest.raises(LocalFailure, match=rf"{port} is taken by process {os.getpid()}[\s\S]*--port"):
            check_free([(host, port)])


def test_process_that_dies_at_start_shows_its_log(fleet: Fleet) -> None:
    fleet.add(script("kafka-1", "print('the disk is full'); raise SystemExit(3)"))
    with pytest.raises(LocalFailure, match=r"ended with code 3[\s\S]*the disk is full"):
        fleet.start("kafka")


def test_process_that_never_serves_is_given_up(fleet: Fleet) -> None:
    fleet.add(script("kafka-1", "import time; time.sleep(600)", start_seconds=1))
    with pytest.raises(LocalFailure, match="does not serve after 1 s"):
        fleet.start("kafka")


def test_process_that_does_not_listen_is_killed_after_its_bound(fleet: Fleet) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    fleet.add(script("kafka-1", deaf, stop_seconds=1))
    fleet.start("kafka")
    pid = fleet.pid("kafka")
    fleet.stop("kafka")
    assert not psutil.pid_exists(pid)
    assert fleet.dead() == ()


def test_process_that_was_frozen_ends_without_its_bound(fleet: Fleet) -> None:
    """A process stopped by SIGSTOP that handles SIGTERM, as engines do, gets to handle it."""
    polite = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: exit()); print('up', flush=True); time.sleep(600)"
    fleet.add(script("kafka-1", polite, stop_seconds=60))
    fleet.start("kafka")
    os.kill(fleet.pid("kafka"), signal.SIGSTOP)
    began = time.monotonic()
    fleet.stop("kafka")
    assert time.monotonic() - began < 20


def test_only_an_end_that_nobody_asked_for_is_a_death(fleet: Fleet) -> None:
    for name in ("kafka-1", "kafka-2"):
        fleet.add(script(name, "import time; print('up', flush=True); time.sleep(600)"))
    fleet.start("kafka")
    fleet.kill("kafka-1")
    assert fleet.dead() == ()
    os.kill(fleet.pid("kafka-2"), signal.SIGKILL)
    wait_until(lambda: not fleet.is_alive("kafka-2"))
    assert fleet.dead() == ("kafka-2",)
    assert "killed by signal 9" in str(fleet.obituary("kafka-2"))


def test_what_a_finished_thread_started_lives_on(tmp_path: Path) -> None:
    """The kernel ties a child to the thread that forked it; ours is tied to the process."""
    started: list[Process] = []
    argv = (sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)")

    def start() -> None:
        started.append(Process(argv, tmp_path / "log", os.environ))
        wait_until(lambda: "up" in started[0].output())

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert not started[0].wait(0.5)
    started[0].kill()
    assert started[0].wait(5)


# The command


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `timeline local engines` in `tmp_path/dir`, with Redis alone since that takes two seconds."""
    started: list[subprocess.Popen[str]] = []
    port = str(free_base_port())

    def start(*options: str) -> subprocess.Popen[str]:
        argv = [*LOCAL, "engines", "--dir", str(tmp_path / "dir"), "--port", port, *options]
        env = {**os.environ, **REDIS_ALONE}
        process = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def until_ready(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    told = ""
    for line in process.stdout:
        told += line
        if line.startswith("ready"):
            return told
    raise AssertionError(told)


def status(folder: Path) -> dict[str, object]:
    argv = [*LOCAL, "status", "--json", "--dir", str(folder)]
    return dict(json.loads(subprocess.run(argv, capture_output=True, text=True, check=False).stdout))


def test_engines_are_reported_steered_and_stopped(
    supervisor: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """Every process has a name, pid, address and log; one can be killed and started from outside; SIGTERM leaves none."""
    process = supervisor()
    told = until_ready(process)
    assert "export TIMELINE_REDIS_NODES=127.0.0.1:" in told
    found = status(tmp_path / "dir")
    listed: list[dict[str, object]] = found["processes"]  # type: ignore[assignment]
    assert [one["name"] for one in listed] == ["redis-1", "redis-2", "redis-3"]
    assert all(Path(str(one["log"])).exists() and one["addresses"] and one["alive"] for one in listed)

    attached = Attached(tmp_path / "dir")
    before = attached.pid("redis-1")
    attached.kill("redis-1")
    assert not attached.is_alive("redis-1")
    attached.start("redis-1")
    assert attached.is_alive("redis-1")
    assert attached.pid("redis-1") != before

    pids = [attached.pid(name) for name in attached.names()]
    process.terminate()
    assert process.wait(20) == 0
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert status(tmp_path / "dir")["processes"] == []


def test_killed_supervisor_leaves_nothing(supervisor: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """SIGKILL of the supervisor takes every engine with it, and the next start finds its folder usable."""
    process = supervisor()
    until_ready(process)
    attached = Attached(tmp_path / "dir")
    pids = [attached.pid(name) for name in attached.names()]
    process.kill()
    process.wait()
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids), 5)
    assert status(tmp_path / "dir")["running"] is False
    until_ready(supervisor())


def test_dead_engine_is_reported_and_the_others_go_on(
    supervisor: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = supervisor("--redis-replicas", "1")
    until_ready(process)
    attached = Attached(tmp_path / "dir")
    os.kill(attached.pid("redis-2"), signal.SIGKILL)
    assert process.stdout is not None
    assert "redis-2 was killed by signal 9" in process.stdout.readline()
    assert [attached.is_alive(name) for name in attached.names()] == [True, False, True, True, True, True]


# Everything, with a stand-in for the service


SERVICE = """
import http.server, os, sys
if sys.argv[1] in ("schema", "topics", "load"):
    print("did", *sys.argv[1:])
    raise SystemExit(0)
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(os.environ["TIMELINE_ADMIN_PORT"])), Ready).serve_forever()
"""


def test_service_that_dies_ends_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Schema, topics, then api, fanout, relay, then the world; one killed process stops all, and its log is told."""
    for name in ("CASSANDRA_HOSTS", "KAFKA_BOOTSTRAP", "REDIS_NODES"):
        monkeypatch.setenv(f"TIMELINE_{name}", "127.0.0.1:1")
    monkeypatch.setattr(everything_module, "_argv", lambda *words: (sys.executable, "-c", SERVICE, *words))
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if text.startswith("ready"):
            os.kill(Attached(tmp_path / "dir").pid("fanout"), signal.SIGKILL)

    topology = Topology(free_base_port())
    with pytest.raises(LocalFailure, match="fanout was killed by signal 9"):
        run_everything(tmp_path / "dir", topology, fresh=False, world="demo", threshold=50, say=say)
    steps = [line.split(" ")[0] for line in said[3:] if not line.startswith(" ")]
    assert f"  did load --demo --journal {tmp_path / 'dir' / 'demo.load'}" in said, "a long step says how far it is"
    assert steps == ["schema", "topics", "api", "fanout", "relay", "load", "ready."]
    left = [child for child in psutil.Process().children(recursive=True) if "-c" in child.cmdline()]
    assert left == []


# Engines


def test_kafka_keeps_its_messages_over_stop_kill_and_move(tmp_path: Path) -> None:
    """What was acknowledged is there after SIGTERM, after SIGKILL, and when the folder is started on other ports."""
    ours = {"cassandra": 0, "redis": 0}
    with open_engines(tmp_path / "dir", Topology(free_base_port(), **ours)) as engines:
        address = {"bootstrap.servers": engines.env["TIMELINE_KAFKA_BOOTSTRAP"]}
        admin = AdminClient(address)  # kept by name: its futures end with it
        admin.create_topics([NewTopic("t", 1, 1)])["t"].result(10)
        producer = Producer({**address, "acks": "all"})
        producer.produce("t", b"before")
        assert producer.flush(10) == 0
        engines.restart("kafka")
        engines.kill("kafka")
        engines.start("kafka")
    with open_engines(tmp_path / "dir", Topology(free_base_port() + 1, **ours)) as engines:
        address = {"bootstrap.servers": engines.env["TIMELINE_KAFKA_BOOTSTRAP"]}
        consumer = Consumer({**address, "group.id": "g", "auto.offset.reset": "earliest"})
        consumer.subscribe(["t"])
        message = consumer.poll(20)
        consumer.close()
        assert message is not None
        assert message.value() == b"before"
