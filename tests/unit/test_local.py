"""`timeline local`, as far as it needs neither sockets nor engines."""

from __future__ import annotations

import json
import os
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

import timeline.local
from timeline.local.command import local
from timeline.local.control import serve_requests
from timeline.local.engines import Topology, open_fleet
from timeline.local.failure import LocalFailure
from timeline.local.jars import read_lock
from timeline.local.places import Places
from timeline.local.state import Entry, State, read_state, shown, write_state

HERE = Path(timeline.local.__file__).parent


def entry(pid: int, created: float) -> Entry:
    return Entry("kafka-1", pid, created, ("127.0.0.1:9092",), "/tmp/kafka-1.log", {})


@pytest.mark.parametrize(("engine", "jars", "root"), [
    ("cassandra", 100, "org.apache.cassandra:cassandra-all:5.0.8"), ("kafka", 46, "org.apache.kafka:kafka_2.13:4.3.1"),
])  # fmt: skip
def test_lock_pins_what_maven_resolves(engine: str, jars: int, root: str) -> None:
    """Each lock holds as many jars as Maven resolves, the engine's own among them, none twice."""
    lock = read_lock(HERE / f"{engine}.lock")
    assert len({jar.path for jar in lock}) == len(lock) == jars
    assert root in {jar.coordinate for jar in lock}


def test_classifier_is_part_of_the_file_name(tmp_path: Path) -> None:
    """A jar with a classifier lies beside the one without."""
    (tmp_path / "x.lock").write_text(f"# roots\ncom.github:jffi:1.3:native {'0' * 64}\n")
    (jar,) = read_lock(tmp_path / "x.lock")
    assert jar.path == Path("com/github/jffi/1.3/jffi-1.3-native.jar")


@pytest.mark.parametrize("line", ["a:b:1", "a:b 00", f"a:b {'0' * 64}"])
def test_broken_lock_is_refused(tmp_path: Path, line: str) -> None:
    """A line without three parts and a whole checksum is an error, not a jar that nobody checks."""
    (tmp_path / "x.lock").write_text(line)
    with pytest.raises(ValueError, match="not a line of a lock"):
        read_lock(tmp_path / "x.lock")


def test_ports_of_two_instances_do_not_meet() -> None:
    """Every port of an instance lies in its 40, and each is given once."""
    places = Places(8080)
    nodes = range(1, 7)
    ports = [places.port, places.cassandra, places.cassandra_storage, *(places.admin(n) for n in range(1, 10))]
    ports += [port(n) for n in range(1, 4) for port in (places.cassandra_jmx, places.kafka, places.kafka_controller)]
    ports += [port(n) for n in nodes for port in (places.redis, places.redis_bus)]
    assert len(set(ports)) == len(ports)
    assert min(ports) >= 8080
    assert max(ports) < 8120


@pytest.mark.parametrize("port", [80, 65_500])
def test_port_without_room_is_refused(port: int) -> None:
    """A port that leaves no room for the others is an error with the range to choose from."""
    with pytest.raises(LocalFailure, match="1024 to"):
        Places(port)


def test_state_comes_back_as_written(tmp_path: Path) -> None:
    state = State(entry(1, 2.0), {"TIMELINE_REDIS_NODES": "127.0.0.1:7001"}, (entry(3, 4.0),))
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state


def test_pid_of_another_process_is_dead() -> None:
    """A pid that was given to a later process does not keep the earlier one alive."""
    me = psutil.Process()
    assert entry(me.pid, me.create_time()).condition() == "running"
    assert entry(me.pid, me.create_time() - 60).condition() == "dead"


def test_state_holds_no_secret() -> None:
    """Secrets of our settings, and what is not ours at all, stay out of state.json."""
    env = {
        "TIMELINE_PORT": "1",
        "TIMELINE_JWT_SECRET": "s",
        "TIMELINE_REDIS_PASSWORD": "s",
        "TIMELINE_CURSOR_KEYS": "s",
        "HOME": "/",
    }
    assert shown(env) == {"TIMELINE_PORT": "1"}


def test_status_of_nothing(tmp_path: Path) -> None:
    """Where nothing runs, status says so, as JSON too, and exits with 1."""
    told = CliRunner().invoke(local, ["status", "--dir", str(tmp_path)])
    assert (told.exit_code, told.stdout) == (1, f"nothing runs in {tmp_path}\n")
    found = CliRunner().invoke(local, ["--dir", str(tmp_path), "status", "--json"])
    assert found.exit_code == 1
    answer = json.loads(found.stdout)
    assert (answer["dir"], answer["processes"]) == (str(tmp_path), [])


def test_status_tells_the_dead_from_the_living(tmp_path: Path) -> None:
    """A process that is gone is listed as dead, and the exit code says that something is."""
    me = psutil.Process()
    write_state(
        tmp_path, State(entry(me.pid, me.create_time()), {}, (entry(me.pid, me.create_time()), entry(me.pid, 1.0)))
    )
    found = CliRunner().invoke(local, ["status", "--json", "--dir", str(tmp_path)])
    assert [process["alive"] for process in json.loads(found.stdout)["processes"]] == [True, False]
    assert found.exit_code == 1


def test_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    """--fresh in a folder that we did not make deletes nothing."""
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(LocalFailure, match="holds other things"), open_fleet(tmp_path, Topology(), fresh=True):
        pass
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_fresh_throws_data_away(tmp_path: Path) -> None:
    """--fresh empties a folder of ours, and without it everything stays."""
    with open_fleet(tmp_path, Topology(), fresh=False):
        (tmp_path / "kafka-1").mkdir()
        (tmp_path / "kafka-1" / "data").write_text("tweets")
    with open_fleet(tmp_path, Topology(), fresh=False):
        assert (tmp_path / "kafka-1" / "data").exists()
    with open_fleet(tmp_path, Topology(), fresh=True):
        assert not (tmp_path / "kafka-1").exists()


def test_folder_is_one_instance_s_alone(tmp_path: Path) -> None:
    """A second instance in the same folder is refused while the first one runs, and not after."""
    with (
        open_fleet(tmp_path, Topology()),
        pytest.raises(LocalFailure, match="already runs"),
        open_fleet(tmp_path, Topology()),
    ):
        pass
    with open_fleet(tmp_path, Topology()):
        pass


def test_data_of_another_topology_is_refused(tmp_path: Path) -> None:
    """One node's data is not taken for that of three; with --fresh it may be."""
    with open_fleet(tmp_path, Topology(kafka=1)):
        pass
    with pytest.raises(LocalFailure, match=r"--kafka 1[\s\S]*--fresh"), open_fleet(tmp_path, Topology(kafka=3)):
        pass
    with open_fleet(tmp_path, Topology(kafka=3), fresh=True):
        pass


def test_a_request_that_was_left_behind_is_not_carried_out(tmp_path: Path) -> None:
    """Who asked an earlier supervisor has given up long ago."""
    with open_fleet(tmp_path, Topology()):
        pass
    (tmp_path / "requests").mkdir()
    (tmp_path / "requests" / "1-1.json").write_text('{"action": "kill", "name": "redis"}')
    with open_fleet(tmp_path, Topology()) as fleet:
        assert not list((fleet.folder / "requests").glob("*.json"))


@pytest.mark.parametrize("wanted", [{"action": "stop", "name": "nobody"}, {"action": "sing", "name": "redis"}])
def test_an_unknown_name_is_answered_as_a_failure(tmp_path: Path, wanted: dict[str, str]) -> None:
    """The supervisor goes on, and who asked is told."""
    with open_fleet(tmp_path, Topology()) as fleet:
        (tmp_path / "requests").mkdir()
        (tmp_path / "requests" / "1-1.json").write_text(json.dumps(wanted))
        serve_requests(fleet)
        problem, _ = json.loads((tmp_path / "requests" / "1-1.failed").read_text())
        assert "nobody" in problem or "sing" in problem
        assert not list((tmp_path / "requests").glob("*.json"))


def test_state_is_for_its_owner_alone_and_names_no_user_of_a_url(tmp_path: Path) -> None:
    (tmp_path / ".state.json.partial").write_text("left behind")
    env = shown({"TIMELINE_MEDIA_URL": "https://ann:secret@media.example/{name}"})
    assert env == {"TIMELINE_MEDIA_URL": "https://***@media.example/{name}"}
    write_state(tmp_path, State(entry(1, 2.0), env, ()))
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600


def test_a_journal_of_a_load_does_not_make_a_folder_somebody_else_s(tmp_path: Path) -> None:
    """`timeline load` may run before `timeline local` does."""
    (tmp_path / "timeline.demo.load").write_text("timeline-load-1")
    with open_fleet(tmp_path, Topology()):
        pass
    assert (tmp_path / "timeline.demo.load").exists()
