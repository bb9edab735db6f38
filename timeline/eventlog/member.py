"""A member of a consumer group: the thread that polls, and everything that must happen on it.

Polling never stops, whatever the loop does: a member that does not poll is thrown out of its group. When the buffer stays full, the
partitions are paused and polling goes on. Commits are asynchronous, but for the last one before a partition goes away.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Any

from confluent_kafka import Consumer as Client
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from timeline.domain.limits import Limits
from timeline.eventlog import client
from timeline.eventlog.buffer import Buffer
from timeline.eventlog.ledger import Ledger, Partition
from timeline.settings import Settings

_POLL_SECONDS = 0.1  # an idle member wakes ten times a second; a message wakes it at once
_FULL_SECONDS = (
    1.0  # a buffer that is full for longer pauses the partitions, which throws away what was fetched: an engine is away
)
_REJOIN_PAUSE_SECONDS = 1.0
_MAX_POLL_MS = 60_000  # a thread that hangs for longer gives its partitions to others
_FETCHED_KBYTES = 16 * 1024  # in the client's own queue: some 100,000 events
_log = logging.getLogger(__name__)


def configuration(settings: Settings, group: str) -> dict[str, Any]:
    """Of a member of the group, by either protocol."""
    config = client.connection(settings, "consumer") | {
        "group.id": group,
        "group.protocol": settings.kafka_group_protocol,
        "auto.offset.reset": "earliest",  # a new group has delivered nothing yet
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "max.poll.interval.ms": _MAX_POLL_MS,
        "queued.max.messages.kbytes": _FETCHED_KBYTES,
        "fetch.wait.max.ms": 100,
        "allow.auto.create.topics": False,
    }
    if settings.kafka_group_protocol == "classic":
        config["partition.assignment.strategy"] = "cooperative-sticky"
    if settings.kafka_group_instance is not None:
        config["group.instance.id"] = settings.kafka_group_instance
    return config


class Member:
    """The poll thread. What it consumes goes to `buffer`; what `ledger` says is done, it commits."""

    def __init__(self, settings: Settings, topic: str, group: str, buffer: Buffer, ledger: Ledger) -> None:
        self._limits: Limits = settings.limits
        self._config = configuration(settings, group) | {
            "error_cb": self._on_error,
            "on_commit": self._on_commit,
        }
        self._topic, self._buffer, self._ledger = topic, buffer, ledger
        self._stopping = threading.Event()
        self._paused: set[Partition] = set()
        self._is_away = False
        self._has_joined = False
        self._commit_due = 0.0
        self._thread = threading.Thread(target=self._run, name="kafka-consumer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Commit what is done, leave, and return when the thread has ended, or after so many seconds: the client's close has been
        seen to wait for ever for a broker's answer. Then the broker finds out by the session's timeout, and no commit is lost but
        the last."""
        self._stopping.set()
        self._thread.join(seconds)
        if self._thread.is_alive():
            _log.warning("the kafka client does not close; the broker will miss this member by its session's timeout")

    def _run(self) -> None:
        try:
            self._live()
        except BaseException as error:  # noqa: BLE001  whatever ends this thread ends the worker, which waits on the buffer
            self._buffer.fail(error)

    def _live(self) -> None:
        """Join, and join again while the broker still holds our name for the worker that we replace.

        By the protocol `consumer` a name that is held is fatal to the newcomer (to a member it is fatal when another has taken its
        name), and which of the fatal errors it was the client does not tell.
        """
        deadline = monotonic() + self._limits.kafka_rejoin_seconds
        while not self._stopping.is_set():
            try:
                return self._consume()
            except KafkaException as error:
                known = client.of(error)
                if self._has_joined or known.code() != KafkaError._FATAL or monotonic() > deadline:
                    raise client.translate(known) from error
                _log.warning("cannot join the group, asking again: %s", known.str())
            self._stopping.wait(_REJOIN_PAUSE_SECONDS)

    def _consume(self) -> None:
        consumer = Client(self._config)
        try:
            consumer.subscribe(
                [self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
            while not self._stopping.is_set():
                self._buffer.put(self._fetch(consumer))
                self._commit_if_due(consumer)
            self._commit_last(consumer, self._ledger.partitions)
        finally:
            consumer.close()
            # a client that was thrown out calls nobody back
            self._drop(self._ledger.partitions)
            self._ledger.close(self._ledger.partitions)

    def _fetch(self, consumer: Client) -> list[Message]:
        """What there is, at most what the buffer has room for; waits for the first message only."""
        room_wanted = self._limits.kafka_buffer_events // 2 if self._paused else 1
        has_room = self._buffer.wait_room(room_wanted, 0 if self._paused else _FULL_SECONDS)
        self._pause(consumer, self._ledger.partitions if not has_room else set())
        first = consumer.poll(_POLL_SECONDS)
        if first is None:
            return []
        messages = [first]
        if (more := self._buffer.room - 1) > 0:
            messages += consumer.consume(more, 0)
        ours = self._ledger.partitions
        return [
            message for message in messages if self._is_good(message) and (message.topic(), message.partition()) in ours
        ]

    def _pause(self, consumer: Client, wanted: set[Partition]) -> None:
        if newly := wanted - self._paused:
            consumer.pause(_named(newly))
        # those that went away meanwhile must not be named: the client refuses them
        if again := (self._paused - wanted) & self._ledger.partitions:
            consumer.resume(_named(again))
        self._paused = wanted

    def _is_good(self, message: Message) -> bool:
        error = message.error()
        if error is None:
            self._say_back()
            return True
        if error.code() == KafkaError._FATAL:
            raise KafkaException(error)
        self._say_away(error)
        return False

    def _commit_if_due(self, consumer: Client) -> None:
        if monotonic() < self._commit_due:
            return
        self._commit_due = monotonic() + self._limits.kafka_commit_interval_ms / 1000
        if moved := self._ledger.to_commit():
            try:
                consumer.commit(offsets=_named(moved, moved), asynchronous=True)
            except KafkaException as error:
                self._say_away(client.of(error))

    def _commit_last(self, consumer: Client, partitions: Iterable[Partition]) -> None:
        """Commit what is done, and wait for the answer: nobody asks again."""
        if moved := self._ledger.to_commit(partitions):
            try:
                self._on_commit(None, consumer.commit(offsets=_named(moved, moved), asynchronous=False) or [])
            except KafkaException as error:
                _log.warning(
                    "last commit of %s failed, its events come again: %s", sorted(moved), client.of(error).str()
                )

    def _on_commit(self, error: KafkaError | None, partitions: Sequence[TopicPartition]) -> None:
        if error is not None:
            self._say_away(error)  # still to be committed: tried again with the next
            return
        for each in partitions:
            if each.error is None:
                self._ledger.committed((each.topic, each.partition), each.offset)

    def _on_assign(self, _consumer: Client, partitions: Sequence[TopicPartition]) -> None:
        names = _names(partitions)
        self._has_joined = True
        self._ledger.open(names)
        _log.info("assigned: %s", _numbers(names))

    def _on_revoke(self, consumer: Client, partitions: Sequence[TopicPartition]) -> None:
        """Runs on the poll thread, inside poll or close. Until it returns, nobody else gets these partitions."""
        names = _names(partitions)
        self._drop(names)
        if not self._stopping.is_set() and not self._ledger.wait_idle(names, self._limits.kafka_revoke_wait_ms / 1000):
            _log.warning("batches under way are given up with their partitions: their events come again elsewhere")
        self._commit_last(consumer, names)
        self._ledger.close(names)
        _log.info("revoked: %s", _numbers(names))

    def _on_lost(self, _consumer: Client, partitions: Sequence[TopicPartition]) -> None:
        """Others have them already: nothing may be committed."""
        names = _names(partitions)
        self._drop(names)
        self._ledger.close(names)
        _log.warning("lost: %s", _numbers(names))

    def _drop(self, names: set[Partition]) -> None:
        self._buffer.drop(lambda message: (message.topic(), message.partition()) in names)
        self._paused -= names

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._say_away(error)
        else:
            _log.debug("kafka consumer: %s", error.str())

    def _say_away(self, error: KafkaError) -> None:
        if not self._is_away:
            self._is_away = True
            _log.warning("kafka gives no events, asking on: %s", error.str())

    def _say_back(self) -> None:
        if self._is_away:
            self._is_away = False
            _log.info("kafka gives events again")


def _names(partitions: Iterable[TopicPartition]) -> set[Partition]:
    return {(each.topic, each.partition) for each in partitions}


def _numbers(names: Iterable[Partition]) -> list[int]:
    return sorted(number for _, number in names)


def _named(names: Iterable[Partition], offsets: dict[Partition, int] | None = None) -> list[TopicPartition]:
    if offsets is None:
        return [TopicPartition(*each) for each in names]
    return [TopicPartition(*each, offsets[each]) for each in names]
