"""Opening the caches: one connection a node for all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from timeline.cache.contents import Contents
from timeline.cache.dataplane import DataPlane, open_plane
from timeline.cache.functions import Functions
from timeline.cache.keys import Keys
from timeline.cache.leased import LeasedRecords
from timeline.cache.timelines import Timelines
from timeline.domain.model import Reader
from timeline.domain.records import Marks, pack_marks, pack_reader, unpack_marks, unpack_reader
from timeline.settings import Settings

_FORGOTTEN_AT_ONCE: Final = 2_000  # three commands each: below what a node may have in flight


@dataclass(frozen=True, slots=True)
class Cache:
    """Everything that is kept in Redis. `lists` is ListCache, OwnLists and Pushes; `readers` and `marks` are LeasedCache and Lease;
    `contents` is ContentCache, StateCache and AuthorCache."""

    plane: DataPlane
    lists: Timelines
    readers: LeasedRecords[Reader]
    marks: LeasedRecords[Marks]
    contents: Contents
    keys: Keys

    async def forget_readers(self, user_ids: Sequence[int]) -> None:
        """Drop what is cached of these as readers, fills and rebuilds under way included: for whoever changes follows in bulk, without
        a lease for each. Raises Unavailable."""
        for start in range(0, len(user_ids), _FORGOTTEN_AT_ONCE):
            part = user_ids[start : start + _FORGOTTEN_AT_ONCE]
            keys = [key for user_id in part for key in self.keys.of_reader(user_id)]
            await self.plane.execute_many([(key, (b"DEL", key)) for key in keys])

    async def ping(self) -> None:
        """Raises Unavailable, naming the nodes that do not answer."""
        await self.plane.ping()


@asynccontextmanager
async def open_cache(settings: Settings) -> AsyncIterator[Cache]:
    """The caches, with the functions that they call loaded. Opens when at least one node answers; the others are used as they come.
    Raises Unavailable, which names the nodes and the remedy, when none does."""
    async with open_plane(settings) as plane:
        functions, keys, limits = Functions(plane), Keys(settings.redis_key_prefix), settings.limits
        await functions.load_everywhere()
        yield Cache(
            plane,
            Timelines(plane, functions, keys, limits),
            LeasedRecords("reader", pack_reader, unpack_reader, plane, functions, keys, limits),
            LeasedRecords("marks", pack_marks, unpack_marks, plane, functions, keys, limits),
            Contents(plane, functions, keys, limits),
            keys,
        )
