"""The producer and the publisher on a real Kafka, and without one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic

import pytest
from confluent_kafka import KafkaError

from tests.integration.eventlog.conftest import MakeSettings, make_tweet, read_all, until
from timeline import metrics
from timeline.domain.errors import Unavailable
from timeline.domain.model import Tweet
from timeline.eventlog.codec import decode
from timeline.eventlog.producer import open_producer
from timeline.eventlog.publisher import open_publisher
from timeline.eventlog.topics import Topic, dead, ensure_topics, name
from timeline.local import Control
from timeline.settings import Settings


class FakeOutbox:
    def __init__(self) -> None:
        self.cleared: set[int] = set()

    async def clear_many(self, tweets: Sequence[Tweet]) -> None:
        self.cleared.update(tweet.id for tweet in tweets)


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    settings = make_settings()
    ensure_topics(settings)
    return settings


async def test_what_is_acknowledged_is_in_the_topic_with_its_key_and_headers(settings: Settings) -> None:
    topic = name(settings, Topic.tweet_created)
    async with open_producer(settings) as producer:
        await producer.produce(topic, b"7", b"value", [("name", b"header")])
    [message] = read_all(settings, topic, 1)
    assert (message.key(), message.value(), message.headers()) == (b"7", b"value", [("name", b"header")])


async def test_many_at_once_keep_the_order_of_each_author(settings: Settings) -> None:
    outbox = FakeOutbox()
    tweets = [make_tweet(number, author=number % 5) for number in range(2000)]
    async with open_publisher(settings, outbox) as publisher:
        for tweet in tweets:
            publisher.tweet_created(tweet)
        await until(lambda: len(outbox.cleared) == len(tweets))
    events = [decode(each.value(), 2**62, 0) for each in read_all(settings, name(settings, Topic.tweet_created), 2000)]
    for author in range(5):
        told = [event.tweet_id for event in events if event.author_id == author]
        assert told == [tweet.id for tweet in tweets if tweet.author_id == author]


async def test_leaving_waits_for_what_was_handed_over(settings: Settings) -> None:
    outbox = FakeOutbox()
    async with open_publisher(settings, outbox) as publisher:
        for number in range(500):
            publisher.tweet_created(make_tweet(number))
    assert len(outbox.cleared) == 500


async def test_a_topic_that_is_not_there_is_unavailable_and_a_closed_producer_too(make_settings: MakeSettings) -> None:
    settings = make_settings({"kafka_delivery_timeout_ms": 2000})
    async with open_producer(settings) as producer:
        with pytest.raises(Unavailable):
            await producer.produce("no-such-topic", b"7", b"value")
    with pytest.raises(Unavailable):
        await producer.produce("no-such-topic", b"7", b"value")


async def test_a_dead_letter_topic_takes_what_is_larger_than_any_event(settings: Settings) -> None:
    topic = dead(name(settings, Topic.tweet_created))
    async with open_producer(settings) as producer:
        await producer.produce(topic, None, b"x" * 1_040_000, [("dead-stack", b"y" * 60_000)])


async def test_after_a_fatal_error_a_new_client_takes_over(settings: Settings) -> None:
    topic = name(settings, Topic.tweet_created)
    async with open_producer(settings) as producer:
        before = producer._client
        producer._on_error(KafkaError(KafkaError._FATAL, "the broker forgot us", fatal=True))
        await until(lambda: producer._client is not before)
        await producer.produce(topic, b"7", b"value")


async def test_with_kafka_stopped_telling_stays_quick_and_bounded_and_ends_when_it_is_back(
    settings: Settings, make_settings: MakeSettings, engines: Control
) -> None:
    settings = make_settings({"produces_in_flight": 300, "kafka_delivery_timeout_ms": 60_000})
    outbox = FakeOutbox()
    left = metrics.PRODUCED.labels("left")._value.get()
    tweets = [make_tweet(number) for number in range(400)]
    async with open_publisher(settings, outbox) as publisher:
        await publisher.produce_created(make_tweet(1000))
        await asyncio.to_thread(engines.stop, "kafka")
        try:
            started = monotonic()
            for tweet in tweets:
                publisher.tweet_created(tweet)
            assert monotonic() - started < 0.5
            assert metrics.PRODUCED.labels("left")._value.get() == left + 100
            await asyncio.sleep(0.2)
            assert outbox.cleared == set()
        finally:
            await asyncio.to_thread(engines.start, "kafka")
        await until(lambda: len(outbox.cleared) == 300, 60)
    assert outbox.cleared == {tweet.id for tweet in tweets[:300]}


async def test_with_kafka_stopped_leaving_takes_no_longer_than_its_bound(
    settings: Settings, make_settings: MakeSettings, engines: Control
) -> None:
    settings = make_settings({"drain_seconds": 2})
    outbox = FakeOutbox()
    failed = metrics.PRODUCED.labels("failed")._value.get()
    await asyncio.to_thread(engines.stop, "kafka")
    try:
        async with open_publisher(settings, outbox) as publisher:
            for number in range(50):
                publisher.tweet_created(make_tweet(number))
            started = monotonic()
        assert monotonic() - started < 4
        assert outbox.cleared == set()
        assert metrics.PRODUCED.labels("failed")._value.get() == failed + 50, "each of them is accounted for"
    finally:
        await asyncio.to_thread(engines.start, "kafka")
