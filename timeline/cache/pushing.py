"""Pushing: entries to the end of lists that exist, and cutting lists that have grown a quarter too long."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from hiredis import ReplyError as RawError

from timeline.cache.appends import Appends, Block, Frame, blocks
from timeline.cache.connection import Node, Reply
from timeline.cache.dataplane import DataPlane
from timeline.cache.errors import ReplyError
from timeline.cache.functions import Functions, full_name
from timeline.cache.keys import Keys
from timeline.domain.entries import ENTRY_BYTES, Entry, UserIds, join
from timeline.domain.errors import Unavailable
from timeline.domain.ids import UserId
from timeline.domain.limits import Limits
from timeline.domain.records import Header, ListKind
from timeline.fanout.ports import Delivery
from timeline.metrics import DELIVERIES, PUSHES, TRIMS

log = logging.getLogger(__name__)

_ROWS_PER_ROUND: Final = 16_384  # 1.5 MB of commands, 4 ms of building: then the loop has its turn
_ROUNDS_IN_FLIGHT: Final = 4  # built and not yet answered, a push
_ONE_BY_ONE_MAX: Final = 1_000  # refused ones that are sent again at once
_TRIM_ATTEMPTS: Final = 2  # one push more may come between reading and cutting; then it is left to the next push


@dataclass(slots=True)
class Outcome:
    """What became of appends: how many reached a list, which lists are too long, and the first error."""

    appended: int = 0
    too_long: list[int] = field(default_factory=list)
    error: Unavailable | None = None

    def add(self, other: Outcome) -> None:
        self.appended += other.appended
        self.too_long += other.too_long
        self.error = self.error or other.error


class Pusher:
    """Appends by user. One method a port's method (Timelines hands on to these)."""

    def __init__(self, plane: DataPlane, functions: Functions, keys: Keys, limits: Limits) -> None:
        self._plane, self._functions, self._keys, self._limits = plane, functions, keys, limits
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
        outcome = Outcome()
        for late in (False, True):
            appends = to_appends([(each.entry, each.followers) for each in deliveries if each.late == late])
            PUSHES.inc(len(appends))
            outcome.add(await self._append_all(ListKind.home, appends, late=late))
        DELIVERIES.inc(outcome.appended)
        return self._checked(outcome)

    async def push_profiles(self, entries: Sequence[tuple[Entry, bool]]) -> None:
        """See fanout/ports.py, Pushes."""
        outcome = Outcome()
        for late in (False, True):
            own = [(entry, np.array([entry.author_id], np.int64)) for entry, is_late in entries if is_late == late]
            appends = to_appends(own)
            outcome.add(await self._append_all(ListKind.profile, appends, late=late))
            outcome.add(await self._append_all(ListKind.home, appends, late=late))
        self._checked(outcome)

    async def push_own(self, entry: Entry) -> None:
        """See writing/ports.py, OwnLists. Both lists are on one node: one write."""
        author, packed = entry.author_id, entry.pack()
        keys = {kind: self._keys.list_of(kind, author) for kind in ListKind}
        lengths = await self._plane.execute_many([(key, (b"RPUSHX", key, packed)) for key in keys.values()])
        for kind, length in zip(keys, lengths, strict=True):
            if length > self._length_max(kind):
                await self._trim(kind, [author])

    @staticmethod
    def _checked(outcome: Outcome) -> int:
        if outcome.error is not None:
            raise outcome.error
        return outcome.appended

    def _length_max(self, kind: ListKind) -> int:
        """Header included; above it, a list is cut."""
        return self._entries_max[kind] + self._limits.timeline_slack + 1

    async def _append_all(self, kind: ListKind, appends: Appends, *, late: bool) -> Outcome:
        """Every append sent and answered, or refused; then lists that are too long cut."""
        total, under_way = Outcome(), list[asyncio.Task[Outcome]]()
        async with asyncio.TaskGroup() as tasks:
            for start in range(0, len(appends), _ROWS_PER_ROUND):
                part = appends[start : start + _ROWS_PER_ROUND]
                under_way.append(tasks.create_task(self._append(kind, part, late)))
                await asyncio.sleep(0)
                if len(under_way) == _ROUNDS_IN_FLIGHT:
                    total.add(await under_way.pop(0))
            for task in under_way:
                total.add(await task)
        await self._trim(kind, dict.fromkeys(total.too_long))
        return total

    async def _append(self, kind: ListKind, appends: Appends, late: bool) -> Outcome:
        topology = self._plane.topology
        nodes = topology.numbered
        total = Outcome()
        found = blocks(appends, self._frames[kind, late], topology.numbers)
        sent = await asyncio.gather(*(self._send(kind, appends, block, nodes, late) for block in found))  # one a node
        for outcome in sent:
            total.add(outcome)
        return total

    async def _send(
        self, kind: ListKind, appends: Appends, block: Block, nodes: tuple[Node, ...], late: bool
    ) -> Outcome:
        """One node's share. An error is in the outcome, so that the others' answers are read all the same."""
        if block.node < 0:
            self._plane.topology.want()
            return Outcome(error=Unavailable("redis: a part of the slots is served by nobody"))
        try:
            replies = await self._plane.bulk(
                nodes[block.node], block.data, len(block.places), "push_late" if late else "push"
            )
        except Unavailable as error:
            return Outcome(error=error)
        outcome = Outcome()
        refused = [at for at, reply in enumerate(replies) if reply.__class__ is RawError]
        if refused:
            outcome.error = await self._send_again(kind, appends, block, replies, refused, late)
        lengths = np.array([0 if isinstance(reply, Unavailable) else reply for reply in replies], np.int64)
        outcome.appended = int(np.count_nonzero(lengths))
        outcome.too_long = appends.users[block.places[lengths > self._length_max(kind)]].tolist()
        return outcome

    async def _send_again(
        self, kind: ListKind, appends: Appends, block: Block, replies: list[Reply], refused: list[int], late: bool
    ) -> Unavailable | None:
        """Refused commands once more, one by one: redirects are followed, a lost library is loaded. New replies take the refusals'
        places. Raises ReplyError."""
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
            for at, reply in zip(part, fresh, strict=True):
                if isinstance(reply, ReplyError):
                    raise reply
                replies[at] = reply
                if isinstance(reply, Unavailable):
                    failed = failed or reply
        return failed

    async def _trim(self, kind: ListKind, users: Iterable[int]) -> None:
        """Best effort: a list that could not be cut is by the next push."""
        every = list(users)
        for start in range(0, len(every), self._limits.redis_trims_in_flight):
            part = every[start : start + self._limits.redis_trims_in_flight]
            await asyncio.gather(*(self._trim_one(kind, UserId(user)) for user in part))

    async def _trim_one(self, kind: ListKind, user_id: UserId) -> None:
        try:
            for _ in range(_TRIM_ATTEMPTS):
                if await self._try_to_trim(kind, user_id):
                    return
        except Unavailable as error:
            log.info("trim_left_out", extra={"reason": str(error)})

    async def _try_to_trim(self, kind: ListKind, user_id: UserId) -> bool:
        """False if the header has changed meanwhile. A list that is being built is left alone: it is short-lived, and history is put
        before what it holds."""
        key = self._keys.list_of(kind, user_id)
        first, oldest = await self._plane.transaction(
            key, ((b"LINDEX", key, 0), (b"LRANGE", key, 1, -self._entries_max[kind] - 1))
        )
        header = Header.unpack(first) if first is not None else None
        if header is None or header.building or not oldest or len(oldest[0]) != ENTRY_BYTES:
            return True
        dropped = join(oldest)["tweet"]
        after = replace(header, floor=max(header.floor, int(dropped.max()) + 1), base=header.base + len(oldest))
        done: int = await self._functions.call("trim", key, first, len(oldest), after.pack())
        TRIMS.inc(done)
        return done == 1


def to_appends(pairs: Sequence[tuple[Entry, UserIds]]) -> Appends:
    """Each entry for each of its users, in this order."""
    if not pairs:
        return Appends(np.empty(0, np.int64), np.empty((0, ENTRY_BYTES), np.uint8))
    packed = np.frombuffer(b"".join(entry.pack() for entry, _ in pairs), np.uint8).reshape(-1, ENTRY_BYTES)
    of_entry = np.repeat(np.arange(len(pairs)), [len(users) for _, users in pairs])
    return Appends(np.concatenate([users for _, users in pairs]), packed[of_entry])
