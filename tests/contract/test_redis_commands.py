"""One suite for whoever sends commands to a Redis Cluster: our data plane, and redis-py's cluster client, which it must agree with."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

import pytest
import redis.asyncio
import redis.exceptions

from timeline.cache.dataplane import open_plane
from timeline.cache.errors import ReplyError
from timeline.local import Control
from timeline.settings import Settings, address

Command = tuple[bytes | int, ...]


class Commands(Protocol):
    """What both offer."""

    async def execute(self, key: bytes, *command: bytes | int) -> Any: ...
    async def execute_many(self, commands: Sequence[tuple[bytes, Command]]) -> list[Any]: ...
    async def transaction(self, key: bytes, commands: Sequence[Command]) -> list[Any]: ...


def _spelled(command: Command) -> tuple[Any, ...]:
    """As redis-py wants it: the command's name as text."""
    name = command[0]
    assert isinstance(name, bytes)
    return (name.decode(), *command[1:])


class RedisPy:
    """redis-py's cluster client behind the same calls."""

    def __init__(self, client: redis.asyncio.RedisCluster) -> None:
        self._client = client
        client.response_callbacks.clear()

    async def execute(self, key: bytes, *command: bytes | int) -> Any:
        try:
            return await self._client.execute_command(*_spelled(command))
        except redis.exceptions.ResponseError as error:
            raise ReplyError(str(error)) from error

    async def execute_many(self, commands: Sequence[tuple[bytes, Command]]) -> list[Any]:
        pipeline = self._client.pipeline()
        for _, command in commands:
            pipeline.execute_command(*_spelled(command))
        try:
            return await pipeline.execute()
        except redis.exceptions.ResponseError as error:
            raise ReplyError(str(error)) from error

    async def transaction(self, key: bytes, commands: Sequence[Command]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=True)
        for command in commands:
            pipeline.execute_command(*_spelled(command))
        try:
            return await pipeline.execute()
        except redis.exceptions.ResponseError as error:
            raise ReplyError(str(error)) from error


@pytest.fixture(params=["ours", "redis-py"])
async def commands(request: pytest.FixtureRequest, engines: Control) -> AsyncIterator[Commands]:
    nodes = tuple(engines.env["TIMELINE_REDIS_NODES"].split(","))
    if request.param == "ours":
        async with open_plane(Settings(redis_nodes=nodes)) as plane:
            yield plane
        return
    host, port = address(nodes[0])
    async with redis.asyncio.RedisCluster(host, port, protocol=2) as client:
        yield RedisPy(client)


@pytest.fixture
def prefix() -> bytes:
    return b"c%s:" % secrets.token_hex(6).encode()


async def test_each_type_of_reply_arrives_as_it_is(commands: Commands, prefix: bytes) -> None:
    key, items, none = prefix + b"a", prefix + b"l", prefix + b"none"
    assert await commands.execute(key, b"GET", key) is None
    assert await commands.execute(key, b"SET", key, b"1") in (b"OK", True)
    assert await commands.execute(key, b"GET", key) == b"1"
    assert await commands.execute(key, b"INCRBY", key, 41) == 42
    assert await commands.execute(items, b"RPUSH", items, b"x", b"", b"z") == 3
    assert await commands.execute(items, b"LRANGE", items, 0, -1) == [b"x", b"", b"z"]
    assert await commands.execute(none, b"LRANGE", none, 0, -1) == []


async def test_replies_stand_in_the_order_of_their_commands_over_all_nodes(commands: Commands, prefix: bytes) -> None:
    keys = [prefix + b"%d" % number for number in range(1_000)]
    await commands.execute_many([(key, (b"SET", key, b"value of " + key, b"PX", 60_000)) for key in keys])
    assert await commands.execute_many([(key, (b"GET", key)) for key in keys]) == [b"value of " + key for key in keys]


async def test_no_commands_have_no_replies(commands: Commands) -> None:
    assert await commands.execute_many([]) == []


async def test_commands_to_one_key_happen_in_their_order(commands: Commands, prefix: bytes) -> None:
    key = prefix + b"l"
    lengths = await commands.execute_many([(key, (b"RPUSH", key, b"%d" % number)) for number in range(300)])
    assert lengths == list(range(1, 301))
    assert await commands.execute(key, b"LRANGE", key, 0, -1) == [b"%d" % number for number in range(300)]


async def test_a_refused_command_raises_and_leaves_the_connection_usable(commands: Commands, prefix: bytes) -> None:
    key = prefix + b"s"
    await commands.execute(key, b"SET", key, b"text")
    with pytest.raises(ReplyError, match=r"WRONGTYPE|wrong kind"):
        await commands.execute(key, b"LPUSH", key, b"x")
    assert await commands.execute(key, b"GET", key) == b"text"


async def test_one_refused_command_of_many_raises_after_the_others_were_done(commands: Commands, prefix: bytes) -> None:
    keys = [prefix + b"%d" % number for number in range(30)]
    await commands.execute(keys[7], b"RPUSH", keys[7], b"x")
    with pytest.raises(ReplyError):
        await commands.execute_many([(key, (b"INCR", key)) for key in keys])
    for key in keys[:7] + keys[8:]:
        assert await commands.execute(key, b"GET", key) == b"1"


@pytest.mark.parametrize(
    "value", [b"", b"\r\n", b"$5\r\nabcde\r\n", bytes(range(256)) * 3, b"\x00" * 20_000_000], ids=len
)
async def test_values_of_any_bytes_and_size_come_back(commands: Commands, prefix: bytes, value: bytes) -> None:
    key = prefix + b"v"
    await commands.execute(key, b"SET", key, value, b"PX", 60_000)
    assert await commands.execute(key, b"GET", key) == value
    await commands.execute(key, b"DEL", key)


async def test_many_callers_at_once_each_get_their_own(commands: Commands, prefix: bytes) -> None:
    async def caller(number: int) -> None:
        key = prefix + b"%d" % number
        for turn in range(10):
            await commands.execute(key, b"SET", key, b"%d/%d" % (number, turn))
            assert await commands.execute(key, b"GET", key) == b"%d/%d" % (number, turn)

    async with asyncio.TaskGroup() as tasks:
        for number in range(60):
            tasks.create_task(caller(number))


async def test_callers_that_are_cancelled_spoil_no_other_callers_replies(commands: Commands, prefix: bytes) -> None:
    keys = [prefix + b"%d" % number for number in range(60)]
    await commands.execute_many([(key, (b"SET", key, key)) for key in keys])
    tasks = [asyncio.create_task(commands.execute(key, b"GET", key)) for key in keys]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    replies = await asyncio.gather(*tasks, return_exceptions=True)
    for number, reply in enumerate(replies):
        assert reply == keys[number] or (number % 3 == 0 and isinstance(reply, asyncio.CancelledError))
    assert await commands.execute_many([(key, (b"GET", key)) for key in keys]) == keys


async def test_a_transaction_sees_one_moment(commands: Commands, prefix: bytes) -> None:
    key = prefix + b"{n}"

    async def grow() -> None:
        for _ in range(100):
            await commands.execute(key, b"RPUSH", key, b"x")

    async def look() -> None:
        for _ in range(100):
            length, items = await commands.transaction(key, ((b"LLEN", key), (b"LRANGE", key, 0, -1)))
            assert length == len(items)

    await asyncio.gather(grow(), grow(), look(), look())
    assert await commands.execute(key, b"LLEN", key) == 200


async def test_a_refused_command_in_a_transaction_raises(commands: Commands, prefix: bytes) -> None:
    key = prefix + b"s"
    await commands.execute(key, b"SET", key, b"text")
    with pytest.raises(ReplyError):
        await commands.transaction(key, ((b"GET", key), (b"LRANGE", key, 0, -1)))
    assert await commands.transaction(key, ((b"GET", key), (b"STRLEN", key))) == [b"text", 4]


async def test_a_transaction_with_a_command_that_does_not_exist_changes_nothing(
    commands: Commands, prefix: bytes
) -> None:
    key = prefix + b"s"
    with pytest.raises(ReplyError):
        await commands.transaction(key, ((b"SET", key, b"1"), (b"SET", key)))
    assert await commands.execute(key, b"EXISTS", key) == 0
