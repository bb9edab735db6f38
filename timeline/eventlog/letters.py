"""Dead letters, read and dealt with by hand. `dead.py` is what buries them; what has been dealt with is told by marks (marks.py).

A letter's number is its offset in the dead-letter topic, whose one partition keeps all in one order. Everything here blocks, and is of
one short command; nothing is held but numbers, as runs, and the letters that are being shown or produced.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic, sleep
from typing import TypeVar

from confluent_kafka import Consumer as Client
from confluent_kafka import (
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from timeline.domain.errors import Unavailable
from timeline.eventlog import client
from timeline.eventlog.dead import headers_of
from timeline.eventlog.marks import DEALT_WITH, FROM_TOPIC, How, Numbers, mark_of
from timeline.eventlog.producer import Headers
from timeline.eventlog.topics import Topic, dead, name
from timeline.settings import Settings

RETRIES = "dead-retries"  # of an event that was produced again: how often, so that a loop can be seen
# an event that carries a mark's header never gets it back: it is said of letters, by us alone
_OURS = {FROM_TOPIC, "dead-partition", "dead-offset", "dead-reason", "dead-at-ms", "dead-stack", RETRIES, DEALT_WITH}
_CALL_SECONDS = 10.0
_POLL_SECONDS = 0.5
_MESSAGES_AT_ONCE = 500
_READ_THROUGH = 100  # letters that nobody asked for, between two that are wanted: cheaper to read than a new fetch
_ASK_AGAIN_SECONDS = 0.1
Answer = TypeVar("Answer")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Letter:
    """An event that was buried. `headers` are the event's own; what it came from, and why, is as told when it was last buried."""

    number: int
    at_ms: int
    came_from: str | None  # topic[partition]@offset
    reason: str
    stack: str
    retries: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]

    @property
    def headers_to_retry(self) -> Headers:
        """Its own, and how often it was retried, this time included."""
        return [*self.headers, (RETRIES, str(self.retries + 1).encode())]


def letter_of(message: Message) -> Letter:
    """Whatever stands in a dead-letter topic: what somebody else put there only says less."""
    said = _said(message)
    where = [
        said.get(f"dead-{part}", b"").decode(errors="backslashreplace") for part in ("topic", "partition", "offset")
    ]
    at_ms = _number(said.get("dead-at-ms"))
    return Letter(
        number=_offset(message),
        at_ms=message.timestamp()[1] if at_ms is None else at_ms,
        came_from="{}[{}]@{}".format(*where) if all(where) else None,
        reason=said.get("dead-reason", b"").decode(errors="backslashreplace"),
        stack=said.get("dead-stack", b"").decode(errors="backslashreplace"),
        retries=_number(said.get(RETRIES)) or 0,
        key=message.key(),
        value=message.value(),
        headers=tuple((each, value) for each, value in headers_of(message) if each not in _OURS),
    )


def _said(message: Message) -> Mapping[str, bytes]:
    """Headers by name; of one that repeats, what was said last."""
    return {each: value or b"" for each, value in headers_of(message)}


def _number(text: bytes | None) -> int | None:
    return int(text) if text and text.isdigit() and len(text) < 19 else None


def _offset(message: Message) -> int:
    offset = message.offset()
    assert offset is not None
    return offset


@dataclass(frozen=True, slots=True)
class Survey:
    """What stands in a dead-letter topic: letters by number, and the offset that the next message would have got."""

    letters: Numbers
    dealt_with: Mapping[How, Numbers]
    end: int

    @property
    def open(self) -> Numbers:
        """Nobody has dealt with these."""
        left = self.letters
        for numbers in self.dealt_with.values():
            left = left - numbers
        return left


class DeadTopic:
    """One dead-letter topic. Made by `open_dead_topics`. Every method raises Unavailable: Kafka does not answer, or not in time."""

    def __init__(self, topic: Topic, topic_id: str, reader: Client, settings: Settings) -> None:
        self.topic, self.events = topic, name(settings, topic)
        self.name = dead(self.events)
        self._id, self._client, self._limits = topic_id, reader, settings.limits

    def survey(self, *, whole: bool = False) -> Survey:
        """Read from the low mark, or all of it, to the end as it is now."""
        begin, end = self._bounds(whole)
        letters, dealt_with = Numbers(), {how: Numbers() for how in How}
        for message in self._read(begin, end):
            number = _offset(message)
            mark = mark_of(_said(message), message.value(), number)
            if mark is None:
                letters.add(number, number)
            else:
                for run in mark[1].runs:
                    dealt_with[mark[0]].add(*run)
        return Survey(letters, dealt_with, end)

    def read(self, numbers: Numbers) -> Iterator[Letter]:
        """Those letters, ascending, each read when it is asked for. It holds nothing, and need not be read to its end."""
        runs = deque(numbers.runs)
        while runs:
            first, last = runs.popleft()
            while runs and runs[0][0] - last <= _READ_THROUGH:
                last = runs.popleft()[1]
            for message in self._read(first, last + 1):
                if _offset(message) in numbers:
                    yield letter_of(message)

    def save_low_mark(self, survey: Survey) -> None:
        """Where the next survey may begin: below it all has been dealt with. It only spares reading, and so it does no harm that the
        broker forgets it after some days, or that another's is older. A topic that was made anew is known by its id."""
        low = next(iter(survey.open), survey.end)
        place = TopicPartition(self.name, 0, low, self._id)
        try:
            self._client.commit(offsets=[place], asynchronous=False)
        except KafkaException as error:
            _log.warning(
                "%s: the low mark is not saved, only reading takes longer: %s", self.name, client.of(error).str()
            )

    def _bounds(self, whole: bool) -> tuple[int, int]:
        place = TopicPartition(self.name, 0)
        first, end = _asked(lambda: self._client.get_watermark_offsets(place, timeout=_CALL_SECONDS))
        if whole:
            return first, end
        [low] = _asked(lambda: self._client.committed([place], timeout=_CALL_SECONDS))
        is_of_this_topic = low.error is None and low.metadata == self._id and low.offset <= end
        return max(first, low.offset) if is_of_this_topic else first, end

    def _read(self, begin: int, end: int) -> Iterator[Message]:
        """From one offset up to another, which is not included."""
        if begin >= end:
            return
        self._client.assign([TopicPartition(self.name, 0, begin)])
        spent = silent = 0.0  # what the caller does in between is not counted
        trouble = "no answer"
        while True:
            asked, is_silent = monotonic(), True
            first = self._client.poll(_POLL_SECONDS)  # `consume` would wait for all that it may take
            messages = [] if first is None else [first, *self._client.consume(_MESSAGES_AT_ONCE, 0)]
            waited = monotonic() - asked
            for message in messages:
                error = message.error()
                if error is None:
                    is_silent = False
                    if _offset(message) < end:
                        yield message
                    if _offset(message) + 1 >= end:
                        return
                elif error.code() != KafkaError._PARTITION_EOF:
                    trouble = error.str()
                elif _offset(message) >= end:
                    return  # what was last there is no message, but the end of a transaction, say
            spent, silent = spent + waited, silent + waited if is_silent else 0.0
            self._check_time(spent, silent, trouble)

    def _check_time(self, spent: float, silent: float, trouble: str) -> None:
        most = self._limits.dead_letters_read_seconds
        if silent > _CALL_SECONDS:
            raise Unavailable(f"kafka: {self.name} cannot be read: {trouble}")
        if spent > most:
            raise Unavailable(f"kafka: {self.name} is not read within {most} s (limit dead_letters_read_seconds)")


def _asked(call: Callable[[], Answer]) -> Answer:
    """Asked again for a while: a broker that has just come to lead a partition, or a group, does not know it at once. Raises
    Unavailable."""
    deadline = monotonic() + _CALL_SECONDS
    while True:
        try:
            return call()
        except KafkaException as error:
            if monotonic() > deadline:
                raise client.translate(client.of(error)) from error
        sleep(_ASK_AGAIN_SECONDS)


@contextmanager
def open_dead_topics(settings: Settings, topics: list[Topic]) -> Iterator[list[DeadTopic]]:
    """To be used one after the other. Raises Unavailable."""
    names = [dead(name(settings, topic)) for topic in topics]
    ids = _ids(AdminClient(client.connection(settings, "letters-admin")), names)
    reader = Client(
        client.connection(settings, "letters")
        | {
            "group.id": f"{settings.kafka_group}.dead",  # joins nothing: it only names the low marks
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",  # a letter whose time has come while we read
            # the broker serves one request of a connection at a time: what is asked next would wait for a fetch that waits
            "fetch.wait.max.ms": 10,
            "queued.max.messages.kbytes": 16 * 1024,
        }
    )
    try:
        yield [DeadTopic(topic, ids[each], reader, settings) for topic, each in zip(topics, names, strict=True)]
    finally:
        reader.close()


def _ids(admin: AdminClient, names: list[str]) -> Mapping[str, str]:
    """By name. Raises Unavailable, which says what to do."""
    found = {}
    for each, future in admin.describe_topics(TopicCollection(names), request_timeout=_CALL_SECONDS).items():
        try:
            topic = future.result()
        except KafkaException as error:
            if client.of(error).code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise Unavailable(f"kafka has no topic {each}: run `timeline topics apply` first") from error
            raise client.translate(client.of(error)) from error
        if len(topic.partitions) != 1:
            raise Unavailable(f"kafka: {each} has {len(topic.partitions)} partitions; letters are numbered within one")
        found[each] = str(topic.topic_id)
    return found
