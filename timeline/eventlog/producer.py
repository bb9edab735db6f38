"""The producer: librdkafka's classic one with a thread that polls it, bridged to asyncio.

confluent-kafka's own asyncio producer takes over 200 ms to acknowledge one message, this takes about one. Idempotent and acks=all:
what is acknowledged is in every replica in sync, once for each `send`. Nothing here blocks the loop: without a broker, messages wait
in the client's bounded queue until kafka_delivery_timeout_ms and then fail.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import Producer as Client

from timeline import metrics
from timeline.domain.errors import Overloaded, Unavailable
from timeline.domain.limits import Limits
from timeline.eventlog import client
from timeline.eventlog.bridge import Bridge
from timeline.settings import Settings

Headers = Sequence[tuple[str, bytes | None]]
Done = Callable[[Exception | None], None]

_POLL_SECONDS = 0.1
_QUEUE_KBYTES = 64 * 1024
_log = logging.getLogger(__name__)


def _configuration(settings: Settings) -> dict[str, Any]:
    limits = settings.limits
    return client.connection(settings, "producer") | {
        "enable.idempotence": True,
        "acks": "all",
        "delivery.timeout.ms": limits.kafka_delivery_timeout_ms,
        "queue.buffering.max.messages": limits.produces_in_flight,
        "queue.buffering.max.kbytes": _QUEUE_KBYTES,
        # measured: one at a time acknowledged in 0.12 ms p50, with 1 ms of lingering in 1.4; a busy process's events still share
        # requests, 40,000 a second
        "linger.ms": 0,
        "compression.type": "lz4",
        # Java's partitioner: any client's event of an author then goes to the same partition
        "partitioner": "murmur2_random",
        # a dead letter of the largest event carries headers besides (topics.py allows them there)
        "message.max.bytes": 2 * 1024 * 1024,
    }


class Producer:
    """Made by `open_producer`. `send` and `produce` are called on the loop."""

    def __init__(self, settings: Settings, loop: asyncio.AbstractEventLoop) -> None:
        self._limits: Limits = settings.limits
        self._config = _configuration(settings) | {"error_cb": self._on_error}
        self._bridge = Bridge(loop)
        self._fatal = False
        self._closing = threading.Event()
        self._client = Client(self._config)
        self._thread = threading.Thread(target=self._poll, name="kafka-producer", daemon=True)
        self._seconds = {
            outcome: metrics.ENGINE_CALL_SECONDS.labels("kafka", "produce", outcome)
            for outcome in ("ok", "timeout", "unavailable", "refused", "error")
        }

    def start(self) -> None:
        self._thread.start()

    def send(self, topic: str, key: bytes | None, value: bytes | None, done: Done, headers: Headers = ()) -> None:
        """Hand a message to the client's queue; `done(None)` or `done(error)` runs on the loop, once.

        Raises Overloaded at once when the queue is full, Unavailable after close; then `done` is not called.
        """
        started = perf_counter()
        try:
            if self._closing.is_set():
                raise Unavailable("kafka: the producer is closed")
            self._client.produce(
                topic,
                value,
                key,
                headers=list(headers) or None,
                on_delivery=partial(self._on_delivery, done, started),
            )
        except BufferError as error:
            self._seconds["refused"].observe(perf_counter() - started)
            raise Overloaded("kafka: the producer's queue is full") from error
        except KafkaException as error:
            raised = client.translate(client.of(error))
            self._observe(raised, started)
            raise raised from error

    async def produce(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        """Send, and wait for the acknowledgement. Raises Unavailable, OutcomeUnknown (it may be in Kafka), Overloaded."""
        acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: Exception | None) -> None:
            if acknowledged.done():  # the caller was cancelled
                return
            if error is None:
                acknowledged.set_result(None)
            else:
                acknowledged.set_exception(error)

        self.send(topic, key, value, done, headers)
        await acknowledged

    async def close(self, seconds: float) -> None:
        """Wait up to `seconds` for what is in flight; the rest fails with Unavailable or OutcomeUnknown."""
        if not self._closing.is_set():
            await asyncio.to_thread(self._close, seconds)
            await asyncio.sleep(0)  # the last acknowledgements are posted: let them run

    def _close(self, seconds: float) -> None:
        self._client.flush(seconds)
        self._closing.set()
        self._thread.join()
        if len(self._client):
            self._client.purge()
            self._client.flush(1.0)  # serves the callbacks of what was purged; nothing is sent any more

    def _poll(self) -> None:
        while not self._closing.is_set():
            self._client.poll(_POLL_SECONDS)
            if self._fatal:
                self._replace()

    def _replace(self) -> None:
        """A fatal error (the broker forgot an idempotent producer's state) ends a client for good: go on with a new one."""
        old, self._fatal = self._client, False
        self._client = Client(self._config)
        old.purge()
        old.flush(1.0)

    def _on_error(self, error: KafkaError) -> None:
        # the client repeats its complaint while the broker is away: the log's level keeps it readable, outages are told by callers
        if error.fatal():
            self._fatal = True
            _log.error("kafka producer: fatal, a new one takes over: %s", error.str())
        else:
            _log.debug("kafka producer: %s", error.str())

    def _on_delivery(self, done: Done, started: float, error: KafkaError | None, _message: Message) -> None:
        raised = None if error is None else client.translate(error)
        self._observe(raised, started)
        self._bridge.post(partial(done, raised))

    def _observe(self, raised: Exception | None, started: float) -> None:
        outcome = (
            "ok"
            if raised is None
            else next((name for kind, name in client.OUTCOMES.items() if isinstance(raised, kind)), "error")
        )
        self._seconds[outcome].observe(perf_counter() - started)


@asynccontextmanager
async def open_producer(settings: Settings, close_seconds: float | None = None) -> AsyncIterator[Producer]:
    """A producer; leaving waits up to `close_seconds` (drain_seconds unless told) for what is in flight."""
    producer = Producer(settings, asyncio.get_running_loop())
    producer.start()
    try:
        yield producer
    finally:
        await producer.close(settings.limits.drain_seconds if close_seconds is None else close_seconds)
