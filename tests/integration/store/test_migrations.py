"""Migrations on a real Cassandra, and the command that runs them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from click.testing import CliRunner

from tests.integration.store.conftest import driver, new_keyspace, settings_of
from timeline.domain.errors import Unavailable
from timeline.local import Control
from timeline.settings import Settings
from timeline.store import migrations, open_store
from timeline.store.command import schema
from timeline.store.migrations import Migration, MigrationError

TABLES = {
    *("tweets", "tweet_buckets", "tweets_by_id", "replies", "followees", "followers", "users", "users_by_handle"),
    *("likes_by_user", "retweets_by_user", "likes_by_tweet", "retweets_by_tweet", "tweet_counts", "user_counts"),
    *(
        "relations",
        "pull_intervals",
        "dirty_intervals",
        "fanout_progress",
        "outbox",
        "idempotency_keys",
        "worker_leases",
    ),
}
ONE = Migration(
    1, "0001_one.cql", "CREATE TABLE IF NOT EXISTS one (a int PRIMARY KEY);\n-- a comment; with a semicolon\n"
)
TWO = Migration(
    2,
    "0002_two.cql",
    "CREATE TABLE IF NOT EXISTS two (a int PRIMARY KEY); CREATE TABLE IF NOT EXISTS three (a int PRIMARY KEY);",
)


@pytest.fixture
def empty(engines: Control) -> Iterator[Settings]:
    """A keyspace that is not there yet."""
    with new_keyspace(engines) as settings:
        yield settings


def tables(settings: Settings) -> set[str]:
    with driver(settings) as session:
        query = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s"
        return {row[0] for row in session.execute(query, (settings.cassandra_keyspace,))}


def env(settings: Settings) -> dict[str, str]:
    return {
        "TIMELINE_CASSANDRA_HOSTS": ",".join(settings.cassandra_hosts),
        "TIMELINE_CASSANDRA_KEYSPACE": settings.cassandra_keyspace,
        "TIMELINE_CASSANDRA_DATACENTER": settings.cassandra_datacenter,
        "TIMELINE_CASSANDRA_REPLICATION": ",".join(settings.cassandra_replication),
    }


def test_apply_makes_every_table_of_the_design_once(empty: Settings) -> None:
    assert [row.applied_at for row in migrations.status(empty)] == [None] * len(migrations.migrations())
    assert migrations.apply(empty) == [migration.name for migration in migrations.migrations()]
    assert tables(empty) >= TABLES
    assert migrations.apply(empty) == []
    assert all(row.applied_at and not row.changed for row in migrations.status(empty))
    with driver(empty) as session:
        keyspace = session.cluster.metadata.keyspaces[empty.cassandra_keyspace]
        assert keyspace.replication_strategy.name == "NetworkTopologyStrategy"
        assert {table.options["compaction"]["class"].rpartition(".")[2] for table in keyspace.tables.values()} == {
            *("LeveledCompactionStrategy", "SizeTieredCompactionStrategy", "TimeWindowCompactionStrategy")
        }
        assert not any(table.indexes or table.views for table in keyspace.tables.values())


def test_what_is_pending_is_applied_and_nothing_else(empty: Settings) -> None:
    assert migrations.apply(empty, files=[ONE]) == [ONE.name]
    assert [row.applied_at is None for row in migrations.status(empty, [ONE, TWO])] == [False, True]
    assert migrations.apply(empty, files=[ONE, TWO]) == [TWO.name]
    assert tables(empty) >= {"one", "two", "three"}
    assert [row.name for row in migrations.status(empty, [ONE])] == [ONE.name, TWO.name], (
        "a newer release's is told too"
    )
    assert migrations.apply(empty, files=[ONE]) == []


def test_a_changed_file_is_refused_with_the_remedy(empty: Settings) -> None:
    migrations.apply(empty, files=[ONE])
    changed = replace(ONE, text=ONE.text + "-- later")
    assert migrations.status(empty, [changed])[0].changed
    with pytest.raises(MigrationError, match=r"0001_one.cql was changed .* next number"):
        migrations.apply(empty, files=[changed, TWO])
    assert "two" not in tables(empty)
    assert migrations.apply(empty, files=[ONE, TWO]) == [TWO.name], "the lock was given back"


def test_a_run_that_died_half_way_is_simply_run_again(empty: Settings) -> None:
    broken = replace(TWO, text=TWO.text.replace("three (a int", "three (a nonsense"))
    with pytest.raises(Exception, match="nonsense"):
        migrations.apply(empty, files=[ONE, broken])
    assert tables(empty) >= {"one", "two"}
    assert migrations.apply(empty, files=[ONE, TWO]) == [TWO.name]


def test_runs_at_once_apply_everything_once(empty: Settings) -> None:
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(migrations.apply, empty, files=[ONE, TWO]) for _ in range(4)]
    applied = [name for run in runs for name in run.result()]
    assert sorted(applied) == [ONE.name, TWO.name]


def test_a_second_run_waits_and_then_says_who_holds_the_lock(empty: Settings) -> None:
    migrations.apply(empty, files=[ONE])
    lines: list[str] = []
    with driver(empty) as session:
        with migrations._lock(session, empty.cassandra_keyspace, 1, lines.append):
            started = time.monotonic()
            with pytest.raises(MigrationError, match=r"being changed by .*process \d+"):
                migrations.apply(empty, files=[ONE, TWO], wait_seconds=1, report=lines.append)
            assert time.monotonic() - started >= 1
            assert any(line.startswith("waiting for ") for line in lines)
        assert migrations.apply(empty, files=[ONE, TWO]) == [TWO.name]


def test_a_lock_expires_and_its_late_holder_stops(empty: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    migrations.apply(empty, files=[ONE])
    monkeypatch.setattr(migrations, "LOCK_SECONDS", 1)
    with driver(empty) as session, migrations._lock(session, empty.cassandra_keyspace, 1, print) as renew:
        renew()
        monkeypatch.undo()  # the next holder's lock lasts as long as it should, however busy the machine
        assert migrations.apply(empty, files=[ONE, TWO], wait_seconds=20) == [TWO.name]
        with pytest.raises(MigrationError, match="run it again"):
            renew()


async def test_a_store_without_tables_says_what_to_do(empty: Settings) -> None:
    with pytest.raises(Unavailable, match="timeline schema apply"):
        async with open_store(empty):
            pass


async def test_a_store_whose_schema_is_missing_or_older_says_what_to_do(empty: Settings) -> None:
    migrations.apply(empty, files=migrations.migrations()[:-1])
    with pytest.raises(Unavailable, match=rf"{migrations.migrations()[-1].name}: run `timeline schema apply`"):
        async with open_store(empty):
            pass
    with driver(empty) as session:
        session.execute(f"DROP TABLE {empty.cassandra_keyspace}.schema_migrations", timeout=60)
    with pytest.raises(Unavailable, match="holds no schema: run `timeline schema apply`"):
        async with open_store(empty):
            pass


def test_who_is_pulled_stands_in_partitions_that_can_be_named(empty: Settings) -> None:
    """The seventh file may be run again by a runner that died."""
    migrations.apply(empty)
    again = [
        replace(file, version=9_000, name="9000_again.cql") for file in migrations.migrations() if file.version == 7
    ]
    assert migrations.apply(empty, files=[*migrations.migrations(), *again]) == ["9000_again.cql"]
    with driver(empty) as session:
        table = session.cluster.metadata.keyspaces[empty.cassandra_keyspace].tables["pull_intervals"]
        assert [column.name for column in table.primary_key] == ["shard", "user_id", "since"]
        assert [column.name for column in table.partition_key] == ["shard"]


async def test_a_newer_schema_does_no_harm(empty: Settings) -> None:
    newer = Migration(9_999, "9999_newer.cql", "CREATE TABLE IF NOT EXISTS newer (a int PRIMARY KEY);")
    migrations.apply(empty, files=[*migrations.migrations(), newer])
    async with open_store(empty) as store:
        await store.ping()


def test_a_datacenter_that_does_not_exist_is_named(empty: Settings) -> None:
    told = CliRunner(env=env(empty) | {"TIMELINE_CASSANDRA_REPLICATION": "elsewhere:1"}).invoke(schema, ["apply"])
    assert told.exit_code == 1
    assert "no datacenter elsewhere, but datacenter1: set TIMELINE_CASSANDRA_REPLICATION" in told.output


def test_a_keyspace_that_is_replicated_otherwise_stays_so_and_is_told(empty: Settings) -> None:
    migrations.apply(empty, files=[ONE])
    runner = CliRunner(env=env(empty) | {"TIMELINE_CASSANDRA_REPLICATION": "datacenter1:3"})
    for command in ("status", "apply"):
        told = runner.invoke(schema, [command])
        assert "replicated as datacenter1:1; TIMELINE_CASSANDRA_REPLICATION says datacenter1:3" in told.output
    assert "replicated" not in CliRunner(env=env(empty)).invoke(schema, ["status"]).output


def test_the_command_applies_and_tells(empty: Settings) -> None:
    runner = CliRunner(env=env(empty))
    told = runner.invoke(schema, ["status"])
    assert told.exit_code == 3
    assert "0001_tweets.cql" in told.output
    assert "pending" in told.output
    told = runner.invoke(schema, ["apply"])
    assert told.exit_code == 0, told.output
    assert f"{len(migrations.migrations())} applied" in told.output
    told = runner.invoke(schema, ["apply"])
    assert (told.exit_code, told.output) == (0, "up to date\n")
    told = runner.invoke(schema, ["status"])
    assert told.exit_code == 0
    assert "pending" not in told.output


def test_the_command_names_the_hosts_that_do_not_answer(engines: Control) -> None:
    settings = settings_of(engines, "never")
    limits = '{"cassandra_connect_ms": 500}'
    told = CliRunner(env=env(settings) | {"TIMELINE_CASSANDRA_HOSTS": "127.0.0.1:1", "TIMELINE_LIMITS": limits}).invoke(
        schema, ["apply"]
    )
    assert told.exit_code == 1
    assert "127.0.0.1:1" in told.output
    assert "TIMELINE_CASSANDRA_HOSTS" in told.output
