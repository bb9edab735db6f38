"""Newer: what has come above a page since it was read, and what came late to places further down.

Of the list: by arrival, as far as it is the one that the cursor saw: new is what arrived after, and does not stand before it (a
redelivery does). Of authors who are pulled: what lies above the page, and what lies below it, above the horizon, and was not seen.
What cannot be told is said by `reset`. Where the list does not reach, or is another one: by id, from the store, upwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from timeline.assembly.pages import Found, Pages
from timeline.assembly.ports import ListView
from timeline.assembly.pulled import Pulled
from timeline.assembly.skeleton import Walk
from timeline.domain import rules
from timeline.domain.cursors import Cursor
from timeline.domain.entries import Entries, Rise, Stretch, concatenated, newest_first
from timeline.domain.errors import Unavailable
from timeline.domain.ids import ID_MAX, first_id_at
from timeline.domain.limits import Limits
from timeline.domain.model import Reader, contains_each


@dataclass(slots=True)
class News:
    """The oldest of what is new, newest first; whether there is more above it; where to go on."""

    found: Found
    cursor: Cursor
    gap: bool = False
    reset: bool = False


@dataclass(frozen=True, slots=True)
class New:
    """What is new to a cursor: entries newest first, complete up to `complete_to`; the stretch around them, for rules that look back;
    whether it cannot be told that this is all; and whether it was told by arrival."""

    entries: Entries
    complete_to: int
    around: Stretch
    reset: bool
    by_arrival: bool


class Newer:
    """Reads upwards."""

    def __init__(self, pages: Pages, limits: Limits) -> None:
        self._pages, self._limits = pages, limits

    async def after_page(self, walk: Walk, boundary: int, *, is_first: bool, bottom: int) -> Cursor:
        """The newer cursor of an older page: from the first page on, all that comes; from another, what is above its `boundary`.
        `bottom`: what lies below is for the page below."""
        seen = walk.view.last_arrival if walk.view is not None else 0
        return await self._cursor(walk, boundary, seen=seen if is_first else 0, bottom=bottom)

    async def read(self, walk: Walk, reader: Reader | None, cursor: Cursor, limit: int) -> News:
        """The oldest `limit` of what is new to this cursor. Raises Unavailable when nothing can be read at all."""
        new = await self._new(walk, cursor)
        entries, around = new.entries, new.around
        if walk.whose.reader is not None:
            entries = rules.of_home(entries, walk.whose.reader)
            around = Stretch(rules.of_home(around.entries, walk.whose.reader), around.complete_from)
        found = Found()
        ascending = entries[::-1]
        used = await self._pages.take(found, walk, walk.whose.kind, reader, ascending, around, limit)
        found.items.reverse()
        gap = used < len(ascending) or new.complete_to < ID_MAX
        if used < len(ascending):
            top = int(ascending["tweet"][used - 1]) if used else cursor.boundary
        else:
            top = new.complete_to if new.complete_to < ID_MAX else _top(new.entries, cursor.boundary)
        # more came late than a page holds: what was shown of it cannot be told by one boundary
        reset = new.reset or (gap and top < cursor.boundary)
        onward = await self._onward(walk, cursor, new, max(cursor.boundary, top), gap)
        return News(found, onward, gap, reset)

    async def _onward(self, walk: Walk, cursor: Cursor, new: New, boundary: int, gap: bool) -> Cursor:
        if walk.view is None:
            return await self._cursor(walk, boundary, seen=0)
        if not gap:
            return await self._cursor(walk, boundary, seen=walk.view.last_arrival)
        is_same = new.by_arrival and cursor.epoch == walk.view.header.epoch
        return await self._cursor(walk, boundary, seen=cursor.seen if is_same else 0)

    async def _cursor(self, walk: Walk, boundary: int, *, seen: int, bottom: int = int(ID_MAX)) -> Cursor:
        """`seen`: every arrival up to that number was; of the rest, what lies up to `boundary`."""
        whose = walk.whose
        fingerprint = 0 if whose.reader is None else whose.reader.fingerprint
        if walk.view is None:
            return Cursor("newer", boundary, at_ms=whose.as_of_ms, reader=fingerprint)
        last, epoch = walk.view.last_arrival, walk.view.header.epoch
        ids = await self._seen_ids(walk.pulled, horizon(whose.as_of_ms, self._limits), boundary)
        can_tell = len(ids) <= self._limits.cursor_seen_max and not walk.degraded
        at_ms = whose.as_of_ms if can_tell else 0
        # what was stored since the page was read, and belongs on it, was not seen
        ids = [one for one in ids if one < bottom or one in walk.pulled.told]
        told = tuple(ids) if can_tell else ()
        return Cursor("newer", boundary, epoch, seen, last, at_ms, fingerprint, told, walk.pulled.is_stored)

    async def _seen_ids(self, pulled: Pulled, low: int, boundary: int) -> Sequence[int]:
        """All of them, or more than a cursor holds."""
        ids: list[int] = []
        while low < boundary and len(pulled) and len(ids) <= self._limits.cursor_seen_max:
            rise = await pulled.above(low)
            ids += [int(one) for one in rise.entries["tweet"] if one <= boundary]
            low = rise.complete_to
        return ids

    async def _new(self, walk: Walk, cursor: Cursor) -> New:
        view = await walk.whole()
        if view is not None and cursor.epoch == view.header.epoch:
            reaches_down = cursor.boundary + 1 >= view.header.floor
            has_all_since = 0 < cursor.seen == cursor.until and cursor.until + 1 >= view.first_arrival
            if reaches_down or has_all_since:
                return await self._by_arrival(walk, view, cursor)
        return await self._by_id(walk, view, cursor)

    async def _by_arrival(self, walk: Walk, view: ListView, cursor: Cursor) -> New:
        listed, sure = self._of_list(view, walk, cursor)
        low = min(cursor.boundary, self._horizon(cursor))
        rise = await self._past(walk.pulled, low, cursor.boundary)
        entries = newest_first(concatenated((listed, self._unseen(rise.entries, cursor))))
        # what came since and was trimmed already lay below the floor, so below the boundary: it came late, or again
        sure = sure and cursor.until + 1 >= view.first_arrival
        # and without getting past the boundary, it would be asked for ever
        reset = not sure or await self._is_untold(walk, cursor) or rise.complete_to <= cursor.boundary
        new = entries[entries["tweet"] <= rise.complete_to]
        return New(new, rise.complete_to, _around(walk, view, rise, low), reset, by_arrival=True)

    async def _past(self, pulled: Pulled, low: int, boundary: int) -> Rise:
        """Their entries above `low`, up to a line above the boundary if some readings reach one: of W alone there may be more than the
        store answers at once."""
        parts, line = list[Entries](), low
        for _ in range(self._limits.refill_rounds_max):
            rise = await pulled.above(line)
            parts.append(rise.entries)
            line = rise.complete_to
            if line > boundary:
                break
        return Rise(newest_first(concatenated(parts)), line)

    def _of_list(self, view: ListView, walk: Walk, cursor: Cursor) -> tuple[Entries, bool]:
        """New arrivals of authors who are not pulled, and whether that is sure to be all."""
        new = newest_first(by_arrival(view, cursor))
        authors = new["author"].astype(np.int64)
        pulled = np.setdiff1d(walk.pulled.authors, walk.pulled.left_out, assume_unique=True)
        new = new[~np.isin(authors, pulled) & ~np.isin(new["tweet"], np.array(cursor.ids, np.uint64))]
        # of what lies below the floor it cannot be told whether it stood here before it was trimmed: late, or redelivered. Nor of late
        # tweets of somebody who was pulled at another time, whether they were seen then
        once_pulled = contains_each(walk.notices.pulled, new["author"].astype(np.int64))
        told = (new["tweet"] >= view.header.floor) & ~(once_pulled & (new["tweet"] <= self._horizon(cursor)))
        return new[told], bool(told.all())

    def _unseen(self, entries: Entries, cursor: Cursor) -> Entries:
        """Of pulled authors' entries: those above the boundary, and those up to it that were not there."""
        ids, line = entries["tweet"].astype(np.uint64), self._horizon(cursor)
        was_there = (ids <= line) | np.isin(ids, np.array(cursor.ids, np.uint64))
        unseen: Entries = entries[(ids > cursor.boundary) | ~was_there]
        return unseen

    async def _is_untold(self, walk: Walk, cursor: Cursor) -> bool:
        """Whether something may have come, or gone, in a way that this cursor cannot tell."""
        if walk.whose.reader is None:
            return False
        if walk.whose.reader.fingerprint != cursor.reader:
            return True  # whom one follows, blocks or mutes has changed: places further down have come and gone
        if not len(walk.pulled):
            return False
        return (
            not cursor.at_ms
            or not await walk.pulled.told_since(cursor.at_ms, stored=cursor.stored)
            # somebody is pulled who may not have been when the cursor was made
            or len(walk.notices.began_since(walk.pulled.authors, cursor.at_ms - self._limits.notices_margin_ms)) > 0
        )

    def _horizon(self, cursor: Cursor) -> int:
        return horizon(cursor.at_ms, self._limits) if cursor.at_ms else int(ID_MAX)

    async def _by_id(self, walk: Walk, view: ListView | None, cursor: Cursor) -> New:
        """What lies above the boundary: below the list's floor, or without a list, from the store; from another list than the
        cursor's, from that, and then it cannot be told whether something came late."""
        boundary = cursor.boundary
        if view is None:
            rise = await walk.rise(boundary)
            around = Stretch(rise.entries, min(boundary + 1, int(ID_MAX)))
            return New(rise.entries, rise.complete_to, around, reset=True, by_arrival=False)
        if boundary + 1 >= view.header.floor:
            rise = await walk.pulled.above(boundary)
            around = _around(walk, view, rise, boundary)
            ids = around.entries["tweet"]
            new = around.entries[(ids > boundary) & (ids <= rise.complete_to)]
            return New(new, rise.complete_to, around, reset=True, by_arrival=False)
        return await self._below_floor(walk, view, cursor)

    async def _below_floor(self, walk: Walk, view: ListView, cursor: Cursor) -> New:
        """From the store up to just below the floor, and no further: what stands there and has yet to arrive in the list would be new
        once more when it does."""
        boundary, last = cursor.boundary, view.header.floor - 1
        told = (
            cursor.epoch == view.header.epoch
            and cursor.seen == 0
            and not _came_below(view, cursor)
            and not await self._is_untold(walk, cursor)
            and boundary <= self._horizon(cursor)
        )
        try:
            rise = await walk.rise(boundary)
        except Unavailable:
            # what the list holds is shown all the same
            walk.degrade("store")
            above = await self._new(walk, replace(cursor, boundary=last))
            return replace(above, reset=True)
        entries = rise.entries[rise.entries["tweet"] <= last]
        if len(entries) or rise.complete_to < last:
            around = Stretch(entries, boundary + 1)
            return New(entries, min(rise.complete_to, last), around, reset=not told, by_arrival=False)
        above = await self._new(walk, replace(cursor, boundary=last))
        return replace(above, reset=above.reset or not told)


def _around(walk: Walk, view: ListView, rise: Rise, low: int) -> Stretch:
    """All that was read of the list and of pulled authors, and how far down it is complete."""
    entries = newest_first(concatenated((view.entries, rise.entries)))
    return Stretch(entries, max(view.header.floor, low + 1) if len(walk.pulled) else view.header.floor)


def horizon(at_ms: int, limits: Limits) -> int:
    """The id below which nothing comes any more, unless it is marked as late: W and the clocks' skew before that time."""
    return int(first_id_at(at_ms - limits.late_after_ms - limits.clock_skew_ms))


def by_arrival(view: ListView, cursor: Cursor) -> Entries:
    """Entries of the whole list that are new to the cursor, in order of arrival."""
    arrivals = np.arange(view.first_arrival, view.first_arrival + len(view.entries))
    ids = view.entries["tweet"].astype(np.uint64)
    seen = (arrivals <= cursor.seen) | ((arrivals <= cursor.until) & (ids <= cursor.boundary))
    again = np.isin(ids, ids[seen])
    new: Entries = view.entries[~seen & ~again]
    return new


def _came_below(view: ListView, cursor: Cursor) -> bool:
    """Whether something arrived, since the cursor was made, at or below its boundary."""
    arrivals = np.arange(view.first_arrival, view.first_arrival + len(view.entries))
    ids = view.entries["tweet"].astype(np.uint64)
    return cursor.until + 1 < view.first_arrival or bool(((arrivals > cursor.until) & (ids <= cursor.boundary)).any())


def _top(entries: Entries, boundary: int) -> int:
    return int(entries["tweet"][0]) if len(entries) else boundary
