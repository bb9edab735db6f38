"""Followers as they were read a short while ago: whole lists, in a bounded cache.

A list may serve a batch if its reading began at most follower_cache_ms before the batch was taken. It may lack whoever began to follow
since its reading; those pull the author themselves, since they began to follow later than M before their lists were built, or
their lists were built after the tweet was stored. Hence it is the age at the batch that counts, and not the tweet's id: a tweet may be
stored, and its event taken, long after its id was minted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
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


@dataclass(frozen=True, slots=True, eq=False)
class _List:
    """All followers of an author, as of `began` or later."""

    followers: UserIds
    began: float

    @property
    def bytes(self) -> int:
        return self.followers.nbytes + _BYTES_BESIDE


class KnownFollowers:
    """Followers from this cache, or else from the store. Lists longer than follower_cached_max are read each time: they are few, and
    reading them costs little beside pushing to them."""

    def __init__(self, followers: Followers, limits: Limits, clock: Callable[[], float] = monotonic) -> None:
        self._followers, self._limits, self._clock = followers, limits, clock
        self._lists: OrderedDict[UserId, _List] = OrderedDict()  # what was used last stands last
        self._bytes = 0  # of the lists, and of those that are being read
        self._hits, self._misses = (metrics.CACHE_READS.labels("followers", result) for result in ("hit", "miss"))

    @property
    def bytes(self) -> int:
        """What it holds: never more than follower_cache_bytes_max."""
        return self._bytes

    async def pages(
        self, authors: Sequence[UserId], taken: float, patiently: Patiently = at_once
    ) -> AsyncIterator[FollowerPage]:
        """As Followers.pages, for a batch that was taken at that time of the clock."""
        unknown = []
        for author in authors:
            found = self._find(author, taken)
            if found is None:
                unknown.append(author)
                continue
            for page in self._paged(author, found.followers):
                yield page
        self._hits.inc(len(authors) - len(unknown))
        self._misses.inc(len(unknown))
        if unknown:
            async with closing(self._read(unknown, patiently)) as pages:
                async for page in pages:
                    yield page

    def _find(self, author: UserId, taken: float) -> _List | None:
        found = self._lists.get(author)
        if found is None:
            return None
        if taken - found.began > self._limits.follower_cache_ms / 1000:
            self.forget(author)
            return None
        self._lists.move_to_end(author)
        return found

    def _paged(self, author: UserId, followers: UserIds) -> Iterator[FollowerPage]:
        size = self._limits.fanout_followers_page
        for start in range(0, len(followers), size):
            yield FollowerPage(author, followers[start : start + size])

    async def _read(self, authors: Sequence[UserId], patiently: Patiently) -> AsyncIterator[FollowerPage]:
        """Kept only once all is read: which author a page is the last of is not told."""
        began = self._clock()
        reading = _Reading(self, authors, self._limits.follower_cached_max)
        try:
            async with closing(self._followers.pages(authors, patiently)) as pages:
                async for page in pages:
                    reading.add(page)
                    yield page
            whole = reading.whole()
        finally:
            reading.end()
        for author, followers in whole.items():
            self._keep(author, _List(followers, began))

    def _keep(self, author: UserId, found: _List) -> None:
        older = self._lists.get(author)
        if older is not None and older.began >= found.began:
            return  # another batch has read it meanwhile
        self.forget(author)
        if self.reserve(found.bytes):
            self._lists[author] = found

    def forget(self, author: UserId) -> None:
        """Read the author's followers next time."""
        if (found := self._lists.pop(author, None)) is not None:
            self._bytes -= found.bytes

    def reserve(self, size: int) -> bool:
        """Whether there is room for so many bytes, made by dropping the lists that were used longest ago. They are then taken."""
        while self._lists and self._bytes + size > self._limits.follower_cache_bytes_max:
            self.forget(next(iter(self._lists)))
        if self._bytes + size > self._limits.follower_cache_bytes_max:
            return False
        self._bytes += size
        return True

    def release(self, size: int) -> None:
        """They are free again."""
        self._bytes -= size


class _Reading:
    """Lists that are being read, within the cache's bound."""

    def __init__(self, cache: KnownFollowers, authors: Sequence[UserId], followers_max: int) -> None:
        self._cache, self._followers_max = cache, followers_max
        self._parts: dict[UserId, list[UserIds]] = {author: [] for author in authors}

    def add(self, page: FollowerPage) -> None:
        parts = self._parts.get(page.author_id)
        if parts is None:
            return
        length = sum(map(len, parts)) + len(page.followers)
        if length <= self._followers_max and self._cache.reserve(page.followers.nbytes):
            parts.append(page.followers.copy())  # a page may be a piece of a larger array, which it would keep
        else:
            self._drop(page.author_id)

    def whole(self) -> dict[UserId, UserIds]:
        """Once every page was added. An author of whom there was none has no followers."""
        return {author: np.concatenate([np.empty(0, np.int64), *parts]) for author, parts in self._parts.items()}

    def end(self) -> None:
        for author in list(self._parts):
            self._drop(author)

    def _drop(self, author: UserId) -> None:
        self._cache.release(sum(part.nbytes for part in self._parts.pop(author)))
