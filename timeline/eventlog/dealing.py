"""Dealing with dead letters: produced again, or dropped, and marked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from confluent_kafka import KafkaException

from timeline.domain.errors import PoisonEvent
from timeline.domain.limits import Limits
from timeline.eventlog.letters import DeadTopic, Letter, Survey
from timeline.eventlog.marks import DEALT_WITH, How, Numbers
from timeline.eventlog.producer import Producer

_BYTES_AT_ONCE = 8 * 1024 * 1024  # well below what the producer's queue holds
Tell = Callable[[Letter], None]


async def deal(
    topic: DeadTopic, survey: Survey, numbers: Numbers, how: How, producer: Producer, limits: Limits, tell: Tell
) -> int:
    """Deal with these letters, each of which is open by the survey; `tell` of each that is marked. How many that were.

    What is retried is acknowledged before it is marked: whoever is killed in between repeats dead_letters_at_once at most, and an
    event that comes twice changes nothing. Raises Unavailable, and PoisonEvent for a letter that Kafka refuses: then those that were
    told are dealt with, and the others are not.
    """
    letters, done = topic.read(numbers), 0
    while some := await asyncio.to_thread(_some, letters, limits.dead_letters_at_once):
        fine, error = (some, None) if how is How.dropped else await _retry(topic, some, producer)
        if fine:
            marked = Numbers(letter.number for letter in fine)
            await producer.produce(topic.name, None, str(marked).encode(), [(DEALT_WITH, how.encode())])
            for run in marked.runs:
                survey.dealt_with[how].add(*run)
        for letter in fine:
            tell(letter)
        done += len(fine)
        if error is not None:
            raise error
    if done:
        await asyncio.to_thread(topic.save_low_mark, survey)
    return done


async def _retry(
    topic: DeadTopic, letters: Sequence[Letter], producer: Producer
) -> tuple[list[Letter], BaseException | None]:
    """In their order. Those that Kafka has acknowledged, and the first error."""
    told = await asyncio.gather(
        *(producer.produce(topic.events, each.key, each.value, each.headers_to_retry) for each in letters),
        return_exceptions=True,
    )
    fine = [letter for letter, error in zip(letters, told, strict=True) if error is None]
    for letter, error in zip(letters, told, strict=True):
        if isinstance(error, KafkaException):  # no waiting makes it right
            refused = PoisonEvent(f"Kafka refuses letter {letter.number} of {topic.topic}: {error}. Drop it")
            refused.__cause__ = error
            return fine, refused
        if error is not None:
            return fine, error
    return fine, None


def _some(letters: Iterator[Letter], most: int) -> list[Letter]:
    """The next of them; none when there are no more."""
    some: list[Letter] = []
    size = 0
    for letter in letters:
        some.append(letter)
        size += len(letter.value or b"")
        if len(some) >= most or size >= _BYTES_AT_ONCE:
            break
    return some
