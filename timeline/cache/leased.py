"""Records under a lease: the reader's context, and what the reader has liked and retweeted. Never stale over new.

A record's key holds nothing, or `D` and a token (dirty: the record is being changed, or filled), or `V` and the record; either stands
behind the tag of the primary on which it was begun (cache/replication.py), and each
expires after reader_lease_seconds. A change does: mark, write the store, drop, answer. A read that finds no record does:
begin_fill, read the store, fill. Why a read that begins after a change was answered never gets what was there before it:

- A fill counts only while its own token stands. `begin_fill` puts it only where nothing is; `mark` and `drop` replace or
  remove it. So what was read from the store before the drop of a change is never put after it.
- A read between mark and drop finds `D`, fills nothing, and asks the store: it gets what was there before or after, both
  right.
- Two changes at once: the first to drop removes the other's mark, so a fill may then put a record that lacks the other change.
  The other has not been answered yet, and its own drop removes that record, or bars the fill by removing its token.
- A process that dies between mark and drop has answered nobody. Until the mark expires every read asks the store, which has
  the change or has not. One that dies between begin_fill and fill costs the same.
- A mark or a drop that fails is Unavailable: the caller must not promise that the change holds. A mark that expires under a
  slow change (its store's timeouts are far below the lease) lets a fill put the older record; the change's drop, before its
  answer, removes it.
- A failover may undo a drop that was acknowledged: the record, or the token of a fill, stands again. But behind the tag of the primary
  that was: such a record is not read, a fill puts its own behind the tag of its token, and begin_fill replaces either. That it may
  replace the mark of a change under way is no more than what two changes at once do to each other.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Generic, TypeVar

from timeline.cache.dataplane import DataPlane
from timeline.cache.functions import Functions
from timeline.cache.keys import Keys
from timeline.cache.replication import tag_of, untagged
from timeline.domain import tokens
from timeline.domain.ids import UserId
from timeline.domain.limits import Limits
from timeline.domain.records import UNKNOWN_REPLICATION
from timeline.metrics import CACHE_READS

Record = TypeVar("Record")

_DIRTY = struct.Struct(">cQ")


def _dirty(token: int) -> bytes:
    return _DIRTY.pack(b"D", token)


class LeasedRecords(Generic[Record]):
    """Implements LeasedCache (assembly) and Lease (writing) for one kind of record; `kind` is its word in keys and metrics."""

    def __init__(
        self,
        kind: str,
        pack: Callable[[Record], bytes],
        unpack: Callable[[bytes], Record | None],
        plane: DataPlane,
        functions: Functions,
        keys: Keys,
        limits: Limits,
    ) -> None:
        self._kind, self._pack, self._unpack = kind, pack, unpack
        self._plane, self._functions, self._keys = plane, functions, keys
        self._lease_ms = limits.reader_lease_seconds * 1000
        self._hits, self._misses = CACHE_READS.labels(kind, "hit"), CACHE_READS.labels(kind, "miss")

    def _key(self, user_id: UserId) -> bytes:
        return self._keys.leased(self._kind, user_id)

    async def get(self, user_id: UserId) -> Record | None:
        key = self._key(user_id)
        value = untagged(*await self._plane.execute_told(key, b"GET", key))
        record = self._unpack(value[1:]) if value and value[:1] == b"V" else None
        (self._misses if record is None else self._hits).inc()
        return record

    async def begin_fill(self, user_id: UserId) -> int | None:
        key, token = self._key(user_id), tokens.token()
        primary = self._plane.primary_of(key)
        if primary == UNKNOWN_REPLICATION:
            return None  # nobody could trust what it puts
        begun: int = await self._functions.call("begin_fill", key, tag_of(primary), _dirty(token), self._lease_ms)
        return token if begun == 1 else None

    async def fill(self, user_id: UserId, token: int, record: Record) -> bool:
        value = b"V" + self._pack(record)
        done: int = await self._functions.call("fill", self._key(user_id), _dirty(token), value, self._lease_ms)
        return done == 1

    async def mark(self, user_id: UserId) -> int:
        key, token = self._key(user_id), tokens.token()
        tag = tag_of(self._plane.primary_of(key))  # an unknown one as well: what stands there is hidden all the same
        value = tag + _dirty(token)
        await self._plane.execute(key, b"SET", key, value, b"PX", self._lease_ms)
        return token

    async def drop(self, user_id: UserId) -> None:
        key = self._key(user_id)
        await self._plane.execute(key, b"DEL", key)
