"""Events that nobody can take, and those that only look odd: what a real fan-out process makes of them, and what `timeline job
dead-letters` makes good."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, Producer

from tests.e2e.inside import messages_behind
from tests.e2e.test_nothing_lost import SOON_OLD, follow, post, sign_up
from tests.stack import Stack, running, until
from timeline.local import Control

AUTHOR, READER = 1, 2
IN_A_ROW = 10
HOME = "/api/timeline/home"


@pytest.fixture
def stack(engines: Control, tmp_path: Path) -> Iterator[Stack]:
    """api and fanout; events of what is posted go to topics aside, from where a test takes them."""
    with running(engines.env, tmp_path, TIMELINE_LIMITS=SOON_OLD) as stack:
        stack.run("topics", "apply", TIMELINE_KAFKA_TOPIC_PREFIX=aside(stack))
        stack.start("api", TIMELINE_KAFKA_TOPIC_PREFIX=aside(stack))
        sign_up(stack, AUTHOR, READER)
        follow(stack, (READER,), AUTHOR)
        assert stack.walk(HOME, READER) == []  # from now on there is a list to push to
        yield stack


def aside(stack: Stack) -> str:
    return stack.settings["TIMELINE_KAFKA_TOPIC_PREFIX"] + "aside."


def topic(stack: Stack) -> str:
    return stack.settings["TIMELINE_KAFKA_TOPIC_PREFIX"] + "tweet.created"


def posted(stack: Stack, number: int) -> list[tuple[int, bytes]]:
    """New tweets that are stored, each with its event, which fan-out has not been told."""
    ids = [post(stack, AUTHOR, f"told later {each}") for each in range(number)]
    reader = Consumer(
        {
            "bootstrap.servers": stack.settings["TIMELINE_KAFKA_BOOTSTRAP"],
            "group.id": uuid4().hex,
            "auto.offset.reset": "earliest",
        }
    )
    reader.subscribe([f"{aside(stack)}tweet.created"])
    events: dict[int, bytes] = {}

    def all_there() -> bool:
        message = reader.poll(0.2)
        if message is not None and message.error() is None:
            value = message.value()
            assert value is not None
            events[int(json.loads(value)["tweet_id"])] = value
        return set(ids) <= set(events)

    try:
        until(all_there)
    finally:
        reader.close()
    return [(each, events[each]) for each in ids]


def produce(stack: Stack, to: str, *values: bytes, **headers: bytes) -> None:
    """All to one partition, in this order."""
    producer = Producer({"bootstrap.servers": stack.settings["TIMELINE_KAFKA_BOOTSTRAP"], "linger.ms": 100})
    for value in values:
        producer.produce(to, value, str(AUTHOR).encode(), headers={k.replace("_", "-"): v for k, v in headers.items()})
    assert producer.flush(20) == 0


def letters(stack: Stack) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stack.run("job", "dead-letters", "list", "--json").splitlines()]


def test_an_event_of_a_later_release_with_members_that_we_do_not_know_is_delivered(stack: Stack) -> None:
    stack.start("fanout")
    [(tweet, event)] = posted(stack, 1)
    later = {**json.loads(event), "version": 2, "audience": {"circle": ["9"]}, "weights": [0.5, None]}
    produce(stack, topic(stack), json.dumps(later).encode())
    until(lambda: stack.walk(HOME, READER) == [tweet])
    assert letters(stack) == []


def test_too_much_poison_in_a_row_ends_the_process_and_nothing_behind_it_is_lost(stack: Stack) -> None:
    (behind, event), (_, _) = posted(stack, 2)
    shrunk = json.dumps({**json.loads(SOON_OLD), "poison_in_a_row_max": IN_A_ROW})
    stack.start("fanout", TIMELINE_LIMITS=shrunk)
    poison = [b"poison %d \x1b[31m" % number for number in range(IN_A_ROW + 3)]
    produce(stack, topic(stack), *poison, event)
    process = stack._running["fanout"]
    assert process.wait(60) == 1
    log = stack.log_of("fanout")
    assert f"{IN_A_ROW + 1} poisoned events in a row, the last: not JSON" in log
    assert messages_behind(stack) >= len(poison) + 1 - IN_A_ROW, "an offset passed that is not in the dead-letter topic"
    found = letters(stack)
    assert [letter["value"] for letter in found] == [each.decode() for each in poison[:IN_A_ROW]]
    assert all(letter["reason"].startswith("not JSON") and letter["key"] == str(AUTHOR) for letter in found)
    assert stack.walk(HOME, READER) == []

    stack.start("fanout")  # with the limit as it ships: it is told that a hundred may be theirs
    until(lambda: stack.walk(HOME, READER) == [behind])
    until(lambda: messages_behind(stack) == 0)
    assert {letter["value"] for letter in letters(stack)} == {each.decode() for each in poison}


def test_a_letter_that_is_retried_is_delivered_and_one_that_fails_again_counts_it(stack: Stack) -> None:
    stack.start("fanout")
    [(tweet, event)] = posted(stack, 1)
    said = {"dead_topic": topic(stack).encode(), "dead_partition": b"0", "dead_offset": b"4", "dead_reason": b"a bug"}
    produce(stack, f"{topic(stack)}.dead", event, b"hopeless", **said)
    assert "a bug" in stack.run("job", "dead-letters", "list")
    assert stack.run("job", "dead-letters", "retry", "--all").splitlines()[-1] == "2 retried"
    until(lambda: stack.walk(HOME, READER) == [tweet])
    [letter] = until(lambda: letters(stack))
    assert (letter["value"], letter["retries"]) == ("hopeless", 1)
    assert stack.metric("fanout", "timeline_dead_letters_total") == 1
    assert "hopeless" in stack.run("job", "dead-letters", "drop", str(letter["number"]))
    assert stack.run("job", "dead-letters", "list") == "no open dead letters\n"
