"""Followers, for fan-out: of small authors 25 at a time, of large ones a shard, as numpy arrays."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import numpy as np

from timeline.domain.entries import UserIds
from timeline.domain.ids import UserId
from timeline.domain.limits import Limits
from timeline.fanout.ports import FollowerPage, Patiently, at_once
from timeline.store.columns import Columns, ints
from timeline.store.parallel import chunks, each
from timeline.store.session import Cql, Session
from timeline.store.shards import Shards

PAGES_AT_ONCE = (
    4  # in memory and in flight: 5,000 followers each; more finish no sooner on a client core that is busy decoding
)

_FIRST = Cql("followers_first", "SELECT user_id, follower_id FROM followers WHERE user_id IN ? AND shard = 0")
_IN_SHARD = Cql("followers_in_shard", "SELECT follower_id FROM followers WHERE user_id = ? AND shard = ?")

_Read = tuple[list[UserId], Any]  # authors, and where their page begins


class Followers:
    """fanout's Followers."""

    def __init__(self, session: Session, limits: Limits) -> None:
        self._session = session
        self._limits = limits
        self._shards = Shards(session, limits)

    async def shards(self, authors: Sequence[UserId]) -> Mapping[UserId, int]:
        """How many shards the followers of each are in. Raises Unavailable."""
        return await self._shards.counts(authors)

    async def pages(self, authors: Sequence[UserId], patiently: Patiently = at_once) -> AsyncIterator[FollowerPage]:
        """The followers in these authors' first shards, once, page by page. At most PAGES_AT_ONCE pages are in memory.
        Raises what `patiently` lets through: what was yielded before then stands."""
        reads: list[_Read] = [(list(part), None) for part in chunks(authors, self._limits.pull_authors_per_query)]
        while reads:
            following: list[_Read] = []
            async for (part, _), columns, state in each(
                reads, lambda read: patiently(lambda: self._read(read)), PAGES_AT_ONCE
            ):
                if state is not None:
                    following.append((part, state))
                for page in _by_author(columns):
                    for start in range(0, len(page.followers), self._limits.fanout_followers_page):
                        followers = page.followers[start : start + self._limits.fanout_followers_page]
                        yield FollowerPage(page.author_id, followers)
            reads = following

    async def _read(self, read: _Read) -> tuple[_Read, Columns, Any]:
        columns, following = await self._session.columns(_FIRST, (read[0],), read[1])
        return read, columns, following

    async def shard(self, author: UserId, shard: int) -> UserIds:
        """The followers in one shard, ascending: follower_shard_size of them and a few more. Raises Unavailable."""
        pages = [ints(page["follower_id"]) async for page in self._session.all_columns(_IN_SHARD, (author, shard))]
        return pages[0] if len(pages) == 1 else np.concatenate([np.empty(0, np.int64), *pages])

    def large(self, shards_min: int) -> AsyncIterator[UserIds]:
        """Every author with so many follower shards or more, some at a time; reads the whole table of shard counts. Raises
        Unavailable."""
        return self._shards.large(shards_min)

    async def count(self, author: UserId, at_most: int) -> int:
        """How many followers the author has, counted no further than `at_most`, shard by shard: some 5 ms for each that is full.
        Raises Unavailable."""
        found = 0
        for shard in range(await self._shards.count(author)):
            found += await self._shards.size(author, shard)
            if found >= at_most:
                return at_most
        return found


def _by_author(columns: Columns) -> list[FollowerPage]:
    """Split where the author changes: a page holds partition after partition."""
    authors, followers = ints(columns["user_id"]), ints(columns["follower_id"])
    if not len(authors):
        return []
    starts = np.flatnonzero(np.diff(authors, prepend=authors[0] - 1))
    parts = np.split(followers, starts[1:])
    return [FollowerPage(UserId(int(authors[start])), part) for start, part in zip(starts, parts, strict=True)]
