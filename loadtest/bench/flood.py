"""Many events at one moment, and how far fan-out is with them.

They are produced in one transaction: consumers, who read what is committed, see none of them until it is, and then all. So a worker
that has joined and waits begins with a full topic, and nothing of filling it falls into its time.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from timeline.domain.events import TweetCreated
from timeline.domain.ids import TweetId, UserId, first_id_at
from timeline.eventlog import codec
from timeline.eventlog.topics import Topic

_SECONDS = 30.0
_POLL_EVERY = 1_000
_NOBODY = UserId(1 << 62)  # follows nobody, is followed by nobody


class Flood:
    """Events for one stack's fan-out."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        common = {"bootstrap.servers": settings["TIMELINE_KAFKA_BOOTSTRAP"]}
        topics, group = settings["TIMELINE_KAFKA_TOPIC_PREFIX"], settings["TIMELINE_KAFKA_GROUP"]
        self._topic, self._slices = topics + Topic.tweet_created, topics + Topic.fanout_slice
        self._producer = Producer(
            common
            | {
                # as the service's own, but for the transaction
                "transactional.id": uuid.uuid4().hex,
                "transaction.timeout.ms": 600_000,
                "queue.buffering.max.messages": 1_000_000,
                "linger.ms": 0,
                "compression.type": "lz4",
                "partitioner": "murmur2_random",
            }
        )
        self._producer.init_transactions(_SECONDS)
        self._tweets_done = _Committed(common, group, self._topic)
        self._slices_done = _Committed(common, f"{group}.slices", self._slices)
        self._ends: dict[int, int] = {}

    def close(self) -> None:
        self._tweets_done.close()
        self._slices_done.close()

    def knock(self, now_ms: int) -> None:
        """An event that nobody gets to each partition: once they are committed, a worker has them all."""
        self._producer.begin_transaction()
        for number in self._tweets_done.partitions:
            event = TweetCreated(TweetId(first_id_at(now_ms) + number), _NOBODY, 0)
            self._producer.produce(self._topic, codec.encode(event), partition=number, on_delivery=self._note)
        self.show()

    def fill(self, events: Iterable[TweetCreated]) -> None:
        """Produce them, by author, to be seen when `show` is called. Returns when Kafka has them all."""
        self._producer.begin_transaction()
        for count, event in enumerate(events, 1):
            self._producer.produce(self._topic, codec.encode(event), codec.key(event), on_delivery=self._note)
            if count % _POLL_EVERY == 0:
                self._producer.poll(0)
        if left := self._producer.flush(_SECONDS):
            raise TimeoutError(f"kafka has not taken {left} events within {_SECONDS} s")

    def show(self) -> None:
        """All at once."""
        self._producer.commit_transaction(_SECONDS)

    def is_done(self) -> bool:
        """Whether all that was shown, and every slice made of it, is committed by the fan-out."""
        # slices are put into Kafka before the tweet that they are of is committed
        return self._tweets_done.reaches(self._ends) and self._slices_done.reaches(self._slices_done.ends())

    def _note(self, error: KafkaError | None, message: Message) -> None:
        """An end is just above the last event: what the transaction itself writes above that is nobody's to commit."""
        if error is not None:
            raise RuntimeError(f"kafka did not take an event: {error.str()}")
        number, offset = message.partition(), message.offset()
        assert number is not None
        assert offset is not None
        self._ends[number] = max(self._ends.get(number, 0), offset + 1)


class _Committed:
    """What a group has committed of a topic."""

    def __init__(self, common: Mapping[str, Any], group: str, topic: str) -> None:
        self._client = Consumer({**common, "group.id": group})
        self._topic = topic
        self.partitions = sorted(self._client.list_topics(topic, timeout=_SECONDS).topics[topic].partitions)

    def close(self) -> None:
        self._client.close()

    def ends(self) -> dict[int, int]:
        """Of the partitions that hold anything."""
        places = {number: TopicPartition(self._topic, number) for number in self.partitions}
        marks = {
            number: self._client.get_watermark_offsets(place, timeout=_SECONDS) for number, place in places.items()
        }
        return {number: end for number, (first, end) in marks.items() if end > first}

    def reaches(self, ends: Mapping[int, int]) -> bool:
        if not ends:
            return True
        asked = [TopicPartition(self._topic, number) for number in ends]
        return all(place.offset >= ends[place.partition] for place in self._client.committed(asked, timeout=_SECONDS))
