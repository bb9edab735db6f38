"""The topics of a real Kafka."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from tests.integration.eventlog.conftest import MakeSettings
from timeline.eventlog.command import topics
from timeline.eventlog.topics import _config, ensure_topics, status
from timeline.settings import Settings


def test_missing_topics_are_made_and_a_second_time_changes_nothing(make_settings: MakeSettings) -> None:
    settings = make_settings()
    assert not any(topic.partitions for topic in status(settings))
    said: list[str] = []
    ensure_topics(settings, say=said.append)
    assert len(said) == 10
    assert all(line.endswith("(created)") for line in said)
    assert all(topic.is_ready for topic in status(settings))
    again: list[str] = []
    ensure_topics(settings, say=again.append)
    assert not any("created)" in line for line in again)


def test_a_topic_with_other_partitions_is_left_alone_and_the_difference_is_said(make_settings: MakeSettings) -> None:
    ensure_topics(make_settings(kafka_partitions=2))
    said: list[str] = []
    ensure_topics(make_settings(kafka_partitions=3), say=said.append)
    assert sum("2 partitions (settings say 3)" in line for line in said) == 5


def test_an_option_that_differs_is_said_and_left_alone(make_settings: MakeSettings) -> None:
    limits = {"event_topic_seconds": 8 * 86_400}
    ensure_topics(make_settings(kafka_partitions=1, limits=limits))
    settings = make_settings(kafka_partitions=1)
    said: list[str] = []
    ensure_topics(settings, say=said.append)
    told = [str(topic) for topic in status(settings)]
    assert told == said
    assert sum("retention.ms is 691200000 (a new topic gets 604800000)" in line for line in told) == 5
    assert not any("min.insync" in line for line in told)


@pytest.mark.parametrize(("copies", "in_sync"), [(1, "1"), (2, "2"), (3, "2")])
def test_what_kafka_acknowledges_two_nodes_have_where_there_are_two(copies: int, in_sync: str) -> None:
    assert _config(Settings(kafka_replication=copies), "tweet.created")["min.insync.replicas"] == in_sync


def test_the_command_applies_and_tells_the_state_by_its_exit_code(make_settings: MakeSettings) -> None:
    settings = make_settings(kafka_partitions=1)
    env = {
        "TIMELINE_KAFKA_BOOTSTRAP": ",".join(settings.kafka_bootstrap),
        "TIMELINE_KAFKA_TOPIC_PREFIX": settings.kafka_topic_prefix,
        "TIMELINE_KAFKA_PARTITIONS": "1",
    }
    runner = CliRunner()
    missing = runner.invoke(topics, ["status"], env=env)
    assert missing.exit_code == 1
    assert "tweet.created: missing" in missing.output
    assert runner.invoke(topics, ["apply"], env=env).exit_code == 0
    assert runner.invoke(topics, ["status"], env=env).exit_code == 0
