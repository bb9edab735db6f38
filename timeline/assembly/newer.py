"""Newer: what has come above a page since it was read, and what came late to places further down.

By arrival, as far as the list is the one that the cursor saw: new is what arrived after, and does not stand before it (a
redelivery does). Else by id: what lies above the page, with `reset`, since it cannot be told whether something came late.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from timeline.assembly.pages import Found, Pages
from timeline.assembly.ports import ListView
from timeline.assembly.skeleton import Walk
from timeline.domain import rules
from timeline.domain.cursors import Cursor
from timeline.domain.entries import Entries, Stretch, concatenated, newest_first
from timeline.domain.ids import ID_MAX
from timeline.domain.limits import Limits
from timeline.domain.model import Reader
from timeline.domain.records import ListKind


@dataclass(slots=True)
class News:
    """The oldest of what is new, newest first; whether there is more above it; where to go on."""

    found: Found
    cursor: Cursor
    gap: bool = False
    reset: bool = False


def after_page(view: ListView | None, boundary: int, *, is_first: bool) -> Cursor:
    """The newer cursor of an older page: from the first page on, all that arrives; from another, what is above its `boundary`."""
    if view is None:
        return Cursor("newer", boundary)
    last = view.last_arrival
    return Cursor("newer", boundary, view.header.epoch, last if is_first else 0, last)


class Newer:
    """Reads upwards."""

    def __init__(self, pages: Pages, limits: Limits) -> None:
        self._pages, self._limits = pages, limits

    async def read(self, walk: Walk, kind: ListKind, reader: Reader | None, cursor: Cursor, limit: int) -> News:
        """The oldest `limit` of what is new to this cursor. Raises Unavailable when nothing can be read at all."""
        view = await walk.whole()
        new, around, reset, whole = await self._new(walk, view, cursor)
        if kind is ListKind.home and reader is not None:
            new = rules.of_home(new, reader)
            around = Stretch(rules.of_home(around.entries, reader), around.complete_from)
        found = Found()
        ascending = new[::-1]
        used = await self._pages.take(found, walk, kind, reader, ascending, around, limit)
        gap = used < len(ascending) or not whole
        top = int(ascending["tweet"][used - 1]) if used else cursor.boundary
        if not whole:
            # what lies between was not reached, and `reset` says so: go on above it
            top = max(top, around.complete_from - 1)
        found.items.reverse()
        return News(found, *self._onward(view, cursor, top, gap, reset))

    @staticmethod
    def _onward(view: ListView | None, cursor: Cursor, top: int, gap: bool, reset: bool) -> tuple[Cursor, bool, bool]:
        boundary = max(cursor.boundary, top)
        if view is None:
            return Cursor("newer", boundary), gap, reset
        last, epoch = view.last_arrival, view.header.epoch
        if not gap:
            return Cursor("newer", boundary, epoch, last, last), gap, reset
        seen = cursor.seen if cursor.epoch == epoch else 0
        # more came late than a page holds: what was shown of it cannot be told by one boundary
        reset = reset or top < cursor.boundary
        return Cursor("newer", boundary, epoch, seen, last), gap, reset

    async def _new(self, walk: Walk, view: ListView | None, cursor: Cursor) -> tuple[Entries, Stretch, bool, bool]:
        """New entries newest first; the stretch around them, for rules that look back; reset; whether that is all."""
        if view is not None and cursor.epoch == view.header.epoch and cursor.seen + 1 >= view.first_arrival:
            new = newest_first(by_arrival(view, cursor))
            # all was seen but what arrived since; or what is above the boundary, as far as the list reaches
            if cursor.seen == cursor.until or cursor.boundary + 1 >= view.header.floor:
                # of what lies below the floor it cannot be told whether it stood here before it was trimmed: late, or redelivered
                sure = new["tweet"] >= view.header.floor
                return new[sure], Stretch(newest_first(view.entries), view.header.floor), not sure.all(), True
        stretch, whole = await self._above(walk, cursor.boundary)
        # nothing was seen in the rest of an older page's list: from there, nothing can have come late
        told = view is not None and cursor.epoch == view.header.epoch and cursor.seen == 0
        new = stretch.entries[stretch.entries["tweet"] > cursor.boundary]
        return new, stretch, not told or not whole, whole

    async def _above(self, walk: Walk, boundary: int) -> tuple[Stretch, bool]:
        """Everything above a boundary, from the top down; a bounded number of stretches."""
        parts, line = [], ID_MAX
        for _ in range(self._limits.refill_rounds_max):
            stretch = await walk.below(line)
            parts.append(stretch.entries)
            line = stretch.complete_from
            if line <= boundary + 1:
                break
        return Stretch(concatenated(parts), line), line <= boundary + 1


def by_arrival(view: ListView, cursor: Cursor) -> Entries:
    """Entries of the whole list that are new to the cursor, in order of arrival."""
    arrivals = np.arange(view.first_arrival, view.first_arrival + len(view.entries))
    ids = view.entries["tweet"].astype(np.uint64)
    seen = (arrivals <= cursor.seen) | ((arrivals <= cursor.until) & (ids <= cursor.boundary))
    again = np.isin(ids, ids[seen])
    new: Entries = view.entries[~seen & ~again]
    return new
