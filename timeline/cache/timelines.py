"""Lists of entries: what users read (home) and what they wrote (profile). The first element is a Header, the rest entries, 24
bytes each.

Reads are one transaction: header and tail of one moment. What must compare before it writes is a Function; see functions.lua.
"""

from __future__ import annotations

import logging
import secrets
import struct
from collections.abc import Sequence

import numpy as np

from timeline.assembly.ports import ListView
from timeline.cache.dataplane import DataPlane
from timeline.cache.functions import Functions
from timeline.cache.keys import Keys
from timeline.cache.pushing import Pusher
from timeline.domain.entries import ENTRY, ENTRY_BYTES, Entry, Stretch
from timeline.domain.errors import Unavailable
from timeline.domain.ids import TIME_SHIFT, UserId
from timeline.domain.limits import Limits
from timeline.domain.records import Header, ListKind
from timeline.fanout.ports import Delivery
from timeline.metrics import CACHE_READS

log = logging.getLogger(__name__)


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

    async def read(self, kind: ListKind, user_id: UserId, newest: int | None) -> ListView | None:
        if newest is not None and newest < 1:
            raise ValueError("newest is below 1")
        key = self._keys.list_of(kind, user_id)
        first, packed, length, expires_ms = await self._plane.transaction(
            key,
            (
                (b"LINDEX", key, 0),
                (b"LRANGE", key, 1 if newest is None else -newest, -1),
                (b"LLEN", key),
                (b"PTTL", key),
            ),
        )
        if newest is not None and length <= newest:
            del packed[0:1]  # the tail reaches the header
        view = _view(first, packed, length)
        self._reads[kind, "miss" if view is None or view.header.building else "hit"].inc()
        if view is None:
            if first is not None:
                await self._remove_foreign(key, first)
            return None
        if expires_ms < self._renew_below_ms and not view.header.building:
            await self._renew(key, first)
        return view

    async def _remove_foreign(self, key: bytes, first: bytes) -> None:
        """A list that is none of ours, or of another release: it is rebuilt."""
        log.warning("foreign_list_removed", extra={"first_bytes": len(first)})
        await self._functions.call("drop_first", key, first)

    async def _renew(self, key: bytes, header: bytes) -> None:
        try:
            await self._functions.call("renew", key, header, self._expiry_ms)
        except Unavailable as error:
            log.debug("renew_left_out", extra={"reason": str(error)})  # the next read does it

    async def begin_build(self, kind: ListKind, user_id: UserId) -> int | None:
        token = secrets.randbits(63) | 1
        header = Header(floor=0, epoch=token, base=0, built_ms=0, late=0, token=token)
        key, building_ms = self._keys.list_of(kind, user_id), self._limits.building_seconds * 1000
        begun: int = await self._functions.call("begin_build", key, header.pack(), building_ms)
        return token if begun == 1 else None

    async def install(
        self, kind: ListKind, user_id: UserId, token: int, history: Stretch, built_ms: int, authors: int = 0
    ) -> bool:
        kept = history.entries[: self._entries_max(kind)]
        floor = history.complete_from
        if len(kept) < len(history.entries):
            floor = max(floor, int(history.entries["tweet"][len(kept)]) + 1)  # just above the newest one dropped
        header = Header(floor=floor, epoch=token, base=0, built_ms=built_ms, late=0, authors=authors)
        newest = int(kept["tweet"][0]) if len(kept) else 0
        apart_ms = self._limits.late_after_ms + self._limits.clock_skew_ms
        line = max(newest - (apart_ms << TIME_SHIFT), 0) >> TIME_SHIFT << TIME_SHIFT
        installed: int = await self._functions.call(
            "install",
            self._keys.list_of(kind, user_id),
            _u64(token),
            header.pack(),
            _u64(line),
            self._expiry_ms,
            *split(kept[::-1].tobytes()),
        )
        return installed == 1

    async def abandon(self, kind: ListKind, user_id: UserId, token: int) -> None:
        await self._functions.call("abandon", self._keys.list_of(kind, user_id), _u64(token))

    async def drop(self, kind: ListKind, user_id: UserId, seen: Header) -> None:
        await self._functions.call("drop_epoch", self._keys.list_of(kind, user_id), _u64(seen.epoch))

    async def push_own(self, entry: Entry) -> None:
        await self._pusher.push_own(entry)

    async def push(self, deliveries: Sequence[Delivery]) -> int:
        return await self._pusher.push(deliveries)

    async def push_profiles(self, entries: Sequence[tuple[Entry, bool]]) -> None:
        await self._pusher.push_profiles(entries)

    def _entries_max(self, kind: ListKind) -> int:
        return self._limits.timeline_entries_max if kind is ListKind.home else self._limits.profile_entries_max


def _view(first: bytes | None, packed: list[bytes], length: int) -> ListView | None:
    """What was read, or None if it is no list of ours."""
    header = Header.unpack(first) if first is not None else None
    joined = b"".join(packed)
    if header is None or len(joined) != ENTRY_BYTES * len(packed):
        return None
    entries = np.frombuffer(joined, ENTRY)
    return ListView(header, entries, header.base + length - len(packed), len(packed) == length - 1)


def split(packed: bytes) -> list[bytes]:
    """Entries one by one."""
    return [packed[at : at + ENTRY_BYTES] for at in range(0, len(packed), ENTRY_BYTES)]


def _u64(number: int) -> bytes:
    return struct.pack(">Q", number)
