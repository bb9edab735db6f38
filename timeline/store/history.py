"""The pull path's source: the newest entries of many authors at once, straight from their partitions.

Which of an author's buckets hold anything is asked first, so that a quiet author costs no empty reads. Then bucket by bucket, newest
first, the authors that have it are read 25 partitions a query.

**How far down nothing is missing**: each author is asked for one row more than wanted in a bucket. Who has it has more, and their last
wanted row is a line; the highest line of all is where the stretch ends. Without any line the whole bucket is known of everybody, and
with it everything down to the next bucket that anybody has.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from timeline.domain.entries import (
    ENTRY,
    NO_ENTRIES,
    RETWEET_BIT,
    Entries,
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


@dataclass(frozen=True, slots=True)
class _Calendar:
    """Authors by non-empty bucket. `horizon`: below this bucket some author may have buckets that are not listed (-1: none has)."""

    authors: dict[int, list[int]]
    horizon: int


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
        # Whose list was cut off has as many buckets listed as are looked at here, so none of these lies below the horizon
        for at in sorted(calendar.authors, reverse=True)[:BUCKETS_PER_CALL_MAX]:
            part, line = await self._bucket(calendar.authors[at], at, below, per_author)
            found.append(part)
            entries += len(part)
            floor = line or _floor(calendar, at)
            if line or entries >= per_author:
                break
        merged = newest_first(concatenated(found))
        return Stretch(merged[merged["tweet"] >= floor], floor)

    async def _calendar(self, authors: list[int], newest: int) -> _Calendar:
        by_bucket: defaultdict[int, list[int]] = defaultdict(list)
        horizon = -1
        parts = [(list(part), newest, BUCKETS_PER_CALL_MAX) for part in self._chunks(authors)]
        async for rows in each(parts, self._calendar_rows, self._limits.pull_queries_in_flight):
            listed: defaultdict[int, list[int]] = defaultdict(list)
            for author, at in rows:
                by_bucket[at].append(author)
                listed[author].append(at)
            full = [min(buckets) for buckets in listed.values() if len(buckets) >= BUCKETS_PER_CALL_MAX]
            horizon = max([horizon, *full])
        return _Calendar(dict(by_bucket), horizon)

    async def _calendar_rows(self, params: tuple[list[int], int, int]) -> list[Row]:
        async with self._budget.slot():
            return await self._session.rows(_BUCKETS, params)

    async def _bucket(self, authors: list[int], at: int, below: int, per_author: int) -> tuple[Entries, int]:
        """The entries of one bucket, in no order, and the highest line (0: everybody's whole bucket is there)."""
        found: list[Entries] = []
        line = 0
        parts = [(list(part), at, below, per_author + 1) for part in self._chunks(sorted(authors))]
        async for columns in each(parts, self._rows, self._limits.pull_queries_in_flight):
            author, tweet = ints(columns["user_id"]), ints(columns["tweet_id"])
            line = max(line, _line(author, tweet, per_author))
            is_tweet = ~np.ma.getmaskarray(columns["created_us"]) & np.ma.getmaskarray(columns["deleted_us"])
            found.append(_entries(author, tweet, columns)[is_tweet])
        return concatenated(found), line

    async def _rows(self, params: tuple[list[int], int, int, int]) -> Columns:
        async with self._budget.slot():
            pages = [page async for page in self._session.all_columns(_ROWS, params)]
        return pages[0] if len(pages) == 1 else joined(pages)

    def _chunks(self, authors: list[int]) -> list[Any]:
        return chunks(authors, self._limits.pull_authors_per_query)


def _floor(calendar: _Calendar, done: int | None) -> int:
    """Down to where everything is known once the buckets from `done` up are read (None: none is)."""
    older = [at for at in calendar.authors if done is None or at < done]
    # the buckets between the listed ones are empty, down to the horizon
    known = max([at + 1 for at in older] + ([calendar.horizon] if calendar.horizon >= 0 else [0]))
    return known << BUCKET_SHIFT


def _line(author: UserIds, tweet: UserIds, per_author: int) -> int:
    """The highest among the last wanted rows of authors who have more than that. Rows come author by author, newest first."""
    if not len(author):
        return 0
    starts = np.flatnonzero(np.diff(author, prepend=author[0] - 1))
    counts = np.diff(starts, append=len(author))
    last_wanted = starts[counts > per_author] + per_author - 1
    return int(tweet[last_wanted].max(initial=0))


def _entries(author: UserIds, tweet: UserIds, columns: Columns) -> Entries:
    entries = np.empty(len(tweet), ENTRY)
    entries["tweet"], entries["author"] = tweet, author
    retweet_of = ints(columns["retweet_of"]).astype(np.uint64)
    reply_to_user = ints(columns["reply_to_user"]).astype(np.uint64)
    entries["ref"] = np.where(retweet_of > 0, retweet_of | np.uint64(RETWEET_BIT), reply_to_user)
    return entries
