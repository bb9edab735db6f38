"""Intervals in which an author is not fanned out: the rows of pull_intervals.

**An end is written in two steps.** A write of unknown outcome may come to light much later (a hint, a read repair). Were that the
end itself, with the time of its writing in it, workers that could not see it would have skipped deliveries long after the time
that readers then believe. So first the row says that it is *being ended*: whoever sees that pushes again, and readers go on
pulling. Only when that is acknowledged, and so is seen by every reading that begins later, is the time of the end written, which
is later still. What comes to light late is then true whenever it does, and a process that dies half way leaves an author who is
pushed and pulled.

Rows carry their own times as write timestamps, the second step above the first, so that the last decision wins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from timeline.domain.entries import UserIds
from timeline.domain.ids import UserId
from timeline.domain.limits import NOTICE_SECONDS
from timeline.domain.notices import STANDS, Times
from timeline.store.columns import Columns, ints, joined, standing
from timeline.store.session import Cql, Kind, Session

SHARDS = 16  # 100,000 rows are 16 partitions of some 200 KB
ENDING = 0  # `until` of an interval that is being ended

_ALL = Cql("intervals_all", "SELECT user_id, since, until FROM pull_intervals WHERE shard IN ?")
_OF = Cql("intervals_of", "SELECT since, until FROM pull_intervals WHERE shard = ? AND user_id = ?")
_BEGIN = Cql(
    "interval_begin",
    "INSERT INTO pull_intervals (shard, user_id, since) VALUES (?, ?, ?) USING TIMESTAMP ?",
    Kind.write,
)
_ENDING = Cql(
    "interval_ending",
    f"INSERT INTO pull_intervals (shard, user_id, since, until) VALUES (?, ?, ?, {ENDING}) USING TIMESTAMP ?",
    Kind.write,
)
_END = Cql(
    "interval_end",
    "INSERT INTO pull_intervals (shard, user_id, since, until) VALUES (?, ?, ?, ?) "
    f"USING TIMESTAMP ? AND TTL {NOTICE_SECONDS}",
    Kind.write,
)


@dataclass(frozen=True, slots=True, eq=False)
class Intervals:
    """Rows, ascending by author and beginning. `until_ms` is STANDS also of those that are being ended; `skipped` is only of those
    that are not."""

    authors: UserIds
    since_ms: Times
    until_ms: Times
    skipped: npt.NDArray[np.bool_]

    @staticmethod
    def none() -> Intervals:
        empty = np.empty(0, np.int64)
        return Intervals(empty, empty, empty, np.empty(0, np.bool_))


async def read_intervals(session: Session, most: int) -> tuple[Intervals, bool]:
    """All rows, at most `most` (the same ones for whoever reads), and whether that is all. Raises Unavailable."""
    pages: list[Columns] = []
    rows = 0
    async for page in session.all_columns(_ALL, (list(range(SHARDS)),)):
        pages.append(page)
        rows += len(page["user_id"])
        if rows > most:
            break
    columns = joined(pages)
    authors, since = ints(columns["user_id"])[:most], ints(columns["since"])[:most]
    no_end = standing(columns["until"])[:most]
    until = ints(columns["until"])[:most]
    order = np.lexsort((since, authors))
    until_ms = np.where(no_end | (until == ENDING), STANDS, until)
    return Intervals(authors[order], since[order], until_ms[order], no_end[order]), rows <= most


async def begin(session: Session, author: UserId, since_ms: int) -> None:
    """Write an interval that stands. Repeating it changes nothing. Raises Unavailable."""
    await session.run(_BEGIN, (author % SHARDS, author, since_ms, since_ms * 1000))


async def end_all(session: Session, author: UserId, clock_ms: Callable[[], int]) -> None:
    """End every interval of the author that stands, in the two steps above. Raises Unavailable: repeat it."""
    shard = author % SHARDS
    stand = [row for row in await session.rows(_OF, (shard, author)) if row[1] in (None, ENDING)]
    for since, until in stand:
        if until is None:  # one that is being ended was seen to be by a quorum: everybody's next reading sees it
            now = max(clock_ms(), since)
            await session.run(_ENDING, (shard, author, since, now * 1000 + 1))
    for since, _ in stand:
        # whoever began it may have a clock ahead of ours, and its row's timestamp is of then
        end = max(clock_ms(), since)
        await session.run(_END, (shard, author, since, end, end * 1000 + 2))
