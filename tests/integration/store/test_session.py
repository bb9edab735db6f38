"""The bridge to the driver, and what becomes of its errors when Cassandra is silent or gone."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import cassandra
import pytest
from cassandra.cluster import Cluster
from prometheus_client import REGISTRY

from tests.integration.store.conftest import tweet
from timeline import metrics
from timeline.domain.errors import OutcomeUnknown, Overloaded, Unavailable
from timeline.domain.ids import UserId
from timeline.domain.limits import Limits
from timeline.domain.model import TweetKey
from timeline.settings import Settings, address
from timeline.store import Store, open_store
from timeline.store import session as session_module
from timeline.store.session import Cql, Kind

NOW = 1_790_000_000_000
_PUT = Cql("t_put", "INSERT INTO followers (user_id, shard, follower_id) VALUES (?, ?, ?)", Kind.write)
_GET = Cql("t_get", "SELECT follower_id FROM followers WHERE user_id = ? AND shard = ?")
_CAS = Cql("t_cas", "INSERT INTO follower_shards (user_id, shards) VALUES (?, ?) IF NOT EXISTS", Kind.cas)
_WRONG = Cql("t_wrong", "SELECT follower_id FROM followers WHERE user_id = ? AND shard = ? LIMIT ?")


class Proxy:
    """Stands between the driver and Cassandra: passes bytes on, holds them back, or hangs up."""

    def __init__(self, server: str) -> None:
        self._target = address(server)
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.resume()
            self.hang_up()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection(*self._target)
        self._writers |= {writer, downstream}
        for source, sink in ((reader, downstream), (upstream, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await source.read(65536):
                await self._open.wait()
                sink.write(data)
        sink.close()

    def hold(self) -> None:
        self._open.clear()

    def resume(self) -> None:
        self._open.set()

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.close()
        self._writers.clear()


@asynccontextmanager
async def behind_proxy(settings: Settings, **limits: int) -> AsyncIterator[tuple[Proxy, Store]]:
    async with Proxy(settings.cassandra_hosts[0]).serve() as proxy:
        changed = {
            "cassandra_hosts": (f"127.0.0.1:{proxy.port}",),
            "limits": Limits(**({"cassandra_timeout_ms": 1000} | limits)),
        }
        async with open_store(settings.model_copy(update=changed)) as store:
            await store.session.prepare([_PUT, _GET, _CAS])
            yield proxy, store


@pytest.fixture(autouse=True)
async def _prepared(store: Store) -> None:
    await store.session.prepare([_PUT, _GET, _CAS, _WRONG])


async def test_a_silent_cassandra_is_a_timeout_and_a_write_is_of_unknown_outcome(
    settings: Settings, users: Iterator[UserId]
) -> None:
    async with behind_proxy(settings) as (proxy, store):
        user = next(users)
        await store.ping()
        proxy.hold()
        started = time.monotonic()
        calls = (
            store.session.rows(_GET, (user, 0)),
            store.session.run(_PUT, (user, 0, 1)),
            store.session.compare_and_set(_CAS, (user, 2)),
            store.tweets.add(tweet(user, NOW)),
        )
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert time.monotonic() - started < 3
        assert [isinstance(answer, OutcomeUnknown) for answer in answers] == [False, True, True, True]
        assert all(isinstance(answer, Unavailable) for answer in answers)
        assert all(answer.__cause__ is not None for answer in answers if isinstance(answer, Unavailable))
        proxy.resume()
        await until_it_answers(store)


async def until_it_answers(store: Store) -> None:
    async with asyncio.timeout(20):
        while True:
            with suppress(Unavailable):
                await store.ping()
                return
            await asyncio.sleep(0.05)


async def test_a_connection_that_breaks_is_unavailable_and_is_made_again(
    settings: Settings, users: Iterator[UserId]
) -> None:
    async with behind_proxy(settings) as (proxy, store):
        user = next(users)
        proxy.hold()
        read = asyncio.create_task(store.session.rows(_GET, (user, 0)))
        write = asyncio.create_task(store.session.run(_PUT, (user, 0, 1)))
        await asyncio.sleep(0.1)
        proxy.hang_up()
        answers = await asyncio.gather(read, write, return_exceptions=True)
        assert isinstance(answers[0], Unavailable)
        assert not isinstance(answers[0], OutcomeUnknown)
        assert isinstance(answers[1], OutcomeUnknown)
        proxy.resume()
        await until_it_answers(store)
        await store.session.run(_PUT, (user, 0, 1))
        assert await store.session.rows(_GET, (user, 0)) == [(1,)]


async def test_one_contact_point_may_be_down(settings: Settings) -> None:
    hosts = ("127.0.0.1:1", *settings.cassandra_hosts)
    async with open_store(settings.model_copy(update={"cassandra_hosts": hosts})) as store:
        await store.ping()


async def test_nobody_answering_is_unavailable_and_names_the_hosts(settings: Settings) -> None:
    changed = {"cassandra_hosts": ("127.0.0.1:1",), "limits": Limits(cassandra_connect_ms=300)}
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1 .*TIMELINE_CASSANDRA_HOSTS"):
        async with open_store(settings.model_copy(update=changed)):
            pass


async def test_a_host_without_an_address_is_one_that_does_not_answer(settings: Settings) -> None:
    changed = {"cassandra_hosts": ("nowhere.invalid:9042",), "limits": Limits(cassandra_connect_ms=300)}
    with pytest.raises(Unavailable, match=r"nowhere\.invalid:9042 .*TIMELINE_CASSANDRA_HOSTS"):
        async with open_store(settings.model_copy(update=changed)):
            pass


async def test_who_waits_for_cassandra_is_stopped_between_two_tries(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = settings.model_copy(update={"cassandra_hosts": ("127.0.0.1:1",), "limits": Limits()})
    tried, ended = threading.Event(), threading.Event()
    make, connect = session_module.new_cluster, session_module.connect

    def trying(*args: Any) -> Cluster:
        tried.set()
        return make(*args)

    def connecting(*args: Any, **options: Any) -> Any:
        try:
            return connect(*args, **options)
        finally:
            ended.set()

    monkeypatch.setattr(session_module, "new_cluster", trying)
    monkeypatch.setattr(session_module, "connect", connecting)
    waiting = asyncio.create_task(open_store(changed).__aenter__())
    assert await asyncio.to_thread(tried.wait, 10)
    assert not waiting.done()
    waiting.cancel()
    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert time.monotonic() - began < 5  # of fifteen that it would have waited: a try has 3
    assert ended.is_set()  # the exit of a process waits for its threads


async def test_a_connection_that_comes_too_late_is_closed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    made, slow = list[Cluster](), session_module.new_cluster

    def new_cluster(*args: Any) -> Cluster:
        made.append(slow(*args))
        time.sleep(0.3)
        return made[0]

    monkeypatch.setattr(session_module, "new_cluster", new_cluster)
    waiting = asyncio.create_task(open_store(settings).__aenter__())
    await asyncio.sleep(0.1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert made[0].is_shutdown


async def test_a_wrong_statement_is_a_bug_and_stays_one(store: Store) -> None:
    with pytest.raises(cassandra.InvalidRequest):
        await store.session.rows(_WRONG, (1, 0, -1))


async def test_many_at_once_are_answered_and_at_most_32_are_in_flight(store: Store, users: Iterator[UserId]) -> None:
    user = next(users)
    await asyncio.gather(*(store.session.run(_PUT, (user, 0, number)) for number in range(500)))
    answers = await asyncio.gather(*(store.session.rows(_GET, (user, 0)) for _ in range(200)))
    assert {len(rows) for rows in answers} == {500}
    assert store.session._slots._value == Limits().cassandra_requests_in_flight


async def test_a_slot_is_held_until_the_driver_answers_even_if_the_caller_went_away(
    settings: Settings, users: Iterator[UserId]
) -> None:
    async with behind_proxy(settings, cassandra_requests_in_flight=4) as (proxy, store):
        user = next(users)
        proxy.hold()
        calls = [asyncio.create_task(store.session.rows(_GET, (user, 0))) for _ in range(4)]
        await asyncio.sleep(0.05)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        assert all(call.cancelled() for call in calls)
        assert store.session._slots._value == 0
        proxy.resume()
        async with asyncio.timeout(5):
            await store.ping()
        assert store.session._slots._value == 4


async def test_beyond_the_bound_a_request_is_refused_at_once(settings: Settings, users: Iterator[UserId]) -> None:
    limits = {"cassandra_requests_in_flight": 1, "cassandra_requests_waiting_max": 3}

    def waited() -> float:
        return REGISTRY.get_sample_value("timeline_store_wait_seconds_count") or 0

    async with behind_proxy(settings, **limits) as (proxy, store):
        before = waited()
        proxy.hold()
        calls = [asyncio.create_task(store.session.rows(_GET, (next(users), 0))) for _ in range(4)]
        await asyncio.sleep(0.05)
        with pytest.raises(Overloaded):
            await store.session.rows(_GET, (next(users), 0))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(answer, Unavailable) for answer in answers)
        assert waited() - before == 3, "those that did not go at once, and were not refused"
        proxy.resume()


async def test_calls_are_measured_by_operation_and_outcome(settings: Settings, users: Iterator[UserId]) -> None:
    def calls(operation: str, outcome: str) -> float:
        return sum(
            sample.value
            for metric in metrics.ENGINE_CALL_SECONDS.collect()
            for sample in metric.samples
            if sample.name.endswith("_count")
            and sample.labels == {"engine": "cassandra", "operation": operation, "outcome": outcome}
        )

    async with behind_proxy(settings) as (proxy, store):
        before = calls("tweet_get", "ok"), calls("tweet_get", "timeout")
        key = TweetKey(next(users), tweet(1, NOW).id)
        await store.tweets.get_many([key])
        proxy.hold()
        with pytest.raises(Unavailable):
            await store.tweets.get_many([key])
        assert (calls("tweet_get", "ok"), calls("tweet_get", "timeout")) == (before[0] + 1, before[1] + 1)
        proxy.resume()
