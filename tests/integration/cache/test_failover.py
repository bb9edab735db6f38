"""Real failovers: three primaries with a replica each. One primary is killed, or stands still, with writes that it has acknowledged
and its replica lacks; and once more the other way, so that the first is primary again."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.conftest import free_base_port
from tests.integration.cache.conftest import Nodes, OpenCache, eventually, settings_for
from tests.integration.cache.test_leased import reader
from tests.integration.cache.test_timelines import build, delivery, entry, history, seen, times
from timeline.assembly.ports import Building, ListView, Moment
from timeline.cache import Cache
from timeline.cache.keys import slot_of
from timeline.domain.errors import Unavailable
from timeline.domain.ids import TweetId, UserId
from timeline.domain.records import UNKNOWN_REPLICATION, Author, ListKind, Marks, Post, State
from timeline.local import Topology, open_engines

HOME = ListKind.home
NODE_TIMEOUT_MS = 3_000  # above a check and two timeouts of ours (connection.py, Node)
LIMITS = {"redis_timeout_ms": 1_000}
SECONDS = 40


class Pairs(Nodes):
    """Six nodes, in pairs."""

    def role(self, server: str) -> str:
        return str(self.client(server).info("replication")["role"])

    def partner(self, server: str) -> str:
        at = self.addresses.index(server)
        return self.addresses[(at + 3) % 6]

    def signal(self, server: str, number: signal.Signals) -> None:
        os.kill(self.control.pid(self.name(server)), number)

    async def until_copied(self, server: str) -> None:
        """The node is a replica, and has all that its primary has."""

        async def copied() -> bool:
            facts = self.client(server).info("replication")
            other = self.client(self.partner(server)).info("replication")
            return bool(
                facts["role"] == "slave"
                and facts["master_link_status"] == "up"
                and facts["slave_repl_offset"] == other["master_repl_offset"]
            )

        await eventually(copied, SECONDS)

    async def until_primary(self, server: str) -> None:
        async def promoted() -> bool:
            return self.role(server) == "master"

        await eventually(promoted, SECONDS)


def let_take_over(nodes: Nodes, server: str, allowed: bool) -> None:
    """By itself: on a busy machine, a primary that nobody harmed looks dead now and then."""
    nodes.client(server).config_set("cluster-replica-no-failover", "no" if allowed else "yes")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pairs]:
    topology = Topology(free_base_port(), cassandra=0, kafka=0, redis_replicas=1)
    with open_engines(tmp_path_factory.mktemp("pairs"), topology) as fleet:
        nodes = Pairs(fleet)
        for server in nodes.addresses:
            nodes.client(server).config_set("cluster-node-timeout", NODE_TIMEOUT_MS)
            let_take_over(nodes, server, False)
        yield nodes


async def settled(cache: Cache, pairs: Pairs, server: str) -> None:
    """The process has found the new primary and knows its id."""
    expected = bytes.fromhex(pairs.client(server).info("replication")["master_replid"])

    async def known() -> bool:
        mine = [node for node in cache.plane.topology.primaries if str(node) == server]
        return bool(mine) and mine[0].replication == expected

    await eventually(known, SECONDS)


async def fail_over(pairs: Pairs, server: str, how: str, cache: Cache, world: World) -> str:
    """The replica takes over without what was written last. The old primary is a replica when this returns. The new one."""
    other = pairs.partner(server)
    await pairs.until_copied(other)
    let_take_over(pairs, other, True)
    pairs.signal(other, signal.SIGSTOP)
    pairs.client(server).execute_command("CLIENT", "KILL", "TYPE", "replica")
    await world.write_what_is_lost(cache)
    if how == "killed":
        pairs.control.kill(pairs.name(server))
    else:
        pairs.signal(server, signal.SIGSTOP)
    pairs.signal(other, signal.SIGCONT)
    await pairs.until_primary(other)
    if how == "killed":
        pairs.control.start(pairs.name(server))
    else:
        pairs.signal(server, signal.SIGCONT)
    for each in (server, other):
        let_take_over(pairs, each, False)
        pairs.client(each).config_set("cluster-node-timeout", NODE_TIMEOUT_MS)
    await pairs.until_copied(server)
    await settled(cache, pairs, other)
    return other


@dataclass(slots=True)
class World:
    """Of one slot: users who read, a tweet whose records share it, and what was begun on a primary and not yet finished."""

    users: list[UserId]
    post: TweetId
    tweet: TweetId
    author: UserId
    building: Building | None = None
    moment: Moment | None = None
    token: int | None = None
    view: ListView | None = None
    lost_at: int = 0

    @staticmethod
    def on(cache: Cache, pairs: Pairs, server: str) -> World:
        keys = cache.keys
        first, last = 0, 16_383 // 3 - 1  # of the first pair
        assert server == pairs.addresses[0]

        def there(key: bytes) -> bool:
            return first <= slot_of(key) <= last

        users = [UserId(user) for user in range(1, 200) if there(keys.list_of(HOME, user))][:3]
        post = next(TweetId(tweet) for tweet in range(1, 200) if there(keys.post(tweet)))
        tweet = next(TweetId(tweet) for tweet in range(1, 200) if there(keys.state(tweet)))
        author = next(UserId(user) for user in range(1, 200) if there(keys.author(user)))
        return World(users, post, tweet, author)

    async def write(self, cache: Cache, version: int) -> None:
        """Everything, replicated."""
        moment = cache.contents.moment()
        await cache.contents.put_posts([Post(version, self.post, UserId(7), b"x")], moment)
        await cache.contents.put_states({self.tweet: State(version, False, False)}, moment)
        await cache.contents.put_authors([Author(version, self.author, "alice", b"{}")], moment)
        await fill(cache, self.users[0], version)
        marks_token = await cache.marks.begin_fill(self.users[0])
        assert marks_token is not None
        none = reader(1).muted
        assert await cache.marks.fill(self.users[0], marks_token, Marks(none, 0, none, 0, 1))

    async def begin(self, cache: Cache) -> None:
        """A building, a fill, a reading of the store."""
        self.view = await seen(cache, user=self.users[0])
        self.building = await cache.lists.begin_build(HOME, self.users[1])
        self.token = await cache.readers.begin_fill(self.users[1])
        self.moment = cache.contents.moment()
        assert self.building is not None
        assert self.token is not None

    async def write_what_is_lost(self, cache: Cache) -> None:
        """A push, a deletion and a change, all acknowledged."""
        self.lost_at += 1
        one = entry(1_000 + self.lost_at)
        assert await cache.lists.push([delivery(one, self.users[0], self.users[1])]) == 2
        await cache.contents.put_state(self.tweet, State(1, True, False))
        await cache.readers.mark(self.users[0])
        await cache.readers.drop(self.users[0])
        await cache.readers.mark(self.users[1])
        await cache.readers.drop(self.users[1])

    async def is_all_absent(self, cache: Cache) -> None:
        """Of records and contents; and of lists, that they are not trusted."""
        reader_found, marks, view, *contents = await asyncio.gather(  # all sent before anything is heard
            cache.readers.get(self.users[0]),
            cache.marks.get(self.users[0]),
            seen(cache, user=self.users[0]),
            cache.contents.posts([self.post]),
            cache.contents.states([self.tweet]),
            cache.contents.authors([self.author]),
        )
        assert not view.is_at_home
        assert contents == [{}, {}, {}]
        assert (reader_found, marks) == (None, None)

    async def finish(self, cache: Cache) -> None:
        """What was begun before: it does no harm after."""
        assert self.building is not None
        assert self.token is not None
        assert self.view is not None
        assert self.moment is not None
        if await cache.lists.install(HOME, self.users[1], self.building, history(1, 2), 1):
            view = await seen(cache, user=self.users[1])
            assert view.header.replication == self.building.replication
            assert not view.is_at_home
        if await cache.lists.reinstall(HOME, self.users[0], self.view, history(1, 2), 1):
            assert not (await seen(cache, user=self.users[0])).is_at_home
        await cache.readers.fill(self.users[1], self.token, reader(1))
        assert await cache.readers.get(self.users[1]) is None
        await cache.contents.put_states({self.tweet: State(1, False, False)}, self.moment)
        await cache.contents.put_posts([Post(1, self.post, UserId(7), b"x")], self.moment)
        assert await cache.contents.states([self.tweet]) == {}
        assert await cache.contents.posts([self.post]) == {}


async def fill(cache: Cache, user: UserId, version: int) -> None:
    token = await cache.readers.begin_fill(user)
    assert token is not None
    assert await cache.readers.fill(user, token, reader(version))
    assert await cache.readers.get(user) is not None


@pytest.mark.parametrize("how", ["killed", "standing still"])
async def test_nothing_from_before_a_failover_is_trusted_after_it_nor_after_the_first_is_primary_again(
    opened: OpenCache, pairs: Pairs, how: str
) -> None:
    cache = await opened(settings_for(pairs, **LIMITS))
    first = await primary_of_first_pair(pairs)
    world = World.on(cache, pairs, pairs.addresses[0])
    await settled(cache, pairs, first)
    server, versions = first, iter(range(1, 10))
    ids = [cache.plane.primary_of(cache.keys.state(world.tweet))]
    await build(cache, 1, 2, user=world.users[0])
    for _ in range(2):
        await world.write(cache, next(versions))
        await world.begin(cache)
        server = await fail_over(pairs, server, how, cache, world)
        held = times(await seen(cache, user=world.users[0]))
        assert 1_000 + world.lost_at not in held  # acknowledged, and not there
        await world.is_all_absent(cache)
        await world.finish(cache)
        await world.is_all_absent(cache)
        view = await seen(cache, user=world.users[0])
        assert await cache.lists.reinstall(HOME, world.users[0], view, history(1, 2, 1_000 + world.lost_at), 5)
        now = await seen(cache, user=world.users[0])
        assert now.is_at_home
        assert 1_000 + world.lost_at in times(now)
        ids.append(now.primary)
        gone = await cache.lists.read(HOME, world.users[1], None)
        if gone is not None:
            await cache.plane.execute(*both(b"DEL", cache.keys.list_of(HOME, world.users[1])))
    assert server == first
    assert len(set(ids)) == 3  # the first one is another than it was


def both(command: bytes, key: bytes) -> tuple[bytes, bytes, bytes]:
    return key, command, key


async def primary_of_first_pair(pairs: Pairs) -> str:
    one = pairs.addresses[0]
    first = one if pairs.role(one) == "master" else pairs.partner(one)
    await pairs.until_copied(pairs.partner(first))
    return first


async def hand_over(pairs: Pairs, server: str) -> float:
    """The node, a replica, takes over from a primary that lives. When it has, and the other one knows."""
    await pairs.until_copied(server)
    deadline, again_at = time.monotonic() + SECONDS, 0.0
    while pairs.role(server) != "master":
        assert time.monotonic() < deadline
        if time.monotonic() > again_at:  # votes are given once in two node timeouts
            pairs.client(server).execute_command("CLUSTER", "FAILOVER")
            again_at = time.monotonic() + 6
        await asyncio.sleep(0.005)
    # until it learns who was voted for, the other one calls itself a primary too
    while pairs.role(pairs.partner(server)) != "slave":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
    return time.monotonic()


async def test_a_promotion_is_noticed_within_the_period_of_checks_though_the_connection_has_survived(
    opened: OpenCache, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    period_ms = 400
    cache = await opened(settings_for(pairs, **LIMITS, replication_check_ms=period_ms))
    first = await primary_of_first_pair(pairs)
    world = World.on(cache, pairs, pairs.addresses[0])
    user = world.users[0]
    await settled(cache, pairs, first)
    await build(cache, 1, user=user)
    await fill(cache, user, 1)
    key = cache.keys.list_of(HOME, user)
    node = cache.plane.topology.owners[slot_of(key)]
    assert node is not None
    connection, known = node._connection, node.replication
    # the map stays as it is, or the node would be left, and found anew under another connection
    monkeypatch.setattr(cache.plane.topology, "refresh", unchanged)
    monkeypatch.setattr(cache.plane.topology, "follow", refuse)

    async def noticed() -> bool:
        return node.replication == UNKNOWN_REPLICATION

    async def known_again() -> bool:
        return node.replication not in (UNKNOWN_REPLICATION, known)

    checks: list[tuple[float, float, bool]] = []  # when each began and ended, and whether the new id was known then
    check = node._check

    async def watched(lost: asyncio.Future[str]) -> None:
        began = time.monotonic()
        await check(lost)
        checks.append((began, time.monotonic(), await known_again()))

    monkeypatch.setattr(node, "_check", watched)
    stopped, reads = False, 0

    async def read_on() -> None:
        nonlocal reads
        while not stopped:
            try:
                view = await cache.lists.read(HOME, user, None)
                record = await cache.readers.get(user)
            except Unavailable:
                pass  # while the node is a replica it refuses to answer, which is right; what it does answer is judged, and counted
            else:
                assert view is None or not view.is_at_home
                assert record is None
                reads += 1
            await asyncio.sleep(0.002)

    await hand_over(pairs, pairs.partner(first))
    await eventually(noticed, 5)
    reading = asyncio.create_task(read_on())
    promoted = await hand_over(pairs, first)
    await eventually(known_again, 5)
    assert next(known for began, _, known in checks if began > promoted or known)  # by the first one after it
    pauses = [began - ended for (_, ended, _), (began, _, _) in itertools.pairwise(checks)]
    assert statistics.median(pauses) < (period_ms + 100) / 1000
    assert node._connection is connection
    before = reads

    async def read_more() -> bool:
        return reads > before

    await eventually(read_more)
    stopped = True
    await reading
    view = await seen(cache, user=user)
    assert not view.is_at_home
    assert view.header.replication == known
    assert await cache.readers.get(user) is None


async def unchanged() -> None:
    """Nobody is asked."""


def refuse(*_: object) -> None:
    raise Unavailable("not followed in this test")


async def test_a_command_that_is_sent_on_is_trusted_by_nobody_and_the_next_one_is(
    opened: OpenCache, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = await opened(settings_for(pairs, **LIMITS, replication_check_ms=3_600_000))  # only doubts make it ask
    first = await primary_of_first_pair(pairs)
    world = World.on(cache, pairs, pairs.addresses[0])
    user = world.users[0]
    await settled(cache, pairs, first)
    await build(cache, 1, user=user)
    await world.write(cache, 1)
    await hand_over(pairs, pairs.partner(first))  # nothing is lost, but who is to know

    async def demoted() -> bool:
        return pairs.role(first) == "slave"

    await eventually(demoted, SECONDS)
    with monkeypatch.context() as patched:
        patched.setattr(cache.plane.topology, "refresh", unchanged)  # so every slot's first command is sent on
        await world.is_all_absent(cache)
        await world.is_all_absent(cache)
    cache.plane.topology.want()
    await settled(cache, pairs, pairs.partner(first))
    await world.is_all_absent(cache)
    view = await seen(cache, user=user)
    assert view.primary != UNKNOWN_REPLICATION
    assert await cache.lists.reinstall(HOME, user, view, history(1), 5)
    assert (await seen(cache, user=user)).is_at_home


async def test_a_primary_that_died_is_followed_to_its_replica_with_its_functions(
    opened: OpenCache, pairs: Pairs
) -> None:
    cache = await opened(settings_for(pairs, **LIMITS))
    first = await primary_of_first_pair(pairs)
    world = World.on(cache, pairs, pairs.addresses[0])
    await settled(cache, pairs, first)
    await build(cache, 1, user=world.users[0])
    await pairs.until_copied(pairs.partner(first))
    let_take_over(pairs, pairs.partner(first), True)
    pairs.control.kill(pairs.name(first))
    try:

        async def taken_over() -> bool:
            try:
                return await cache.lists.push([delivery(entry(2), world.users[0], late=True)]) == 1
            except Unavailable:
                return False

        await eventually(taken_over, SECONDS)
        assert times(await seen(cache, user=world.users[0]))[:2] == [1, 2]
    finally:
        pairs.control.start(pairs.name(first))
