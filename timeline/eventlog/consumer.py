"""Events as fan-out takes them: in batches, done in any order, committed by watermark.

New tweets and slices of large fan-outs are consumed by groups of their own: neither waits for the other's backlog or rebalance.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from time import time
from typing import Generic, TypeVar

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
from timeline.eventlog.producer import Producer
from timeline.eventlog.slices import SliceLog
from timeline.eventlog.topics import Topic, name
from timeline.fanout.ports import Batch
from timeline.settings import Settings

Event = TypeVar("Event")
Decode = Callable[[bytes | None, int, int], Event]


def _now_ms() -> int:
    return int(time() * 1000)


@dataclass(frozen=True, slots=True, eq=False)
class _Taken:
    """A batch's token: its runs of offsets."""

    runs: Runs


class Consumer(Generic[Event]):
    """Events (fanout/ports.py). Made by `open_tweets` or `open_slices`; batches may be done out of order, by one task or several."""

    def __init__(
        self,
        limits: Limits,
        buffer: Buffer,
        ledger: Ledger,
        dead: DeadLetters,
        decode: Decode[Event],
        batch_max: int,
        clock_ms: Callable[[], int] = _now_ms,
    ) -> None:
        self._limits, self._buffer, self._ledger, self._dead, self._clock_ms = limits, buffer, ledger, dead, clock_ms
        self._decode_one, self._batch_max = decode, batch_max
        self._undecodable = Row(limits.poison_in_a_row_max)

    async def batch(self) -> Batch[Event]:
        """The next events, at least one, at most `batch_max`. What cannot be decoded has gone to the dead-letter topic.

        Raises PoisonEvent when too many in a row could not be decoded, and whatever ended the poll thread (Unavailable when
        Kafka threw us out for good). Cancelled, what was taken stays uncommitted.
        """
        while True:
            messages, runs = await self._buffer.take(self._batch_max, self._claim)
            batch = await self._decode(messages, runs)
            if batch.events:
                return batch
            self._ledger.finish(runs)

    async def done(self, batch: Batch[Event]) -> None:
        """The watermark may pass; the poll thread commits it within kafka_commit_interval_ms. Raises what ended that thread."""
        if self._buffer.error is not None:
            raise self._buffer.error
        taken = batch.token
        assert isinstance(taken, _Taken)
        self._ledger.finish(taken.runs)

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

    async def _decode(self, messages: Sequence[Message], runs: Runs) -> Batch[Event]:
        events = []
        for message in messages:
            try:
                event = self._decode_one(message.value(), self._clock_ms(), self._limits.clock_skew_ms)
            except PoisonEvent as poison:
                self._undecodable.poisoned(poison)
                await self._dead.bury(message, poison)
                continue
            self._undecodable.fine()
            events.append(event)
        return Batch(events, _Taken(runs))


def open_tweets(settings: Settings, producer: Producer) -> AbstractAsyncContextManager[Consumer[TweetCreated]]:
    """A member of settings.kafka_group on `tweet.created`. Leaving commits what is done; what is not comes again."""
    most = settings.limits.fanout_batch_events
    return _open(settings, Topic.tweet_created, settings.kafka_group, codec.decode, most, producer)


@asynccontextmanager
async def open_slices(settings: Settings, producer: Producer) -> AsyncIterator[SliceLog]:
    """A member of settings.kafka_slice_group on `fanout.slice`, one slice a batch; and where slices are put."""
    group = settings.kafka_slice_group
    async with _open(settings, Topic.fanout_slice, group, codec.decode_slice, 1, producer) as slices:
        yield SliceLog(settings, producer, slices)


@asynccontextmanager
async def _open(
    settings: Settings, topic: Topic, group: str, decode: Decode[Event], batch_max: int, producer: Producer
) -> AsyncIterator[Consumer[Event]]:
    loop, limits = asyncio.get_running_loop(), settings.limits
    ledger = Ledger()
    buffer = Buffer(limits.kafka_buffer_events, loop)
    member = Member(settings, name(settings, topic), group, buffer, ledger)
    lag = LagWatch(settings, group, ledger)
    member.start()
    lag.start()
    try:
        yield Consumer(limits, buffer, ledger, DeadLetters(producer, limits), decode, batch_max)
    finally:
        # a worker leaves both its groups at once: drain_seconds, this and what is closed after it fit in the time that it is given
        seconds = limits.drain_seconds / 4
        await asyncio.gather(asyncio.to_thread(member.stop, seconds), asyncio.to_thread(lag.stop, seconds))
