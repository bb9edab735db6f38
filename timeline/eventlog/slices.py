"""Slices of large fan-outs: put into Kafka by the worker that takes the tweet, taken by whichever is free."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from timeline.domain.events import FanoutSlice
from timeline.eventlog import codec
from timeline.eventlog.producer import Producer
from timeline.eventlog.topics import Topic, name
from timeline.fanout.ports import Batch, Events
from timeline.settings import Settings


class SliceLog:
    """fanout's Slices."""

    def __init__(self, settings: Settings, producer: Producer, taken: Events[FanoutSlice]) -> None:
        self._topic = name(settings, Topic.fanout_slice)
        self._producer, self._taken = producer, taken

    async def produce(self, slices: Sequence[FanoutSlice]) -> None:
        """Hand them to Kafka and wait until all are acknowledged. Raises Unavailable, and then some of them may be there."""
        told = await asyncio.gather(*map(self._produce, slices), return_exceptions=True)
        for error in told:
            if error is not None:
                raise error

    async def _produce(self, event: FanoutSlice) -> None:
        await self._producer.produce(self._topic, codec.slice_key(event), codec.encode_slice(event))

    async def batch(self) -> Batch[FanoutSlice]:
        return await self._taken.batch()

    async def done(self, batch: Batch[FanoutSlice]) -> None:
        await self._taken.done(batch)
