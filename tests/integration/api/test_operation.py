"""The processes as an operator sees them."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from pathlib import Path

from aiohttp import ClientSession

from tests.integration.api.client import Api
from tests.integration.api.conftest import until
from tests.integration.api.stack import Service, free_port, running


async def test_the_admin_port_says_what_is_served_and_which_engines_answer(
    api: Api, http: ClientSession, gateway: Service
) -> None:
    await api.home(await api.user())
    admin = f"http://127.0.0.1:{gateway.admin_port}"
    async with http.get(f"{admin}/readyz") as answer:
        said = await answer.json()
    assert (answer.status, said["ready"], said["draining"]) == (200, True, False)
    assert said["checks"] == {engine: {"ok": True, "error": None} for engine in ("cassandra", "redis", "kafka")}
    async with http.get(f"{admin}/metrics") as answer:
        text = await answer.text()
    assert 'timeline_http_seconds_count{method="GET",route="/api/timeline/home",status="200"}' in text
    for engine in ("cassandra", "redis"):
        assert f'timeline_engine_call_seconds_count{{engine="{engine}"' in text


async def test_a_process_that_is_told_to_stop_ends_well_and_logs_json(
    env: dict[str, str], folder: Path, stack: None
) -> None:
    for name in ("api", "fanout", "relay"):
        service = Service(name, env, folder)
        with running(service):
            assert service.stop() == 0
        lines = [json.loads(line) for line in service.log.read_text().splitlines()]
        assert {line["process"] for line in lines} == {name}
        assert lines[-1]["message"] == "stopped"


async def test_a_request_under_way_is_answered_before_the_end(
    env: dict[str, str], folder: Path, api: Api, http: ClientSession
) -> None:
    me = await api.user()
    service = Service("api", env, folder)
    with running(service):
        ending = Api(http, service.url)
        posts = [asyncio.create_task(ending.call("POST", "/api/tweet", me, json={"text": str(at)})) for at in range(50)]
        await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED)
        code = await asyncio.to_thread(service.stop)
    answers = [task.result() for task in (await asyncio.wait(posts))[0] if task.exception() is None]
    assert code == 0
    assert {answer.status for answer in answers} == {201}
    assert sorted(await api.profile(me, limit=100)) == sorted(answer.json["id"] for answer in answers)


async def test_what_is_posted_without_kafka_is_answered_and_reaches_everybody_by_the_relay(
    env: dict[str, str], folder: Path, api: Api, http: ClientSession
) -> None:
    """The process starts without Kafka, too; its outbox is swept by the relay that runs beside."""
    author, follower = await api.users(2)
    await api.follow(follower, author)
    assert await api.home(follower) == []
    service = Service("api", env | {"TIMELINE_KAFKA_BOOTSTRAP": f"127.0.0.1:{free_port()}"}, folder)
    with running(service):
        alone = Api(http, service.url)
        ids = [(await alone.post(author, str(number)))["id"] for number in range(10)]
        assert await alone.home(author) == ids[::-1]
        async with http.get(f"http://127.0.0.1:{service.admin_port}/readyz") as answer:
            checks = (await answer.json())["checks"]
        assert (answer.status, checks["redis"]["ok"], checks["kafka"]["ok"]) == (200, True, False)

    async def arrived() -> bool:
        return len(await api.home(follower)) == 10

    await until(arrived, 30)
    assert await api.home(follower) == ids[::-1]


def test_a_port_that_is_taken_is_one_clear_line(env: dict[str, str], prepared: object) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ports = {"TIMELINE_PORT": port, "TIMELINE_ADMIN_PORT": str(free_port())}
        done = subprocess.run(
            [sys.executable, "-m", "timeline", "api"],
            env=env | ports,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    told = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert (done.returncode, told) == (
        2,
        [f"error: TIMELINE_PORT: port {port} on 127.0.0.1 is taken. Stop what listens there, or set another."],
    )
