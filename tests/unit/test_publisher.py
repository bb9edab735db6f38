"""Telling of tweets beside the answer: never in its way, and what is given up stays in the outbox."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import pytest

from tests.unit.fake_clock import settle
from timeline import metrics
from timeline.domain.errors import OutcomeUnknown, Overloaded, Unavailable
from timeline.domain.ids import TweetId, UserId
from timeline.domain.limits import Limits
from timeline.domain.model import Tweet
from timeline.eventlog.producer import Done, Producer
from timeline.eventlog.publisher import Publisher
from timeline.settings import Settings

ONE_BY_ONE = Limits(clears_per_query=1)


class FakeProducer:
    def __init__(self) -> None:
        self.sent: list[Done] = []
        self.refuses: Exception | None = None

    def send(self, topic: str, key: bytes, value: bytes, done: Done, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        if self.refuses:
            raise self.refuses
        self.sent.append(done)

    def acknowledge(self, error: Exception | None = None) -> None:
        """All that is in flight, in one turn of the loop as the bridge does."""
        sent, self.sent = self.sent, []
        for done in sent:
            done(error)


class FakeOutbox:
    def __init__(self) -> None:
        self.cleared: list[int] = []
        self.queries: list[int] = []
        self.under_way = self.under_way_max = 0
        self.error: Exception | None = None
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def clear_many(self, tweets: Sequence[Tweet]) -> None:
        self.under_way += 1
        self.under_way_max = max(self.under_way, self.under_way_max)
        await self.may_go_on.wait()
        self.under_way -= 1
        if self.error:
            raise self.error
        self.queries.append(len(tweets))
        self.cleared += [tweet.id for tweet in tweets]


def tweet(number: int) -> Tweet:
    return Tweet(id=TweetId(number), author_id=UserId(1), text="", version=1, conversation_id=TweetId(number))


def publisher(producer: FakeProducer, outbox: FakeOutbox, **limits: int) -> Publisher:
    settings = Settings(limits=replace(ONE_BY_ONE, **limits))
    return Publisher(settings, cast(Producer, producer), outbox, lambda _: asyncio.sleep(0))


def produced(outcome: str) -> float:
    return metrics.PRODUCED.labels(outcome)._value.get()


async def test_a_tweet_is_cleared_when_its_event_is_acknowledged_and_not_before() -> None:
    producer, outbox = FakeProducer(), FakeOutbox()
    telling = publisher(producer, outbox)
    telling.tweet_created(tweet(1))
    await settle()
    assert outbox.cleared == []
    producer.acknowledge()
    await settle()
    assert outbox.cleared == [1]


async def test_no_acknowledged_tweet_is_forgotten_however_clears_and_acknowledgements_fall_together() -> None:
    """Clearers end in the very turn in which more comes."""
    producer, outbox = FakeProducer(), FakeOutbox()
    telling = publisher(producer, outbox, clears_in_flight=2)
    for turns in range(6):
        outbox.cleared.clear()
        for number in (1, 2):
            telling.tweet_created(tweet(number))
        producer.acknowledge()
        for _ in range(turns):
            await asyncio.sleep(0)
        telling.tweet_created(tweet(3))
        producer.acknowledge()
        await settle()
        assert outbox.cleared == [1, 2, 3], f"{turns} turns of the loop later"
    await telling.drain(0)


async def test_clears_in_flight_are_bounded() -> None:
    producer, outbox = FakeProducer(), FakeOutbox()
    telling = publisher(producer, outbox, clears_in_flight=3)
    outbox.may_go_on.clear()
    for number in range(20):
        telling.tweet_created(tweet(number))
    producer.acknowledge()
    await settle()
    assert outbox.under_way == 3
    outbox.may_go_on.set()
    await settle()
    assert sorted(outbox.cleared) == list(range(20))
    assert outbox.under_way_max == 3


async def test_rows_are_cleared_many_at_once() -> None:
    producer, outbox = FakeProducer(), FakeOutbox()
    telling = publisher(producer, outbox, clears_per_query=8)
    for number in range(20):
        telling.tweet_created(tweet(number))
    producer.acknowledge()
    await settle()
    assert sorted(outbox.cleared) == list(range(20))
    assert sorted(outbox.queries) == [4, 8, 8]
    await telling.drain(0)


async def test_beyond_the_bound_tweets_are_left_to_the_relay_and_counted() -> None:
    producer, outbox = FakeProducer(), FakeOutbox()
    telling = publisher(producer, outbox, produces_in_flight=2)
    before = produced("left")
    for number in range(5):
        telling.tweet_created(tweet(number))
    assert len(producer.sent) == 2
    assert produced("left") == before + 3
    producer.acknowledge()
    await settle()
    telling.tweet_created(tweet(9))
    assert len(producer.sent) == 1, "there is room again"


async def test_a_producer_that_refuses_or_fails_never_raises_and_clears_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    producer, outbox = FakeProducer(), FakeOutbox()
    telling = publisher(producer, outbox)
    left, failed = produced("left"), produced("failed")
    with caplog.at_level(logging.INFO, "timeline.eventlog.publisher"):
        producer.refuses = Overloaded("full")
        telling.tweet_created(tweet(1))
        producer.refuses = None
        for number in (2, 3):
            telling.tweet_created(tweet(number))
        producer.acknowledge(OutcomeUnknown("timed out"))
        await settle()
        assert outbox.cleared == []
        assert (produced("left"), produced("failed")) == (left + 1, failed + 2)
        assert len(caplog.records) == 1, "an outage is said once"
        telling.tweet_created(tweet(4))
        producer.acknowledge()
        assert caplog.records[-1].message == "kafka takes events again"
    await telling.drain(0)


async def test_a_clear_that_fails_costs_nothing_but_the_row() -> None:
    producer, outbox = FakeProducer(), FakeOutbox()
    telling = publisher(producer, outbox)
    outbox.error = Unavailable("cassandra is away")
    telling.tweet_created(tweet(1))
    producer.acknowledge()
    await settle()
    outbox.error = None
    telling.tweet_created(tweet(2))
    producer.acknowledge()
    await settle()
    assert outbox.cleared == [2]


async def test_draining_waits_for_acknowledgements_within_its_bound_and_takes_no_more() -> None:
    producer, outbox = FakeProducer(), FakeOutbox()
    telling = publisher(producer, outbox)
    telling.tweet_created(tweet(1))
    draining = asyncio.create_task(telling.drain(60))
    await settle()
    left = produced("left")
    telling.tweet_created(tweet(2))
    assert produced("left") == left + 1
    producer.acknowledge()
    await draining
    assert outbox.cleared == [1]

    stuck = publisher(producer, outbox)
    stuck.tweet_created(tweet(3))
    await stuck.drain(0.01)
    await stuck.close()
