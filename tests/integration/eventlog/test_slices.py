"""Slices on a real Kafka: spread over partitions, taken one by one, by a group of their own."""

from __future__ import annotations

from confluent_kafka import Consumer as Client
from confluent_kafka import TopicPartition

from tests.integration.eventlog.conftest import make_tweet, read_all, take, tell, until
from timeline.domain.events import FanoutSlice
from timeline.domain.ids import TweetId, UserId, first_id_at
from timeline.eventlog.consumer import open_slices, open_tweets
from timeline.eventlog.producer import open_producer
from timeline.eventlog.slices import SliceLog
from timeline.eventlog.topics import Topic, dead, name
from timeline.settings import Settings

TWEET = TweetId(first_id_at(1_780_000_000_000))


def slices(number: int, author: int = 7) -> list[FanoutSlice]:
    return [FanoutSlice(TWEET, UserId(author), 5, shard, 2, {"language": "de"}) for shard in range(number)]


async def taken(log: SliceLog, number: int) -> list[FanoutSlice]:
    found: list[FanoutSlice] = []
    while len(found) < number:
        batch = await log.batch()
        assert len(batch.events) == 1
        found += batch.events
        await log.done(batch)
    return found


def committed(settings: Settings, group: str, topic: str) -> int:
    """Of all partitions together. Blocks."""
    reader = Client({"bootstrap.servers": ",".join(settings.kafka_bootstrap), "group.id": group})
    try:
        places = [TopicPartition(topic, number) for number in range(settings.kafka_partitions)]
        return sum(max(0, place.offset) for place in reader.committed(places, timeout=10))
    finally:
        reader.close()


async def test_slices_come_as_they_were_put_and_are_committed_by_their_own_group(settings: Settings) -> None:
    topic = name(settings, Topic.fanout_slice)
    async with open_producer(settings) as producer, open_slices(settings, producer) as log:
        await log.produce(slices(40))
        found = await taken(log, 40)
        assert sorted(found, key=lambda each: each.shard) == slices(40)
        await until(lambda: committed(settings, settings.kafka_slice_group, topic) == 40)
    assert committed(settings, settings.kafka_group, topic) == 0
    assert len({message.partition() for message in read_all(settings, topic, 40)}) == settings.kafka_partitions


async def test_a_backlog_of_slices_holds_up_no_tweet(settings: Settings) -> None:
    async with (
        open_producer(settings) as producer,
        open_slices(settings, producer) as log,
        open_tweets(settings, producer) as tweets,
    ):
        await log.produce(slices(5_000))
        await log.batch()  # and it is never done
        told = await tell(producer, settings, [make_tweet(number) for number in range(10)])
        assert sorted(await take(tweets, 10, seconds=10)) == sorted(told)


async def test_what_is_no_slice_goes_to_the_dead_letters_of_slices(settings: Settings) -> None:
    topic = name(settings, Topic.fanout_slice)
    async with open_producer(settings) as producer, open_slices(settings, producer) as log:
        await producer.produce(topic, b"7:0", b'{"version": 1, "tweet_id": "1", "author_id": "7"}')
        await log.produce(slices(1))
        assert await taken(log, 1) == slices(1)
    (letter,) = read_all(settings, dead(topic), 1)
    assert ("dead-reason", b"shard is not the number of one") in (letter.headers() or [])


async def test_a_worker_with_a_name_is_a_member_of_both_groups(settings: Settings) -> None:
    settings = settings.model_copy(update={"kafka_group_instance": "worker-1"})
    async with (
        open_producer(settings) as producer,
        open_slices(settings, producer) as log,
        open_tweets(settings, producer) as tweets,
    ):
        told = await tell(producer, settings, [make_tweet(number) for number in range(10)])
        await log.produce(slices(3))
        assert sorted(await take(tweets, 10)) == sorted(told)
        assert len(await taken(log, 3)) == 3
