"""The composition root: the only room that knows every other. Each process, and each job, is put together here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TypeVar

from timeline.api.app import make_app
from timeline.api.auth import make_authenticator
from timeline.api.serving import serving
from timeline.cache import open_cache
from timeline.cache.sampling import HomeLists
from timeline.eventlog.consumer import open_slices, open_tweets
from timeline.eventlog.letters_command import dead_letters
from timeline.eventlog.producer import open_producer
from timeline.eventlog.publisher import open_publisher
from timeline.eventlog.reach import open_reach
from timeline.fanout import relay
from timeline.ops.audit import Audit
from timeline.ops.command import make_load_command
from timeline.ops.doctor import make_doctor_command
from timeline.ops.job import make_job_command, make_reclassify_command
from timeline.settings import Settings
from timeline.store import open_store
from timeline.wiring.process import run, running
from timeline.wiring.rooms import (
    list_key,
    make_edits,
    make_examiner,
    make_fanout,
    make_likes,
    make_marked,
    make_markers,
    make_relations,
    make_signer,
    make_writer,
    open_classes,
    open_doors,
    open_examiner,
    open_reading,
)

__all__ = ["doctor", "job", "load", "run_api", "run_audit", "run_fanout", "run_relay"]

One = TypeVar("One")
Other = TypeVar("Other")

doctor = make_doctor_command(open_examiner, list_key)
load = make_load_command(open_doors)
job = make_job_command(dead_letters, make_reclassify_command(open_classes))


def run_api(settings: Settings) -> int:
    """Serve the API to its end: the exit code. Raises SettingError."""
    return run("api", settings, _api)


def run_fanout(settings: Settings) -> int:
    """Fan out to the end: the exit code. Raises SettingError."""
    return run("fanout", settings, _fanout)


def run_relay(settings: Settings) -> int:
    """Relay to the end: the exit code. Raises SettingError."""
    return run("relay", settings, _relay)


def run_audit(settings: Settings, per_second: float) -> int:
    """Audit to the end: the exit code. Raises SettingError."""
    return run("audit", settings, lambda settings: _audit(settings, per_second))


async def _api(settings: Settings) -> None:
    """Starts without Kafka: the outbox holds what is posted meanwhile."""
    authenticator, signer = make_authenticator(settings), make_signer(settings)
    async with running("api", settings, reads_from=("cassandra", "redis"), also=("kafka",)) as process:
        store = await process.open("cassandra", lambda: open_store(settings), lambda store: store.ping)
        cache = await process.open("redis", lambda: open_cache(settings), lambda cache: cache.ping)
        await process.open("kafka", lambda: open_reach(settings, now=False), lambda reach: reach.ping)
        events = await process.stack.enter_async_context(open_publisher(settings, store.outbox))
        reading, people = await process.stack.enter_async_context(open_reading(settings, signer, store, cache))
        app = make_app(
            writer=make_writer(settings, store, cache, events),
            relations=make_relations(settings, store, cache),
            likes=make_likes(settings, store, cache),
            edits=make_edits(settings, store, cache),
            markers=make_markers(store),
            reading=reading,
            people=people,
            marked=make_marked(signer, store, reading, people),
            authenticator=authenticator,
            limits=settings.limits,
        )
        await process.stack.enter_async_context(
            serving(app, name="PORT", host=settings.host, port=settings.port, limits=settings.limits)
        )
        await process.work({}, beside={"notices": store.notices.run()})


async def _fanout(settings: Settings) -> None:
    async with running("fanout", settings, needs=("cassandra", "redis", "kafka")) as process:
        store = await process.open("cassandra", lambda: open_store(settings), lambda store: store.ping)
        cache = await process.open("redis", lambda: open_cache(settings), lambda cache: cache.ping)
        await process.open("kafka", lambda: open_reach(settings, now=True), lambda reach: reach.ping)
        # no time to close: after the drain nobody waits for an acknowledgement, and what was not acknowledged is made again
        producer = await process.stack.enter_async_context(open_producer(settings, close_seconds=0))
        tweets, slices = await process.stack.enter_async_context(
            _left_at_once(open_tweets(settings, producer), open_slices(settings, producer))
        )
        work = make_fanout(settings, store, cache, tweets, slices, process.stopping)
        await process.work({"fanout": work}, beside={"notices": store.notices.run()})


@asynccontextmanager
async def _left_at_once(
    one: AbstractAsyncContextManager[One], other: AbstractAsyncContextManager[Other]
) -> AsyncIterator[tuple[One, Other]]:
    """Entered one after the other, and left together: it takes as long as the slower of them."""
    first, second = AsyncExitStack(), AsyncExitStack()
    try:
        yield await first.enter_async_context(one), await second.enter_async_context(other)
    finally:
        await asyncio.gather(first.aclose(), second.aclose())


async def _relay(settings: Settings) -> None:
    async with running("relay", settings, needs=("cassandra", "kafka")) as process:
        store = await process.open("cassandra", lambda: open_store(settings), lambda store: store.ping)
        await process.open("kafka", lambda: open_reach(settings, now=True), lambda reach: reach.ping)
        events = await process.stack.enter_async_context(open_publisher(settings, store.outbox))
        work = relay.run_relay(store.outbox, store.tweets, events, settings.limits, process.stopping)
        await process.work({"relay": work})


async def _audit(settings: Settings, per_second: float) -> None:
    async with running("audit", settings, needs=("cassandra", "redis")) as process:
        store = await process.open("cassandra", lambda: open_store(settings), lambda store: store.ping)
        cache = await process.open("redis", lambda: open_cache(settings), lambda cache: cache.ping)
        homes, examiner = HomeLists(cache.plane, cache.keys), make_examiner(settings, store, cache)
        audit = Audit(homes, examiner, settings.limits, per_second)
        await process.work({"audit": audit.run(process.stopping)}, beside={"notices": store.notices.run()})
