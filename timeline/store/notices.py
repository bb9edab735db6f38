"""The notice board: what every process must know of the whole deployment, read whole from the store every few seconds.

**Why everybody must know what this process has seen for notices_lease_ms.** Readings are of a quorum and mend what they find behind,
so whoever begins to read after a reading of ours has ended sees what ours saw; and what others had read before has lapsed
after notices_lease_ms, since a reading's age counts from before it was sent. The same holds of what this process has written,
from its acknowledgement on.

Times that are compared with others' are Unix ms by this server's clock; ages are by a clock that nobody sets.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from timeline import metrics
from timeline.domain.entries import UserIds
from timeline.domain.errors import Unavailable
from timeline.domain.ids import UserId
from timeline.domain.limits import Limits
from timeline.domain.model import contains_each
from timeline.domain.notices import Notices
from timeline.fanout.ports import Away
from timeline.store import intervals
from timeline.store.holes import HoleReader, HoleWriter
from timeline.store.intervals import Intervals, read_intervals
from timeline.store.session import Session

log = logging.getLogger(__name__)

Seconds = npt.NDArray[np.float64]


class StoreNoticeBoard:
    """assembly's NoticeBoard and fanout's Classes."""

    def __init__(
        self,
        session: Session,
        limits: Limits,
        *,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session, self._limits = session, limits
        self._clock_ms, self._monotonic = clock_ms, monotonic
        self._holes = HoleReader(session, limits.notices_max)
        self._recorded = HoleWriter(session, limits, uuid.uuid4().hex, clock_ms, monotonic)
        self._notices = Notices.none()
        self._read_at: float | None = None  # when the last reading was begun
        self._first_read_at = float("inf")  # when the first reading had ended
        self._readings, self._last_reading = itertools.count(1), 0
        self._skipped = _Skipped.none()
        # Ours, until a reading that was begun after their acknowledgement tells
        self._begun: dict[UserId, float] = {}
        self._ending: dict[UserId, float | None] = {}  # None: not acknowledged
        self._last_since_ms = 0
        self._failing = self._too_many = False

    # --- reading

    def read(self) -> tuple[Notices, bool]:
        """The notices as last read, and whether they may still be believed (read at most notices_lease_ms ago)."""
        return self._notices, self._is_believed(self._monotonic())

    @property
    def age_seconds(self) -> float:
        """Since the last reading was begun; infinite before the first."""
        return float("inf") if self._read_at is None else self._monotonic() - self._read_at

    async def refresh(self) -> None:
        """Read everything now. Raises Unavailable, and then what was read before stands."""
        number, began = next(self._readings), self._monotonic()
        (rows, whole), (days, holes, all_holes) = await asyncio.gather(
            read_intervals(self._session, self._limits.notices_max), self._holes.read(self._clock_ms())
        )
        self._tell_bound(whole and all_holes)
        if number < self._last_reading:
            return  # one that was begun later has overtaken this one
        ended = self._monotonic()
        self._begun = {author: at for author, at in self._begun.items() if at >= began}
        skipped = self._skipped.next(rows, ended)
        self._ending = {
            author: at for author, at in self._ending.items() if skipped.holds(author) and (at is None or at >= began)
        }
        self._skipped = skipped
        self._notices = _notices(rows, self._holes.take(days, holes))
        if self._read_at is None:
            self._first_read_at = ended
        self._read_at, self._last_reading = began, number

    async def run(self, stopping: asyncio.Event | None = None) -> None:
        """Read every notices_refresh_ms, for ever or until told to stop. While the store is away, what was read last stands, and is
        not believed after notices_lease_ms."""
        stopping = stopping or asyncio.Event()
        metrics.NOTICES_AGE_SECONDS.set_function(lambda: self.age_seconds)
        while not stopping.is_set():
            try:
                await self.refresh()
            except Unavailable as error:
                if not self._failing:
                    log.warning("notices cannot be read: %s", error)
                self._failing = True
            else:
                if self._failing:
                    log.info("notices are read again")
                self._failing = False
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limits.notices_refresh_ms / 1000):
                    await stopping.wait()

    def _is_believed(self, now: float) -> bool:
        return self._read_at is not None and now - self._read_at <= self._limits.notices_lease_ms / 1000

    def _tell_bound(self, all_read: bool) -> None:
        if not all_read and not self._too_many:
            log.error(
                "there are more notices than notices_max (%d): those beyond it are unknown, and readers miss what was not delivered "
                "on their account. Raise the limit, or the threshold above which authors are pulled",
                self._limits.notices_max,
            )
        self._too_many = not all_read

    # --- who is pulled

    def may_skip(self, authors: Sequence[UserId]) -> set[UserId]:
        """Those whose followers need not be pushed to: an interval stands, every process must know it by now, and this one would know
        its end."""
        now = self._monotonic()
        if not self._is_believed(now):
            return set()
        known = self._skipped.since(now - self._limits.notices_lease_ms / 1000, authors)
        return {author for author in known if author not in self._ending}

    async def settled(self) -> None:
        """Return once this process has read for notices_lease_ms. Raises Unavailable while the last reading is too old."""
        now = self._monotonic()
        if not self._is_believed(now):
            raise Unavailable("cassandra: the notices of who is pulled are too old to be believed")
        rest = self._first_read_at + self._limits.notices_lease_ms / 1000 - now
        if rest > 0:
            await asyncio.sleep(rest)

    def stands(self, author: UserId) -> bool:
        """Whether an interval of this author stands, as last read or as written by this process since. Also one that is being ended:
        whoever was to end it may have died."""
        if author in self._begun:
            return True
        return self._ending.get(author) is None and self._notices.stands(author)

    def is_being_ended(self, author: UserId) -> bool:
        """Whether an interval stands, as last read, and each that does is being ended: by somebody who may have died."""
        return self._notices.stands(author) and not self._skipped.holds(author)

    async def begin_pull(self, author: UserId) -> None:
        """Write an interval that stands, unless one is known. Raises Unavailable."""
        if author in self._begun or (self._skipped.holds(author) and author not in self._ending):
            return
        if self._too_many:
            return  # it would be one of those that nobody reads, and be written anew again and again
        self._last_since_ms = max(
            self._clock_ms(), self._last_since_ms + 1
        )  # one that was ended just now is another row
        await intervals.begin(self._session, author, self._last_since_ms)
        self._begun[author] = self._monotonic()
        self._ending.pop(author, None)

    async def end_pull(self, author: UserId) -> None:
        """End every interval of this author that stands; this process does not skip from the call on. Raises Unavailable, and then it
        may or may not have happened: go on pushing, and repeat it."""
        # before anything is written: to push early is harmless
        self._ending[author] = None
        self._begun.pop(author, None)
        await intervals.end_all(self._session, author, self._clock_ms)
        self._ending[author] = self._monotonic()

    # --- holes

    async def record_hole(self, away: Away) -> bool:
        """Record, or prolong, that deliveries to these slots are left out from now on until hole_ahead_ms later. True once every
        process must know it, and not near its end: only then may a delivery be left out. Raises Unavailable."""
        return await self._recorded.record(away)

    async def end_hole(self, node: str, *, used: bool = True) -> None:
        """Deliveries to that node are not left out any more; not `used`: none ever was. Raises Unavailable, and then the hole lapses
        by itself, within hole_ahead_ms."""
        await self._recorded.end(node, used=used)


class _Skipped:
    """Intervals that stand and are not being ended, ascending by author and beginning, and when each was first seen."""

    def __init__(self, authors: UserIds, since_ms: UserIds, seen: Seconds) -> None:
        self._authors, self._since_ms, self._seen = authors, since_ms, seen

    @staticmethod
    def none() -> _Skipped:
        return _Skipped(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64))

    def next(self, rows: Intervals, now: float) -> _Skipped:
        """What is skipped by a reading that ended now: what was seen before keeps its time."""
        authors, since_ms = rows.authors[rows.skipped], rows.since_ms[rows.skipped]
        if np.array_equal(authors, self._authors) and np.array_equal(since_ms, self._since_ms):
            return self
        both = np.concatenate([self._authors, authors]), np.concatenate([self._since_ms, since_ms])
        seen = np.concatenate([self._seen, np.full(len(authors), now)])
        order = np.lexsort(both[::-1])  # stable: of two that are equal, the older stands first
        same = np.flatnonzero((np.diff(both[0][order]) == 0) & (np.diff(both[1][order]) == 0))
        seen[order[same + 1]] = seen[order[same]]
        return _Skipped(authors, since_ms, seen[len(self._authors) :])

    def holds(self, author: UserId) -> bool:
        at = int(np.searchsorted(self._authors, author))
        return at < len(self._authors) and int(self._authors[at]) == author

    def since(self, seen_by: float, authors: Sequence[UserId]) -> list[UserId]:
        """Those of the authors, each once, with an interval first seen then or before."""
        asked = np.unique(np.array(authors, np.int64))
        asked = asked[contains_each(self._authors[self._seen <= seen_by], asked)]
        return [UserId(author) for author in asked.tolist()]


def _notices(rows: Intervals, dirty_until_ms: npt.NDArray[np.int64]) -> Notices:
    """Of each author the newest beginning and the last end."""
    authors, starts = np.unique(rows.authors, return_index=True)
    if not len(authors):
        return Notices(authors, authors, authors, dirty_until_ms)
    last = np.append(starts[1:], len(rows.authors)) - 1
    return Notices(authors, rows.since_ms[last], np.maximum.reduceat(rows.until_ms, starts), dirty_until_ms)
