"""A keyspace of its own for every test module, and a store on it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
from cassandra.cluster import Session as DriverSession

from timeline.domain.ids import TweetId, UserId, first_id_at
from timeline.domain.limits import Limits
from timeline.domain.model import Tweet
from timeline.local import Control
from timeline.settings import Settings
from timeline.store import Store, migrations, open_store
from timeline.store.session import connect


def settings_of(engines: Control, keyspace: str, **limits: int) -> Settings:
    """Settings for a keyspace on the running Cassandra."""
    env = engines.env
    return Settings(
        cassandra_hosts=tuple(env["TIMELINE_CASSANDRA_HOSTS"].split(",")),
        cassandra_datacenter=env["TIMELINE_CASSANDRA_DATACENTER"],
        cassandra_replication=tuple(env["TIMELINE_CASSANDRA_REPLICATION"].split(",")),
        cassandra_keyspace=keyspace,
        limits=Limits(**({"cassandra_timeout_ms": 10_000} | limits)),
    )


@contextmanager
def driver(settings: Settings) -> Iterator[DriverSession]:
    """The bare driver, for what no store offers."""
    cluster, session = connect(settings, settings.limits, keyspace_needed=False)
    try:
        yield session
    finally:
        cluster.shutdown()


@contextmanager
def new_keyspace(engines: Control, **limits: int) -> Iterator[Settings]:
    """Settings whose keyspace is dropped at the end; it is not made yet."""
    settings = settings_of(engines, f"test_{secrets.token_hex(6)}", **limits)
    try:
        yield settings
    finally:
        with driver(settings) as session:
            session.execute(f"DROP KEYSPACE IF EXISTS {settings.cassandra_keyspace}", timeout=60)


@pytest.fixture(scope="module")
def settings(engines: Control) -> Iterator[Settings]:
    """A keyspace with all tables, for one module."""
    with new_keyspace(engines) as made:
        migrations.apply(made)
        yield made


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[Store]:
    async with open_store(settings) as opened:
        yield opened


_users = iter(range(1_000_000, 2_000_000))


@pytest.fixture
def users() -> Iterator[UserId]:
    """User ids that no other test of this run has."""
    return (UserId(number) for number in _users)


def tweet(author: int, at_ms: int, number: int = 0, **members: object) -> Tweet:
    """A tweet of that millisecond; `number` tells apart those of one millisecond."""
    tweet_id = TweetId(first_id_at(at_ms) + number)
    values = {"text": f"tweet {tweet_id}", "version": at_ms * 1000, "conversation_id": tweet_id} | members
    return Tweet(id=tweet_id, author_id=UserId(author), **values)  # type: ignore[arg-type]
