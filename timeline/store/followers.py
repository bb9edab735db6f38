"""Followers, for fan-out: small authors 25 at a time, large ones shard by shard, as numpy arrays."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np

from timeline.domain.ids import UserId
from timeline.domain.limits import Limits
from timeline.fanout.ports import FollowerPage, Patiently, at_once
from timeline.store.columns import ints
from timeline.store.parallel import chunks, each
from timeline.store.session import Cql, Session
from timeline.store.shards import Shards

PAGES_AT_ONCE = (
    4  # in memory and in flight: 5,000 followers each; more finish no sooner on a client core that is busy decoding
)

_OF = Cql("followers_of", "SELECT user_id, follower_id FROM followers WHERE user_id IN ? AND shard = ?")


class Followers:
    """fanout's Followers."""

    def __init__(self, session: Session, limits: Limits) -> None:
        self._session = session
        self._limits = limits
        self._shards = Shards(session, limits)

    async def pages(self, authors: Sequence[UserId], patiently: Patiently = at_once) -> AsyncIterator[FollowerPage]:
        """Every follower of these authors, once, page by page, read now. At most PAGES_AT_ONCE pages are in memory.
        Raises what `patiently` lets through: what was yielded before then stands."""
        shards = await patiently(lambda: self._shards.counts(authors))
        firsts = chunks(list(shards), self._limits.pull_authors_per_query)
        reads: list[tuple[list[UserId], int, Any]] = [(list(part), 0, None) for part in firsts]
        reads += [([author], shard, None) for author, count in shards.items() for shard in range(1, count)]
        async for page in self._walk(reads, patiently):
            for author, followers in page:
                for start in range(0, len(followers), self._limits.fanout_followers_page):
                    yield FollowerPage(author, followers[start : start + self._limits.fanout_followers_page])

    async def count(self, author: UserId, at_most: int) -> int:
        """How many followers the author has, counted no further than `at_most`, shard by shard: some 5 ms for each that is full.
        Raises Unavailable."""
        found = 0
        for shard in range(await self._shards.count(author)):
            found += await self._shards.size(author, shard)
            if found >= at_most:
                return at_most
        return found

    async def _walk(
        self, reads: list[tuple[list[UserId], int, Any]], patiently: Patiently
    ) -> AsyncIterator[list[tuple[UserId, np.ndarray[tuple[int], np.dtype[np.int64]]]]]:
        while reads:
            following: list[tuple[list[UserId], int, Any]] = []
            async for (authors, shard, _), columns, state in each(
                reads, lambda read: patiently(lambda: self._read(read)), PAGES_AT_ONCE
            ):
                if state is not None:
                    following.append((authors, shard, state))
                yield _by_author(columns)
            reads = following

    async def _read(
        self, read: tuple[list[UserId], int, Any]
    ) -> tuple[tuple[list[UserId], int, Any], dict[str, Any], Any]:
        authors, shard, state = read
        columns, following = await self._session.columns(_OF, (authors, shard), state)
        return read, columns, following


def _by_author(columns: dict[str, Any]) -> list[tuple[UserId, np.ndarray[tuple[int], np.dtype[np.int64]]]]:
    """Split where the author changes: a page holds partition after partition."""
    authors, followers = ints(columns["user_id"]), ints(columns["follower_id"])
    if not len(authors):
        return []
    starts = np.flatnonzero(np.diff(authors, prepend=authors[0] - 1))
    return [
        (UserId(int(authors[start])), part) for start, part in zip(starts, np.split(followers, starts[1:]), strict=True)
    ]
