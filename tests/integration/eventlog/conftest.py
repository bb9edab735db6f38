"""Kafka for real; topics and a group of its own for each test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import time
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, Message

from timeline.domain.ids import TweetId, UserId, first_id_at
from timeline.domain.limits import Limits
from timeline.domain.model import Tweet
from timeline.eventlog.codec import created, encode, key
from timeline.eventlog.consumer import Consumer as Events
from timeline.eventlog.producer import Producer
from timeline.eventlog.topics import Topic, ensure_topics, name
from timeline.local import Control
from timeline.settings import Settings

MakeSettings = Callable[..., Settings]


@pytest.fixture
def make_settings(engines: Control) -> MakeSettings:
    """Settings with the same new topics for every call; limits and other settings by keyword."""
    prefix, group = f"test-{uuid4().hex[:12]}.", f"group-{uuid4().hex[:12]}"

    def make(limits: dict[str, int] | None = None, **changes: object) -> Settings:
        settings = Settings(
            **{
                "kafka_bootstrap": engines.env["TIMELINE_KAFKA_BOOTSTRAP"],
                "kafka_replication": 1,
                "kafka_topic_prefix": prefix,
                "kafka_group": group,
                "kafka_partitions": 3,
                "limits": Limits(**{"kafka_commit_interval_ms": 50, "drain_seconds": 8, **(limits or {})}),
                **changes,
            }
        )
        return settings

    return make


@pytest.fixture(params=["consumer", "classic"])
def settings(request: pytest.FixtureRequest, make_settings: MakeSettings) -> Settings:
    """Topics exist; once for each group protocol."""
    settings = make_settings(kafka_group_protocol=request.param)
    ensure_topics(settings)
    return settings


def make_tweet(number: int, author: int = 0) -> Tweet:
    tweet_id = TweetId(first_id_at(int(time() * 1000) - 60_000) + number)
    return Tweet(id=tweet_id, author_id=UserId(author), text="", version=1, conversation_id=tweet_id)


async def tell(producer: Producer, settings: Settings, tweets: list[Tweet]) -> list[int]:
    """Produce their events, acknowledged; the ids."""
    for tweet in tweets:
        event = created(tweet)
        await producer.produce(name(settings, Topic.tweet_created), key(event), encode(event))
    return [tweet.id for tweet in tweets]


async def take(events: Events, number: int, seconds: float = 30) -> list[int]:
    """The ids of the next so many events, each batch done."""
    taken: list[int] = []
    async with asyncio.timeout(seconds):
        while len(taken) < number:
            batch = await events.batch()
            taken += [event.tweet_id for event in batch.events]
            await events.done(batch)
    return taken


async def nothing_comes(events: Events, seconds: float = 1.0) -> bool:
    """Whether no event arrives within the time."""
    try:
        async with asyncio.timeout(seconds):
            await events.batch()
    except TimeoutError:
        return True
    return False


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Return when it holds, looked at again and again; TimeoutError if that takes longer."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  what is waited for is in another thread, or sets no event
            await asyncio.sleep(0.01)


def read_all(settings: Settings, topic: str, number: int) -> list[Message]:
    """The first so many messages of a topic, by a plain client. Blocks."""
    reader = Consumer(
        {
            "bootstrap.servers": ",".join(settings.kafka_bootstrap),
            "group.id": uuid4().hex,
            "auto.offset.reset": "earliest",
        }
    )
    reader.subscribe([topic])
    try:
        messages: list[Message] = []
        deadline = time() + 30
        while len(messages) < number and time() < deadline:
            message = reader.poll(0.5)
            if message is not None and message.error() is None:
                messages.append(message)
        return messages
    finally:
        reader.close()
