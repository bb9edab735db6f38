"""Pulled: the tweets of authors who are not in the list, from their own lists (`profile:`), and below those, or without them, from the
store. One request's view of them, read once.

Open: what cannot be read since an engine is away is left out, and the page says `degraded`.
"""

from __future__ import annotations

import logging

import numpy as np

from timeline.assembly.ports import History, ListCache, ListView
from timeline.assembly.rebuild import Rebuilder
from timeline.assembly.sure import between, sure_line
from timeline.assembly.trust import distrust, is_aged
from timeline.assembly.whose import Whose
from timeline.domain.entries import NO_ENTRIES, Entries, Rise, Stretch, UserIds, concatenated, merge, newest_first
from timeline.domain.errors import Unavailable
from timeline.domain.ids import ID_MAX, UserId
from timeline.domain.limits import Limits
from timeline.domain.notices import Notices
from timeline.domain.records import UNKNOWN_REPLICATION, ListKind
from timeline.metrics import DEGRADED_PAGES

log = logging.getLogger(__name__)


class Pulled:
    """Of one request; `authors` ascending. `used`: "cache" and "store", as far as they were read."""

    def __init__(
        self,
        authors: UserIds,
        *,
        lists: ListCache,
        history: History,
        rebuilder: Rebuilder,
        notices: Notices,
        limits: Limits,
        as_of_ms: int,
    ) -> None:
        self.authors = authors
        self._lists, self._history, self._rebuilder = lists, history, rebuilder
        self._notices, self._limits, self._as_of_ms = notices, limits, as_of_ms
        self._views: dict[UserId, ListView] | None = None
        self._above: tuple[int, Rise] | None = None  # the last answer of `above`
        self.left_out = authors[:0]  # who could not be read
        self.told: set[int] = set()  # ids that pages were made of, whoever's they are
        self.used: set[str] = set()
        self.degraded = False

    def __len__(self) -> int:
        return len(self.authors)

    async def told_since(self, at_ms: int, *, stored: bool) -> bool:
        """Whether it would be known by now if something had come since then to a place below the horizon. Their lists say so: nothing
        came late since, and none was built since. The store says so if it was asked then, too (`stored`): a list may have lacked
        then what the store has."""
        views, before_ms = await self._read(), at_ms - self._limits.clock_skew_ms
        headers = [view.header for view in views.values()]
        return (stored or len(views) == len(self.authors)) and all(
            header.built_ms < before_ms and header.late_ms < before_ms for header in headers
        )

    @property
    def is_stored(self) -> bool:
        """Whether the store alone was read, none of their lists."""
        return not self._views

    async def below(self, boundary: int) -> Stretch:
        """Their newest entries below `boundary`, complete down to where the first of them may have more."""
        if not len(self.authors):
            return Stretch(NO_ENTRIES, 0)
        views = await self._reaching_below(boundary, await self._enough(boundary))
        parts = [between(view, sure_line(view, self._apart_ms), boundary) for view in views.values()]
        rest = self._not_in(views)
        if len(rest):
            self.used.add("store")
            try:
                parts.append(await self._history.stretch(rest, boundary, self._limits.pull_rows_per_author))
            except Unavailable as error:
                self._leave_out(rest, error)
        merged = merge(parts)
        self.told.update(merged.entries["tweet"].tolist())
        return merged

    async def above(self, low: int) -> Rise:
        """Their entries above `low`: the oldest ones, complete up to where the first of them may have more."""
        if not len(self.authors):
            return Rise(NO_ENTRIES, int(ID_MAX))
        if self._above is not None and self._above[0] <= low < self._above[1].complete_to:
            known = self._above[1]
        else:
            known = await self._read_above(low)
            self._above = (low, known)
        return Rise(known.entries[known.entries["tweet"] > low], known.complete_to)

    async def _read_above(self, low: int) -> Rise:
        views = await self._reaching_below(low + 1, low)
        parts: list[Entries] = [view.entries[view.entries["tweet"] > low] for view in views.values()]
        rest, complete_to = self._not_in(views), int(ID_MAX)
        if len(rest):
            self.used.add("store")
            try:
                rise = await self._history.rise(rest, low, self._limits.pull_rows_per_author)
                parts.append(rise.entries)
                complete_to = rise.complete_to
            except Unavailable as error:
                self._leave_out(rest, error)
        entries = newest_first(concatenated(parts))
        return Rise(entries[entries["tweet"] <= complete_to], complete_to)

    async def _enough(self, boundary: int) -> int:
        """A line above which pull_rows_per_author entries are known: a stretch that ended at the first tail's own line would shrink
        author by author, and mostly hold nothing."""
        known = concatenated(view.entries for view in (await self._read()).values())["tweet"].astype(np.uint64)
        known = np.sort(known[known < boundary])[-self._limits.pull_rows_per_author :]
        return int(known[0]) if len(known) else boundary - 1

    async def _reaching_below(self, boundary: int, line: int) -> dict[UserId, ListView]:
        """Lists that hold for sure what lies just below `boundary`; tails that do not reach down to `line` are read whole, once."""
        views = await self._read()
        short = [
            author
            for author, view in views.items()
            if not view.whole and sure_line(view, self._apart_ms) > line and boundary > view.header.floor
        ]
        if short:
            whole = await self._trusted(np.array(short, np.int64), None)
            for author in short:
                del views[author]
            views |= whole
        return {author: view for author, view in views.items() if sure_line(view, self._apart_ms) < boundary}

    async def _read(self) -> dict[UserId, ListView]:
        if self._views is None:
            listed = self.authors[: self._limits.pulled_lists_max]
            self._views = await self._trusted(listed, self._limits.pull_rows_per_author)
            if self._views:
                self.used.add("cache")
        return self._views

    async def _trusted(self, authors: UserIds, newest: int | None) -> dict[UserId, ListView]:
        """Those that are there and may be trusted. Of others, new ones are made beside: many readers pull the same authors."""
        found = await self._lists.read_many(ListKind.profile, authors, newest)
        trusted = {
            author: view
            for author, view in found.items()
            if distrust(view, self._notices, self._limits) is None and not is_aged(view, self._as_of_ms, self._limits)
        }
        for author in authors.tolist():
            if author not in trusted and self._may_be_made(found.get(UserId(author))):
                self._rebuilder.beside(Whose.profile(UserId(author), self._as_of_ms), found.get(UserId(author)))
        return trusted

    def _may_be_made(self, view: ListView | None) -> bool:
        """Not in the place of one whose primary is not known, or in a hole that is open: a new one would be worth no more."""
        if view is None:
            return True
        is_open = self._notices.dirty_until_ms[view.slot] >= self._as_of_ms
        return view.primary != UNKNOWN_REPLICATION and not is_open

    def _not_in(self, views: dict[UserId, ListView]) -> UserIds:
        return np.setdiff1d(self.authors, np.fromiter(views, np.int64, len(views)), assume_unique=True)

    def _leave_out(self, authors: UserIds, error: Unavailable) -> None:
        if not self.degraded:
            DEGRADED_PAGES.labels("pulled").inc()
        self.degraded, self.left_out = True, np.union1d(self.left_out, authors)
        log.info("pulled_left_out", extra={"authors": len(authors), "reason": str(error)})

    @property
    def _apart_ms(self) -> int:
        return self._limits.late_after_ms + self._limits.clock_skew_ms
