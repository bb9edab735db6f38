"""The topics: what they are called, and that they are there.

Kafka must be told before a topic is used (automatic creation is off): with how many partitions, which decides for good how far fan-out
can be spread. A topic that exists is left as it is; a difference is said, never repaired, since more partitions move keys.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from enum import StrEnum
from time import monotonic

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
    TopicMetadata,
)

from timeline.domain.errors import Unavailable
from timeline.eventlog import client
from timeline.settings import Settings

_DEAD_RETENTION_MS = 30 * 86_400_000  # somebody must have time to read them
_DEAD_BYTES_MAX = 2 * 1024 * 1024  # the largest event (1 MB) with the headers that say why
_CALL_SECONDS = 10.0
_ASK_AGAIN_SECONDS = 0.1


class Topic(StrEnum):
    """What is told of, in the past tense."""

    tweet_created = "tweet.created"
    tweet_deleted = "tweet.deleted"
    follow_changed = "follow.changed"
    engagement = "engagement"
    fanout_slice = "fanout.slice"


def name(settings: Settings, topic: Topic) -> str:
    """What a topic is called in this deployment."""
    return settings.kafka_topic_prefix + topic


def dead(topic_name: str) -> str:
    """Where events go that cannot be decoded."""
    return f"{topic_name}.dead"


@dataclass(frozen=True, slots=True)
class TopicStatus:
    """One topic as Kafka tells it: 0 partitions is one that does not exist."""

    name: str
    partitions: int
    partitions_wanted: int
    led: int
    differs: tuple[str, ...] = ()  # options that are not as a new topic would get them

    @property
    def is_ready(self) -> bool:
        """Whether every partition has a leader: until then a produce waits."""
        return 0 < self.partitions == self.led

    def __str__(self) -> str:
        if not self.partitions:
            return f"{self.name}: missing"
        differs = "" if self.partitions == self.partitions_wanted else f" (settings say {self.partitions_wanted})"
        leaderless = "" if self.is_ready else f", {self.partitions - self.led} without a leader"
        return "; ".join([f"{self.name}: {self.partitions} partitions{differs}{leaderless}", *self.differs])


def wanted(settings: Settings) -> dict[str, int]:
    """Every topic with its number of partitions. Dead letters are few: one partition keeps them in one order."""
    names = [name(settings, topic) for topic in Topic]
    return dict.fromkeys(names, settings.kafka_partitions) | {dead(each): 1 for each in names}


def status(settings: Settings) -> list[TopicStatus]:
    """Every topic as it is. Raises Unavailable."""
    admin = AdminClient(client.connection(settings, "admin"))
    return _compared(admin, settings, _status(admin, settings))


def ensure_topics(settings: Settings, seconds: float = 30.0, say: Callable[[str], None] = lambda line: None) -> None:
    """Create what is missing and return when every partition has a leader; one line to `say` for each topic.

    Blocks up to `seconds`; on a loop, call it in a thread. Raises Unavailable. Several may run at once.
    """
    admin = AdminClient(client.connection(settings, "admin"))
    deadline = monotonic() + seconds
    missing = {topic.name for topic in _status(admin, settings) if not topic.partitions}
    if missing:
        _create(admin, settings, missing)
    while True:
        topics = _status(admin, settings)
        if all(topic.is_ready for topic in topics):
            break
        if monotonic() > deadline:
            raise Unavailable("kafka: " + "; ".join(str(topic) for topic in topics if not topic.is_ready))
        admin.poll(_ASK_AGAIN_SECONDS)
    for topic in _compared(admin, settings, topics):
        say(f"{topic}{' (created)' if topic.name in missing else ''}")


def _create(admin: AdminClient, settings: Settings, names: set[str]) -> None:
    created: dict[str, Future[None]] = admin.create_topics(
        [
            NewTopic(
                each,
                num_partitions=partitions,
                replication_factor=settings.kafka_replication,
                config=_config(settings, each),
            )
            for each, partitions in wanted(settings).items()
            if each in names
        ],
        request_timeout=_CALL_SECONDS,
    )
    for future in created.values():
        try:
            future.result()
        except KafkaException as error:
            if client.of(error).code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another was quicker
                raise client.translate(client.of(error)) from error


def _config(settings: Settings, topic_name: str) -> dict[str, str]:
    # acks=all means all in sync, and may be one. An event that was acknowledged is in no outbox any more, so two nodes must have it
    # where there are two; while one of two is away, the outbox holds what is posted
    config = {"min.insync.replicas": str(min(2, settings.kafka_replication))}
    if topic_name.endswith(dead("")):
        return config | {"retention.ms": str(_DEAD_RETENTION_MS), "max.message.bytes": str(_DEAD_BYTES_MAX)}
    return config | {"retention.ms": str(settings.limits.event_topic_seconds * 1000)}


def _compared(admin: AdminClient, settings: Settings, topics: list[TopicStatus]) -> list[TopicStatus]:
    """With the options of those that exist. Raises Unavailable."""
    asked = [ConfigResource(ResourceType.TOPIC, topic.name) for topic in topics if topic.partitions]
    there: dict[str, dict[str, ConfigEntry]] = {}
    if asked:
        for resource, future in admin.describe_configs(asked, request_timeout=_CALL_SECONDS).items():
            try:
                there[resource.name] = future.result()
            except KafkaException as error:
                raise client.translate(client.of(error)) from error
    return [replace(topic, differs=_differences(settings, topic.name, there.get(topic.name))) for topic in topics]


def _differences(settings: Settings, topic_name: str, there: dict[str, ConfigEntry] | None) -> tuple[str, ...]:
    if there is None:
        return ()
    return tuple(
        f"{option} is {there[option].value} (a new topic gets {value})"
        for option, value in _config(settings, topic_name).items()
        if there[option].value != value
    )


def _status(admin: AdminClient, settings: Settings) -> list[TopicStatus]:
    try:
        there: dict[str, TopicMetadata] = admin.list_topics(timeout=_CALL_SECONDS).topics
    except KafkaException as error:
        raise client.translate(client.of(error)) from error
    found = []
    for each, partitions in wanted(settings).items():
        parts = there[each].partitions.values() if each in there else ()
        found.append(TopicStatus(each, len(parts), partitions, sum(part.leader >= 0 for part in parts)))
    return found
