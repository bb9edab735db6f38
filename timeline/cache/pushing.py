"""Pushing: entries to the end of lists that exist, and cutting lists that have grown a quarter too long."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from time import time
from typing import Final

import numpy as np
import numpy.typing as npt

from timeline.cache.appends import Appends, Block, Frame, Numbers, blocks
from timeline.cache.connection import Node, Reply
from timeline.cache.dataplane import DataPlane, packed_transaction
from timeline.cache.errors import ReplyError
from timeline.cache.functions import Functions, full_name
from timeline.cache.integers import REFUSED
from timeline.cache.keys import Keys
from timeline.domain import pauses
from timeline.domain.entries import ENTRY_BYTES, Entry, UserIds, join
from timeline.domain.errors import OutcomeUnknown, Unavailable
from timeline.domain.ids import UserId
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
_TRIM_ATTEMPTS: Final = 2  # one push more may come between reading and cutting; then it is left to the next push

Lengths = npt.NDArray[np.int64]


def _now_ms() -> int:
    return int(time() * 1000)


@dataclass(slots=True)
class Outcome:
    """What became of appends: how many reached a list, which lists are too long, which rows were not acknowledged, and the first
    reason why not."""

    appended: int = 0
    too_long: list[int] = field(default_factory=list)
    rows: list[Numbers] = field(default_factory=list)
    error: Unavailable | None = None

    def add(self, other: Outcome) -> None:
        self.appended += other.appended
        self.too_long += other.too_long
        self.rows += other.rows
        self.error = self.error or other.error


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
                await self._trim(kind, [author])

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
        await self._trim(kind, dict.fromkeys(total.too_long))
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
        outcome.too_long = appends.users[block.places[lengths > self._length_max(kind)]].tolist()
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

    async def _trim(self, kind: ListKind, users: Iterable[int]) -> None:
        """Best effort: a list that could not be cut is by the next push."""
        every = list(map(UserId, users))
        for start in range(0, len(every), self._limits.redis_trims_in_flight):
            waiting = every[start : start + self._limits.redis_trims_in_flight]
            for _ in range(_TRIM_ATTEMPTS):
                if waiting:
                    waiting = await self._try_to_trim(kind, waiting)

    async def _try_to_trim(self, kind: ListKind, users: Sequence[UserId]) -> list[UserId]:
        """All in two round trips. Those of which the header has changed between."""
        keys = [self._keys.list_of(kind, user) for user in users]
        reads = [
            packed_transaction(((b"LINDEX", key, 0), (b"LRANGE", key, 1, -self._entries_max[kind] - 1))) for key in keys
        ]
        cuts = list[tuple[UserId, bytes, tuple[bytes | int, ...]]]()
        for user, key, (told, _) in zip(
            users, keys, await self._plane.try_reading_transactions(keys, reads, 2), strict=True
        ):
            if _is_there(told) and (cut := _cut(*told)) is not None:
                cuts.append((user, key, cut))
        if pauses.hold is not None:
            for user, _, _ in cuts:
                await pauses.hold(Point.trim, user)
        done = await self._functions.try_many("trim", [(key, cut) for _, key, cut in cuts]) if cuts else []
        TRIMS.inc(sum(told for told in done if _is_there(told)))
        return [user for (user, _, _), told in zip(cuts, done, strict=True) if told == 0]


def _is_there(told: Reply) -> bool:
    """Whether it is an answer. Raises ReplyError, which is a bug."""
    if isinstance(told, ReplyError):
        raise told
    if isinstance(told, Unavailable):
        log.info("trim_left_out", extra={"reason": str(told)})
        return False
    return True


def _cut(first: bytes | None, oldest: list[bytes]) -> tuple[bytes | int, ...] | None:
    """Of a list's first element and its oldest entries, which are to go: what `trim` is called with. None where nothing is to be cut:
    a list that is being built is left alone, as it is short-lived, and history is put before what it holds."""
    header = Header.unpack(first) if first is not None else None
    if first is None or header is None or header.building or not oldest or len(oldest[0]) != ENTRY_BYTES:
        return None
    dropped = join(oldest)["tweet"]
    after = replace(header, floor=max(header.floor, int(dropped.max()) + 1), base=header.base + len(oldest))
    return first, len(oldest), after.pack()


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
