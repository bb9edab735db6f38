"""Settings that do not fit are said, and none is dropped."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from timeline.settings import SettingError, Settings, read_settings


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "some.pem"
    path.write_text("-")
    return str(path)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"CASSANDRA_TLS": "true"}, "CASSANDRA_TLS.*CASSANDRA_TLS_CA"),
        ({"CASSANDRA_USERNAME": "u"}, "CASSANDRA_USERNAME.*CASSANDRA_PASSWORD"),
        ({"CASSANDRA_PASSWORD": "p"}, "CASSANDRA_PASSWORD.*CASSANDRA_USERNAME"),
        ({"KAFKA_USERNAME": "u"}, "KAFKA_USERNAME.*KAFKA_PASSWORD"),
        ({"REDIS_USERNAME": "u"}, "REDIS_USERNAME.*REDIS_PASSWORD"),
        ({"REDIS_TLS_CA": "FILE"}, "REDIS_TLS_CA.*REDIS_TLS=true"),
        ({"KAFKA_TLS_KEY": "FILE"}, "KAFKA_TLS_KEY.*KAFKA_TLS=true"),
        ({"REDIS_TLS": "true", "REDIS_TLS_CERT": "FILE"}, "REDIS_TLS_CERT.*REDIS_TLS_KEY"),
        ({"KAFKA_TLS": "true", "KAFKA_TLS_KEY": "FILE"}, "KAFKA_TLS_KEY.*KAFKA_TLS_CERT"),
        ({"CASSANDRA_TLS": "true", "CASSANDRA_TLS_CA": "/nowhere"}, "CASSANDRA_TLS_CA.*/nowhere"),
        ({"CASSANDRA_REPLICATION": "datacenter1"}, "CASSANDRA_REPLICATION.*'datacenter1'"),
        ({"CASSANDRA_REPLICATION": "a:3,b:0"}, "CASSANDRA_REPLICATION.*'b:0'"),
        ({"SECRETS_DIR": "/nowhere"}, "SECRETS_DIR.*/nowhere"),
    ],
    ids=str,
)
def test_a_setting_that_would_have_no_effect_is_named(
    given: dict[str, str], named: str, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(f"TIMELINE_{name}", value.replace("FILE", file))
    with pytest.raises(SettingError, match=f"^TIMELINE_{named}"):
        read_settings()


def test_what_fits_is_taken(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for engine in ("CASSANDRA", "REDIS", "KAFKA"):
        for name, value in {"TLS": "true", "TLS_CA": file, "TLS_CERT": file, "TLS_KEY": file}.items():
            monkeypatch.setenv(f"TIMELINE_{engine}_{name}", value)
    monkeypatch.setenv("TIMELINE_REDIS_PASSWORD", "of the default user")
    monkeypatch.setenv("TIMELINE_CASSANDRA_REPLICATION", "eu-west_1:3, us.2:3")
    assert read_settings().replication == {"eu-west_1": 3, "us.2": 3}


@pytest.mark.parametrize("prefix", ["a b", "ä", "a/b", "a:"])
def test_a_topic_prefix_that_kafka_refuses_is_refused(prefix: str) -> None:
    with pytest.raises(ValidationError, match="kafka_topic_prefix"):
        Settings(kafka_topic_prefix=prefix)


def test_a_limit_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMELINE_LIMITS", '{"page_max": 50, "page_maximum": 8}')
    with pytest.raises(ValidationError, match="no limit page_maximum"):
        read_settings()
