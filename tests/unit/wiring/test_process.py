"""The life of a process, with engines that are made up."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession

from timeline.domain.errors import Unavailable
from timeline.domain.limits import Limits
from timeline.settings import SettingError, Settings
from timeline.wiring.process import EndedUnasked, EngineAway, Process, running


@pytest.fixture
def settings() -> Settings:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return Settings(admin_host="127.0.0.1", admin_port=port, limits=Limits(startup_wait_seconds=1, drain_seconds=1))


class Engine:
    """Up after some tries; notes that it was closed."""

    def __init__(self, tries: int) -> None:
        self.tries, self.is_closed = tries, False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Engine]:
        self.tries -= 1
        if self.tries >= 0:
            raise Unavailable("nobody listens")
        yield self
        self.is_closed = True

    async def ping(self) -> None: ...


async def ready(settings: Settings) -> tuple[int, dict[str, object]]:
    async with ClientSession() as http, http.get(f"http://127.0.0.1:{settings.admin_port}/readyz") as answer:
        return answer.status, await answer.json()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - signals and servers set no event of ours
            await asyncio.sleep(0.01)


async def live(settings: Settings, engine: Engine, seen: list[Process], *, work: bool = True) -> None:
    async with running("x", settings, needs=("e",)) as process:
        seen.append(process)
        await process.open("e", engine.open, lambda opened: opened.ping)

        async def worker() -> None:
            await process.stopping.wait()

        await process.work({"worker": worker()} if work else {})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_process_waits_for_its_engine_is_ready_and_ends_in_order(settings: Settings, number: int) -> None:
    engine, seen = Engine(1), list[Process]()
    task = asyncio.create_task(live(settings, engine, seen))
    await until(lambda: bool(seen))
    status, said = await ready(settings)
    assert (status, said["ready"]) == (503, False)
    assert "not connected yet" in str(said["checks"])
    await until(lambda: seen[0].health.is_started)
    assert (await ready(settings))[0] == 200
    os.kill(os.getpid(), number)
    await asyncio.wait_for(task, 5)
    assert engine.is_closed
    assert seen[0].health.draining


async def test_an_engine_that_does_not_come_up_ends_the_start(settings: Settings) -> None:
    with pytest.raises(EngineAway, match="e did not come up within 1 s: nobody listens"):
        await live(settings, Engine(1000), [])


async def test_a_process_told_to_stop_while_it_waits_ends_in_order(settings: Settings) -> None:
    seen = list[Process]()
    task = asyncio.create_task(live(settings, Engine(1000), seen))
    await until(lambda: bool(seen))
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(task, 5)


@pytest.mark.parametrize("error", [None, ValueError("bug")])
async def test_an_endless_task_that_ends_ends_the_process(settings: Settings, error: Exception | None) -> None:
    others: list[str] = []

    async def ends() -> None:
        await asyncio.sleep(0)
        if error is not None:
            raise error

    async def other() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            others.append("stopped")

    engine = Engine(0)

    async def life() -> None:
        async with running("x", settings, needs=("e",)) as process:
            await process.open("e", engine.open, lambda opened: opened.ping)
            await process.work({"ends": ends(), "other": other()})

    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(life(), 5)
    assert isinstance(caught.value.exceptions[0], EndedUnasked if error is None else ValueError)
    assert others == ["stopped"]


async def test_a_task_that_does_not_end_is_not_waited_for_beyond_the_drain(settings: Settings) -> None:
    async def deaf() -> None:
        await asyncio.Event().wait()

    async with running("x", settings) as process:
        asyncio.get_running_loop().call_later(0.05, process.stop)
        await asyncio.wait_for(process.work({"deaf": deaf()}), 5)


async def test_a_port_that_is_taken_is_said_with_its_setting(settings: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", settings.admin_port))
        taken.listen()
        with pytest.raises(SettingError, match=rf"TIMELINE_ADMIN_PORT: port {settings.admin_port} .* is taken"):
            async with running("x", settings):
                pass


async def test_the_admin_port_serves_metrics(settings: Settings) -> None:
    async with running("x", settings), ClientSession(f"http://127.0.0.1:{settings.admin_port}") as http:
        async with http.get("/metrics") as answer:
            assert answer.content_type == "text/plain"
            assert "timeline_http_seconds" in await answer.text()
        async with http.get("/healthz") as answer:
            assert answer.status == 200
        async with http.get("/nothing") as answer:
            assert (answer.status, answer.content_type) == (404, "application/problem+json")
            assert answer.headers["X-Request-Id"]
            assert (await answer.json())["type"] == "/problems/not-found"
