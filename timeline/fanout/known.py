"""Followers as they were read a short while ago: whole lists of small authors and single shards of large ones, in a bounded cache.

A list may serve a batch if its reading began at most follower_cache_ms before the batch was taken. It may lack whoever began to follow
since its reading; those pull the author themselves, since they began to follow later than M before their lists were built, or
their lists were built after the tweet was stored. Hence it is the age at the batch that counts, and not the tweet's id: a tweet may be
stored, and its event taken, long after its id was minted. The same holds of how many shards an author has: who follows in a shard
that was opened since began to follow since.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

import numpy as np

from timeline import metrics
from timeline.domain.entries import UserIds
from timeline.domain.ids import UserId
from timeline.domain.limits import Limits
from timeline.fanout.ports import FollowerPage, Followers, Patiently, at_once
from timeline.fanout.stopping import closing

_BYTES_BESIDE = 400  # of a list: its array's head, its place in the dictionary, its time
_NOBODY = np.empty(0, np.int64)
_WHOLE = -1  # in a shard's place: of an author as a whole

_Key = tuple[UserId, int]  # author and shard, or _WHOLE


@dataclass(frozen=True, slots=True, eq=False)
class _List:
    """Followers as of `began` or later: of one shard, or all of an author whose `shards` are one. Of a large author as a whole there
    is nobody in it, and only `shards` tell."""

    followers: UserIds
    began: float
    shards: int = 1

    @property
    def bytes(self) -> int:
        return self.followers.nbytes + _BYTES_BESIDE


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Followers of small authors, how many shards large ones have, and of whom nothing is known."""

    small: dict[UserId, UserIds]
    large: dict[UserId, int]
    unknown: list[UserId]


@dataclass(frozen=True, slots=True, eq=False)
class Sharding:
    """Authors whose followers are in one shard, and in how many those of others are, as read at a time of the clock or later."""

    small: Sequence[UserId]
    large: Mapping[UserId, int]
    began: float


class KnownFollowers:
    """Followers from this cache, or else from the store."""

    def __init__(self, followers: Followers, limits: Limits, clock: Callable[[], float] = monotonic) -> None:
        self._followers, self._limits, self._clock = followers, limits, clock
        self._lists: OrderedDict[_Key, _List] = OrderedDict()  # what was used last stands last
        self._bytes = 0  # of the lists, and of those that are being read
        self._hits, self._misses = (metrics.CACHE_READS.labels("followers", result) for result in ("hit", "miss"))

    @property
    def bytes(self) -> int:
        """What it holds: never more than follower_cache_bytes_max."""
        return self._bytes

    def find(self, authors: Sequence[UserId], taken: float) -> Found:
        """What is known of them, for a batch that was taken at that time of the clock."""
        found = Found({}, {}, [])
        for author in authors:
            known = self._find((author, _WHOLE), taken)
            if known is None:
                found.unknown.append(author)
            elif known.shards > 1:
                found.large[author] = known.shards
            else:
                found.small[author] = known.followers
        self._hits.inc(len(authors) - len(found.unknown))
        self._misses.inc(len(found.unknown))
        return found

    async def pages(self, small: Mapping[UserId, UserIds]) -> AsyncGenerator[FollowerPage]:
        """Of what was found. Who has few followers comes first: they do not wait for those with many."""
        for author, followers in sorted(small.items(), key=lambda each: len(each[1])):
            for page in self._paged(author, followers):
                yield page

    async def sharding(self, authors: Sequence[UserId], patiently: Patiently = at_once) -> Sharding:
        """In how many shards the followers of these are, as read now."""
        began = self._clock()

        async def read() -> Mapping[UserId, int]:
            nonlocal began
            began = self._clock()
            return await self._followers.shards(authors)

        shards = await patiently(read)
        large = {author: count for author, count in shards.items() if count > 1}
        for author, count in large.items():
            self._keep((author, _WHOLE), _List(_NOBODY, began, count))
        return Sharding([author for author in authors if author not in large], large, began)

    async def read(self, sharding: Sharding, patiently: Patiently = at_once) -> AsyncGenerator[FollowerPage]:
        """The followers of those who have one shard, as Followers.pages. Kept only once all is read (which author a page is the last
        of is not told), and as of when their shards were: those who follow in another shard since are not among them."""
        reading = _Reading(self, sharding.small)
        try:
            async with closing(self._followers.pages(sharding.small, patiently)) as pages:
                async for page in pages:
                    reading.add(page)
                    yield page
            whole = reading.whole()
        finally:
            reading.end()
        for author, followers in whole.items():
            self._keep((author, _WHOLE), _List(followers, sharding.began))

    async def shard(self, author: UserId, shard: int, taken: float, patiently: Patiently = at_once) -> UserIds:
        """The followers in one shard, ascending, for a slice that was taken at that time of the clock."""
        found = self._find((author, shard), taken)
        if found is not None:
            self._hits.inc()
            return found.followers
        self._misses.inc()
        began = self._clock()
        followers = await patiently(lambda: self._followers.shard(author, shard))
        self._keep((author, shard), _List(followers, began))
        return followers

    def _find(self, key: _Key, taken: float) -> _List | None:
        found = self._lists.get(key)
        if found is None:
            return None
        if taken - found.began > self._limits.follower_cache_ms / 1000:
            self._forget(key)
            return None
        self._lists.move_to_end(key)
        return found

    def _paged(self, author: UserId, followers: UserIds) -> Iterator[FollowerPage]:
        size = self._limits.fanout_followers_page
        for start in range(0, len(followers), size):
            yield FollowerPage(author, followers[start : start + size])

    def _keep(self, key: _Key, found: _List) -> None:
        older = self._lists.get(key)
        if older is not None and (older.began >= found.began or older.shards > found.shards):
            return  # another batch has read it meanwhile, and shards are never fewer than they were
        self._forget(key)
        if self.reserve(found.bytes):
            self._lists[key] = found

    def forget(self, author: UserId) -> None:
        """Read the author's followers, and in how many shards they are, next time."""
        self._forget((author, _WHOLE))

    def _forget(self, key: _Key) -> None:
        if (found := self._lists.pop(key, None)) is not None:
            self._bytes -= found.bytes

    def reserve(self, size: int) -> bool:
        """Whether there is room for so many bytes, made by dropping the lists that were used longest ago. They are then taken."""
        while self._lists and self._bytes + size > self._limits.follower_cache_bytes_max:
            self._forget(next(iter(self._lists)))
        if self._bytes + size > self._limits.follower_cache_bytes_max:
            return False
        self._bytes += size
        return True

    def release(self, size: int) -> None:
        """They are free again."""
        self._bytes -= size


class _Reading:
    """Lists that are being read, within the cache's bound."""

    def __init__(self, cache: KnownFollowers, authors: Sequence[UserId]) -> None:
        self._cache = cache
        self._parts: dict[UserId, list[UserIds]] = {author: [] for author in authors}

    def add(self, page: FollowerPage) -> None:
        parts = self._parts.get(page.author_id)
        if parts is None:
            return
        if self._cache.reserve(page.followers.nbytes):
            parts.append(page.followers.copy())  # a page may be a piece of a larger array, which it would keep
        else:
            self._drop(page.author_id)

    def whole(self) -> dict[UserId, UserIds]:
        """Once every page was added. An author of whom there was none has no followers."""
        return {author: np.concatenate([_NOBODY, *parts]) for author, parts in self._parts.items()}

    def end(self) -> None:
        for author in list(self._parts):
            self._drop(author)

    def _drop(self, author: UserId) -> None:
        self._cache.release(sum(part.nbytes for part in self._parts.pop(author)))
