"""Lists of entries: what users read (home) and what they wrote (profile). The first element is a Header, the rest entries, 24
bytes each.

Reads are one transaction: header and tail of one moment. What must compare before it writes is a Function; see functions.lua.

A list names the primary that its building began on, and a view of it the one that was asked: a list that began elsewhere may lack what
that primary had acknowledged (cache/replication.py).
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from timeline.assembly.ports import Building, ListView
from timeline.cache.appends import slots_of
from timeline.cache.connection import pack
from timeline.cache.dataplane import DataPlane
from timeline.cache.errors import ReplyError
from timeline.cache.functions import Functions
from timeline.cache.keys import Keys, slot_of
from timeline.cache.pushing import Pusher
from timeline.cache.replication import Told
from timeline.domain import tokens
from timeline.domain.entries import ENTRY, ENTRY_BYTES, Entry, Stretch, UserIds
from timeline.domain.errors import Unavailable
from timeline.domain.ids import TIME_SHIFT, UserId
from timeline.domain.limits import Limits
from timeline.domain.records import UNKNOWN_REPLICATION, Header, ListKind
from timeline.fanout.ports import Away, Delivery
from timeline.metrics import CACHE_READS

log = logging.getLogger(__name__)

_READ_AT_ONCE: Final = 300  # tails, six commands each: several such readers fit into what a node may have in flight
_WHOLE_AT_ONCE: Final = 64  # whole lists, 20 KB each: 3 ms (measured), then others have their turn
# MULTI LINDEX LRANGE LLEN PTTL EXEC, to be filled in: packing them word by word takes 3.7 µs, this 0.6 (measured)
_READING: Final = (
    pack((b"MULTI",))
    + b"*3\r\n$6\r\nLINDEX\r\n$%d\r\n%s\r\n$1\r\n0\r\n"
    + b"*4\r\n$6\r\nLRANGE\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n$2\r\n-1\r\n"
    + b"*2\r\n$4\r\nLLEN\r\n$%d\r\n%s\r\n"
    + b"*2\r\n$4\r\nPTTL\r\n$%d\r\n%s\r\n"
    + pack((b"EXEC",))
)


class Timelines:
    """Implements ListCache (assembly), OwnLists (writing) and Pushes (fanout)."""

    def __init__(self, plane: DataPlane, functions: Functions, keys: Keys, limits: Limits) -> None:
        self._plane, self._functions, self._keys, self._limits = plane, functions, keys, limits
        self._pusher = Pusher(plane, functions, keys, limits)
        self._expiry_ms = limits.timeline_seconds * 1000
        self._renew_below_ms = (
            self._expiry_ms * 7 // 8
        )  # so a list that is read all day is renewed once a day, not by each read
        self._reads = {
            (kind, result): CACHE_READS.labels(kind.name, result) for kind in ListKind for result in ("hit", "miss")
        }

    async def read(self, kind: ListKind, user_id: UserId, newest: int | None, *, renew: bool = True) -> ListView | None:
        """See ListCache. `renew`: False leaves the list as it is, for whoever reads in no reader's name."""
        key = self._keys.list_of(kind, user_id)
        (told,) = await self._plane.try_reading_transactions([key], [_reading(key, newest)], 4)
        if isinstance(told[0], Exception):
            raise told[0]
        read = _Read(key, told, newest)
        await self._follow_up(kind, [read], renew)
        return read.view

    async def read_many(
        self, kind: ListKind, user_ids: UserIds, newest: int | None, *, renew: bool = True
    ) -> dict[UserId, ListView]:
        """See ListCache, and `read`. The newest 20 of 300 lists on three nodes take 2.6 ms, of a single one 0.08 (measured)."""
        views: dict[UserId, ListView] = {}
        at_once = _READ_AT_ONCE if newest is not None else _WHOLE_AT_ONCE
        for start in range(0, len(user_ids), at_once):
            views |= await self._read_part(kind, user_ids[start : start + at_once].tolist(), newest, renew)
        return views

    async def _read_part(
        self, kind: ListKind, user_ids: list[UserId], newest: int | None, renew: bool
    ) -> dict[UserId, ListView]:
        keys = [self._keys.list_of(kind, user_id) for user_id in user_ids]
        packed = [_reading(key, newest) for key in keys]
        replies = await self._plane.try_reading_transactions(keys, packed, 4)
        reads: dict[UserId, _Read] = {}
        for user_id, key, told in zip(user_ids, keys, replies, strict=True):
            if isinstance(told[0], ReplyError):
                raise told[0]
            if not isinstance(told[0], Unavailable):
                reads[user_id] = _Read(key, told, newest)
        try:
            await self._follow_up(kind, list(reads.values()), renew)
        except Unavailable as error:
            log.debug("foreign_list_left", extra={"reason": str(error)})  # the next read removes it
        views = ((user_id, read.view) for user_id, read in reads.items())
        return {user_id: view for user_id, view in views if view is not None and not view.header.building}

    async def _follow_up(self, kind: ListKind, reads: Sequence[_Read], renew: bool) -> None:
        """Count them, renew those that are soon due, remove those that are none of ours. Raises Unavailable when that fails."""
        for read in reads:
            hit = read.view is not None and not read.view.header.building
            self._reads[kind, "hit" if hit else "miss"].inc()
        foreign = [read for read in reads if renew and read.view is None and read.first is not None]
        if foreign:
            await self._remove_foreign(foreign)
        due = [read for read in reads if renew and read.is_due(self._renew_below_ms)]
        if due:
            await self._renew(due)

    async def _remove_foreign(self, reads: Sequence[_Read]) -> None:
        """Lists that are none of ours, or of another release: they are rebuilt."""
        log.warning("foreign_lists_removed", extra={"lists": len(reads)})
        await self._functions.call_many("drop_first", [(read.key, (read.first or b"",)) for read in reads])

    async def _renew(self, reads: Sequence[_Read]) -> None:
        try:
            calls = [(read.key, (read.first or b"", self._expiry_ms)) for read in reads]
            await self._functions.call_many("renew", calls)
        except Unavailable as error:
            log.debug("renew_left_out", extra={"reason": str(error)})  # the next read does it

    async def begin_build(self, kind: ListKind, user_id: UserId) -> Building | None:
        key, token = self._keys.list_of(kind, user_id), tokens.token()
        primary = self._plane.primary_of(key)
        if primary == UNKNOWN_REPLICATION:
            return None  # nobody could trust it: the next read would build it again
        header = Header(floor=0, epoch=token, base=0, built_ms=0, late=0, token=token, replication=primary)
        begun: int = await self._functions.call("begin_build", key, header.pack(), self._limits.building_seconds * 1000)
        return Building(token, primary) if begun == 1 else None

    async def install(
        self, kind: ListKind, user_id: UserId, building: Building, history: Stretch, built_ms: int
    ) -> bool:
        new = self._list_of(kind, history, building.token, built_ms, building.replication)
        done: int = await self._functions.call("install", self._keys.list_of(kind, user_id), _u64(building.token), *new)
        return done == 1

    async def reinstall(self, kind: ListKind, user_id: UserId, seen: ListView, history: Stretch, built_ms: int) -> bool:
        if seen.primary == UNKNOWN_REPLICATION or seen.header.building:
            return False  # nobody could trust it; or another is about to put history before what arrives
        new = self._list_of(kind, history, tokens.token(), built_ms, seen.primary)
        before = (_u64(seen.header.epoch), _u64(seen.last_arrival))
        done: int = await self._functions.call("reinstall", self._keys.list_of(kind, user_id), *before, *new)
        return done == 1

    def _list_of(
        self, kind: ListKind, history: Stretch, epoch: int, built_ms: int, replication: bytes
    ) -> tuple[bytes | int, ...]:
        """What install and reinstall put: header, line, milliseconds, entries."""
        kept = history.entries[: self._entries_max(kind)]
        floor = history.complete_from
        if len(kept) < len(history.entries):
            floor = max(floor, int(history.entries["tweet"][len(kept)]) + 1)  # just above the newest one dropped
        header = Header(floor=floor, epoch=epoch, base=0, built_ms=built_ms, late=0, replication=replication)
        newest = int(kept["tweet"][0]) if len(kept) else 0
        apart_ms = self._limits.late_after_ms + self._limits.clock_skew_ms
        line = max(newest - (apart_ms << TIME_SHIFT), 0) >> TIME_SHIFT << TIME_SHIFT
        return header.pack(), _u64(line), self._expiry_ms, *split(kept[::-1].tobytes())

    async def abandon(self, kind: ListKind, user_id: UserId, building: Building) -> None:
        await self._functions.call("abandon", self._keys.list_of(kind, user_id), _u64(building.token))

    async def push_own(self, entry: Entry) -> None:
        await self._pusher.push_own(entry)

    async def push(self, deliveries: Sequence[Delivery]) -> int:
        return await self._pusher.push(deliveries)

    async def push_profiles(self, entries: Sequence[tuple[Entry, bool]]) -> None:
        await self._pusher.push_profiles(entries)

    def away(self) -> Sequence[Away]:
        return self._plane.topology.away()

    def slots_of(self, users: UserIds) -> npt.NDArray[np.int64]:
        return slots_of(users)

    def _entries_max(self, kind: ListKind) -> int:
        return self._limits.timeline_entries_max if kind is ListKind.home else self._limits.profile_entries_max


class _Read:
    """What was read of a list: its first element as it is there, and the view, None if it is no list of ours."""

    __slots__ = ("expires_ms", "first", "key", "view")

    def __init__(self, key: bytes, told: Told, newest: int | None) -> None:
        (first, packed, length, expires_ms), primary = told
        if newest is not None and length <= newest:
            del packed[0:1]  # the tail reaches the header
        self.key, self.first, self.expires_ms = key, first, expires_ms
        self.view = _view(key, first, packed, length, primary)

    def is_due(self, below_ms: int) -> bool:
        """Whether its expiry is to be renewed: never that of one that is being built."""
        return self.view is not None and not self.view.header.building and self.expires_ms < below_ms


def _reading(key: bytes, newest: int | None) -> bytes:
    """The transaction that reads a list: what `_Read` takes."""
    if newest is not None and newest < 1:
        raise ValueError("newest is below 1")
    first = b"1" if newest is None else b"-%d" % newest
    return _READING % (len(key), key, len(key), key, len(first), first, len(key), key, len(key), key)


def _view(key: bytes, first: bytes | None, packed: list[bytes], length: int, primary: bytes) -> ListView | None:
    header = Header.unpack(first) if first is not None else None
    joined = b"".join(packed)
    if header is None or len(joined) != ENTRY_BYTES * len(packed):
        return None
    entries = np.frombuffer(joined, ENTRY)
    first_arrival, whole = header.base + length - len(packed), len(packed) == length - 1
    return ListView(header, entries, first_arrival, whole, primary, slot_of(key))


def split(packed: bytes) -> list[bytes]:
    """Entries one by one."""
    return [packed[at : at + ENTRY_BYTES] for at in range(0, len(packed), ENTRY_BYTES)]


def _u64(number: int) -> bytes:
    return struct.pack(">Q", number)
