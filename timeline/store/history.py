"""The pull path's source: the newest entries of many authors at once, straight from their partitions.

Which of an author's buckets hold anything is asked first, so that a quiet author costs no empty reads. Then bucket by bucket, newest
first, the authors that have it are read 25 partitions a query.

**How far down nothing is missing**: each author is asked for one row more than wanted in a bucket. Who has it has more, and their last
wanted row is a line; the highest line of all is where the stretch ends. Without any line the whole bucket is known of everybody, and
with it everything down to the next bucket that anybody has.

A rise is the same the other way up: oldest buckets and rows first, and the lowest line is where it ends.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from timeline.domain.entries import (
    ENTRY,
    NO_ENTRIES,
    RETWEET_BIT,
    Entries,
    Rise,
    Stretch,
    UserIds,
    concatenated,
    newest_first,
)
from timeline.domain.ids import BUCKET_SHIFT, ID_MAX, bucket
from timeline.domain.limits import Limits
from timeline.store.budget import PullBudget
from timeline.store.columns import Columns, ints, joined
from timeline.store.parallel import chunks, each
from timeline.store.session import Cql, Row, Session

BUCKETS_PER_CALL_MAX = 12  # ten months of silence are passed in one call; a longer one takes another call

_BUCKETS = Cql(
    "history_buckets",
    "SELECT user_id, bucket FROM tweet_buckets WHERE user_id IN ? AND bucket <= ? PER PARTITION LIMIT ?",
)
_ROWS = Cql(
    "history_rows",
    "SELECT user_id, tweet_id, created_us, deleted_us, retweet_of, reply_to_user FROM tweets "
    "WHERE user_id IN ? AND bucket = ? AND tweet_id < ? PER PARTITION LIMIT ?",
)
# Both servers refuse to page an IN of partitions that is ordered: the limit bounds what one of these answers. Rows come in order of
# the clustering key, whosever they are.
_BUCKETS_UP = Cql(
    "history_buckets_up",
    "SELECT user_id, bucket FROM tweet_buckets WHERE user_id IN ? AND bucket >= ? ORDER BY bucket ASC PER PARTITION LIMIT ?",
    paged=False,
)
_ROWS_UP = Cql(
    "history_rows_up",
    "SELECT user_id, tweet_id, created_us, deleted_us, retweet_of, reply_to_user FROM tweets "
    "WHERE user_id IN ? AND bucket = ? AND tweet_id > ? ORDER BY tweet_id ASC PER PARTITION LIMIT ?",
    paged=False,
)


_Calendar = dict[int, list[int]]  # authors by non-empty bucket


class StoreHistory:
    """assembly's History."""

    def __init__(self, session: Session, limits: Limits, budget: PullBudget | None = None) -> None:
        self._session = session
        self._limits = limits
        self._budget = budget or PullBudget(limits)  # of its own only where nothing else pulls

    async def stretch(self, authors: UserIds, below: int, per_author: int) -> Stretch:
        """The newest entries of these authors with an id below `below`: from each author up to `per_author` of a bucket, deleted ones
        left out, merged, cut where the first author has more. Goes on to older buckets, at most BUCKETS_PER_CALL_MAX, until
        `per_author` entries are found in all. An empty stretch that is not the beginning of history is possible: go on from its
        `complete_from`, which is below `below` always, and 0 when nobody has anything older, and only then.

        Raises Unavailable, and Overloaded when the pull path's own budget is spent.
        """
        if below <= 0 or not len(authors):
            return Stretch(NO_ENTRIES, 0)
        below = min(below, ID_MAX)
        calendar = await self._calendar(np.unique(authors).tolist(), bucket(below - 1))
        found: list[Entries] = []
        entries, floor = 0, _floor(calendar, None)
        for at in sorted(calendar, reverse=True)[:BUCKETS_PER_CALL_MAX]:
            part, line = await self._bucket(calendar[at], at, below, per_author)
            found.append(part)
            entries += len(part)
            floor = _floor(calendar, at) if line is None else line
            if line is not None or entries >= per_author:
                break
        merged = newest_first(concatenated(found))
        return Stretch(merged[merged["tweet"] >= floor], floor)

    async def rise(self, authors: UserIds, above: int, per_author: int) -> Rise:
        """The oldest entries of these authors with an id above `above`: `stretch` the other way up. No answer comes in pages, so
        `per_author` must not be in the thousands. An empty rise that does not reach the top is possible: go on from its
        `complete_to`, which is above `above` always, and ID_MAX when nobody had anything newer, and only then.

        Raises Unavailable, and Overloaded when the pull path's own budget is spent.
        """
        if above >= ID_MAX or not len(authors):
            return Rise(NO_ENTRIES, ID_MAX)
        above = max(above, -1)
        calendar = await self._calendar(np.unique(authors).tolist(), bucket(above + 1), up=True)
        found: list[Entries] = []
        entries, ceiling = 0, _ceiling(calendar, None)
        for at in sorted(calendar)[:BUCKETS_PER_CALL_MAX]:
            part, line = await self._bucket(calendar[at], at, above, per_author, up=True)
            found.append(part)
            entries += len(part)
            ceiling = _ceiling(calendar, at) if line is None else line
            if line is not None or entries >= per_author:
                break
        merged = newest_first(concatenated(found))
        return Rise(merged[merged["tweet"] <= ceiling], ceiling)

    async def _calendar(self, authors: list[int], start: int, *, up: bool = False) -> _Calendar:
        """The nearest buckets of each author, one more than a call looks at: so whose list is cut off has one listed that is not
        read, and what lies beyond it is not taken for empty."""
        calendar: _Calendar = defaultdict(list)
        cql = _BUCKETS_UP if up else _BUCKETS
        parts = [(list(part), start, BUCKETS_PER_CALL_MAX + 1) for part in self._chunks(authors)]
        async for rows in each(parts, lambda part: self._calendar_rows(cql, part), self._limits.pull_queries_in_flight):
            for author, at in rows:
                calendar[at].append(author)
        return calendar

    async def _calendar_rows(self, cql: Cql, params: tuple[list[int], int, int]) -> list[Row]:
        async with self._budget.slot():
            return await self._session.rows(cql, params)

    async def _bucket(
        self, authors: list[int], at: int, beyond: int, per_author: int, *, up: bool = False
    ) -> tuple[Entries, int | None]:
        """The entries of one bucket, in no order, and the nearest line (None: everybody's whole bucket is there)."""
        found: list[Entries] = []
        lines: list[int] = []
        cql, nearest = (_ROWS_UP, min) if up else (_ROWS, max)
        parts = [(list(part), at, beyond, per_author + 1) for part in self._chunks(sorted(authors))]
        async for columns in each(parts, lambda part: self._rows(cql, part), self._limits.pull_queries_in_flight):
            author, tweet = ints(columns["user_id"]), ints(columns["tweet_id"])
            lines += _lines(author, tweet, per_author, up=up)
            is_tweet = ~np.ma.getmaskarray(columns["created_us"]) & np.ma.getmaskarray(columns["deleted_us"])
            found.append(_entries(author, tweet, columns)[is_tweet])
        return concatenated(found), nearest(lines, default=None)

    async def _rows(self, cql: Cql, params: tuple[list[int], int, int, int]) -> Columns:
        async with self._budget.slot():
            pages = [page async for page in self._session.all_columns(cql, params)]
        return pages[0] if len(pages) == 1 else joined(pages)

    def _chunks(self, authors: list[int]) -> list[Any]:
        return chunks(authors, self._limits.pull_authors_per_query)


def _floor(calendar: _Calendar, done: int | None) -> int:
    """Down to where everything is known once the buckets from `done` up are read (None: none is): those between the listed ones
    are empty."""
    return max((at + 1 for at in calendar if done is None or at < done), default=0) << BUCKET_SHIFT


def _ceiling(calendar: _Calendar, done: int | None) -> int:
    """Up to where everything is known once the buckets down from `done` are read (None: none is)."""
    newer = [at for at in calendar if done is None or at > done]
    return (min(newer) << BUCKET_SHIFT) - 1 if newer else ID_MAX


def _lines(author: UserIds, tweet: UserIds, per_author: int, *, up: bool) -> list[int]:
    """The last wanted row of each author who has more than that."""
    order = np.lexsort((tweet if up else -tweet, author))
    author, tweet = author[order], tweet[order]
    starts = np.flatnonzero(np.diff(author, prepend=author[:1] - 1))
    counts = np.diff(starts, append=len(author))
    lines: list[int] = tweet[starts[counts > per_author] + per_author - 1].tolist()
    return lines


def _entries(author: UserIds, tweet: UserIds, columns: Columns) -> Entries:
    entries = np.empty(len(tweet), ENTRY)
    entries["tweet"], entries["author"] = tweet, author
    retweet_of = ints(columns["retweet_of"]).astype(np.uint64)
    reply_to_user = ints(columns["reply_to_user"]).astype(np.uint64)
    entries["ref"] = np.where(retweet_of > 0, retweet_of | np.uint64(RETWEET_BIT), reply_to_user)
    return entries
