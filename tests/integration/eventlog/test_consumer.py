"""The consumer on a real Kafka, by both group protocols: nothing is lost, nothing is committed ahead."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from textwrap import dedent
from typing import Any

import orjson
import pytest
from confluent_kafka import KafkaException

from tests.integration.eventlog.conftest import MakeSettings, make_tweet, nothing_comes, read_all, take, tell, until
from timeline import metrics
from timeline.domain.errors import PoisonEvent
from timeline.domain.events import TweetCreated
from timeline.domain.ids import first_id_at
from timeline.eventlog.consumer import Consumer, open_tweets
from timeline.eventlog.lag import LagWatch
from timeline.eventlog.ledger import Ledger
from timeline.eventlog.producer import Producer, open_producer
from timeline.eventlog.topics import Topic, dead, ensure_topics, name
from timeline.fanout.ports import Batch
from timeline.local import Control
from timeline.settings import Settings


@pytest.fixture
async def producer(settings: Settings) -> AsyncIterator[Producer]:
    async with open_producer(settings) as producer:
        yield producer


def shrink(settings: Settings, **limits: int) -> Settings:
    return settings.model_copy(update={"limits": type(settings.limits)(**{**_fields(settings), **limits})})


def _fields(settings: Settings) -> dict[str, int]:
    return {each: getattr(settings.limits, each) for each in settings.limits.__slots__}


def lag(settings: Settings) -> int:
    """Messages that the group has not committed. Blocks."""
    topic = name(settings, Topic.tweet_created)
    watch = LagWatch(settings, settings.kafka_group, Ledger())
    try:
        return sum(watch.ask((topic, number) for number in range(settings.kafka_partitions)).values())
    finally:
        watch.close()


def lag_once_told(settings: Settings) -> int:
    """The same; -1 while a broker that has just started cannot tell."""
    try:
        return lag(settings)
    except KafkaException:
        return -1


def tweets(number: int, first: int = 0) -> list[object]:
    return [make_tweet(first + each, author=each % 7) for each in range(number)]


async def test_what_is_done_does_not_come_again_and_what_is_not_does(settings: Settings, producer: Producer) -> None:
    told = await tell(producer, settings, tweets(50))
    async with open_tweets(settings, producer) as events:
        assert sorted(await take(events, 50)) == sorted(told)
    assert lag(settings) == 0
    more = await tell(producer, settings, tweets(20, first=100))
    async with open_tweets(settings, producer) as events:
        batch = await events.batch()
        assert {event.tweet_id for event in batch.events} <= set(more)
    async with open_tweets(settings, producer) as events:
        assert sorted(await take(events, 20)) == sorted(more)


async def test_a_later_batch_that_is_done_first_commits_nothing_ahead_of_an_earlier_one(
    settings: Settings, producer: Producer
) -> None:
    settings = shrink(settings, fanout_batch_events=5)
    told = await tell(producer, settings, [make_tweet(number) for number in range(20)])  # one author, one partition
    async with open_tweets(settings, producer) as events:
        batches = [await events.batch() for _ in range(4)]
        await events.done(batches[0])
        for batch in batches[2:]:
            await events.done(batch)
        await until(lambda: lag(settings) == 15)
    async with open_tweets(settings, producer) as events:
        assert await take(events, 15) == told[5:]


async def test_done_is_committed_beside_within_a_second(settings: Settings, producer: Producer) -> None:
    await tell(producer, settings, tweets(10))
    async with open_tweets(settings, producer) as events:
        await take(events, 10)
        await until(lambda: lag(settings) == 0, 2)


async def test_a_slow_taker_pauses_the_partitions_and_loses_nothing(settings: Settings, producer: Producer) -> None:
    settings = shrink(settings, kafka_buffer_events=10, fanout_batch_events=4)
    told = await tell(producer, settings, tweets(200))
    async with open_tweets(settings, producer) as events:
        first = await take(events, 4)
        await asyncio.sleep(1.5)
        assert len(events._buffer._messages) <= 12, "a message or two may slip in while partitions are being paused"
        taken = first + await take(events, 196)
        assert sorted(taken) == sorted(told)
        assert await nothing_comes(events, 0.5)


async def test_two_workers_share_and_hand_over_without_loss(settings: Settings, producer: Producer) -> None:
    seen: Counter[int] = Counter()
    by_worker: list[set[int]] = [set(), set()]

    async def work(events: Consumer[TweetCreated], worker: int) -> None:
        while True:
            batch = await events.batch()
            await asyncio.sleep(0.02)
            seen.update(event.tweet_id for event in batch.events)
            by_worker[worker].update(event.tweet_id for event in batch.events)
            await events.done(batch)

    async def until_seen(ids: set[int]) -> None:
        await until(lambda: ids <= set(seen), 60)

    settings = shrink(settings, fanout_batch_events=10)
    told: set[int] = set()
    async with open_tweets(settings, producer) as first:
        one = asyncio.create_task(work(first, 0))
        told |= set(await tell(producer, settings, tweets(50)))
        async with open_tweets(settings, producer) as second:
            other = asyncio.create_task(work(second, 1))
            async with asyncio.timeout(60):
                number = 1000
                while not by_worker[1]:
                    told |= set(await tell(producer, settings, tweets(20, first=number)))
                    number += 20
                    await asyncio.sleep(0.05)
            await until_seen(told)
            other.cancel()
            await asyncio.wait([other])
        told |= set(await tell(producer, settings, tweets(50, first=100_000)))
        await until_seen(told)
        one.cancel()
        await asyncio.wait([one])
    assert set(seen) == told
    assert by_worker[1]
    assert max(seen.values()) <= 2, "only what was under way when partitions moved may come twice"


async def hold(events: Consumer[TweetCreated], number: int) -> list[Batch[TweetCreated]]:
    """Batches under way that hold so many events."""
    batches: list[Batch[TweetCreated]] = []
    async with asyncio.timeout(30):
        while sum(len(batch.events) for batch in batches) < number:
            batches.append(await events.batch())
    return batches


@asynccontextmanager
async def another_worker(settings: Settings) -> AsyncIterator[set[int]]:
    """Joins the group; the set grows with the events that it gets, each done."""
    got: set[int] = set()

    async def work() -> None:
        async with open_tweets(settings, producer) as events:
            while True:
                batch = await events.batch()
                await events.done(batch)
                got.update(event.tweet_id for event in batch.events)

    task = asyncio.create_task(work())
    try:
        yield got
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_batch_under_way_is_waited_for_before_its_partition_goes(
    settings: Settings, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = shrink(settings, kafka_revoke_wait_ms=20_000)
    told = set(await tell(producer, settings, tweets(30)))
    async with open_tweets(settings, producer) as first:
        batches = await hold(first, 30)
        waiting = threading.Event()
        wait_idle = first._ledger.wait_idle

        def spied(*arguments: Any) -> bool:
            waiting.set()
            return wait_idle(*arguments)

        monkeypatch.setattr(first._ledger, "wait_idle", spied)
        async with another_worker(settings) as got:
            await until(waiting.is_set)
            assert not got
            for batch in batches:
                await first.done(batch)
            number = 1000
            async with asyncio.timeout(30):
                while not got:
                    await tell(producer, settings, tweets(20, first=number))
                    number += 20
                    await asyncio.sleep(0.05)
            assert not got & told, "it was committed before the partition went away"


async def test_a_batch_that_does_not_end_goes_to_who_gets_its_partition(settings: Settings, producer: Producer) -> None:
    settings = shrink(settings, kafka_revoke_wait_ms=200)
    told = set(await tell(producer, settings, tweets(30)))
    async with open_tweets(settings, producer) as first:
        batches = await hold(first, 30)
        async with another_worker(settings) as got:
            await until(lambda: bool(got))
            for batch in batches:
                await first.done(batch)  # too late: of the partitions that went it says nothing
            await until(lambda: lag(settings) == 0)
            assert got < told


async def test_poison_goes_to_its_dead_letter_topic_whole_and_its_offset_passes(
    settings: Settings, producer: Producer
) -> None:
    topic = name(settings, Topic.tweet_created)
    await producer.produce(topic, b"7", b"not json", [("trace", b"abc")])
    future = orjson.dumps({"version": 1, "tweet_id": str(first_id_at(2**42)), "author_id": "7"})
    await producer.produce(topic, b"7", future)
    [good] = await tell(producer, settings, [make_tweet(1, author=7)])
    buried = metrics.DEAD_LETTERS.labels(topic)._value.get()
    async with open_tweets(settings, producer) as events:
        assert await take(events, 1) == [good]
    assert lag(settings) == 0
    assert metrics.DEAD_LETTERS.labels(topic)._value.get() == buried + 2
    first, second = read_all(settings, dead(topic), 2)
    assert (first.key(), first.value()) == (b"7", b"not json")
    headers = dict(first.headers())
    assert headers["trace"] == b"abc"
    assert headers["dead-topic"].decode() == topic
    assert headers["dead-offset"] == b"0"
    assert headers["dead-partition"].isdigit()
    assert headers["dead-reason"].startswith(b"not JSON")
    assert b"Traceback" in headers["dead-stack"]
    assert second.value() == future
    assert b"in the future" in dict(second.headers())["dead-reason"]


async def test_too_much_poison_in_a_row_stops_the_worker_and_commits_none_of_the_rest(
    settings: Settings, producer: Producer
) -> None:
    settings = shrink(settings, poison_in_a_row_max=3)
    for _ in range(6):
        await producer.produce(name(settings, Topic.tweet_created), b"7", b"{}")
    async with open_tweets(settings, producer) as events:
        with pytest.raises(PoisonEvent, match="in a row"):
            async with asyncio.timeout(20):
                await events.batch()
    assert lag(settings) >= 3


async def test_kafka_may_stop_and_start_under_a_consumer(
    settings: Settings, producer: Producer, engines: Control
) -> None:
    told = await tell(producer, settings, tweets(10))
    async with open_tweets(settings, producer) as events:
        assert sorted(await take(events, 10)) == sorted(told)
        held = await tell(producer, settings, tweets(10, first=100))
        batch = await events.batch()
        await asyncio.to_thread(engines.stop, "kafka")
        try:
            await asyncio.sleep(1)
        finally:
            await asyncio.to_thread(engines.start, "kafka")
        await events.done(batch)
        more = await tell(producer, settings, tweets(10, first=200))
        got = [event.tweet_id for event in batch.events]
        # a member that the broker has forgotten meanwhile joins anew, which may take a session's timeout
        async with asyncio.timeout(120):
            while not set(got) >= {*held, *more}:
                got += await take(events, 1, 120)
        # before leaving: the last commit of all may find the coordinator still loading, and then its events only come again
        await until(lambda: lag_once_told(settings) == 0, 60)


async def test_leaving_while_kafka_is_away_takes_seconds_not_minutes(
    settings: Settings, producer: Producer, engines: Control
) -> None:
    await tell(producer, settings, tweets(10))
    loop = asyncio.get_running_loop()
    try:
        async with open_tweets(settings, producer) as events:
            await take(events, 10)
            await asyncio.to_thread(engines.stop, "kafka")
            started = loop.time()
        assert loop.time() - started < 20
    finally:
        await asyncio.to_thread(engines.start, "kafka")


async def test_the_lag_is_shown_by_partition_while_it_is_ours(settings: Settings, producer: Producer) -> None:
    settings = shrink(settings, consumer_lag_seconds=1)
    await tell(producer, settings, tweets(30))
    topic = name(settings, Topic.tweet_created)

    def shown() -> list[float]:
        return [
            sample.value
            for sample in metrics.CONSUMER_LAG_MESSAGES.collect()[0].samples
            if sample.labels["topic"] == topic
        ]

    async with open_tweets(settings, producer) as events:
        await until(lambda: sum(shown()) == 30 and len(shown()) == 3)
        await take(events, 30)
        await until(lambda: sum(shown()) == 0)
    assert shown() == []


WORKER = dedent(
    """
    import asyncio, sys
    from timeline.eventlog.consumer import open_tweets
    from timeline.eventlog.producer import open_producer
    from timeline.settings import read_settings

    async def main():
        settings = read_settings()
        async with open_producer(settings) as producer, open_tweets(settings, producer) as events:
            batch = await events.batch()
            print(len(batch.events), flush=True)
            await asyncio.Event().wait()

    asyncio.run(main())
    """
)


@pytest.mark.parametrize("protocol", ["consumer", "classic"])
async def test_a_killed_worker_is_replaced_under_its_own_name(protocol: str, make_settings: MakeSettings) -> None:
    settings = make_settings(kafka_group_protocol=protocol, kafka_group_instance="worker-1")
    ensure_topics(settings)
    async with open_producer(settings) as producer:
        told = await tell(producer, settings, tweets(10))
    env = os.environ | {
        "TIMELINE_KAFKA_BOOTSTRAP": ",".join(settings.kafka_bootstrap),
        "TIMELINE_KAFKA_TOPIC_PREFIX": settings.kafka_topic_prefix,
        "TIMELINE_KAFKA_GROUP": settings.kafka_group,
        "TIMELINE_KAFKA_GROUP_PROTOCOL": protocol,
        "TIMELINE_KAFKA_GROUP_INSTANCE": "worker-1",
    }
    worker = await asyncio.create_subprocess_exec(sys.executable, "-c", WORKER, env=env, stdout=asyncio.subprocess.PIPE)
    try:
        assert worker.stdout is not None
        assert int(await asyncio.wait_for(worker.stdout.readline(), 30)) > 0
    finally:
        worker.send_signal(signal.SIGKILL)
        await worker.wait()
    async with open_producer(settings) as producer, open_tweets(settings, producer) as events:
        assert sorted(await take(events, 10, seconds=60)) == sorted(told)
