"""Holes: stretches of time in which fan-out left out deliveries to some slots of Redis. The rows of dirty_intervals.

A row belongs to one process and one outage, and is changed by that process alone, so that the end that one writes says nothing of
another. It is changed on the day only that its key names, and a little after: so whoever has read older days once need not
read them again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from timeline.domain.limits import NOTICE_SECONDS, Limits
from timeline.domain.notices import SLOTS, Times
from timeline.fanout.ports import Away
from timeline.store.session import Cql, Kind, Row, Session

DAY_MS = 86_400_000
_DAYS_KEPT = NOTICE_SECONDS // 86_400 + 1  # the table's TTL, and the day on which it ends

_OF = Cql("holes_of", "SELECT day, until_ms, slots FROM dirty_intervals WHERE day IN ?")
_PUT = Cql(
    "hole_put", "INSERT INTO dirty_intervals (day, node, from_ms, until_ms, slots) VALUES (?, ?, ?, ?, ?)", Kind.write
)

Ranges = tuple[tuple[int, int], ...]  # both ends included


def written(slots: Ranges) -> str:
    """'0-5460,10923-16383'"""
    return ",".join(f"{first}-{last}" for first, last in slots)


def ranges(text: str) -> Ranges:
    """The slots written so. Raises ValueError on anything else."""
    pairs = (part.split("-") for part in text.split(",") if part)
    return tuple((int(first), int(last)) for first, last in pairs)


class HoleReader:
    """What was recorded in the last 31 days, for each slot the end of the last hole. The first reading is of all of them; later ones
    of the days on which rows may have changed since the last."""

    def __init__(self, session: Session, most: int) -> None:
        self._session, self._most = session, most
        self._rows: dict[int, list[Row]] = {}
        self._ends: dict[int, Times] = {}  # by day, for each slot
        self._until = np.zeros(SLOTS, np.int64)
        self._read_on: int | None = None

    async def read(self, now_ms: int) -> tuple[list[int], list[Row], bool]:
        """The days that were read, their rows, at most `most`, and whether that is all. Nothing changes before `take`.
        Raises Unavailable."""
        today = now_ms // DAY_MS
        first = today - _DAYS_KEPT if self._read_on is None else max(self._read_on - 1, today - _DAYS_KEPT)
        days = list(range(min(first, today - 1), today + 2))  # tomorrow too: another's clock may be there already
        rows, state = await self._session.page(_OF, (days,))
        while state is not None and len(rows) <= self._most:
            more, state = await self._session.page(_OF, (days,), state)
            rows += more
        return days, rows[: self._most], len(rows) <= self._most

    def take(self, days: list[int], rows: list[Row]) -> Times:
        """Of each slot, the end of the last hole (Unix ms; 0: none), by what was read now and before."""
        today = days[-1] - 1
        by_day: dict[int, list[Row]] = {day: [] for day in days}
        for row in rows:
            by_day[row[0]].append(row)
        changed = {day: found for day, found in by_day.items() if found != self._rows.get(day, [])}
        gone = [day for day in self._rows if day < today - _DAYS_KEPT]
        for day in gone:
            del self._rows[day], self._ends[day]
        for day, found in changed.items():
            self._rows[day], self._ends[day] = found, _ends(found)
        if changed or gone:
            self._until = np.maximum.reduce([np.zeros(SLOTS, np.int64), *self._ends.values()])
        self._read_on = today
        return self._until


def _ends(rows: Iterable[Row]) -> Times:
    ends = np.zeros(SLOTS, np.int64)
    for _, until_ms, slots in rows:
        for first, last in ranges(slots):
            part = ends[first : last + 1]
            np.maximum(part, until_ms, out=part)
    return ends


@dataclass(slots=True)
class _Hole:
    """An outage of a node under way. `sure`: writings that were acknowledged, as (when that was, the end that they say), in seconds of
    the process's own clock. `end`: the latest end that was written, acknowledged or not."""

    slots: Ranges
    from_ms: int
    end: float = 0.0
    sure: list[tuple[float, float]] = field(default_factory=list)


class HoleWriter:
    """Records this process's holes. `name` is the process's, and nobody else's."""

    def __init__(
        self, session: Session, limits: Limits, name: str, clock_ms: Callable[[], int], monotonic: Callable[[], float]
    ) -> None:
        self._session, self._name = session, name
        self._clock_ms, self._monotonic = clock_ms, monotonic
        self._lease_s = limits.notices_lease_ms / 1000
        self._ahead_ms = limits.hole_ahead_ms
        self._holes: dict[str, _Hole] = {}
        self._last_from_ms = 0
        self._writing = asyncio.Lock()  # of two batches that find a node away, one records it

    async def record(self, away: Away) -> bool:
        """Record, or prolong when less than half is left. Whether every process must know by now that it is open.
        Raises Unavailable."""
        async with self._writing:
            now = self._monotonic()
            # what has lapsed is over; a cluster that changes its nodes leaves no more behind than hole_ahead_ms of them
            self._holes = {node: hole for node, hole in self._holes.items() if hole.end > now}
            hole = self._holes.get(away.node)
            if hole is None or hole.slots != away.slots:
                hole = self._holes[away.node] = self._begun(away.slots)
            hole.sure = [(at, end) for at, end in hole.sure if end > now]
            left_s = max((end for _, end in hole.sure), default=now) - now
            if left_s < self._ahead_ms / 2000:
                await self._prolong(away.node, hole)
            # left out now, told of until the end: that near to it, the caller might act on the answer after it
            now = self._monotonic()
            near_s = self._ahead_ms / 20_000
            return any(at + self._lease_s <= now < end - near_s for at, end in hole.sure)

    async def _prolong(self, node: str, hole: _Hole) -> None:
        # taken first: who stands still after this leaves out less than is told, never more
        end = self._monotonic() + self._ahead_ms / 1000
        now_ms = self._clock_ms()
        if now_ms // DAY_MS != hole.from_ms // DAY_MS:
            # a row of its own for every day; what is sure of these slots stays so
            hole.from_ms = self._begun(hole.slots).from_ms
        hole.end = max(hole.end, end)
        await self._put(node, hole, now_ms + self._ahead_ms)
        hole.sure.append((self._monotonic(), end))

    async def end(self, node: str, *, used: bool = True) -> None:
        """Nothing is left out any more; not `used`: nothing was, and then there was no hole. If that cannot be written, the hole ends
        where it was last said to: at most hole_ahead_ms from now. Raises Unavailable."""
        async with self._writing:
            hole = self._holes.pop(node, None)
            if hole is not None and hole.end > self._monotonic():
                await self._put(node, hole, self._clock_ms() if used else 0)

    def _begun(self, slots: Ranges) -> _Hole:
        # an outage after one that was ended within the same millisecond must not be taken for it
        self._last_from_ms = max(self._clock_ms(), self._last_from_ms + 1)
        return _Hole(slots, self._last_from_ms)

    async def _put(self, node: str, hole: _Hole, until_ms: int) -> None:
        # two workers may begin in one millisecond: the row's name says whose it is
        row = f"{node} {self._name}"
        await self._session.run(_PUT, (hole.from_ms // DAY_MS, row, hole.from_ms, until_ms, written(hole.slots)))
