"""Telling of tweets: beside the answer for the api, and waited for by the relay.

A tweet is durable before it comes here (its outbox row stands), so nothing here may hold up an answer, and anything may be given up:
what is not acknowledged, or not cleared, the relay finds.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from timeline import metrics
from timeline.domain.errors import Unavailable
from timeline.domain.model import Tweet
from timeline.eventlog import codec
from timeline.eventlog.ports import Outbox
from timeline.eventlog.producer import Producer, open_producer
from timeline.eventlog.topics import Topic, name
from timeline.settings import Settings

_log = logging.getLogger(__name__)


class Publisher:
    """EventLog (writing/ports.py) and EventProducer (fanout/ports.py). Made by `open_publisher`."""

    def __init__(
        self,
        settings: Settings,
        producer: Producer,
        outbox: Outbox,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._producer, self._outbox, self._sleep = producer, outbox, sleep
        self._topic = name(settings, Topic.tweet_created)
        self._in_flight_max = settings.limits.produces_in_flight
        self._clears_max, self._per_query = settings.limits.clears_in_flight, settings.limits.clears_per_query
        self._gather_seconds = settings.limits.clears_gather_ms / 1000
        self._in_flight = 0  # handed over and not yet cleared
        self._is_closed = False
        self._is_away = False
        self._to_clear: deque[Tweet] = deque()  # bounded by what is in flight
        self._clearing: set[asyncio.Task[None]] = set()
        self._clearers = 0  # of them, those that will look again at what waits
        self._idle = asyncio.Event()
        self._idle.set()
        self._counts = {outcome: metrics.PRODUCED.labels(outcome) for outcome in ("ok", "failed", "left")}

    def tweet_created(self, tweet: Tweet) -> None:
        """Hand it to Kafka beside the answer, and clear its outbox row when acknowledged. Never raises, never waits."""
        if self._is_closed or self._in_flight >= self._in_flight_max:
            self._counts["left"].inc()
            return
        event = codec.created(tweet)
        try:
            self._producer.send(self._topic, codec.key(event), codec.encode(event), partial(self._produced, tweet))
        except Unavailable as error:
            self._counts["left"].inc()
            self._say_away(error)
            return
        self._in_flight += 1
        self._idle.clear()

    async def produce_created(self, tweet: Tweet) -> None:
        """Hand it to Kafka and wait until it is acknowledged; the outbox is the caller's. Raises Unavailable, OutcomeUnknown."""
        event = codec.created(tweet)
        await self._producer.produce(self._topic, codec.key(event), codec.encode(event))

    async def drain(self, seconds: float) -> None:
        """Take no more, and wait up to `seconds` for acknowledgements and clears. The rest is left to the relay."""
        self._is_closed = True
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            _log.warning("%d tweets' events are left to the relay", self._in_flight)

    async def close(self) -> None:
        self._is_closed = True
        self._to_clear.clear()
        for task in self._clearing:
            task.cancel()
        await asyncio.gather(*self._clearing, return_exceptions=True)  # at most clears_in_flight

    def _produced(self, tweet: Tweet, error: Exception | None) -> None:
        if error is not None:
            self._counts["failed"].inc()
            self._say_away(error)
            self._finished()
            return
        self._counts["ok"].inc()
        if self._is_away:
            self._is_away = False
            _log.info("kafka takes events again")
        self._to_clear.append(tweet)
        if self._clearers < self._clears_max and len(self._to_clear) > self._clearers * self._per_query:
            self._clearers += 1
            task = asyncio.create_task(self._clear_all(), name="outbox-clear")
            self._clearing.add(task)
            task.add_done_callback(self._clearing.discard)

    async def _clear_all(self) -> None:
        """One of at most clears_in_flight: clear until nothing is waiting."""
        try:
            while self._to_clear:
                await self._sleep(self._gather_seconds)
                count = min(self._per_query, len(self._to_clear))
                if count:
                    await self._clear([self._to_clear.popleft() for _ in range(count)])
        finally:
            # in one step with the look at what waits: a task counted after that would leave a tweet to nobody
            self._clearers -= 1

    async def _clear(self, tweets: Sequence[Tweet]) -> None:
        try:
            await self._outbox.clear_many(tweets)
        except Unavailable as error:
            # the rows stay: the relay tells of the tweets once more, which changes nothing
            _log.debug("outbox rows of %d tweets not cleared: %s", len(tweets), error)
        finally:
            self._finished(len(tweets))

    def _finished(self, count: int = 1) -> None:
        self._in_flight -= count
        if not self._in_flight:
            self._idle.set()

    def _say_away(self, error: Exception) -> None:
        if not self._is_away:
            self._is_away = True
            _log.warning("kafka takes no events, the outbox holds them: %s", error)


@asynccontextmanager
async def open_publisher(settings: Settings, outbox: Outbox) -> AsyncIterator[Publisher]:
    """A publisher with a producer of its own. Leaving waits at most drain_seconds in all for what is under way."""
    seconds = settings.limits.drain_seconds / 2
    async with open_producer(settings, close_seconds=seconds) as producer:
        publisher = Publisher(settings, producer, outbox)
        try:
            yield publisher
        finally:
            await publisher.drain(seconds)
            await producer.close(0)
            await publisher.close()
