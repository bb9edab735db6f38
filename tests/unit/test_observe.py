"""Log lines and readiness."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from timeline.observe import REQUEST_ID, Health, set_up_logging


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    set_up_logging("api", "info", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def read(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_is_one_line_that_says_when_who_and_what(lines: io.StringIO) -> None:
    logging.getLogger("timeline.x").info("%d found", 3, extra={"engine": "redis"})
    [line] = read(lines)
    assert line.pop("time")[10:11] == "T"
    assert line == {"level": "INFO", "logger": "timeline.x", "message": "3 found", "process": "api", "engine": "redis"}


def test_a_record_carries_the_id_of_the_request_it_belongs_to(lines: io.StringIO) -> None:
    async def request(name: str) -> None:
        REQUEST_ID.set(name)
        await asyncio.sleep(0)
        logging.getLogger("timeline.x").info(name)

    async def both() -> None:
        await asyncio.gather(request("a"), request("b"))

    asyncio.run(both())
    assert [(line["message"], line["request_id"]) for line in read(lines)] == [("a", "a"), ("b", "b")]


@pytest.mark.parametrize("name", ["cassandra.cluster", "cassandra.protocol"])
def test_the_driver_does_not_say_what_we_say_ourselves(lines: io.StringIO, name: str) -> None:
    logging.getLogger(name).warning("Error connecting to 127.0.0.1:1")
    assert not read(lines)


def test_an_exception_stays_within_its_line(lines: io.StringIO) -> None:
    try:
        raise ValueError("a\nb")
    except ValueError:
        logging.getLogger("timeline.x").exception("bug")
    [line] = read(lines)
    assert "Traceback" in line["exception"]
    assert "ValueError: a\nb" in line["exception"]


@pytest.mark.parametrize("text", ['x\n{"level":"INFO"}', "\x1b[31m", "\u2028", "\udc80", "\x00"])
def test_what_somebody_sent_neither_breaks_a_line_nor_reaches_a_terminal(lines: io.StringIO, text: str) -> None:
    logging.getLogger("timeline.x").info("%s", text, extra={"said": text})
    [line] = read(lines)
    assert (line["message"], line["said"]) == (text, text)
    assert lines.getvalue().isascii()
    assert lines.getvalue()[:-1].isprintable()


def test_a_secret_is_not_logged(lines: io.StringIO) -> None:
    logging.getLogger("timeline.x").info(
        "x", extra={"Authorization": "Bearer eyJ", "kafka_password": "p", "jwt_secret": "s"}
    )
    [line] = read(lines)
    assert {line[name] for name in ("Authorization", "kafka_password", "jwt_secret")} == {"***"}


def test_an_unknown_level_is_said_to_be_one() -> None:
    with pytest.raises(ValueError, match="LOUD"):
        set_up_logging("api", "LOUD")


async def well() -> None: ...


async def away() -> None:
    raise ConnectionRefusedError("nobody listens")


def started(health: Health, **checks: Any) -> Health:
    for engine, check in checks.items():
        health.watch(engine, check)
    health.is_started = True
    return health


def api() -> Health:
    return Health(reads_from=("cassandra", "redis"), also=("kafka",), timeout_ms=50)


def fanout() -> Health:
    return Health(needs=("cassandra", "redis", "kafka"), timeout_ms=50)


@pytest.mark.parametrize(
    ("make", "down", "is_ready"),
    [
        (api, (), True),
        (api, ("kafka",), True),
        (api, ("redis",), True),
        (api, ("cassandra",), True),
        (api, ("cassandra", "redis"), False),
        (fanout, (), True),
        (fanout, ("kafka",), False),
        (fanout, ("redis",), False),
    ],
)
async def test_a_process_is_ready_while_it_can_do_its_work(make: Any, down: tuple[str, ...], is_ready: bool) -> None:
    health = started(make(), **{engine: away if engine in down else well for engine in ("cassandra", "redis", "kafka")})
    reports = await health.reports()
    assert health.is_ready(reports) is is_ready
    assert {engine for engine, report in reports.items() if report.error} == set(down)


async def test_a_process_is_not_ready_before_its_start_and_from_its_end_on() -> None:
    health = api()
    reports = await health.reports()
    assert reports["redis"].error == "Unavailable: not connected yet"
    assert not health.is_ready(reports)
    started(health, cassandra=well, redis=well, kafka=well)
    assert health.is_ready(await health.reports())
    health.draining = True
    assert not health.is_ready(await health.reports())


async def test_an_engine_that_does_not_answer_is_not_waited_for() -> None:
    health = started(api(), cassandra=well, redis=lambda: asyncio.sleep(60), kafka=well)
    assert (await health.reports())["redis"].error == "no answer within 50 ms"
