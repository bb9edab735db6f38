"""Dead letters on a real Kafka: shown, produced again, dropped; what was dealt with stays so."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict
from itertools import count

import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from tests.integration.eventlog.conftest import MakeSettings, read_all
from tests.stack import until
from timeline.domain.errors import PoisonEvent
from timeline.eventlog import dealing
from timeline.eventlog.dead import DeadLetters
from timeline.eventlog.letters import open_dead_topics
from timeline.eventlog.letters_command import dead_letters
from timeline.eventlog.producer import open_producer
from timeline.eventlog.topics import Topic, dead, ensure_topics, name
from timeline.local import Control
from timeline.settings import Settings

_offsets = count(4711)


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    settings = make_settings()
    ensure_topics(settings)
    return settings


def run(settings: Settings, *arguments: str) -> Result:
    """The command, as a process with these settings runs it."""
    env = {
        "TIMELINE_KAFKA_BOOTSTRAP": ",".join(settings.kafka_bootstrap),
        "TIMELINE_KAFKA_TOPIC_PREFIX": settings.kafka_topic_prefix,
        "TIMELINE_KAFKA_GROUP": settings.kafka_group,
        "TIMELINE_LIMITS": json.dumps(asdict(settings.limits)),
    }
    done = CliRunner().invoke(dead_letters, list(arguments), env=env)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    print(done.output)
    return done


def bury(
    settings: Settings,
    *values: bytes,
    topic: Topic = Topic.tweet_created,
    headers: Sequence[tuple[str, bytes | None]] = (),
    reason: str = "not JSON",
) -> None:
    """As fan-out does."""

    async def all_of_them() -> None:
        async with open_producer(settings) as producer:
            for value in values:
                message = Message(
                    topic=name(settings, topic),
                    partition=2,
                    offset=next(_offsets),
                    key=b"7",
                    value=value,
                    headers=list(headers),
                )
                await DeadLetters(producer, settings.limits).bury(message, PoisonEvent(reason))

    asyncio.run(all_of_them())


def listed(settings: Settings, *arguments: str) -> list[tuple[str, int, str]]:
    """Topic, number and value of each letter."""
    done = run(settings, "list", "--json", *arguments)
    assert done.exit_code == 0, done.output
    letters = [json.loads(line) for line in done.stdout.splitlines()]
    return [(letter["topic"], letter["number"], letter["value"]) for letter in letters]


def numbers(settings: Settings, *arguments: str) -> list[int]:
    return [number for _, number, _ in listed(settings, *arguments)]


def end_of(settings: Settings, topic: str) -> int:
    """How many messages a topic was given. Blocks."""
    reader = Consumer({"bootstrap.servers": ",".join(settings.kafka_bootstrap), "group.id": "none"})
    try:
        partitions = reader.list_topics(topic, timeout=10).topics[topic].partitions
        return sum(reader.get_watermark_offsets(TopicPartition(topic, each), timeout=10)[1] for each in partitions)
    finally:
        reader.close()


def test_a_letter_is_a_line_that_says_where_it_came_from_and_why(settings: Settings) -> None:
    assert run(settings, "list").stdout == "no open dead letters\n"
    bury(settings, b"not \x1b[31m json", reason="not JSON: \x07")
    bury(settings, b"a slice", topic=Topic.fanout_slice)
    first, second = run(settings, "list").stdout.splitlines()
    prefix = settings.kafka_topic_prefix
    assert first.startswith("tweet.created 0  20")
    assert f"  from {prefix}tweet.created[2]@47" in first
    assert first.endswith("  not JSON: \\x07  key 7  value not \\x1b[31m json")
    assert second.startswith("fanout.slice 0  ")
    assert run(settings, "list", "--topic", "engagement").stdout == "no open dead letters\n"
    with_stack = run(settings, "list", "--stack").stdout
    assert "    timeline.domain.errors.PoisonEvent: not JSON: \\x07\n" in with_stack
    assert all(line.isprintable() for line in with_stack.splitlines())


def test_no_more_are_shown_than_asked_for_the_oldest_first(settings: Settings) -> None:
    bury(settings, *(b"%d" % number for number in range(5)))
    bury(settings, b"a slice", topic=Topic.fanout_slice)
    done = run(settings, "list", "--limit", "3")
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["0", "1", "2"]
    assert done.stderr == "and 3 more: --limit, --topic\n"


def test_an_event_is_produced_again_as_it_was_and_counts_its_retries(settings: Settings) -> None:
    own: list[tuple[str, bytes | None]] = [("trace", b"abc"), ("trace", b"def"), ("empty", None)]
    bury(settings, b"\xff\x00", headers=own)
    done = run(settings, "retry", "0")
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "1 retried")
    [event] = read_all(settings, name(settings, Topic.tweet_created), 1)
    assert (event.key(), event.value()) == (b"7", b"\xff\x00")
    assert event.headers() == [*own, ("dead-retries", b"1")]
    assert run(settings, "list").stdout == "no open dead letters\n"
    bury(settings, b"\xff\x00", headers=event.headers())
    assert "  retried before: 1  " in run(settings, "list").stdout
    assert run(settings, "retry", "--all").exit_code == 0
    events = read_all(settings, name(settings, Topic.tweet_created), 2)
    assert events[1].headers() == [*own, ("dead-retries", b"2")]


def test_letters_are_dealt_with_in_any_order_and_stay_so(settings: Settings) -> None:
    bury(settings, *(b"%d" % number for number in range(6)))
    assert run(settings, "drop", "4", "1").stdout.splitlines()[-1] == "2 dropped"
    assert numbers(settings) == [0, 2, 3, 5]
    assert run(settings, "retry", "0", "3").exit_code == 0
    assert numbers(settings) == [2, 5]
    assert end_of(settings, name(settings, Topic.tweet_created)) == 2
    bury(settings, b"later")
    assert [value for _, _, value in listed(settings)] == ["2", "5", "later"]
    everything = run(settings, "list", "--all").stdout.splitlines()
    assert [("dropped" in line, "retried" in line) for line in everything] == [
        (False, True), (True, False), (False, False), (False, True), (True, False), (False, False), (False, False),
    ]  # fmt: skip
    assert run(settings, "drop", "--all").stdout.splitlines()[-1] == "3 dropped"
    assert numbers(settings) == []
    assert run(settings, "drop", "--all").stdout == "no open dead letters\n"


def test_what_is_dealt_with_is_known_without_what_the_broker_forgets(settings: Settings) -> None:
    bury(settings, b"0", b"1", b"2")
    run(settings, "drop", "0", "2")
    other = settings.model_copy(update={"kafka_group": f"{settings.kafka_group}-another"})  # has no low mark
    assert numbers(other) == [1]


def test_a_survey_begins_at_the_low_mark_and_only_of_the_very_same_topic(settings: Settings) -> None:
    bury(settings, b"0", b"1", b"2", b"3")
    run(settings, "drop", "0", "1", "3")

    def surveyed() -> str:
        with open_dead_topics(settings, [Topic.tweet_created]) as [topic]:
            return str(topic.survey().letters)

    assert surveyed() == "2-3"
    reader = Consumer(
        {"bootstrap.servers": ",".join(settings.kafka_bootstrap), "group.id": f"{settings.kafka_group}.dead"}
    )
    topic = dead(name(settings, Topic.tweet_created))
    [place] = reader.committed([TopicPartition(topic, 0)], timeout=10)
    for low, topic_id, expected in (
        (3, place.metadata, "3"),
        (3, "of another topic", "0-3"),
        (9, place.metadata, "0-3"),
    ):
        reader.commit(offsets=[TopicPartition(topic, 0, low, topic_id)], asynchronous=False)
        assert surveyed() == expected
    reader.close()
    assert numbers(settings) == [2]


def test_a_number_that_is_not_open_changes_nothing_and_says_which_are(settings: Settings) -> None:
    bury(settings, b"0", b"1", b"2")
    run(settings, "drop", "1")
    for command in ("retry", "drop"):
        for wanted in (["0", "9"], ["1"]):
            done = run(settings, command, *wanted)
            assert done.exit_code == 2
            assert f"tweet.created has no open letter {wanted[-1]}: open are 0, 2; nothing was changed" in done.stderr
    assert numbers(settings) == [0, 2]
    assert end_of(settings, name(settings, Topic.tweet_created)) == 0
    assert "none is open; nothing was changed" in run(settings, "drop", "0", "--topic", "engagement").stderr


def test_where_several_topics_have_letters_a_number_needs_its_topic(settings: Settings) -> None:
    bury(settings, b"a tweet")
    bury(settings, b"a slice", topic=Topic.fanout_slice)
    done = run(settings, "retry", "0")
    assert done.exit_code == 2
    assert "--topic (tweet.created, fanout.slice)" in done.stderr
    assert run(settings, "retry", "--topic", "fanout.slice", "0").exit_code == 0
    [event] = read_all(settings, name(settings, Topic.fanout_slice), 1)
    assert event.value() == b"a slice"
    assert listed(settings) == [("tweet.created", 0, "a tweet")]


def test_a_retry_that_dies_before_its_mark_is_repeated_and_loses_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    bury(settings, b"0", b"1")

    class Killed(BaseException):
        pass

    class Dies:
        """Numbers of a mark that is never written."""

        def __init__(self, numbers: object) -> None:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(dealing, "Numbers", Dies)
        with pytest.raises(Killed):
            run(settings, "retry", "--all")
    assert numbers(settings) == [0, 1]
    assert run(settings, "retry", "--all").exit_code == 0
    events = read_all(settings, name(settings, Topic.tweet_created), 4)
    assert [event.value() for event in events] == [b"0", b"1"] * 2
    assert numbers(settings) == []


def test_many_are_dealt_with_in_parts_each_marked_before_the_next(make_settings: MakeSettings) -> None:
    settings = make_settings(limits={"dead_letters_at_once": 3})
    ensure_topics(settings)
    bury(settings, *(b"%d" % number for number in range(10)))
    assert run(settings, "retry", "--all").stdout.splitlines()[-1] == "10 retried"
    assert end_of(settings, dead(name(settings, Topic.tweet_created))) == 10 + 4  # marks: 3 + 3 + 3 + 1
    events = read_all(settings, name(settings, Topic.tweet_created), 10)
    assert [event.value() for event in events] == [b"%d" % number for number in range(10)]
    assert numbers(settings) == []


def test_two_people_at_once_lose_nothing_of_what_the_other_dealt_with(settings: Settings) -> None:
    bury(settings, *(b"%d" % number for number in range(40)))
    together = threading.Barrier(4)

    def drops(mine: Sequence[int]) -> None:
        settings_of_mine = settings.model_copy()
        with open_dead_topics(settings_of_mine, [Topic.tweet_created]) as [topic]:
            survey = topic.survey()
            together.wait(30)

            async def deal() -> None:
                async with open_producer(settings) as producer:
                    wanted = dealing.Numbers(mine)
                    await dealing.deal(
                        topic, survey, wanted, dealing.How.dropped, producer, settings.limits, lambda letter: None
                    )

            asyncio.run(deal())

    people = [threading.Thread(target=drops, args=(range(first, 38, 4),)) for first in range(4)]
    for person in people:
        person.start()
    for person in people:
        person.join(60)
    assert numbers(settings) == [38, 39]


def test_a_letter_that_kafka_refuses_stays_open_and_the_others_are_done(settings: Settings) -> None:
    bury(settings, b"0")
    bury(settings, os.urandom(1_048_550))  # with the header that counts, larger than a topic of events takes
    bury(settings, b"2")
    done = run(settings, "retry", "--all")
    assert done.exit_code == 1
    assert "refuses letter 1 of tweet.created" in done.stderr
    assert "Drop it" in done.stderr
    assert numbers(settings) == [1]
    [line] = run(settings, "list").stdout.splitlines()
    assert len(line) < 400


def test_what_somebody_else_put_there_can_be_seen_and_dropped(settings: Settings) -> None:
    client = Producer({"bootstrap.servers": ",".join(settings.kafka_bootstrap)})
    topic = dead(name(settings, Topic.tweet_created))
    client.produce(topic, None, None)
    client.produce(topic, b"nonsense", None, headers={"dead-dealt-with": b"retried"})
    client.produce(topic, b"0-100", None, headers={"dead-dealt-with": b"eaten"})
    client.flush(10)
    assert [("from ?" in line) for line in run(settings, "list").stdout.splitlines()] == [True] * 3
    assert run(settings, "drop", "--all").exit_code == 0
    assert numbers(settings) == []


def test_an_event_that_carries_a_marks_header_hides_no_letter(settings: Settings) -> None:
    bury(settings, b"good")
    bury(settings, b"0", headers=[("dead-dealt-with", b"dropped"), ("trace", b"abc")])
    assert [value for _, _, value in listed(settings)] == ["good", "0"]
    assert run(settings, "retry", "1").exit_code == 0
    [event] = read_all(settings, name(settings, Topic.tweet_created), 1)
    assert event.headers() == [("trace", b"abc"), ("dead-retries", b"1")]
    assert [value for _, _, value in listed(settings)] == ["good"]


def test_without_its_topic_the_command_says_what_to_do(make_settings: MakeSettings) -> None:
    for command in (["list"], ["retry", "0"], ["drop", "--all"]):
        done = run(make_settings(), *command)
        assert done.exit_code == 1
        assert "run `timeline topics apply` first" in done.stderr


def test_without_kafka_the_command_says_what_to_do(settings: Settings, engines: Control) -> None:
    bury(settings, b"0")
    engines.stop("kafka")
    try:
        for command in (["list"], ["retry", "--all"]):
            done = run(settings, *command)
            assert done.exit_code == 1
            assert done.stderr.startswith("Error: kafka: ")
            assert "what to do: " in done.stderr
    finally:
        engines.start("kafka")
    until(lambda: run(settings, "list").exit_code == 0, 60)
    assert numbers(settings) == [0]


def test_letters_far_apart_are_read_without_those_between(settings: Settings) -> None:
    bury(settings, *(b"%d" % number for number in range(250)))
    assert run(settings, "retry", "0", "3", "249").stdout.splitlines()[-1] == "3 retried"
    events = read_all(settings, name(settings, Topic.tweet_created), 3)
    assert [event.value() for event in events] == [b"0", b"3", b"249"]
