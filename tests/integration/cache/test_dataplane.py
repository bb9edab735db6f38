"""The data plane when nodes hang, die, come back empty, and slots move."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import numpy as np
import pytest

from tests.integration.cache.conftest import Nodes, OpenCache, eventually, settings_for
from timeline.cache import Cache, open_cache
from timeline.cache.dataplane import DataPlane
from timeline.cache.functions import VERSION
from timeline.cache.keys import slot_of
from timeline.domain.entries import Entry, Stretch, of, to_list
from timeline.domain.errors import OutcomeUnknown, Overloaded, Unavailable
from timeline.domain.ids import TweetId, UserId
from timeline.domain.limits import Limits
from timeline.domain.records import ListKind, Post, State
from timeline.fanout.ports import Delivery
from timeline.settings import Settings

HOME = ListKind.home
USERS = [UserId(user) for user in range(1, 31)]


def delivery(tweet: int, *users: int, late: bool = False) -> Delivery:
    return Delivery(Entry(TweetId(tweet), UserId(7)), np.array(users, np.int64), late)


async def build(cache: Cache, user: UserId, *tweets: int) -> None:
    building = await cache.lists.begin_build(HOME, user)
    assert building is not None
    history = Stretch(of([Entry(TweetId(tweet), UserId(7)) for tweet in sorted(tweets, reverse=True)]), 0)
    assert await cache.lists.install(HOME, user, building, history, 1)


async def tweets(cache: Cache, user: UserId) -> list[int] | None:
    view = await cache.lists.read(HOME, user, None)
    return None if view is None else [int(one.tweet_id) for one in to_list(view.entries)]


def key_at(cache: Cache, nodes: Nodes, server: str) -> bytes:
    """A fresh key whose slot this node serves."""
    prefix = cache.lists._keys.post(0)
    return next(key for number in range(10_000) if nodes.owner(slot_of(key := prefix + b"%d" % number)) == server)


def user_at(cache: Cache, nodes: Nodes, server: str) -> UserId:
    keys = cache.lists._keys
    return next(user for user in USERS if nodes.owner(slot_of(keys.list_of(HOME, user))) == server)


@contextmanager
def hanging(nodes: Nodes, server: str) -> Iterator[None]:
    """The node's process stands still: the kernel goes on accepting for it."""
    pid = nodes.control.pid(nodes.name(server))
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def killed(nodes: Nodes, server: str) -> Iterator[None]:
    """The node is gone, and comes back with nothing in it."""
    nodes.control.kill(nodes.name(server))
    try:
        yield
    finally:
        nodes.control.start(nodes.name(server))
        client = nodes.client(server)
        deadline = time.monotonic() + 20
        while client.cluster("info")["cluster_state"] != "ok":
            assert time.monotonic() < deadline
            time.sleep(0.05)


async def answers(plane: DataPlane, key: bytes) -> bool:
    try:
        await plane.execute(key, b"GET", key)
    except Unavailable:
        return False
    return True


async def test_a_timeout_tells_reads_from_writes_and_leaves_the_connection_in_step(
    opened: OpenCache, redis_nodes: Nodes
) -> None:
    cache = await opened(redis_timeout_ms=400)
    server = redis_nodes.addresses[0]
    key = key_at(cache, redis_nodes, server)
    await cache.plane.execute(key, b"SET", key, b"before")
    with hanging(redis_nodes, server):
        read, write = await asyncio.gather(
            cache.plane.execute(key, b"GET", key),
            cache.plane.execute(key, b"SET", key, b"after"),
            return_exceptions=True,
        )
    assert type(read) is Unavailable
    assert type(write) is OutcomeUnknown
    for number in range(200):  # replies that come too late are nobody's
        assert await cache.plane.execute(key, b"ECHO", b"%d" % number) == b"%d" % number
    assert await cache.plane.execute(key, b"GET", key) == b"after"


async def test_a_cancelled_command_leaves_the_connection_in_step(opened: OpenCache, redis_nodes: Nodes) -> None:
    cache = await opened()
    server = redis_nodes.addresses[0]
    key = key_at(cache, redis_nodes, server)
    with hanging(redis_nodes, server):
        tasks = [asyncio.create_task(cache.plane.execute(key, b"ECHO", b"%d" % number)) for number in range(20)]
        await asyncio.sleep(0.05)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.sleep(0)
    replies = await asyncio.gather(*tasks, return_exceptions=True)
    assert replies[1::2] == [b"%d" % number for number in range(1, 20, 2)]
    assert all(isinstance(reply, asyncio.CancelledError) for reply in replies[::2])


async def test_a_node_that_hangs_on_fails_at_once_and_is_used_again_by_itself(
    opened: OpenCache, redis_nodes: Nodes
) -> None:
    cache = await opened(redis_timeout_ms=300)
    server, other = redis_nodes.addresses[:2]
    key, elsewhere = key_at(cache, redis_nodes, server), key_at(cache, redis_nodes, other)
    node = cache.plane.topology.owners[slot_of(key)]
    assert node is not None
    with hanging(redis_nodes, server):
        assert not await answers(cache.plane, key)
        deadline = time.monotonic() + 10
        while node.down is None:
            assert time.monotonic() < deadline
            assert await answers(cache.plane, elsewhere)
            await asyncio.sleep(0.02)
        started = time.perf_counter()
        with pytest.raises(Unavailable, match=r"is down"):
            await cache.plane.execute(key, b"GET", key)
        assert time.perf_counter() - started < 0.1
    await eventually(lambda: answers(cache.plane, key))


async def test_commands_beyond_the_bound_are_refused_at_once(opened: OpenCache, redis_nodes: Nodes) -> None:
    cache = await opened(redis_commands_in_flight=10)
    server = redis_nodes.addresses[0]
    key = key_at(cache, redis_nodes, server)
    with hanging(redis_nodes, server):
        tasks = [asyncio.create_task(cache.plane.execute(key, b"GET", key)) for _ in range(10)]
        await asyncio.sleep(0)
        started = time.perf_counter()
        with pytest.raises(Overloaded):
            await cache.plane.execute(key, b"GET", key)
        assert time.perf_counter() - started < 0.1
    assert await asyncio.gather(*tasks) == [None] * 10
    assert await cache.plane.execute(key, b"GET", key) is None


async def test_a_killed_node_fails_at_once_the_others_serve_and_it_recovers_with_its_functions(
    opened: OpenCache, redis_nodes: Nodes
) -> None:
    cache = await opened()
    server = redis_nodes.addresses[1]
    user = user_at(cache, redis_nodes, server)
    for each in USERS:
        await build(cache, each, 1)
    posts = [Post(1, TweetId(tweet), UserId(7), b"x") for tweet in range(100)]
    await cache.contents.put_posts(posts, cache.contents.moment())
    ids = [post.tweet_id for post in posts]
    with killed(redis_nodes, server):
        with pytest.raises(Unavailable):
            await cache.lists.read(HOME, user, None)
        started = time.perf_counter()
        with pytest.raises(Unavailable):
            await cache.lists.read(HOME, user, None)
        with pytest.raises(Unavailable):
            await cache.lists.push([delivery(2, *USERS)])
        assert time.perf_counter() - started < 0.5
        found = await cache.contents.posts(ids)
        assert 0 < len(found) < 100  # what that node held is a miss
        with pytest.raises(Unavailable, match=server):
            await cache.ping()
    key = cache.lists._keys.list_of(HOME, user)
    await eventually(lambda: answers(cache.plane, key))
    assert await tweets(cache, user) is None
    await build(cache, user, 5)  # a Function that the node has lost
    assert await cache.lists.push([delivery(6, *USERS, late=True)]) > 0
    assert await tweets(cache, user) == [5, 6]
    still = [each for each in USERS if redis_nodes.owner(slot_of(cache.lists._keys.list_of(HOME, each))) != server]
    for each in still:
        assert await tweets(cache, each) == [1, 2, 6]
    await cache.ping()


async def test_away_names_the_nodes_that_do_not_answer_with_their_slots_and_since_when(
    opened: OpenCache, redis_nodes: Nodes
) -> None:
    cache = await opened(redis_timeout_ms=300, replication_check_ms=100)
    server = redis_nodes.addresses[1]
    users = np.array(USERS, np.int64)
    slots = cache.lists.slots_of(users)
    assert slots.tolist() == [slot_of(cache.lists._keys.list_of(HOME, user)) for user in USERS]
    there = {user for user in USERS if redis_nodes.owner(slot_of(cache.lists._keys.list_of(HOME, user))) == server}
    assert list(cache.lists.away()) == []
    for away in (hanging, killed):
        with away(redis_nodes, server):
            longest = 0

            async def noticed() -> bool:  # nobody sends it anything
                return bool(cache.lists.away())

            await eventually(noticed, 5)
            if away is hanging:  # counted from when it was asked, not from when it was given up
                assert cache.lists.away()[0].for_ms >= 250
            deadline = time.monotonic() + 2
            while time.monotonic() < deadline:
                (one,) = cache.lists.away()
                assert one.node == server
                assert longest <= one.for_ms < 60_000
                longest = one.for_ms
                await asyncio.sleep(0.02)
            assert longest > 2_000 - 500  # connecting in vain does not count as an answer
            ((first, last),) = one.slots
            assert {user for user, slot in zip(USERS, slots.tolist(), strict=True) if first <= slot <= last} == there

        async def back() -> bool:
            return not cache.lists.away()

        await eventually(back)


async def test_slots_that_nobody_serves_are_away_by_the_name_nobody(opened: OpenCache, redis_nodes: Nodes) -> None:
    cache = await opened()
    slot = 100
    owner = redis_nodes.owner(slot)
    for server in redis_nodes.addresses:
        redis_nodes.client(server).execute_command("CLUSTER", "DELSLOTS", slot)
    try:
        await cache.plane.topology.refresh()
        (one,) = cache.lists.away()
        assert (one.node, one.slots) == ("nobody", ((slot, slot),))
    finally:
        redis_nodes.client(owner).execute_command("CLUSTER", "ADDSLOTS", slot)
        for server in redis_nodes.addresses:
            if server != owner:
                redis_nodes.client(server).execute_command(
                    "CLUSTER", "SETSLOT", slot, "NODE", redis_nodes.node_id(owner)
                )

    async def served() -> bool:
        await cache.plane.topology.refresh()
        return not cache.lists.away()

    await eventually(served)


async def test_all_nodes_away_is_unavailable(opened: OpenCache, redis_nodes: Nodes) -> None:
    cache = await opened(redis_timeout_ms=300)
    one, two, three = (hanging(redis_nodes, server) for server in redis_nodes.addresses)
    with one, two, three:
        with pytest.raises(Unavailable):
            await cache.contents.states([TweetId(tweet) for tweet in range(50)])
        states = {TweetId(tweet): State(1, False, False) for tweet in range(50)}
        with pytest.raises(OutcomeUnknown):
            await cache.contents.put_states(states, cache.contents.moment())

    async def all_back() -> bool:
        try:
            await cache.ping()
        except Unavailable:
            return False
        return True

    await eventually(all_back)


async def test_functions_lost_by_every_node_are_loaded_again(cache: Cache, redis_nodes: Nodes) -> None:
    for each in USERS:
        await build(cache, each, 1)
    for server in redis_nodes.addresses:
        redis_nodes.client(server).execute_command("FUNCTION", "FLUSH", "SYNC")
    assert await cache.lists.push([delivery(2, *USERS, late=True)]) == len(USERS)
    for each in USERS:
        assert await tweets(cache, each) == [1, 2]
    for server in redis_nodes.addresses:
        (library,) = redis_nodes.client(server).execute_command("FUNCTION", "LIST")
        assert library[b"library_name"] == f"timeline_{VERSION}".encode()


@asynccontextmanager
async def migrating(nodes: Nodes, slot: int) -> AsyncIterator[tuple[str, str]]:
    """A slot half way from its node to another; at the end it is back whole, with what it holds."""
    source = nodes.owner(slot)
    target = nodes.other_than(source)
    begin_migration(nodes, slot, source, target)
    try:
        yield source, target
    finally:
        finish_migration(nodes, slot, source, target)
        begin_migration(nodes, slot, target, source)
        finish_migration(nodes, slot, target, source)


def begin_migration(nodes: Nodes, slot: int, source: str, target: str) -> None:
    nodes.client(target).execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", nodes.node_id(source))
    nodes.client(source).execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", nodes.node_id(target))


def finish_migration(nodes: Nodes, slot: int, source: str, target: str) -> None:
    """Keys first, then the slot, on the target first. Harmless if it is finished."""
    host, port = target.rsplit(":", 1)
    client = nodes.client(source)
    for key in client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1000):
        client.execute_command("MIGRATE", host, port, key, 0, 5000)
    target_id = nodes.node_id(target)
    for server in (target, source, *nodes.addresses):
        nodes.client(server).execute_command("CLUSTER", "SETSLOT", slot, "NODE", target_id)


async def test_ask_is_followed_while_a_slot_moves_and_moved_after_it(cache: Cache, redis_nodes: Nodes) -> None:
    keys, (stays, goes) = cache.lists._keys, USERS[:2]
    slot = slot_of(keys.list_of(HOME, stays))
    prefix = keys.post(0)
    here = prefix + b"{%d}" % stays  # in the same slot, there before it moves
    await cache.plane.execute(here, b"SET", here, b"1")
    async with migrating(redis_nodes, slot) as (source, target):
        await build(cache, stays, 1)  # was nowhere: the functions are asked of the node that it goes to
        assert await cache.lists.push([delivery(2, stays, goes)]) == 1  # in bulk
        assert await cache.lists.push([delivery(3, stays), delivery(4, stays, late=True)]) == 2
        assert await tweets(cache, stays) == [1, 2, 3, 4]  # a transaction
        assert await cache.plane.execute(here, b"INCR", here) == 2  # still where it was
        there = redis_nodes.client(target).execute_command("CLUSTER", "COUNTKEYSINSLOT", slot)
        assert (there, redis_nodes.owner(slot)) == (1, source)
        finish_migration(redis_nodes, slot, source, target)
        assert redis_nodes.owner(slot) == target
        assert await cache.plane.execute(here, b"INCR", here) == 3
        assert await cache.lists.push([delivery(5, stays)]) == 1
        assert await tweets(cache, stays) == [1, 2, 3, 4, 5]


async def test_moved_in_bulk_and_in_a_transaction_is_followed(opened: OpenCache, redis_nodes: Nodes) -> None:
    cache, other = await opened(), await opened()
    user = USERS[2]
    for each in (cache, other):
        await build(each, user, 1)
    slot = slot_of(cache.lists._keys.list_of(HOME, user))
    async with migrating(redis_nodes, slot) as (source, target):
        finish_migration(redis_nodes, slot, source, target)
        assert await cache.lists.push([delivery(2, user)]) == 1
        assert await other.lists.read(HOME, user, None) is not None
        assert await tweets(cache, user) == [1, 2]
        moved_to = cache.plane.topology.owners[slot]
        assert str(moved_to) == target
    assert await cache.lists.push([delivery(3, user)]) == 1
    assert await tweets(cache, user) == [1, 2, 3]


async def test_a_connection_that_is_cut_is_made_again_without_failing_anybody_who_comes_later(
    cache: Cache, redis_nodes: Nodes
) -> None:
    server = redis_nodes.addresses[0]
    key = key_at(cache, redis_nodes, server)
    node = cache.plane.topology.owners[slot_of(key)]
    assert node is not None
    before = node._connection
    redis_nodes.client(server).execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def seen() -> bool:
        return node.up and node._connection is not before

    await eventually(seen)
    for _ in range(20):
        assert await cache.plane.execute(key, b"GET", key) is None


async def test_commands_of_one_turn_leave_in_one_write_a_node(
    cache: Cache, redis_nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: dict[str, int] = {}
    for node in cache.plane.topology.primaries:
        connection = node._connection
        assert connection is not None
        send = connection.send

        def counted(calls: list, node=node, send=send) -> None:
            if any(b"INFO" not in call.data for call in calls):  # a check of its id may come at any time
                written[str(node)] = written.get(str(node), 0) + 1
            send(calls)

        monkeypatch.setattr(connection, "send", counted)
    await asyncio.gather(
        *(cache.lists.read(HOME, user, 10) for user in USERS), *(cache.readers.get(user) for user in USERS)
    )
    assert written == dict.fromkeys(redis_nodes.addresses, 1)


async def test_opening_with_nobody_there_names_the_nodes_and_the_remedy(redis_nodes: Nodes) -> None:
    settings = Settings(redis_nodes=("127.0.0.1:1",), limits=Limits(redis_open_ms=500, redis_timeout_ms=200))
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1 .*TIMELINE_REDIS_NODES"):
        async with open_cache(settings):
            pass


async def test_opening_succeeds_when_one_node_answers(redis_nodes: Nodes) -> None:
    server = redis_nodes.addresses[0]
    with killed(redis_nodes, server):
        async with open_cache(settings_for(redis_nodes)) as cache:
            found = await cache.contents.posts([TweetId(tweet) for tweet in range(60)])
            assert found == {}
            with pytest.raises(Unavailable):
                await cache.ping()


async def test_what_the_caller_raises_comes_out_as_it_is(redis_nodes: Nodes) -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_cache(settings_for(redis_nodes)):
            raise ZeroDivisionError


async def test_a_password_that_is_refused_is_named_without_being_told(redis_nodes: Nodes) -> None:
    settings = Settings(
        redis_nodes=tuple(redis_nodes.addresses),
        redis_username="nobody",
        redis_password="not-the-password",
        limits=Limits(redis_open_ms=500),
    )
    with pytest.raises(Unavailable, match=r"(?i)WRONGPASS|username-password") as raised:
        async with open_cache(settings):
            pass
    assert "not-the-password" not in str(raised.value)


async def test_a_user_who_may_not_ask_for_the_replication_id_is_told_so(redis_nodes: Nodes) -> None:
    for server in redis_nodes.addresses:
        redis_nodes.client(server).execute_command(
            "ACL", "SETUSER", "blind", "on", ">s3cret", "~*", "&*", "+@all", "-info"
        )
    try:
        settings = settings_for(redis_nodes, redis_open_ms=1_000).model_copy(update={"redis_username": "blind"})
        settings = Settings(**(settings.model_dump() | {"redis_password": "s3cret", "limits": settings.limits}))
        with pytest.raises(Unavailable, match=r"NOPERM.*'info'.*\+info"):
            async with open_cache(settings):
                pass
    finally:
        for server in redis_nodes.addresses:
            redis_nodes.client(server).execute_command("ACL", "DELUSER", "blind")


async def test_a_user_with_a_password_is_let_in(redis_nodes: Nodes) -> None:
    for server in redis_nodes.addresses:
        redis_nodes.client(server).execute_command("ACL", "SETUSER", "feeds", "on", ">s3cret", "~*", "&*", "+@all")
    try:
        settings = settings_for(redis_nodes).model_copy(update={"redis_username": "feeds"})
        settings = Settings(**(settings.model_dump() | {"redis_password": "s3cret", "limits": settings.limits}))
        async with open_cache(settings) as cache:
            key = key_at(cache, redis_nodes, redis_nodes.addresses[0])
            assert await cache.plane.execute(key, b"ACL", b"WHOAMI") == b"feeds"
    finally:
        for server in redis_nodes.addresses:
            redis_nodes.client(server).execute_command("ACL", "DELUSER", "feeds")
