"""Events as fan-out takes them: in batches, done in any order, committed by watermark."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import time

from confluent_kafka import Message

from timeline.domain.errors import PoisonEvent
from timeline.domain.events import TweetCreated
from timeline.domain.limits import Limits
from timeline.eventlog import codec
from timeline.eventlog.buffer import Buffer
from timeline.eventlog.dead import DeadLetters, Row
from timeline.eventlog.lag import LagWatch
from timeline.eventlog.ledger import Ledger, Partition, Runs
from timeline.eventlog.member import Member
from timeline.eventlog.producer import open_producer
from timeline.eventlog.topics import Topic, name
from timeline.fanout.ports import Batch
from timeline.settings import Settings


def _now_ms() -> int:
    return int(time() * 1000)


@dataclass(frozen=True, slots=True, eq=False)
class _Taken:
    """A batch's token: its messages, beside its events, and its runs of offsets."""

    messages: Sequence[Message]
    runs: Runs
    rejected: set[int] = field(default_factory=set)


class Consumer:
    """Events (fanout/ports.py). Made by `open_consumer`; batches may be done out of order, by one task or several."""

    def __init__(
        self, limits: Limits, buffer: Buffer, ledger: Ledger, dead: DeadLetters, clock_ms: Callable[[], int] = _now_ms
    ) -> None:
        self._limits, self._buffer, self._ledger, self._dead, self._clock_ms = limits, buffer, ledger, dead, clock_ms
        # apart: a batch decodes well before any of it is rejected
        self._undecodable, self._rejected = Row(limits.poison_in_a_row_max), Row(limits.poison_in_a_row_max)

    async def batch(self) -> Batch:
        """The next events, at least one, at most fanout_batch_events. What cannot be decoded has gone to the dead-letter topic.

        Raises PoisonEvent when too many in a row could not be decoded, and whatever ended the poll thread (Unavailable when
        Kafka threw us out for good). Cancelled, what was taken stays uncommitted.
        """
        while True:
            messages, runs = await self._buffer.take(self._limits.fanout_batch_events, self._claim)
            batch = await self._decode(messages, runs)
            if batch.events:
                return batch
            self._ledger.finish(runs)

    async def done(self, batch: Batch) -> None:
        """The watermark may pass; the poll thread commits it within kafka_commit_interval_ms. Raises what ended that thread."""
        if self._buffer.error is not None:
            raise self._buffer.error
        taken = batch.token
        assert isinstance(taken, _Taken)
        if len(taken.rejected) < len(batch.events):
            self._rejected.fine()
        self._ledger.finish(taken.runs)

    async def reject(self, event: TweetCreated, batch: Batch, reason: str) -> None:
        """To its dead-letter topic, acknowledged, before `done`. Raises PoisonEvent when too many came in a row."""
        taken = batch.token
        assert isinstance(taken, _Taken)
        at = next(at for at, other in enumerate(batch.events) if other is event)
        poison = PoisonEvent(reason)
        self._rejected.poisoned(poison)
        await self._dead.bury(taken.messages[at], poison)
        taken.rejected.add(at)

    def _claim(self, messages: Sequence[Message]) -> Runs:
        offsets: dict[Partition, tuple[int, int]] = {}
        for message in messages:
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            assert topic is not None
            assert partition is not None
            assert offset is not None
            first, last = offsets.get((topic, partition), (offset, offset - 1))
            # a step back is a log that was cut: what came before belongs to no account any more
            offsets[topic, partition] = (first if offset > last else offset, offset)
        return self._ledger.take(offsets)

    async def _decode(self, messages: Sequence[Message], runs: Runs) -> Batch:
        events, good = [], []
        for message in messages:
            try:
                event = codec.decode(message.value(), self._clock_ms(), self._limits.clock_skew_ms)
            except PoisonEvent as poison:
                self._undecodable.poisoned(poison)
                await self._dead.bury(message, poison)
                continue
            self._undecodable.fine()
            events.append(event)
            good.append(message)
        return Batch(events, _Taken(good, runs))


@asynccontextmanager
async def open_consumer(settings: Settings) -> AsyncIterator[Consumer]:
    """A member of settings.kafka_group on `tweet.created`. Leaving commits what is done; what is not comes again."""
    loop = asyncio.get_running_loop()
    ledger = Ledger()
    buffer = Buffer(settings.limits.kafka_buffer_events, loop)
    member = Member(settings, name(settings, Topic.tweet_created), buffer, ledger)
    lag = LagWatch(settings, ledger)
    async with open_producer(settings, close_seconds=settings.limits.drain_seconds / 4) as producer:
        member.start()
        lag.start()
        try:
            yield Consumer(settings.limits, buffer, ledger, DeadLetters(producer, settings.limits))
        finally:
            await asyncio.gather(asyncio.to_thread(member.stop), asyncio.to_thread(lag.stop))
