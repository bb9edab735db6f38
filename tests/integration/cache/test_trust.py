"""Whom a cached value is believed on: the primary that it was written for, and nobody else. No failover here: the tests pretend that a
process takes a node for another than it is, or that a value came from another one (test_failover.py has real ones)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tests.integration.cache.conftest import Nodes, OpenCache, eventually
from tests.integration.cache.test_leased import ME, reader
from tests.integration.cache.test_timelines import begun, build, entry, raw, seen
from timeline.cache import Cache
from timeline.cache.connection import Node
from timeline.cache.contents import KnownPrimaries
from timeline.cache.keys import slot_of
from timeline.cache.replication import TAG_BYTES
from timeline.domain.entries import Stretch, of
from timeline.domain.ids import TweetId, UserId
from timeline.domain.records import UNKNOWN_REPLICATION, Author, ListKind, Post, State

HOME = ListKind.home
ANOTHER = b"what another one was"
TWEET = TweetId(9)
ALIVE, DELETED = State(3, False, False), State(3, True, False)


def node_of(cache: Cache, key: bytes) -> Node:
    node = cache.plane.topology.owners[slot_of(key)]
    assert node is not None
    return node


@contextmanager
def believing(cache: Cache, replication: bytes) -> Iterator[None]:
    """The process takes every primary for another than it is; no check corrects it (the test must hold them off)."""
    nodes = {node: node.replication for node in cache.plane.topology.primaries}
    assert UNKNOWN_REPLICATION not in nodes.values()
    for node in nodes:
        node.replication = replication
    try:
        yield
    finally:
        for node, known in nodes.items():
            node.replication = known


@pytest.fixture
async def cache(opened: OpenCache) -> Cache:
    """One that asks for no id but on connecting."""
    return await opened(replication_check_ms=3_600_000)


async def retag(cache: Cache, key: bytes, tag: bytes = ANOTHER[:TAG_BYTES]) -> None:
    """As if it had been written on another primary."""
    value = await cache.plane.execute(key, b"GET", key)
    await cache.plane.execute(key, b"SET", key, tag + value[TAG_BYTES:], b"PX", 60_000)


async def tag_at(cache: Cache, key: bytes) -> bytes:
    value = await cache.plane.execute(key, b"GET", key)
    return bytes(value[:TAG_BYTES])


async def test_each_node_is_known_by_the_id_that_it_tells(cache: Cache, redis_nodes: Nodes) -> None:
    assert len(cache.plane.topology.primaries) == 3
    for node in cache.plane.topology.primaries:
        facts = redis_nodes.client(str(node)).info("replication")
        assert node.replication.hex() == facts["master_replid"]
    assert len({node.replication for node in cache.plane.topology.primaries}) == 3


async def test_a_list_is_at_home_where_its_building_began(cache: Cache) -> None:
    await build(cache, 1)
    view = await seen(cache)
    assert view.primary == view.header.replication == node_of(cache, raw(cache)).replication
    assert view.slot == slot_of(raw(cache))
    assert view.is_at_home
    with believing(cache, ANOTHER):
        assert not (await seen(cache)).is_at_home
    with believing(cache, UNKNOWN_REPLICATION):
        view = await seen(cache)
        assert not view.is_at_home
        assert not replace(view, header=replace(view.header, replication=UNKNOWN_REPLICATION)).is_at_home


async def test_a_list_names_the_primary_that_was_known_before_its_building_began(cache: Cache) -> None:
    with believing(cache, ANOTHER):
        building = await begun(cache)
    assert building.replication == ANOTHER
    history = Stretch(of([entry(1)]), 0)
    assert await cache.lists.install(HOME, UserId(42), building, history, 1)
    view = await seen(cache)
    assert view.header.replication == ANOTHER
    assert not view.is_at_home
    assert await cache.lists.reinstall(HOME, UserId(42), view, history, 2)
    assert (await seen(cache)).is_at_home


async def test_nobody_builds_for_a_primary_that_is_unknown(cache: Cache) -> None:
    with believing(cache, UNKNOWN_REPLICATION):
        assert await cache.lists.begin_build(HOME, UserId(42)) is None
    assert await cache.lists.read(HOME, UserId(42), None) is None


async def test_contents_of_another_primary_are_absent(cache: Cache) -> None:
    contents, keys = cache.contents, cache.keys
    moment = contents.moment()
    await contents.put_posts([Post(1, TWEET, UserId(7), b"x")], moment)
    await contents.put_states({TWEET: ALIVE}, moment)
    await contents.put_authors([Author(1, UserId(9), "alice", b"{}")], moment)
    assert await contents.posts([TWEET])
    assert await contents.states([TWEET])
    assert await contents.authors([UserId(9)])
    for key in (keys.post(9), keys.state(9), keys.author(9)):
        assert await tag_at(cache, key) == node_of(cache, key).replication[:TAG_BYTES]
    for other in (ANOTHER, UNKNOWN_REPLICATION):
        with believing(cache, other):
            assert await contents.posts([TWEET]) == {}
            assert await contents.states([TWEET]) == {}
            assert await contents.authors([UserId(9)]) == {}
    for key in (keys.post(9), keys.state(9), keys.author(9)):
        await retag(cache, key)
    assert await contents.posts([TWEET]) == {}
    assert await contents.states([TWEET]) == {}
    assert await contents.authors([UserId(9)]) == {}


async def test_a_tag_of_zeros_is_believed_by_nobody(cache: Cache) -> None:
    key = cache.keys.state(TWEET)
    await cache.plane.execute(key, b"SET", key, bytes(TAG_BYTES) + ALIVE.pack())
    with believing(cache, UNKNOWN_REPLICATION):
        assert await cache.contents.states([TWEET]) == {}
    assert await cache.contents.states([TWEET]) == {}


async def test_what_was_read_as_of_another_primary_is_left_out(cache: Cache) -> None:
    for then, now in ((ANOTHER, None), (UNKNOWN_REPLICATION, None), (None, ANOTHER), (None, UNKNOWN_REPLICATION)):
        with believing(cache, then) if then is not None else believing_nothing():
            moment = cache.contents.moment()
        with believing(cache, now) if now is not None else believing_nothing():
            await cache.contents.put_states({TWEET: ALIVE}, moment)
        key = cache.keys.state(TWEET)
        assert await cache.plane.execute(key, b"EXISTS", key) == 0
    await cache.contents.put_states({TWEET: ALIVE}, KnownPrimaries(cache.contents.moment().at, {}))
    assert await cache.plane.execute(key, b"EXISTS", key) == 0


@contextmanager
def believing_nothing() -> Iterator[None]:
    """As it is."""
    yield


async def test_what_was_read_long_ago_is_left_out(opened: OpenCache) -> None:
    cache = await opened(fill_within_ms=5_000)
    moment = cache.contents.moment()
    await cache.contents.put_states({TWEET: ALIVE}, replace(moment, at=moment.at - 5.1))
    assert await cache.contents.states([TWEET]) == {}
    await cache.contents.put_states({TWEET: ALIVE}, moment)
    assert await cache.contents.states([TWEET]) == {TWEET: ALIVE}


async def test_older_is_not_put_over_newer_whatever_its_tag_and_equal_gets_the_present_one(cache: Cache) -> None:
    key, contents = cache.keys.state(TWEET), cache.contents
    await contents.put_state(TWEET, State(5, False, False))
    await retag(cache, key)
    await contents.put_states({TWEET: State(4, False, False)}, contents.moment())
    assert await contents.states([TWEET]) == {}
    await contents.put_states({TWEET: State(5, False, False)}, contents.moment())
    assert await contents.states([TWEET]) == {TWEET: State(5, False, False)}


@pytest.mark.parametrize("known", [ANOTHER, UNKNOWN_REPLICATION])
async def test_a_deletion_written_without_knowing_the_primary_hides_the_tweet_and_bars_fills_from_before(
    cache: Cache, known: bytes
) -> None:
    contents = cache.contents
    await contents.put_states({TWEET: ALIVE}, contents.moment())
    before = contents.moment()
    with believing(cache, known):
        await contents.put_state(TWEET, DELETED)
    assert await contents.states([TWEET]) == {}
    await contents.put_states({TWEET: ALIVE}, before)
    assert await contents.states([TWEET]) == {}
    await contents.put_states({TWEET: DELETED}, contents.moment())
    assert await contents.states([TWEET]) == {TWEET: DELETED}


async def test_a_record_of_another_primary_is_absent_and_is_filled_anew(cache: Cache) -> None:
    readers, key = cache.readers, cache.keys.leased("reader", ME)
    token = await readers.begin_fill(ME)
    assert token is not None
    assert await readers.fill(ME, token, reader(1))
    for other in (ANOTHER, UNKNOWN_REPLICATION):
        with believing(cache, other):
            assert await readers.get(ME) is None
    assert await readers.get(ME) is not None
    await retag(cache, key)
    assert await readers.get(ME) is None
    token = await readers.begin_fill(ME)
    assert token is not None
    assert await readers.begin_fill(ME) is None
    assert await readers.fill(ME, token, reader(2))
    found = await readers.get(ME)
    assert found is not None
    assert found.version == 2


async def test_a_fill_that_began_for_another_primary_is_not_believed(cache: Cache) -> None:
    with believing(cache, ANOTHER):
        token = await cache.readers.begin_fill(ME)
    assert token is not None
    assert await cache.readers.fill(ME, token, reader(1))
    assert await cache.readers.get(ME) is None


async def test_nothing_is_filled_for_a_primary_that_is_unknown(cache: Cache) -> None:
    with believing(cache, UNKNOWN_REPLICATION):
        assert await cache.readers.begin_fill(ME) is None
    key = cache.keys.leased("reader", ME)
    assert await cache.plane.execute(key, b"EXISTS", key) == 0


@pytest.mark.parametrize("known", [ANOTHER, UNKNOWN_REPLICATION])
async def test_a_mark_without_knowing_the_primary_hides_the_record_and_ends_fills_under_way(
    cache: Cache, known: bytes
) -> None:
    readers = cache.readers
    token = await readers.begin_fill(ME)
    assert token is not None
    with believing(cache, known):
        await readers.mark(ME)
    assert not await readers.fill(ME, token, reader(1))
    assert await readers.get(ME) is None
    await readers.drop(ME)
    assert not await readers.fill(ME, token, reader(1))


async def test_a_doubt_is_looked_into_at_once(opened: OpenCache) -> None:
    cache = await opened(replication_check_ms=3_600_000)
    node = cache.plane.topology.primaries[0]
    known, node.replication = node.replication, ANOTHER
    node.doubt()

    async def corrected() -> bool:
        return node.replication == known

    await eventually(corrected, 2)


async def test_an_id_is_known_under_load(opened: OpenCache) -> None:
    cache = await opened(redis_commands_in_flight=10, replication_check_ms=20)
    node = cache.plane.topology.primaries[0]
    node._commands += 10
    node.replication = ANOTHER

    async def corrected() -> bool:
        return node.replication not in (ANOTHER, UNKNOWN_REPLICATION)

    await eventually(corrected, 2)
    for _ in range(50):
        assert node.replication not in (ANOTHER, UNKNOWN_REPLICATION)
        await asyncio.sleep(0.005)
    node._commands -= 10
    assert node._bulk_bytes <= 64
