"""The driver's sockets on our loop: more than a socket takes at once, TLS, timers, and a loop that has ended."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop
from cassandra.connection import ConnectionShutdown, DefaultEndPoint

from tests.integration.store.test_session import Proxy
from tests.integration.tls import make_certificate, proxy, server_context
from timeline.domain.errors import Unavailable
from timeline.domain.ids import UserId
from timeline.domain.limits import Limits
from timeline.settings import Settings
from timeline.store import Store, open_store
from timeline.store.reactor import LoopConnection, Timer, connection_on
from timeline.store.session import Cql, Kind

_PUT = Cql("t_put", "INSERT INTO tweets (user_id, bucket, tweet_id, text) VALUES (?, 0, ?, ?)", Kind.write)
_GET = Cql("t_get", "SELECT tweet_id, text FROM tweets WHERE user_id = ? AND bucket = 0 AND tweet_id = ?")
LARGE = 2_000_000  # characters: eight of them are more than the buffers of two sockets hold


def text_of(number: int) -> str:
    return f"{number}:" + "\u00e5" * (LARGE // 2)


@asynccontextmanager
async def store_at(settings: Settings, port: int, **changes: object) -> AsyncIterator[Store]:
    at = {"cassandra_hosts": (f"127.0.0.1:{port}",), "limits": Limits(cassandra_timeout_ms=30_000)}
    async with open_store(settings.model_copy(update=at | changes)) as store:
        await store.session.prepare([_PUT, _GET])
        yield store


async def put_and_get(store: Store, user: UserId, numbers: range) -> None:
    await asyncio.gather(*(store.session.run(_PUT, (user, number, text_of(number))) for number in numbers))
    rows = await asyncio.gather(*(store.session.rows(_GET, (user, number)) for number in numbers))
    assert [row for (row,) in rows] == [(number, text_of(number)) for number in numbers]


async def test_what_a_socket_does_not_take_at_once_is_sent_later_and_in_order(
    settings: Settings, users: Iterator[UserId]
) -> None:
    async with Proxy(settings.cassandra_hosts[0]).serve() as between, store_at(settings, between.port) as store:
        user = next(users)
        between.hold()
        puts = [asyncio.create_task(store.session.run(_PUT, (user, one, text_of(one)))) for one in range(8)]
        await asyncio.sleep(0)  # they are handed to the driver
        await asyncio.sleep(0)  # and sent, as far as that goes
        with pytest.raises(Unavailable):  # the driver knows that the socket takes no more
            await store.session.run(_PUT, (user, 9, "nine"))
        assert not any(put.done() for put in puts)
        between.resume()
        await asyncio.gather(*puts)
        await put_and_get(store, user, range(4))


async def test_tls_carries_pages_larger_than_its_records_and_refuses_an_unknown_certificate(
    settings: Settings, users: Iterator[UserId], tmp_path: Path
) -> None:
    certificate, key = make_certificate(tmp_path)
    (tmp_path / "other").mkdir()
    other, _ = make_certificate(tmp_path / "other")
    async with proxy(settings.cassandra_hosts[0], server_context(certificate, key)) as port:
        async with store_at(settings, port, cassandra_tls=True, cassandra_tls_ca=certificate) as store:
            await put_and_get(store, next(users), range(4))
        impatient = {"limits": Limits(cassandra_connect_ms=300)}
        with pytest.raises(Unavailable, match=r"(?i)certificate"):
            async with store_at(settings, port, cassandra_tls=True, cassandra_tls_ca=other, **impatient):
                pass


async def test_a_timer_calls_on_the_loop_and_not_after_it_was_cancelled_by_whatever_thread() -> None:
    kind = connection_on(asyncio.get_running_loop())
    called: list[tuple[str, int]] = []

    def timer(name: str) -> Timer:
        return kind.create_timer(0.02, lambda: called.append((name, threading.get_ident())))

    timer("here")
    timer("cancelled").cancel()
    await asyncio.to_thread(timer, "there")
    (await asyncio.to_thread(timer, "cancelled there")).cancel()
    await asyncio.to_thread(timer("cancelled from there").cancel)
    later = asyncio.Event()
    kind.create_timer(0.04, later.set)  # due after all of them
    async with asyncio.timeout(10):
        await later.wait()
    assert sorted(called) == [("here", threading.get_ident()), ("there", threading.get_ident())]


def test_a_loop_that_has_ended_is_a_connection_that_has() -> None:
    """Which the driver's own threads, such as its heartbeat, expect of a reactor."""

    async def kind() -> type[LoopConnection]:
        return connection_on(asyncio.get_running_loop())

    class Deaf(asyncio.Protocol):
        pass

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        dead = runner.run(kind())
        server = runner.run(_listen(runner.get_loop(), Deaf))
        port = server.sockets[0].getsockname()[1]
        made = runner.run(asyncio.to_thread(_open, dead, port))
    outcome: list[BaseException | None] = []
    thread = threading.Thread(target=lambda: outcome.append(_push(made)))
    thread.start()
    thread.join()
    assert isinstance(outcome[0], ConnectionShutdown)
    made.close()
    assert made.is_closed


async def _listen(loop: asyncio.AbstractEventLoop, protocol: type[asyncio.Protocol]) -> asyncio.Server:
    return await loop.create_server(protocol, "127.0.0.1", 0)


def _open(kind: type[LoopConnection], port: int) -> LoopConnection:
    return kind(DefaultEndPoint("127.0.0.1", port), connect_timeout=5, protocol_version=5)


def _push(connection: LoopConnection) -> BaseException | None:
    try:
        connection.push(b"something")
    except ConnectionShutdown as error:
        return error
    return None
