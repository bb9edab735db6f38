"""Skeleton: the entries of a timeline, newest first, from wherever they are: the list in Redis, and below it the store.

A walk asks for one stretch after another, each with the line down to which nothing is missing. The list serves down to its floor; from
there on, or when there is no list to trust, the store does. So scrolling never ends at what a list holds.
"""

from __future__ import annotations

from dataclasses import dataclass

from timeline.assembly.ports import History, ListCache, ListView
from timeline.assembly.rebuild import Rebuilder
from timeline.domain.entries import Stretch, UserIds, newest_first
from timeline.domain.errors import Unavailable
from timeline.domain.ids import ID_MAX, UserId, first_id_at, time_ms
from timeline.domain.limits import Limits
from timeline.domain.records import ListKind


@dataclass(frozen=True, slots=True)
class Whose:
    """Which list: its kind and owner, who writes what belongs in it, and a fingerprint of that."""

    kind: ListKind
    user_id: UserId
    authors: UserIds
    fingerprint: int


class Walk:
    """One request's way down one timeline, as of the moment when its list was first read. Not shared between requests."""

    def __init__(
        self, whose: Whose, *, lists: ListCache, history: History, rebuilder: Rebuilder, limits: Limits
    ) -> None:
        self._whose, self._lists, self._history, self._rebuilder = whose, lists, history, rebuilder
        self._limits = limits
        self._view: ListView | None = None
        self._last: int | None = None  # the newest arrival of that moment
        self.used: set[str] = set()  # "cache", "store"

    @property
    def source(self) -> str:
        """What API.md calls it."""
        return "mixed" if len(self.used) > 1 else next(iter(self.used), "cache")

    def via(self, tweet_id: int) -> str:
        """Where an entry of this walk came from: `pushed` to the list, or the `store`."""
        return "pushed" if self._view is not None and tweet_id >= self._view.header.floor else "store"

    @property
    def view(self) -> ListView | None:
        """The list that is being used, if any."""
        return self._view

    async def open(self, newest: int | None) -> None:
        """Read the list, the newest arrivals or all of it; rebuild it where there is none for these authors. Never raises Unavailable:
        without a list, the store serves."""
        kind, user_id = self._whose.kind, self._whose.user_id
        try:
            view = await self._lists.read(kind, user_id, newest)
            if view is not None and not view.header.building and view.header.authors != self._whose.fingerprint:
                await self._lists.drop(kind, user_id, view.header)
                view = None
            if view is None and await self._rebuilder.rebuild(
                kind, user_id, self._whose.authors, self._whose.fingerprint
            ):
                view = await self._lists.read(kind, user_id, newest)
        except Unavailable:
            view = None
        if view is not None and self._is_usable(view):
            self._view, self._last = view, view.last_arrival

    def _is_usable(self, view: ListView) -> bool:
        return not view.header.building and view.header.authors == self._whose.fingerprint

    async def below(self, boundary: int) -> Stretch:
        """The next stretch below `boundary`. Raises Unavailable when it lies in the store and that does not answer."""
        stretch = await self._from_list(boundary)
        if stretch is not None:
            self.used.add("cache")
            return stretch
        self.used.add("store")
        return await self._history.stretch(self._whose.authors, boundary, self._limits.pull_rows_per_author)

    async def list_below(self, boundary: int) -> Stretch | None:
        """What the whole list holds below `boundary`; None where it holds nothing for sure."""
        view = await self.whole()
        if view is None or boundary <= view.header.floor:
            return None
        return _between(view, view.header.floor, boundary)

    async def whole(self) -> ListView | None:
        """The list, read whole, less what arrived since it was first read: that is for the next `newer`. None when there is none to
        use (any more): then the walk goes on in the store, and what arrived meanwhile cannot be told."""
        if self._view is None or self._view.whole:
            return self._view
        try:
            view = await self._lists.read(self._whose.kind, self._whose.user_id, None)
        except Unavailable:
            view = None
        before = self._view.header.epoch
        self._view = None
        if view is not None and self._is_usable(view) and view.header.epoch == before and self._last is not None:
            self._view = view.up_to(self._last)
        return self._view

    async def _from_list(self, boundary: int) -> Stretch | None:
        if self._view is None or boundary <= self._view.header.floor:
            return None
        line = sure_line(self._view, self._limits.late_after_ms + self._limits.clock_skew_ms)
        if boundary <= line:
            return await self.list_below(boundary)
        return _between(self._view, line, boundary)


def sure_line(view: ListView, apart_ms: int) -> int:
    """The id down to which a list, or a tail of one, lacks nothing. `apart_ms`: W and what servers' clocks may differ by.

    Entries arrive within W of their id's time, or are marked as late. So what is not in the tail arrived before the tail's first
    entry, and its id's time lies at most W after that entry's, give or take the clocks. A late entry within the tail says
    nothing about time: then nothing is sure, and the whole list must be read.
    """
    if view.whole:
        return view.header.floor
    if not len(view.entries) or view.header.late >= view.first_arrival:
        return ID_MAX
    first = int(view.entries["tweet"][0])
    return max(view.header.floor, first_id_at(time_ms(first) + apart_ms + 1))


def _between(view: ListView, line: int, boundary: int) -> Stretch:
    ids = view.entries["tweet"]
    return Stretch(newest_first(view.entries[(ids >= line) & (ids < boundary)]), line)
