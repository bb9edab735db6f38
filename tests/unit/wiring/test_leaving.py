"""How long a fan-out worker takes to leave a Kafka that does not answer."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.fake_clock import settle
from timeline import wiring
from timeline.domain.events import FanoutSlice
from timeline.domain.ids import TweetId, UserId
from timeline.domain.limits import Limits
from timeline.eventlog import lag, member, producer
from timeline.fanout.ports import Slices
from timeline.settings import Settings
from timeline.wiring import _fanout

_SILENT_SECONDS = 5
SLICE = FanoutSlice(TweetId(1), UserId(7), 0, 0)


class Silent:
    """A Kafka client whose broker took the connection and does not answer: closing waits for it, far longer than anybody may."""

    def __init__(self, over: threading.Event) -> None:
        self._over, self._left = over, 0

    def subscribe(self, _topics: object, **_callbacks: object) -> None: ...

    def poll(self, seconds: float) -> None:
        self._over.wait(seconds)

    def produce(self, *_message: object, **_more: object) -> None:
        self._left += 1

    def flush(self, seconds: float) -> None:
        if self._left:
            self._over.wait(seconds)

    def purge(self) -> None:
        self._left = 0

    def __len__(self) -> int:
        return self._left

    def close(self) -> None:
        self._over.wait(_SILENT_SECONDS)


@pytest.fixture
def silent_kafka(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    over = threading.Event()
    for module in (member, lag, producer):
        monkeypatch.setattr(module, "Client", lambda _config: Silent(over))
    before = set(threading.enumerate())
    yield
    over.set()
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("kafka"):
            thread.join(10)


def engine(**more: object) -> Callable[..., AbstractAsyncContextManager[SimpleNamespace]]:
    """One that is there at once and closes at once."""

    async def ping() -> None: ...

    @asynccontextmanager
    async def opened(*_settings: object, **_options: object) -> AsyncIterator[SimpleNamespace]:
        yield SimpleNamespace(ping=ping, **more)

    return opened


async def test_leaving_takes_no_longer_than_the_ten_seconds_that_draining_leaves_of_thirty(
    silent_kafka: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = Settings(admin_host="127.0.0.1", admin_port=port, limits=Limits(drain_seconds=2))
    loop, drained_at = asyncio.get_running_loop(), list[float]()

    def make_fanout(
        _settings: object, _store: object, _cache: object, _tweets: object, slices: Slices, stopping: asyncio.Event
    ) -> Coroutine[Any, Any, None]:
        async def work() -> None:
            batch = asyncio.create_task(slices.produce([SLICE]))
            await settle()  # by now the slice is the client's
            batch.cancel()  # as a batch that outlasts the drain
            stopping.set()
            drained_at.append(loop.time())

        return work()

    notices = SimpleNamespace(run=asyncio.Event().wait)
    monkeypatch.setattr(wiring, "open_store", engine(notices=notices))
    monkeypatch.setattr(wiring, "open_cache", engine())
    monkeypatch.setattr(wiring, "open_reach", engine())
    monkeypatch.setattr(wiring, "make_fanout", make_fanout)
    await _fanout(settings)
    took = loop.time() - drained_at[0]
    assert took < settings.limits.drain_seconds / 2
