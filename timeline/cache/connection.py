"""One Redis node: a connection, the commands waiting for it and on it, and the way back when it is lost.

Commands of one event-loop turn leave in one write. Replies come in the order of the commands, so a caller who gave up (a
timeout, a cancelled task) leaves its place in the queue, and its reply is dropped when it comes: the connection stays in step.
One whose oldest reply is overdue by a whole timeout again is closed: the node hangs, and until it answers a PING, commands for
it fail at once.

A node also knows its replication id, which says whose writes it holds (`Node.replication`).
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from hiredis import HiredisError, Reader, pack_command
from hiredis import ReplyError as RawError

from timeline.cache.errors import lost
from timeline.cache.integers import Integers, Values
from timeline.cache.replication import INFO, primary_in
from timeline.domain.errors import Overloaded, Unavailable
from timeline.domain.limits import Limits
from timeline.domain.records import UNKNOWN_REPLICATION
from timeline.settings import Settings

log = logging.getLogger(__name__)

Reply = Any  # bytes, int, None, or a list of these; an error reply is a hiredis.ReplyError
Command = tuple[bytes | int, ...]
_NOT_YET = object()  # what hiredis answers when no reply is complete
_BACKOFF_FIRST_SECONDS = 0.02
_DOUBT_PAUSE_SECONDS = 0.02  # between two askings for the replication id: slots that move make doubts by the thousand


def pack(command: Command) -> bytes:
    """A command as Redis reads it."""
    packed: bytes = pack_command(command)  # type: ignore[arg-type]  # hiredis's stub has room for one word only
    return packed


class Call:
    """Commands for one node that leave together: their bytes, the number of replies they will have, and who waits.

    When `done` is set, either `replies` are all there (`failed`: an error reply is among them), or `error` says why not.
    """

    __slots__ = (
        "bulk",
        "count",
        "data",
        "deadline",
        "done",
        "error",
        "failed",
        "integers",
        "replies",
        "size",
        "writes",
    )

    def __init__(
        self, data: bytes, count: int, done: asyncio.Future[None], deadline: float, *, writes: bool, bulk: bool = False
    ) -> None:
        self.data, self.count, self.done, self.deadline, self.writes, self.bulk = (
            data,
            count,
            done,
            deadline,
            writes,
            bulk,
        )
        self.size = len(data)
        self.replies: list[Reply] = []
        self.integers: Integers | None = None  # in place of `replies`, of a call whose replies are integers
        self.failed = False
        self.error: Unavailable | None = None

    def finish(self, error: Unavailable | None = None) -> None:
        """Tell who waits, if anybody still does."""
        if not self.done.done():
            self.error = error
            self.done.set_result(None)

    async def wait(self) -> list[Reply]:
        """The replies, error replies among them. Raises Unavailable."""
        await self.done
        if self.error is not None:
            raise self.error
        return self.replies


@dataclass(frozen=True, slots=True)
class Door:
    """How to enter a node: TLS, and who we are."""

    tls: ssl.SSLContext | None
    greeting: tuple[Command, ...]

    @staticmethod
    def of(settings: Settings) -> Door:
        password = settings.redis_password
        greeting: list[Command] = []
        if password is not None:
            user = (settings.redis_username or "default").encode()
            greeting.append((b"AUTH", user, password.get_secret_value().encode()))
        return Door(_tls(settings), tuple(greeting))


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if not settings.redis_tls:
        return None
    context = ssl.create_default_context(cafile=settings.redis_tls_ca)
    if settings.redis_tls_cert is not None:
        context.load_cert_chain(settings.redis_tls_cert, settings.redis_tls_key)
    return context


class Connection(asyncio.Protocol):
    """A socket and the calls written to it, oldest first. `lost` is set when it is gone."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_settled: Callable[[Call], None]) -> None:
        self.lost: asyncio.Future[str] = loop.create_future()
        self.pending: deque[Call] = deque()
        self.on_settled = on_settled
        self._reader = Reader(notEnoughData=_NOT_YET)
        self._holds_beginning = False  # the reader, of a line
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without being a subclass

    def send(self, calls: list[Call]) -> None:
        """Write them now, in one piece."""
        assert self._transport is not None
        self.pending.extend(calls)
        self._transport.write(calls[0].data if len(calls) == 1 else b"".join([call.data for call in calls]))
        for call in calls:
            call.data = b""  # it may wait long for its reply; its bytes need not

    def data_received(self, data: bytes) -> None:
        """Integers by the thousand are not for the reader, unless it holds the beginning of one. It does where what it was given last
        did not end a line: when it comes to their turn, it has given up all that is whole."""
        pending = self.pending
        try:
            while pending and (integers := pending[0].integers) is not None and not self._holds_beginning:
                data = integers.feed(data)
                if not integers.is_whole:
                    return
                self._end_first()
                if not data:
                    return
            self._holds_beginning = not data.endswith(b"\n")
            self._reader.feed(data)
            self._take()
        except HiredisError as error:
            self.close(f"not the Redis protocol: {error}")

    def _end_first(self) -> None:
        """It has its replies."""
        call = self.pending.popleft()
        self.on_settled(call)
        call.finish()

    def _take(self) -> None:
        """Hand every whole reply to the oldest call that lacks one."""
        pending, gets = self.pending, self._reader.gets
        while pending:
            call = pending[0]
            if call.integers is not None:
                if not self._take_integers(call.integers):
                    return
                self._end_first()
                continue
            replies = call.replies
            for _ in range(call.count - len(replies)):
                reply = gets()
                if reply is _NOT_YET:
                    return
                if reply.__class__ is RawError:
                    call.failed = True
                replies.append(reply)
            self._end_first()
        if gets() is not _NOT_YET:
            self.close("a reply that nobody asked for")

    def _take_integers(self, integers: Integers) -> bool:
        """Those that the reader holds; whether that is all of them."""
        replies = list[Reply]()
        while len(replies) < integers.lacking and (reply := self._reader.gets()) is not _NOT_YET:
            replies.append(reply)
        integers.put(replies)
        return integers.is_whole

    def close(self, why: str) -> None:
        """Give it up at once; what is pending is told so."""
        if not self.lost.done():
            self.lost.set_result(why)
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(str(error) if error else "closed by the node")


class Node:
    """One node, by address. `submit` never waits; what is sent is bounded, and so is how long it may take.

    `replication` is its id as a primary, UNKNOWN_REPLICATION while it is none, or did not answer when it was last asked. It is
    asked on connecting, every replication_check_ms, and when anybody doubts it. That is enough to tell what was written before a
    failover from what was written after it, even if the node is primary again and our connection has survived: between the two it
    was a replica for far longer than that, or it stood still, and an asking that is not answered makes it unknown too (so
    cluster-node-timeout must be above replication_check_ms and two timeouts; its default is 15 s). The cost: two INFO a second from
    each process, 10 µs of Redis each (measured): 100 processes take 0.2% of a node.
    """

    def __init__(self, host: str, port: int, *, door: Door, limits: Limits, on_change: Callable[[], None]) -> None:
        self.host, self.port = host, port
        self._greeting = (*door.greeting, (b"PING",))
        self._tls, self._limits, self._on_change = door.tls, limits, on_change
        self._timeout = limits.redis_timeout_ms / 1000
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._queue: list[Call] = []  # not yet written
        self._flush_due = False
        self._commands = self._bytes = self._bulk_bytes = 0  # in flight
        self._bulk_waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._doubt: asyncio.Future[None] = self._loop.create_future()
        self.down: str | None = None  # why it was not reached at the last try
        self.replication = UNKNOWN_REPLICATION
        self.away_since: float | None = self._loop.time()  # on the loop's clock; None while it answers
        self.tried = asyncio.Event()  # whether the first try is over

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def up(self) -> bool:
        return self._connection is not None

    def start(self, tasks: asyncio.TaskGroup) -> None:
        self._task = tasks.create_task(self._keep(), name=f"redis {self}")

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        if self._sweeper is not None:
            self._sweeper.cancel()
        self.down = "the client was closed"
        self._give_up(self.down)

    def doubt(self) -> None:
        """Ask for its replication id soon: it has sent somebody elsewhere, or says that it is no primary."""
        if not self._doubt.done():
            self._doubt.set_result(None)

    # Commands

    def submit(self, data: bytes, count: int, *, writes: bool, bulk: bool = False) -> Call:
        """Send `count` commands with the next flush. Raises Unavailable at once when the node is down, Overloaded at the bound."""
        if self.down is not None:
            raise Unavailable(f"redis {self} is down: {self.down}")
        call = Call(
            data, count, self._loop.create_future(), self._loop.time() + self._timeout, writes=writes, bulk=bulk
        )
        if not bulk:
            if self._commands + count > self._limits.redis_commands_in_flight:
                raise Overloaded(f"redis {self}: {self._commands} commands are in flight")
            if self._bytes and self._bytes + call.size > self._limits.redis_bytes_in_flight:
                raise Overloaded(f"redis {self}: {self._bytes} bytes are in flight")
            self._commands += count
            self._bytes += call.size
        self._queue.append(call)
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)
        if self._sweeper is None:
            self._sweeper = self._loop.call_at(call.deadline, self._sweep)
        return call

    async def bulk(self, data: bytes, count: int) -> Values:
        """Send prebuilt commands as soon as their bytes fit the bound of what is in flight; their replies, which must be integers,
        with REFUSED in the place of an error. Raises Unavailable."""
        await self._reserve(len(data))
        try:
            call = self.submit(data, count, writes=True, bulk=True)
        except Unavailable:
            self._release(len(data))
            raise
        call.integers = integers = Integers(count)
        await call.wait()
        return integers.values

    async def _reserve(self, size: int) -> None:
        """Wait until so many bytes more may be in flight, first come first served. Ends within two timeouts: by then what is in flight
        was answered, or its connection closed."""
        if not self._bulk_waiting and self._bulk_fits(size):
            self._bulk_bytes += size
            return
        turn: asyncio.Future[None] = self._loop.create_future()
        self._bulk_waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            self._release(0 if turn.cancelled() else size)
            raise

    def _bulk_fits(self, size: int) -> bool:
        return not self._bulk_bytes or self._bulk_bytes + size <= self._limits.fanout_bytes_in_flight

    def _release(self, size: int) -> None:
        self._bulk_bytes -= size
        while self._bulk_waiting:
            size, turn = self._bulk_waiting[0]
            if not turn.done():
                if not self._bulk_fits(size):
                    return
                self._bulk_bytes += size
                turn.set_result(None)
            self._bulk_waiting.popleft()

    def _flush(self) -> None:
        self._flush_due = False
        connection = self._connection
        if connection is None or not self._queue:
            return  # they leave when it is there
        calls, self._queue = self._queue, []
        live = [call for call in calls if not call.done.done()]
        if len(live) < len(calls):
            for call in calls:
                if call.done.done():
                    self._settle(call)
        if live:
            connection.send(live)

    def _settle(self, call: Call) -> None:
        """It is no longer in flight."""
        if call.bulk:
            self._release(call.size)
        else:
            self._commands -= call.count
            self._bytes -= call.size

    def _sweep(self) -> None:
        """Tell callers whose time is over; close a connection that hangs. Deadlines ascend, so both stand at the front."""
        self._sweeper = None
        now = self._loop.time()
        pending = self._connection.pending if self._connection is not None else deque[Call]()
        if pending and pending[0].deadline + self._timeout <= now and self._connection is not None:
            self._connection.close("it does not answer")
        for calls in (pending, self._queue):
            for call in calls:
                if call.deadline > now:
                    break
                call.finish(lost(str(self), "no answer in time", writes=call.writes, cause=TimeoutError()))
        self._sweep_again(now, [*([pending[0]] if pending else ()), *self._queue[:1]])

    def _sweep_again(self, now: float, oldest: list[Call]) -> None:
        """At the next deadline, or when what is overdue already is so twice; soon enough for what stands behind it."""
        if oldest:
            deadline = min(call.deadline for call in oldest)
            self._sweeper = self._loop.call_at(deadline if deadline > now else now + self._timeout / 8, self._sweep)

    # The connection

    async def _keep(self) -> None:
        """Connect, stay, connect again, for ever."""
        failures = 0
        while True:
            try:
                connection, replication = await self._connect()
            except (OSError, Unavailable) as error:
                failures += 1
                self._set_down(str(error) or type(error).__name__)
                await asyncio.sleep(self._backoff(failures))
                continue
            since = self._loop.time()
            self._set_up(connection, replication)
            why = await self._stay(connection)
            log.warning("redis_connection_lost", extra={"node": str(self), "reason": why})
            self._set_lost(connection, why)
            self._on_change()
            lived = self._loop.time() - since
            failures = 0 if lived > self._limits.redis_backoff_max_ms / 1000 else failures + 1
            if failures:
                self._set_down(why)
                await asyncio.sleep(self._backoff(failures))

    def _backoff(self, failures: int) -> float:
        ceiling = min(_BACKOFF_FIRST_SECONDS * 2 ** min(failures, 16), self._limits.redis_backoff_max_ms / 1000)
        return random.uniform(ceiling / 2, ceiling)

    async def _connect(self) -> tuple[Connection, bytes]:
        """A connection whose greeting was answered, PING included: a node that hangs accepts connections all the same; and the node's
        replication id, asked for after that: one that wakes up answers what waits for it before it hears that another took its place.
        Raises OSError (a timeout is one) and Unavailable."""
        connection = Connection(self._loop, lambda call: None)
        try:
            async with asyncio.timeout(self._timeout):
                await self._loop.create_connection(lambda: connection, self.host, self.port, ssl=self._tls)
                await self._greet(connection, self._greeting)
                (told,) = await self._greet(connection, (INFO,))
        except BaseException:
            connection.close("not greeted")
            raise
        connection.on_settled = self._settle
        return connection, primary_in(told)

    async def _greet(self, connection: Connection, greeting: tuple[Command, ...]) -> list[Reply]:
        data = b"".join(pack(command) for command in greeting)
        call = Call(data, len(greeting), self._loop.create_future(), 0.0, writes=False)
        connection.send([call])
        await asyncio.wait((call.done, connection.lost), return_when=asyncio.FIRST_COMPLETED)
        if not call.done.done():
            raise Unavailable(f"redis {self}: {connection.lost.result()}")
        refusal = next((reply for reply in call.replies if isinstance(reply, RawError)), None)
        if refusal is None:
            return call.replies
        # LOADING, NOAUTH, WRONGPASS, too many clients: the reply names it, and never the password
        remedy = ". The user needs +info, to tell one primary from the next" if greeting == (INFO,) else ""
        raise Unavailable(f"redis {self}: {refusal}{remedy}")

    async def _stay(self, connection: Connection) -> str:
        """Until it is lost, which is why. Meanwhile ask for the replication id again and again."""
        lost, period = connection.lost, self._limits.replication_check_ms / 1000
        while not lost.done():
            await asyncio.wait((lost,), timeout=min(_DOUBT_PAUSE_SECONDS, period))
            await asyncio.wait((lost, self._doubt), timeout=period, return_when=asyncio.FIRST_COMPLETED)
            self._doubt = self._loop.create_future()
            if not lost.done():
                await self._check(lost)
        return lost.result()

    async def _check(self, lost: asyncio.Future[str]) -> None:
        """Ask for the replication id. A new one is asked for once more before it is believed, as on connecting."""
        asked_at = self._loop.time()
        found = await self._ask_replication(lost)
        if found is not None and found not in (self.replication, UNKNOWN_REPLICATION):
            found = await self._ask_replication(lost)
        if found is None:
            self.replication = UNKNOWN_REPLICATION
            self.away_since = self.away_since or asked_at
            return
        self.away_since = None
        if found != self.replication:
            log.info("redis_replication_changed", extra={"node": str(self), "primary": found != UNKNOWN_REPLICATION})
            self.replication = found
        if found == UNKNOWN_REPLICATION:
            self._on_change()  # the map says that it is a primary

    async def _ask_replication(self, lost: asyncio.Future[str]) -> bytes | None:
        """None: it did not answer, or refused. Not counted among what is in flight: under load it must be known as well."""
        data = pack(INFO)
        self._bulk_bytes += len(data)
        try:
            call = self.submit(data, 1, writes=False, bulk=True)
        except Unavailable:
            self._release(len(data))
            return None
        await asyncio.wait((call.done, lost), return_when=asyncio.FIRST_COMPLETED)
        if not call.done.done() or call.error is not None:
            return None
        if call.failed:
            log.warning("redis_replication_unknown", extra={"node": str(self), "reason": str(call.replies[0])})
            return None
        return primary_in(call.replies[0])

    def _set_up(self, connection: Connection, replication: bytes) -> None:
        if self.down is not None:
            log.info("redis_node_up", extra={"node": str(self)})
        self._connection, self.down = connection, None
        self.replication, self.away_since = replication, None
        self.tried.set()
        self._flush()

    def _set_lost(self, connection: Connection, why: str) -> None:
        """What was sent may have happened; what was not yet sent waits for the next try to connect."""
        self._connection = None
        self.replication = UNKNOWN_REPLICATION
        self.away_since = self.away_since or self._loop.time()
        for call in connection.pending:
            self._settle(call)
            call.finish(lost(str(self), why, writes=call.writes))
        connection.pending.clear()

    def _set_down(self, why: str) -> None:
        if self.down is None:
            log.warning("redis_node_down", extra={"node": str(self), "reason": why})
        self.down = why
        self.tried.set()
        self._give_up(why)

    def _give_up(self, why: str) -> None:
        """Nobody is left waiting."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close(why)
            self._set_lost(connection, why)
        queue, self._queue = self._queue, []
        for call in queue:
            self._settle(call)
            call.finish(Unavailable(f"redis {self} is down: {why}"))
