"""`timeline local`: engines, schema, topics, the processes of the service, and a world to look at; then watching over them."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from timeline.local.engines import Say, Topology, open_fleet, start_engines
from timeline.local.failure import LocalFailure
from timeline.local.fleet import Fleet, Node
from timeline.local.places import LOOPBACK, Places, check_free
from timeline.local.supervise import signals_stop, watch
from timeline.settings import Settings, read_settings

SERVICES = ("api", "fanout", "relay")  # started in this order, stopped in the other
STEP_SECONDS = 300
LOAD_SECONDS = 1800
READERS_TRIED = 50
_NAMED = {"cassandra": "cassandra_hosts", "kafka": "kafka_bootstrap", "redis": "redis_nodes"}


def run_engines(folder: Path, topology: Topology, *, fresh: bool, say: Say) -> None:
    """The engines alone, until a signal. One that dies is reported and left. Raises LocalFailure, and Stopping."""
    wanted = _without_named(topology, read_settings(), say)
    if not (wanted.cassandra or wanted.kafka or wanted.redis):
        raise LocalFailure(
            "settings name every engine, so there is none to start",
            "unset TIMELINE_CASSANDRA_HOSTS, TIMELINE_KAFKA_BOOTSTRAP or TIMELINE_REDIS_NODES",
        )
    with open_fleet(folder, wanted, fresh=fresh) as fleet, signals_stop(fleet):
        start_engines(fleet, wanted, say)
        for name, value in fleet.env.items():
            say(f"export {name}={value}")
        say(f"ready; the lines above are also in {fleet.folder / 'engines.env'}. Ctrl-C stops everything.")
        watch(fleet, lambda name: say(f"{fleet.obituary(name)}\n  `timeline local start {name}` brings it back"))


def run_everything(
    folder: Path, topology: Topology, *, fresh: bool, world: str, threshold: int | None, say: Say
) -> None:
    """All of it, until a signal. Raises LocalFailure when something does not start, or dies, and Stopping."""
    settings = read_settings()
    places = Places(topology.port)
    wanted = _without_named(topology, settings, say)
    with open_fleet(folder, wanted, fresh=fresh) as fleet, signals_stop(fleet):
        check_free([(LOOPBACK, places.port), *((LOOPBACK, places.admin(n)) for n in range(1, len(SERVICES) + 1))])
        start_engines(fleet, wanted, say)
        env = _service_env(fleet, settings, threshold)
        for name, arguments in (("schema", ("schema", "apply")), ("topics", ("topics", "apply"))):
            _step(fleet, name, arguments, env, say)
        _start_services(fleet, places, env, say)
        if world == "demo":
            journal = str(fleet.folder / "demo.load")  # gone with the data that it is about
            _step(fleet, "load", ("load", "--demo", "--journal", journal), env, say, LOAD_SECONDS)
        say(_what_next(fleet, places))
        watch(fleet, lambda name: _raise(fleet.obituary(name)))


def _without_named(topology: Topology, settings: Settings, say: Say) -> Topology:
    """The topology less the engines that settings name."""
    named = [engine for engine, setting in _NAMED.items() if setting in settings.model_fields_set]
    for engine in named:
        say(f"{engine}: the one that TIMELINE_{_NAMED[engine].upper()} names")
    return replace(topology, **dict.fromkeys(named, 0))


def _service_env(fleet: Fleet, settings: Settings, threshold: int | None) -> dict[str, str]:
    """Settings of every process of ours: what the environment says wins over what is fit for one machine."""
    env = {
        "TIMELINE_AUTH": "header",
        "TIMELINE_HOST": LOOPBACK,
        "TIMELINE_ADMIN_HOST": LOOPBACK,
        **fleet.env,
        **{name: value for name, value in os.environ.items() if name.startswith("TIMELINE_")},
    }
    if settings.jwt_secret is None:
        env["TIMELINE_JWT_SECRET"] = _kept_secret(fleet.folder, "timeline_jwt_secret", "")
    if settings.cursor_keys is None:
        env["TIMELINE_CURSOR_KEYS"] = _kept_secret(fleet.folder, "timeline_cursor_keys", "1:")
    if threshold is not None:
        env["TIMELINE_PUSH_FOLLOWERS_MAX"] = str(threshold)
    return env


def _kept_secret(folder: Path, name: str, prefix: str) -> str:
    """Made once in a folder, so that tokens and cursors outlive a restart. TIMELINE_SECRETS_DIR may name `DIR/secrets`."""
    path = folder / "secrets" / name
    if not path.exists():
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(prefix + secrets.token_hex(32))
    return path.read_text()


def _argv(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "timeline", *arguments)


def _step(
    fleet: Fleet, name: str, arguments: tuple[str, ...], env: dict[str, str], say: Say, seconds: float = STEP_SECONDS
) -> None:
    began = time.monotonic()
    fleet.run(
        Node(
            name,
            _argv(*arguments),
            (),
            lambda _: True,
            env,
            start_seconds=seconds,
            remedy="see its log; then run this again",
        ),
        say,
    )
    say(f"{' '.join(arguments)} ({time.monotonic() - began:.1f} s)")


def _start_services(fleet: Fleet, places: Places, env: dict[str, str], say: Say) -> None:
    for number, name in enumerate(SERVICES, 1):
        began, admin = time.monotonic(), places.admin(number)
        ports = {"TIMELINE_PORT": str(places.port), "TIMELINE_ADMIN_PORT": str(admin)}
        own = (f"{LOOPBACK}:{places.port}",) if name == "api" else ()
        addresses = (*own, f"{LOOPBACK}:{admin}")
        fleet.add(
            Node(
                name, _argv(name), addresses, _is_ready(admin), {**env, **ports}, stop_seconds=25, remedy="see its log"
            )
        )
        fleet.start(name)
        say(f"{name} serves on {', '.join(addresses)} ({time.monotonic() - began:.1f} s)")


def _is_ready(admin_port: int) -> Callable[[Callable[[], str]], bool]:
    return lambda _: _get(admin_port, "/readyz")[0] == 200


def _get(port: int, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
    """Status and body. Raises OSError, also for an answer that is not HTTP."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
    try:
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()


def _raise(failure: LocalFailure) -> None:
    raise failure


def _what_next(fleet: Fleet, places: Places) -> str:
    """What a person can do now, with a reader whose home has something to show, if there is one."""
    base, found = f"http://{LOOPBACK}:{places.port}/api", _reader_to_show(places.port)
    curl, json_type = f"curl -H 'X-User-Id: {found or 1}'", "-H 'Content-Type: application/json'"
    sign_up = f"""  {curl} {json_type} -X PUT -d '{{"handle": "me", "name": "Me"}}' {base}/user/1"""
    return "\n".join(
        [
            "ready. In another terminal:",
            *([] if found else [sign_up]),
            f"  {curl} {base}/timeline/home",
            f"""  {curl} {json_type} -d '{{"text": "Good morning"}}' {base}/tweet""",
            f"  {_program()} local status --dir {fleet.folder}",
            f"Data and logs are kept in {fleet.folder}. Ctrl-C stops everything.",
        ]
    )


def _program() -> str:
    """The command beside this Python, whether it is on PATH or not."""
    return str(Path(sys.executable).with_name("timeline"))


def _reader_to_show(port: int) -> int | None:
    """The first of the lowest ids whose home page is not empty; None with another way of saying who asks, too."""
    for user in range(1, READERS_TRIED + 1):
        try:
            status, body = _get(port, "/api/timeline/home?limit=1&order=recent", {"X-User-Id": str(user)})
        except OSError:
            return None
        if status == 401:
            return None
        if status == 200 and json.loads(body)["tweets"]:
            return user
    return None
