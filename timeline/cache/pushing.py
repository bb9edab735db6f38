"""Pushing: entries to the end of lists that exist, and cutting lists that have grown a quarter too long."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from time import time
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from timeline.cache.appends import Appends, Block, Frame, Numbers, blocks
from timeline.cache.connection import Node, Reply
from timeline.cache.dataplane import DataPlane, packed_transaction
from timeline.cache.errors import ReplyError
from timeline.cache.functions import Functions, full_name
from timeline.cache.integers import REFUSED
from timeline.cache.keys import Keys, slot_of
from timeline.domain import pauses
from timeline.domain.entries import ENTRY_BYTES, Entry, UserIds
from timeline.domain.errors import OutcomeUnknown, Unavailable
from timeline.domain.limits import Limits
from timeline.domain.pauses import Point
from timeline.domain.records import Header, ListKind
from timeline.fanout.plan import is_late
from timeline.fanout.ports import Delivery, NotAcknowledged
from timeline.metrics import DELIVERIES, PUSHES, TRIMS

log = logging.getLogger(__name__)

_ROWS_PER_ROUND: Final = 16_384  # 1.5 MB of commands, 4 ms of building: then the loop has its turn
_ROUNDS_IN_FLIGHT: Final = 4  # built and not yet answered, a push
_ONE_BY_ONE_MAX: Final = 1_000  # refused ones that are sent again at once
_NOT_ACKNOWLEDGED: Final = REFUSED  # in a length's place
_CUTS_MAX: Final = 8  # of one list in a row, 3,200 entries; what is over then is left to the next push

Lengths = npt.NDArray[np.int64]
Some = TypeVar("Some")


def _now_ms() -> int:
    return int(time() * 1000)


@dataclass(slots=True)
class Outcome:
    """What became of appends: how many reached a list, which lists are too long, and how long; which rows were not acknowledged, and
    the first reason why not."""

    appended: int = 0
    too_long: dict[int, int] = field(default_factory=dict)
    rows: list[Numbers] = field(default_factory=list)
    error: Unavailable | None = None

    def add(self, other: Outcome) -> None:
        self.appended += other.appended
        self.too_long |= other.too_long
        self.rows += other.rows
        self.error = self.error or other.error


@dataclass(slots=True)
class TooLong:
    """A list that is to be cut, and how many entries were over its cap when that was told."""

    user: int
    key: bytes
    over: int


@dataclass(frozen=True, slots=True)
class Cut:
    """What `trim` is called with: whose front it is, and what is to go from there."""

    header: Header
    oldest: Sequence[bytes]

    def arguments(self) -> tuple[bytes | int, ...]:
        # entries are compared as bytes: their ids come first, big endian
        floor = int.from_bytes(max(self.oldest)[:8]) + 1
        header, last = self.header, self.oldest[-1]
        return header.epoch.to_bytes(8), header.base.to_bytes(8), len(self.oldest), last, floor.to_bytes(8)


class Pusher:
    """Appends by user. One method a port's method (Timelines hands on to these)."""

    def __init__(
        self,
        plane: DataPlane,
        functions: Functions,
        keys: Keys,
        limits: Limits,
        clock_ms: Callable[[], int] = _now_ms,
    ) -> None:
        self._plane, self._functions, self._keys, self._limits = plane, functions, keys, limits
        self._clock_ms = clock_ms
        self._seconds = limits.push_timeout_ms / 1000
        self._trims_free = asyncio.Semaphore(limits.redis_trims_in_flight)
        self._trims_turn = asyncio.Lock()
        self._frames = {
            (kind, late): Frame(self._words(late), *keys.list_parts(kind))
            for kind in ListKind
            for late in (False, True)
        }
        self._entries_max = {
            ListKind.home: limits.timeline_entries_max,
            ListKind.profile: limits.profile_entries_max,
        }

    @staticmethod
    def _words(late: bool) -> tuple[bytes, ...]:
        return (b"FCALL", full_name("push_late"), b"1") if late else (b"RPUSHX",)

    async def push(self, deliveries: Sequence[Delivery]) -> int:
        """See fanout/ports.py, Pushes."""
        PUSHES.inc(sum([len(each.followers) for each in deliveries]))
        outcome, left = await self._deliver(ListKind.home, deliveries)
        DELIVERIES.inc(outcome.appended)
        if left:
            raise NotAcknowledged(str(outcome.error), left) from outcome.error
        return outcome.appended

    async def push_profiles(self, entries: Sequence[tuple[Entry, bool]]) -> None:
        """See fanout/ports.py, Pushes."""
        own = [Delivery(entry, np.array([entry.author_id], np.int64), late) for entry, late in entries]
        both = await asyncio.gather(*(self._deliver(kind, own) for kind in ListKind))  # one write a node
        if left := {each.entry: each for _, part in both for each in part}:
            error = next(outcome.error for outcome, part in both if part)
            raise NotAcknowledged(str(error), list(left.values())) from error

    async def push_own(self, entry: Entry) -> None:
        """See writing/ports.py, OwnLists. Marked as late by the rule of fan-out, and once more if it has grown late on its way."""
        late = is_late(entry, self._clock_ms(), self._limits)
        await self._push_own(entry, late)
        if not late and is_late(entry, self._clock_ms(), self._limits):
            await self._push_own(entry, True)

    async def _push_own(self, entry: Entry, late: bool) -> None:
        """Both lists are on one node: one write. Raises Unavailable."""
        author, packed = entry.author_id, entry.pack()
        keys = {kind: self._keys.list_of(kind, author) for kind in ListKind}
        try:
            async with asyncio.timeout(self._seconds):
                if late:
                    calls = [(key, (packed,)) for key in keys.values()]
                    lengths = await self._functions.call_many("push_late", calls)
                else:
                    lengths = await self._plane.execute_many([(key, (b"RPUSHX", key, packed)) for key in keys.values()])
        except TimeoutError as error:
            raise OutcomeUnknown(self._too_slow()) from error
        for kind, length in zip(keys, lengths, strict=True):
            if length > self._length_max(kind):
                await self._trim(kind, {author: length})

    def _too_slow(self) -> str:
        return f"redis: not acknowledged within {self._limits.push_timeout_ms} ms"

    def _length_max(self, kind: ListKind) -> int:
        """Header included; above it, a list is cut."""
        return self._entries_max[kind] + self._limits.timeline_slack + 1

    async def _deliver(self, kind: ListKind, deliveries: Sequence[Delivery]) -> tuple[Outcome, list[Delivery]]:
        """All sent and answered, or given up; then lists that are too long cut. What became of it, and what remains.

        Those that are not marked as late come first and have their time from now on: after it they would break W unmarked.
        """
        deadline = asyncio.get_running_loop().time() + self._seconds
        total, left = Outcome(), list[Delivery]()
        for late in (False, True):
            mine = [each for each in deliveries if each.late == late]
            appends = to_appends([(each.entry, each.followers) for each in mine])
            outcome = await self._append_all(kind, appends, late, None if late else deadline)
            if outcome.rows:
                left += remaining(mine, np.concatenate(outcome.rows))
            total.add(outcome)
        await self._trim(kind, total.too_long)
        return total, left

    async def _append_all(self, kind: ListKind, appends: Appends, late: bool, deadline: float | None) -> Outcome:
        total, under_way = Outcome(), list[asyncio.Task[Outcome]]()
        async with asyncio.TaskGroup() as tasks:
            for start in range(0, len(appends), _ROWS_PER_ROUND):
                part = appends[start : start + _ROWS_PER_ROUND]
                under_way.append(tasks.create_task(self._append(kind, part, start, late, deadline)))
                await asyncio.sleep(0)
                if len(under_way) == _ROUNDS_IN_FLIGHT:
                    total.add(await under_way.pop(0))
            for task in under_way:
                total.add(await task)
        return total

    async def _append(
        self, kind: ListKind, appends: Appends, start: int, late: bool, deadline: float | None
    ) -> Outcome:
        """`start`: of these rows among all."""
        topology = self._plane.topology
        nodes = topology.numbered
        total = Outcome()
        found = blocks(appends, self._frames[kind, late], topology.numbers)
        sent = (self._send(kind, appends, block, nodes, late, deadline) for block in found)  # one a node
        for outcome in await asyncio.gather(*sent):
            total.add(outcome)
        total.rows = [rows + start for rows in total.rows]
        return total

    async def _send(
        self,
        kind: ListKind,
        appends: Appends,
        block: Block,
        nodes: tuple[Node, ...],
        late: bool,
        deadline: float | None,
    ) -> Outcome:
        """One node's share. An error is in the outcome, so that the others' answers are read all the same."""
        lengths = np.full(len(block.places), _NOT_ACKNOWLEDGED, np.int64)
        outcome = Outcome()
        try:
            async with asyncio.timeout_at(deadline):
                outcome.error = await self._exchange(kind, appends, block, nodes, late, deadline, lengths)
        except TimeoutError:
            outcome.error = OutcomeUnknown(self._too_slow())
        except Unavailable as error:
            outcome.error = error
        outcome.appended = int(np.count_nonzero(lengths > 0))
        long = np.flatnonzero(lengths > self._length_max(kind))
        outcome.too_long = dict(zip(appends.users[block.places[long]].tolist(), lengths[long].tolist(), strict=True))
        if outcome.error is not None:
            outcome.rows = [block.places[lengths == _NOT_ACKNOWLEDGED]]
        return outcome

    async def _exchange(
        self,
        kind: ListKind,
        appends: Appends,
        block: Block,
        nodes: tuple[Node, ...],
        late: bool,
        deadline: float | None,
        lengths: Lengths,
    ) -> Unavailable | None:
        """Send a block; into `lengths` goes what each list's length is now, as far as it was told in time. The first reason why not.
        Raises Unavailable, TimeoutError, ReplyError."""
        if block.node < 0:
            self._plane.topology.want()
            raise Unavailable("redis: a part of the slots is served by nobody")
        _check(deadline)
        operation = "push_late" if late else "push"
        found = await self._plane.bulk(nodes[block.node], block.data, len(block.places), operation)
        _check(deadline)
        lengths[:] = found
        refused = np.flatnonzero(found == REFUSED)
        return await self._send_again(kind, appends, block, refused, late, deadline, lengths) if len(refused) else None

    async def _send_again(
        self,
        kind: ListKind,
        appends: Appends,
        block: Block,
        refused: Numbers,
        late: bool,
        deadline: float | None,
        lengths: Lengths,
    ) -> Unavailable | None:
        """Refused commands once more, one by one: redirects are followed, a lost library is loaded."""
        failed = None
        for start in range(0, len(refused), _ONE_BY_ONE_MAX):
            part = refused[start : start + _ONE_BY_ONE_MAX]
            keyed = [
                (self._keys.list_of(kind, int(appends.users[row])), appends.entries[row].tobytes())
                for row in block.places[part].tolist()
            ]
            if late:
                fresh = await self._functions.try_many("push_late", [(key, (entry,)) for key, entry in keyed])
            else:
                fresh = await self._plane.try_many([(key, (b"RPUSHX", key, entry)) for key, entry in keyed])
            _check(deadline)
            lengths[part] = _lengths(fresh)
            for reply in fresh:
                if isinstance(reply, ReplyError):
                    raise reply
                if isinstance(reply, Unavailable):
                    failed = failed or reply
        return failed

    async def _trim(self, kind: ListKind, too_long: Mapping[int, int]) -> None:
        """Cut lists of these lengths to their cap. Best effort: one that could not be cut is by the next push. Node by node: one that
        hangs keeps the others' lists waiting only by what it has of redis_trims_in_flight, until it is known to."""
        cap, owners = self._entries_max[kind], self._plane.topology.owners
        shares = dict[Node | None, list[TooLong]]()
        for user, length in too_long.items():
            key = self._keys.list_of(kind, user)
            shares.setdefault(owners[slot_of(key)], []).append(TooLong(user, key, length - 1 - cap))
        await asyncio.gather(*(self._trim_share(share, cap) for share in shares.values()))

    async def _trim_share(self, share: Sequence[TooLong], cap: int) -> None:
        at_once = self._limits.redis_trims_per_round
        for start in range(0, len(share), at_once):
            left = list(share[start : start + at_once])
            for _ in range(_CUTS_MAX):
                if not left:
                    break
                async with self._trims(len(left)):
                    left = await self._cut(left, cap)

    @asynccontextmanager
    async def _trims(self, count: int) -> AsyncIterator[None]:
        """So many of what this process may cut at once."""
        taken = 0
        try:
            async with self._trims_turn:  # two who gather them by turns could each wait for what the other has
                while taken < count:
                    await self._trims_free.acquire()
                    taken += 1
            yield
        finally:
            for _ in range(taken):
                self._trims_free.release()

    async def _cut(self, lists: Sequence[TooLong], cap: int) -> list[TooLong]:
        """Each once, all in two round trips. Those that are to be cut again: much was over, or another trim came between."""
        keys, most = [one.key for one in lists], self._limits.trim_entries_max
        reads = [
            packed_transaction(
                ((b"LINDEX", one.key, 0), (b"LRANGE", one.key, 1, min(one.over, most)), (b"LLEN", one.key))
            )
            for one in lists
        ]
        told = [reply for reply, _ in await self._plane.try_reading_transactions(keys, reads, 3)]
        found = ((one, _to_cut(cap, *read)) for one, read in _answered(lists, told))
        cuts = [(one, cut) for one, cut in found if cut is not None]
        if pauses.hold is not None:
            for one, _ in cuts:
                await pauses.hold(Point.trim, one.user)
        done = await self._functions.try_many("trim", [(one.key, cut.arguments()) for one, cut in cuts])
        answered = _answered(cuts, done)
        for (one, cut), is_done in answered:
            if is_done:
                one.over -= len(cut.oldest)
        TRIMS.inc(sum(is_done for _, is_done in answered))
        return [one for (one, _), _ in answered if one.over > 0]


def _answered(asked: Sequence[Some], replies: Sequence[Reply]) -> list[tuple[Some, Reply]]:
    """What has an answer, with it. Raises ReplyError, which is a bug."""
    errors = [reply for reply in replies if isinstance(reply, Unavailable | ReplyError)]
    if not errors:
        return list(zip(asked, replies, strict=True))
    for error in errors:
        if isinstance(error, ReplyError):
            raise error
    log.info("trims_left_out", extra={"lists": len(errors), "reason": str(errors[0])})
    return [(one, reply) for one, reply in zip(asked, replies, strict=True) if not isinstance(reply, Unavailable)]


def _to_cut(cap: int, first: bytes | None, oldest: list[bytes], length: int) -> Cut | None:
    """Of a list's first element, some of its oldest entries and its length: what is to go of them, at most what is over. None where
    nothing is: a list that is being built is left alone, as it is short-lived, and history is put before what it holds."""
    header = Header.unpack(first) if first is not None else None
    over = oldest[: max(length - 1 - cap, 0)]
    if header is None or header.building or not over or len(over[0]) != ENTRY_BYTES:
        return None
    return Cut(header, over)


def to_appends(pairs: Sequence[tuple[Entry, UserIds]]) -> Appends:
    """Each entry for each of its users, in this order."""
    if not pairs:
        return Appends(np.empty(0, np.int64), np.empty((0, ENTRY_BYTES), np.uint8))
    packed = np.frombuffer(b"".join(entry.pack() for entry, _ in pairs), np.uint8).reshape(-1, ENTRY_BYTES)
    of_entry = np.repeat(np.arange(len(pairs)), [len(users) for _, users in pairs])
    return Appends(np.concatenate([users for _, users in pairs]), packed[of_entry])


def remaining(deliveries: Sequence[Delivery], rows: Numbers) -> list[Delivery]:
    """What these rows of the deliveries' appends were made of."""
    ends = np.cumsum([0, *[len(each.followers) for each in deliveries]])
    ordered = np.sort(rows)
    parts = np.split(ordered, np.searchsorted(ordered, ends[1:-1]))
    return [
        replace(each, followers=each.followers[part - start])
        for each, part, start in zip(deliveries, parts, ends[:-1], strict=False)
        if len(part)
    ]


def _lengths(replies: list[Reply]) -> Lengths:
    """Of the lists, 0 where there is none; _NOT_ACKNOWLEDGED in the place of an error."""
    found = (reply if reply.__class__ is int else _NOT_ACKNOWLEDGED for reply in replies)
    return np.fromiter(found, np.int64, len(replies))


def _check(deadline: float | None) -> None:
    """Raises TimeoutError after it: a timer is not enough, since a process that stood still may read its answers first."""
    if deadline is not None and asyncio.get_running_loop().time() > deadline:
        raise TimeoutError
