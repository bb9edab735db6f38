"""Two APIs (one behind a gateway, one with tokens), a fan-out and a relay, on a keyspace, a key prefix and topics of their own."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession
from cassandra.cluster import Cluster
from cassandra.cluster import Session as DriverSession
from cassandra.io.libevreactor import LibevConnection
from confluent_kafka.admin import AdminClient

from tests.integration.api.client import Api
from tests.integration.api.stack import Service, run, running
from timeline.eventlog.client import connection
from timeline.eventlog.topics import wanted
from timeline.local import Control
from timeline.settings import Settings, address

SECRET = secrets.token_hex(32)
TABLES = (
    "tweets", "tweet_buckets", "tweets_by_id", "replies", "followees", "followers", "users", "users_by_handle",
    "retweets_by_user", "retweets_by_tweet", "idempotency_keys", "relations", "likes_by_user", "likes_by_tweet", "marks_by_time",
    "tweet_edits", "home_markers",
)  # fmt: skip


@pytest.fixture(scope="package")
def env(engines: Control) -> dict[str, str]:
    name = f"api{secrets.token_hex(5)}"
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        **engines.env,
        "TIMELINE_HOST": "127.0.0.1",
        "TIMELINE_ADMIN_HOST": "127.0.0.1",
        "TIMELINE_CASSANDRA_KEYSPACE": name,
        "TIMELINE_REDIS_KEY_PREFIX": f"{name}:",
        "TIMELINE_KAFKA_TOPIC_PREFIX": f"{name}.",
        "TIMELINE_KAFKA_GROUP": name,
        "TIMELINE_KAFKA_PARTITIONS": "2",
        "TIMELINE_CURSOR_KEYS": f"1:{secrets.token_hex(16)}",
        "TIMELINE_JWT_SECRET": SECRET,
        "TIMELINE_AUTH": "header",
    }


@pytest.fixture(scope="package")
def settings(env: dict[str, str]) -> Settings:
    """The same settings, for what a test asks the engines itself."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("TIMELINE_")]:
            patch.delenv(name)
        for name, value in env.items():
            patch.setenv(name, value)
        return Settings()


@pytest.fixture(scope="package")
def driver(settings: Settings) -> Iterator[DriverSession]:
    """The bare driver; the keyspace goes at the end."""
    servers = [address(server) for server in settings.cassandra_hosts]
    cluster = Cluster(servers, protocol_version=5, connection_class=LibevConnection)
    session = cluster.connect()
    session.default_timeout = 60
    try:
        yield session
    finally:
        session.execute(f"DROP KEYSPACE IF EXISTS {settings.cassandra_keyspace}")
        cluster.shutdown()


@pytest.fixture(scope="package")
def topics(settings: Settings) -> Iterator[None]:
    """The topics go at the end."""
    yield
    admin = AdminClient(connection(settings, "tests"))
    made = [topic for topic in wanted(settings) if topic in admin.list_topics(timeout=10).topics]
    for done in admin.delete_topics(made).values() if made else ():
        done.result(30)


@pytest.fixture(scope="package")
def prepared(env: dict[str, str], settings: Settings, driver: DriverSession, topics: None) -> DriverSession:
    """Tables and topics are there; the bare driver, in the keyspace."""
    run("schema", "apply", env=env)
    run("topics", "apply", env=env)
    driver.set_keyspace(settings.cassandra_keyspace)
    return driver


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="package")
def gateway(prepared: DriverSession, env: dict[str, str], folder: Path) -> Service:
    """The API that believes X-User-Id."""
    return Service("api", env, folder)


@pytest.fixture(scope="package")
def by_token(prepared: DriverSession, env: dict[str, str], folder: Path) -> Service:
    """The API that checks tokens."""
    return Service("api", env | {"TIMELINE_AUTH": "jwt"}, folder)


@pytest.fixture(scope="package")
def stack(gateway: Service, by_token: Service, env: dict[str, str], folder: Path) -> Iterator[None]:
    with running(gateway, by_token, Service("fanout", env, folder), Service("relay", env, folder)):
        yield


@pytest.fixture(scope="package")
async def http(stack: None) -> AsyncIterator[ClientSession]:
    async with ClientSession() as session:
        yield session


@pytest.fixture(scope="package")
def api(http: ClientSession, gateway: Service) -> Api:
    return Api(http, gateway.url)


@pytest.fixture(scope="package")
def token_api(http: ClientSession, by_token: Service) -> Api:
    return Api(http, by_token.url)


@pytest.fixture
def rows(prepared: DriverSession) -> Callable[[], dict[str, int]]:
    """How many rows each table of things written holds now."""

    def count() -> dict[str, int]:
        return {table: len(list(prepared.execute(f"SELECT * FROM {table}"))) for table in TABLES}

    return count


async def until(check: Callable[[], Awaitable[bool]], seconds: float = 15) -> None:
    """Wait for what others are still doing."""
    async with asyncio.timeout(seconds):
        while not await check():  # noqa: ASYNC110 - it is in another process
            await asyncio.sleep(0.05)
