"""Dead letters: events that cannot be decoded, kept whole, with what went wrong in their headers."""

from __future__ import annotations

import logging
import random
import traceback
from asyncio import sleep
from time import time

from confluent_kafka import Message

from timeline import metrics
from timeline.domain.errors import PoisonEvent, Unavailable
from timeline.domain.limits import Limits
from timeline.eventlog.marks import FROM_TOPIC
from timeline.eventlog.producer import Headers, Producer
from timeline.eventlog.topics import dead

_FIRST_PAUSE_SECONDS = 0.1
_log = logging.getLogger(__name__)


class Row:
    """How many poisoned events came one after another."""

    def __init__(self, in_a_row_max: int) -> None:
        self._in_a_row_max, self._in_a_row = in_a_row_max, 0

    def fine(self) -> None:
        """An event was good."""
        self._in_a_row = 0

    def poisoned(self, reason: PoisonEvent) -> None:
        """Raises PoisonEvent when there are too many: then the fault is ours, and nothing more is to be buried."""
        self._in_a_row += 1
        if self._in_a_row > self._in_a_row_max:
            raise PoisonEvent(f"{self._in_a_row} poisoned events in a row, the last: {reason}") from reason


class DeadLetters:
    """Buries messages."""

    def __init__(self, producer: Producer, limits: Limits) -> None:
        self._producer, self._limits = producer, limits

    async def bury(self, message: Message, reason: PoisonEvent) -> None:
        """Return when the dead letter is acknowledged, however long Kafka is away: before that its offset must not pass."""
        where = f"{message.topic()}[{message.partition()}]@{message.offset()}"
        _log.warning("dead letter: %s: %s", where, reason)
        await self._produce(message, self._headers(message, reason))
        metrics.DEAD_LETTERS.labels(message.topic()).inc()

    async def _produce(self, message: Message, headers: Headers) -> None:
        topic = dead(message.topic() or "")
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self._producer.produce(topic, message.key(), message.value(), headers)
            except Unavailable as error:
                _log.warning("%s takes nothing, asking again: %s", topic, error)
            await sleep(pause * random.uniform(0.5, 1))
            pause = min(pause * 2, self._limits.retry_pause_max_ms / 1000)

    def _headers(self, message: Message, reason: PoisonEvent) -> Headers:
        stack = "".join(traceback.format_exception(reason)).encode()[-self._limits.dead_letter_stack_bytes_max :]
        said = {
            FROM_TOPIC: str(message.topic()),
            "dead-partition": str(message.partition()),
            "dead-offset": str(message.offset()),
            "dead-reason": str(reason),
            "dead-at-ms": str(int(time() * 1000)),
        }
        # a letter that is buried again keeps the headers of the first time: Kafka's headers may repeat
        told = [(name, value.encode()) for name, value in said.items()]
        return [*headers_of(message), *told, ("dead-stack", stack)]


def headers_of(message: Message) -> list[tuple[str, bytes | None]]:
    """As they stand there: in order, repeated ones and those without a value too."""
    headers = message.headers() or []
    pairs = list(headers.items()) if isinstance(headers, dict) else list(headers)
    return [(name, value.encode() if isinstance(value, str) else value) for name, value in pairs]
