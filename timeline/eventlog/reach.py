"""Whether Kafka can be reached: what /readyz asks, and what a start waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from timeline.domain.errors import Unavailable
from timeline.eventlog import client
from timeline.eventlog.topics import Topic, name
from timeline.settings import Settings


class Reach:
    """Made by `open_reach`, with a client of its own, so that asking waits for nobody."""

    def __init__(self, settings: Settings) -> None:
        self._admin: AdminClient | None = AdminClient(client.connection(settings, "reach"))
        self._topic = name(settings, Topic.tweet_created)
        self._seconds = settings.limits.readiness_check_ms / 1000
        self._asking = asyncio.Lock()  # one thread at most, however often it is asked

    async def ping(self) -> None:
        """Raises Unavailable unless a broker answers and every partition of `tweet.created` has a leader."""
        async with self._asking:
            await asyncio.to_thread(self._ping)

    async def close(self) -> None:
        """Let the client go, and its threads: health keeps this object to the process's end. Waits for an asking under way."""
        async with self._asking:
            await asyncio.to_thread(self._let_go)

    def _let_go(self) -> None:
        self._admin = None  # destroyed here, on a thread, since it waits for threads of its own

    def _ping(self) -> None:
        if self._admin is None:
            raise Unavailable("kafka: this process is ending")
        try:
            found = self._admin.list_topics(self._topic, timeout=self._seconds).topics.get(self._topic)
        except KafkaException as error:
            raise client.translate(client.of(error)) from error
        if found is None or not found.partitions:
            raise Unavailable(f"kafka has no topic {self._topic}: run `timeline topics apply` first")
        if any(partition.leader < 0 for partition in found.partitions.values()):
            raise Unavailable(f"kafka: partitions of {self._topic} are without a leader")


@asynccontextmanager
async def open_reach(settings: Settings, *, now: bool) -> AsyncIterator[Reach]:
    """`now`: raises Unavailable when Kafka cannot be reached at once."""
    reach = Reach(settings)
    try:
        if now:
            await reach.ping()
        yield reach
    finally:
        await reach.close()
