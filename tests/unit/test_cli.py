"""The command line: quick help, settings that are wrong said plainly, tokens."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import jwt
import pytest

SECRET = "a secret of more than thirty-two bytes"


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("TIMELINE_")} | settings
    return subprocess.run(
        [sys.executable, "-m", "timeline", *arguments], capture_output=True, text=True, env=env, timeout=60, check=False
    )


def test_help_names_every_command_and_none_that_is_not_there() -> None:
    done = run("--help")
    assert done.returncode == 0
    names = {line.split()[0] for line in done.stdout.partition("Commands:")[2].splitlines() if line.strip()}
    assert names == {"api", "audit", "doctor", "fanout", "job", "load", "local", "relay", "schema", "token", "topics"}


def test_help_loads_no_driver() -> None:
    code = (
        "import sys; from timeline.cli import timeline\n"
        "try: timeline(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'cassandra', 'redis', 'confluent_kafka', 'aiohttp', 'numpy', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "name", ["api", "audit", "doctor", "fanout", "job", "relay", "schema", "topics", "local", "load", "token"]
)
def test_every_command_has_help(name: str) -> None:
    done = run(name, "--help")
    assert (done.returncode, "Usage: timeline" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("job",),
        ("job", "reclassify"),
        *(("job", "dead-letters", *each) for each in ((), ("list",), ("retry",), ("drop",))),
    ],
)
def test_help_of_a_job_fits_a_terminal_and_names_what_it_is(arguments: tuple[str, ...]) -> None:
    done = run(*arguments, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: timeline {' '.join(arguments)} ")
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_token_is_for_its_user_and_ends() -> None:
    done = run("token", "42", "--scope", "admin", "--expires-in", "15m", TIMELINE_JWT_SECRET=SECRET)
    assert done.returncode == 0, done.stderr
    claims = jwt.decode(done.stdout.strip(), SECRET, ["HS256"])
    assert (claims["sub"], claims["scope"]) == ("42", "admin")
    assert claims["exp"] - time.time() == pytest.approx(900, abs=60)


def test_no_token_without_a_secret() -> None:
    done = run("token", "42")
    assert (done.returncode, done.stdout) == (2, "")
    assert "TIMELINE_JWT_SECRET" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [("alice",), ("0",), (str(2**63),), ("42", "--expires-in", "1"), ("42", "--expires-in", "0h")]
)
def test_a_token_for_nobody_or_of_no_time_is_refused(arguments: tuple[str, ...]) -> None:
    assert run("token", *arguments, TIMELINE_JWT_SECRET=SECRET).returncode == 2


def test_each_wrong_setting_is_a_line_with_its_name_and_what_to_do() -> None:
    done = run("api", TIMELINE_PORT="x", TIMELINE_CASSANDRA_PROTOCOL="3", TIMELINE_LIMITS='{"page_max": "many"}')
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert all(line.startswith("error: TIMELINE_") for line in lines)
    assert [line.split()[1].rstrip(":") for line in lines] == [
        "TIMELINE_PORT",
        "TIMELINE_CASSANDRA_PROTOCOL",
        "TIMELINE_LIMITS",
    ]
    assert "8080" in lines[0]
    assert "page_max" in lines[2]


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"TIMELINE_LIMITS": "{"}, "limits"),
        ({"TIMELINE_LIMITS": '{"page_default": 200}'}, "page_default is above page_max"),
        ({"TIMELINE_WORKER_MIN": "9", "TIMELINE_WORKER_MAX": "8"}, "worker_min is above worker_max"),
        ({"TIMELINE_REDIS_NODES": "nowhere"}, "host:port"),
        ({}, "TIMELINE_JWT_SECRET"),
        ({"TIMELINE_JWKS_FILE": "/nowhere"}, "TIMELINE_JWKS_FILE"),
        ({"TIMELINE_AUTH": "header"}, "TIMELINE_CURSOR_KEYS"),
        ({"TIMELINE_AUTH": "header", "TIMELINE_CURSOR_KEYS": "1:short"}, "TIMELINE_CURSOR_KEYS"),
        ({"TIMELINE_AUTH": "header", "TIMELINE_CURSOR_KEYS": "secretsecretsecret"}, "TIMELINE_CURSOR_KEYS"),
        ({"TIMELINE_LOG_LEVEL": "LOUD"}, "TIMELINE_LOG_LEVEL"),
    ],
    ids=str,
)
def test_an_api_with_settings_that_do_not_fit_does_not_start(settings: dict[str, str], names: str) -> None:
    done = run("api", **settings)
    assert done.returncode == 2
    assert names in done.stderr
    assert "Traceback" not in done.stderr
    assert "secretsecret" not in done.stderr
