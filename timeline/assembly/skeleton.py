"""Skeleton: the entries of a timeline, newest first, from wherever they are: the list in Redis, with it the authors who are pulled,
and below it the store.

A walk asks for one stretch after another, each with the line down to which nothing is missing. The list serves down to its floor; from
there on, or when there is no list to use, the store does. So scrolling never ends at what a list holds.
"""

from __future__ import annotations

from timeline.assembly.ports import History, ListCache, ListView, NoticeBoard
from timeline.assembly.pulled import Pulled
from timeline.assembly.rebuild import Rebuilder
from timeline.assembly.sure import between, sure_line
from timeline.assembly.trust import distrust, is_outworn
from timeline.assembly.whose import Whose
from timeline.domain.entries import Rise, Stretch, merge
from timeline.domain.errors import Unavailable
from timeline.domain.ids import ID_MAX
from timeline.domain.limits import Limits
from timeline.domain.notices import Notices
from timeline.domain.records import UNKNOWN_REPLICATION
from timeline.metrics import DEGRADED_PAGES


class Walks:
    """Begins walks. Shared by all requests."""

    def __init__(self, *, lists: ListCache, history: History, board: NoticeBoard, limits: Limits) -> None:
        self.lists, self.history, self.board, self.limits = lists, history, board, limits
        self.rebuilder = Rebuilder(lists, history, limits)

    async def begin(self, whose: Whose, newest: int | None) -> Walk:
        """A walk whose list is read, its `newest` arrivals or all of it; built where it is not there, and anew where it is not to be
        trusted. Never raises Unavailable: without a list, the store serves."""
        walk = Walk(whose, self, self.board.read()[0])
        await walk.open(newest)
        # asked again: the list may have been long in coming, and those who were skipped meanwhile are not in it
        notices, believed = self.board.read()
        if not believed:
            walk.degrade("notices")
        walk.notice(notices)
        return walk

    async def close(self) -> None:
        """Wait for rebuilds under way."""
        await self.rebuilder.close()


class Walk:
    """One request's way through one timeline, as of the moment when its list was first read. Not shared between requests."""

    def __init__(self, whose: Whose, walks: Walks, notices: Notices) -> None:
        self.whose, self.notices = whose, notices
        self._lists, self._history, self._rebuilder = walks.lists, walks.history, walks.rebuilder
        self._limits = walks.limits
        self._view: ListView | None = None
        self._last: int | None = None  # the newest arrival of that moment
        self._used: set[str] = set()  # "cache", "store"
        self._is_degraded = False
        self.pulled = self._pulling(None)

    @property
    def source(self) -> str:
        """What API.md calls it."""
        used = self._used | self.pulled.used
        return "mixed" if len(used) > 1 else next(iter(used), "cache")

    @property
    def degraded(self) -> bool:
        """Whether something may lack that belongs there."""
        return self._is_degraded or self.pulled.degraded

    @property
    def view(self) -> ListView | None:
        """The list that is being used, if any."""
        return self._view

    def degrade(self, cause: str) -> None:
        self._is_degraded = True
        DEGRADED_PAGES.labels(cause).inc()

    def via(self, tweet_id: int, author_id: int) -> str:
        """Where an entry of this walk came from: `pushed` to the list, `pulled` beside it, or the `store`."""
        if self._view is None or tweet_id < self._view.header.floor:
            return "store"
        return "pulled" if author_id in self.pulled.authors else "pushed"

    def notice(self, notices: Notices) -> None:
        """Go by these from now on."""
        if notices is not self.notices:
            known = self.notices.dirty_until_ms
            self.notices = notices
            self.pulled = self._pulling(self._view)
            view = self._view
            if view is not None and notices.dirty_until_ms[view.slot] > known[view.slot]:
                self.degrade("hole")

    async def open(self, newest: int | None) -> None:
        """See Walks.begin."""
        kind, user_id = self.whose.kind, self.whose.user_id
        made = False
        try:
            view = await self._lists.read(kind, user_id, newest)
            made = await self._made(view)
            if made:
                view = await self._lists.read(kind, user_id, newest)
        except Unavailable:
            view = None
        if view is None or view.header.building:
            return
        why = distrust(view, self.notices, self._limits)
        # one that was made for this very request is as of now, whatever hole was before
        is_new = made and view.header.built_ms >= self.whose.as_of_ms
        if why == "primary" or (why is not None and not is_new):
            # there is something to show, and the store cannot take all the readers of a node at once
            self.degrade(why)
        self._view, self._last = view, view.last_arrival
        self.pulled = self._pulling(view)

    async def _made(self, view: ListView | None) -> bool:
        """Whether there is a new list by now."""
        if view is None:
            return await self._rebuilder.build(self.whose)
        if view.header.building or view.primary == UNKNOWN_REPLICATION:
            return False  # on a primary that we do not know, a new one would be no better
        if distrust(view, self.notices, self._limits) is None and not is_outworn(
            view, self.whose, self.notices, self._limits
        ):
            return False
        return await self._rebuilder.again(self.whose, view)

    def _pulling(self, view: ListView | None) -> Pulled:
        authors = self.whose.everyone[:0]
        if view is not None:
            authors = self.whose.to_pull(view, self.notices, self._limits)
        return Pulled(
            authors,
            lists=self._lists,
            history=self._history,
            rebuilder=self._rebuilder,
            notices=self.notices,
            limits=self._limits,
            as_of_ms=self.whose.as_of_ms,
        )

    async def below(self, boundary: int) -> Stretch:
        """The next stretch below `boundary`. Raises Unavailable when it lies in the store and that does not answer."""
        listed = await self._from_list(boundary)
        if listed is not None:
            self._used.add("cache")
            return merge((listed, await self.pulled.below(boundary))) if len(self.pulled) else listed
        self._used.add("store")
        stretch = await self._history.stretch(self.whose.seen, boundary, self._limits.pull_rows_per_author)
        self.pulled.told.update(stretch.entries["tweet"].tolist())
        return stretch

    async def list_below(self, boundary: int) -> Stretch | None:
        """What the whole list holds below `boundary`; None where it holds nothing for sure."""
        view = await self.whole()
        if view is None or boundary <= view.header.floor:
            return None
        return between(view, view.header.floor, boundary)

    async def rise(self, above: int) -> Rise:
        """The oldest entries above `above`, from the store. Raises Unavailable."""
        self._used.add("store")
        boundary = above
        for _ in range(self._limits.refill_rounds_max):
            rise = await self._history.rise(self.whose.seen, boundary, self._limits.pull_rows_per_author)
            if len(rise.entries) or rise.complete_to >= ID_MAX:
                return rise
            boundary = rise.complete_to
        return rise

    async def whole(self) -> ListView | None:
        """The list, read whole, less what arrived since it was first read: that is for the next `newer`. None when there is none to
        use (any more): then the walk goes on in the store, and what arrived meanwhile cannot be told."""
        if self._view is None or self._view.whole:
            return self._view
        try:
            view = await self._lists.read(self.whose.kind, self.whose.user_id, None)
        except Unavailable:
            view = None
        before, self._view = self._view, None
        is_same = view is not None and (view.header.epoch, view.primary) == (before.header.epoch, before.primary)
        if view is not None and is_same and not view.header.building and self._last is not None:
            self._view = view.up_to(self._last)
        return self._view

    async def _from_list(self, boundary: int) -> Stretch | None:
        if self._view is None or boundary <= self._view.header.floor:
            return None
        line = sure_line(self._view, self._limits.late_after_ms + self._limits.clock_skew_ms)
        if boundary <= line:
            return await self.list_below(boundary)
        return between(self._view, line, boundary)
