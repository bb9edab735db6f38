"""What a test may look at behind the API: how far fan-out is, and the lists in Redis."""

from __future__ import annotations

from confluent_kafka import Consumer, TopicPartition
from redis.cluster import ClusterNode, RedisCluster

from tests.stack import Stack


def messages_behind(stack: Stack) -> int:
    """Between what fan-out has committed and the ends of its topics: below what is committed everything is in Redis. Slices are
    counted last: a tweet that is done has become slices before."""
    group = stack.settings["TIMELINE_KAFKA_GROUP"]
    return _behind(stack, group, "tweet.created") + _behind(stack, f"{group}.slices", "fanout.slice")


def _behind(stack: Stack, group: str, topic: str) -> int:
    settings = stack.settings
    reader = Consumer({"bootstrap.servers": settings["TIMELINE_KAFKA_BOOTSTRAP"], "group.id": group})
    try:
        topic = settings["TIMELINE_KAFKA_TOPIC_PREFIX"] + topic
        numbers = reader.list_topics(topic, timeout=10).topics[topic].partitions
        behind = 0
        for place in reader.committed([TopicPartition(topic, number) for number in numbers], timeout=10):
            first, end = reader.get_watermark_offsets(place, timeout=10)
            behind += end - max(place.offset, first)
        return behind
    finally:
        reader.close()


class Lists:
    """Home and profile lists."""

    def __init__(self, stack: Stack) -> None:
        nodes = [node.rsplit(":", 1) for node in stack.settings["TIMELINE_REDIS_NODES"].split(",")]
        startup = [ClusterNode(host, int(port)) for host, port in nodes]  # type: ignore[no-untyped-call]
        self._redis = RedisCluster(startup_nodes=startup)
        self._prefix = stack.settings["TIMELINE_REDIS_KEY_PREFIX"]

    def exists(self, user: int) -> bool:
        return bool(self._redis.exists(f"{self._prefix}timeline:{{{user}}}"))

    def evict(self, user: int) -> None:
        """All that is cached of a user."""
        kinds = ("timeline", "profile", "reader", "marks")
        self._redis.delete(*(f"{self._prefix}{kind}:{{{user}}}" for kind in kinds))

    def close(self) -> None:
        self._redis.close()
