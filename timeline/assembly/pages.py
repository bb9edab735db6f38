"""A page of a timeline: skeleton → filter → hydrate → rules, refilled until it is full, then presented.

Each stage takes values and returns new ones. What fails how: the reader's context fails closed (no context, no page); everything else
fails open, and the page says so (`degraded`, `missing`, `source`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from timeline.assembly.hydrate import Contents, Hydrator
from timeline.assembly.ports import RetweetReader
from timeline.assembly.skeleton import Walk
from timeline.domain import rules
from timeline.domain.entries import RETWEET_BIT, Entries, Entry, Stretch, to_list
from timeline.domain.errors import Unavailable
from timeline.domain.ids import TweetId, UserId, first_id_at, time_ms
from timeline.domain.limits import Limits
from timeline.domain.model import Reader
from timeline.domain.records import ListKind, Post
from timeline.metrics import DEGRADED_PAGES


@dataclass(frozen=True, slots=True)
class Item:
    """One place on a page, with what is shown there."""

    entry: Entry
    post: Post
    via: str = "store"  # how it came here, as `why` says: own, pushed, pulled, store


@dataclass(frozen=True, slots=True)
class Shown:
    """Of some entries: the items, in their order, and the ids of entries that could not be looked up."""

    items: list[Item]
    missing: set[TweetId]


@dataclass(slots=True)
class Found:
    """What a walk has gathered: items newest first, and where to go on (None: history ends here)."""

    items: list[Item] = field(default_factory=list)
    contents: Contents = field(default_factory=Contents)
    boundary: int | None = None
    highest: int = 0  # the newest id that was looked at, shown or not
    hydrations: int = 0
    missing: int = 0
    degraded: bool = False


class Pages:
    """Gathers pages. One for all requests."""

    def __init__(self, *, hydrator: Hydrator, retweets: RetweetReader, limits: Limits) -> None:
        self._hydrator, self._retweets, self._limits = hydrator, retweets, limits

    async def older(self, walk: Walk, kind: ListKind, reader: Reader | None, boundary: int, limit: int) -> Found:
        """The next `limit` items strictly below `boundary`. Raises Unavailable when nothing can be read at all."""
        found = Found(boundary=boundary)
        for _ in range(self._limits.refill_rounds_max):
            if found.boundary is None or len(found.items) >= limit:
                break
            try:
                await self._round(found, walk, kind, reader, limit)
            except Unavailable:
                if not found.items:
                    raise
                found.degraded = True
                DEGRADED_PAGES.labels("store").inc()
                break
        return found

    async def _round(self, found: Found, walk: Walk, kind: ListKind, reader: Reader | None, limit: int) -> None:
        """One stretch, as much of it as the page needs."""
        assert found.boundary is not None
        stretch = await walk.below(found.boundary)
        if not found.highest and len(stretch.entries):
            found.highest = int(stretch.entries["tweet"][0])
        entries = rules.of_home(stretch.entries, reader) if kind is ListKind.home and reader else stretch.entries
        around = Stretch(entries, stretch.complete_from)
        used = await self.take(found, walk, kind, reader, entries, around, limit)
        if used < len(entries):
            found.boundary = int(entries["tweet"][used - 1])
        else:
            found.boundary = stretch.complete_from or None

    async def take(
        self,
        found: Found,
        walk: Walk,
        kind: ListKind,
        reader: Reader | None,
        entries: Entries,
        around: Stretch,
        limit: int,
    ) -> int:
        """Fill `found` up to `limit` from these entries, in their order; how many of them were used up, one at least if there is
        one. At most hydrations_max look-ups a page, small at first: mostly the first one fills it."""
        used = 0
        while used < len(entries) and len(found.items) < limit:
            if found.hydrations >= self._limits.hydrations_max and used:
                break
            room = limit - len(found.items)
            size = room if not found.hydrations else max(room, self._limits.hydrate_entries)
            chunk = to_list(entries[used : used + size])
            found.hydrations += 1
            shown = await self.shown(found, walk, kind, reader, chunk, around)
            found.items += shown.items[:room]
            taken = len(chunk) if len(shown.items) <= room else chunk.index(shown.items[room - 1].entry) + 1
            used += taken
            if missing := sum(entry.tweet_id in shown.missing for entry in chunk[:taken]):
                found.missing += missing
                found.degraded = True
                DEGRADED_PAGES.labels("content").inc()
        return used

    async def shown(
        self, found: Found, walk: Walk, kind: ListKind, reader: Reader | None, chunk: list[Entry], around: Stretch
    ) -> Shown:
        """Those of the chunk that may be shown, with their posts. `around`: the filtered stretch it was cut from."""
        is_home = kind is ListKind.home and reader is not None
        places = Places({})
        if kind is ListKind.home and reader is not None:
            places = await self._places(reader, chunk, around, walk, found)
        contents = await self._contents(chunk, places)
        found.contents.posts |= contents.posts
        found.contents.states |= contents.states
        if any(place in contents.missing for ids in places.retweets.values() for place in ids):
            found.degraded = True  # a tweet may be shown twice within the window
            DEGRADED_PAGES.labels("retweet_window").inc()
        items, missing = [], set()
        for entry in chunk:
            if entry.tweet_id in contents.missing or entry.shown_id in contents.missing:
                missing.add(entry.tweet_id)
            elif self._is_shown(entry, reader, is_home, contents, places):
                own = reader is not None and entry.author_id == reader.user_id
                items.append(
                    Item(
                        entry,
                        contents.posts[entry.shown_id],
                        "own" if own else walk.via(entry.tweet_id, entry.author_id),
                    )
                )
        return Shown(items, missing)

    async def _contents(self, chunk: list[Entry], places: Places) -> Contents:
        shown = [entry.shown_id for entry in chunk]
        also = [entry.tweet_id for entry in chunk] + [place for ids in places.retweets.values() for place in ids]
        authors = {entry.tweet_id: entry.author_id for entry in chunk} | places.authors
        return await self._hydrator.contents(shown, also, authors)

    def _is_shown(self, entry: Entry, reader: Reader | None, is_home: bool, contents: Contents, places: Places) -> bool:
        source = entry.retweet_of
        post = contents.posts.get(entry.shown_id)
        if post is None or not contents.is_live(entry.tweet_id) or not contents.is_live(entry.shown_id):
            return False
        state = contents.states[entry.shown_id]
        if not rules.may_see(post.author_id, followers_only=state.followers_only, reader=reader):
            return False
        if source is None or not is_home or reader is None:
            return True
        if reader.mutes(post.author_id):
            return False
        before: list[int] = [place for place in places.retweets.get(source, ()) if contents.is_live(place)]
        if rules.has_place_of_its_own(_entry_of(post), reader):
            before.append(source)
        return not rules.is_repeat(entry.tweet_id, before, self._limits.retweet_window_ms)

    async def _places(self, reader: Reader, chunk: list[Entry], around: Stretch, walk: Walk, found: Found) -> Places:
        """Retweets of the same tweets that stand in the window before those in the chunk.

        From the stretch as far as it reaches, then from the rest of the list, then from the store: one look-up for all.
        Open: if the store does not answer, a tweet may be shown twice within the window, and the page is degraded.
        """
        starts: dict[TweetId, int] = {}
        for entry in chunk:
            if entry.retweet_of is not None:
                start = rules.window_start(entry.tweet_id, self._limits.retweet_window_ms)
                # none is older than what it retweets, clocks aside: of a young tweet the list has them all
                source = first_id_at(time_ms(entry.retweet_of) - self._limits.clock_skew_ms)
                start = max(start, source)
                starts[entry.retweet_of] = min(start, starts.get(entry.retweet_of, start))
        if not starts:
            return Places({})
        places = Places(starts)
        places.add_from(around.entries)
        line = around.complete_from
        if min(starts.values()) < line:
            rest = await walk.list_below(line)
            if rest is not None:
                places.add_from(rules.of_home(rest.entries, reader))
                line = rest.complete_from
        below = [source for source, start in starts.items() if start < line]
        beside = [source for source, start in starts.items() if line <= start < around.complete_from]
        try:
            stored = await self._retweets.retweets_of(reader.authors, below) if below else []
            if beside and len(walk.pulled):  # the list lacks theirs
                stored += await self._retweets.retweets_of(walk.pulled.authors, beside)
        except Unavailable:
            found.degraded = True
            DEGRADED_PAGES.labels("retweet_window").inc()
            return places
        for user_id, source, retweet_id in stored:
            places.add(source, retweet_id, user_id)
        return places


class Places:
    """Retweets that may hide others, by source, and who made them: none from before the window, which starts at the source's
    entry in `starts`."""

    def __init__(self, starts: dict[TweetId, int]) -> None:
        self._starts = starts
        self.retweets: dict[TweetId, set[TweetId]] = {}
        self.authors: dict[TweetId, UserId] = {}

    def add_from(self, entries: Entries) -> None:
        """Those of the entries that retweet one of the sources."""
        references = np.fromiter((source | RETWEET_BIT for source in self._starts), np.uint64)
        for entry in to_list(entries[np.isin(entries["ref"], references)]):
            self.add(TweetId(entry.reference ^ RETWEET_BIT), entry.tweet_id, entry.author_id)

    def add(self, source: TweetId, retweet_id: TweetId, author: UserId) -> None:
        if retweet_id >= self._starts[source]:
            self.retweets.setdefault(source, set()).add(retweet_id)
            self.authors[retweet_id] = author


def _entry_of(post: Post) -> Entry:
    return Entry(post.tweet_id, post.author_id, post.reply_to_user or 0)


def shown_authors(items: Sequence[Item]) -> list[UserId]:
    """Everyone whose name stands on these items, quotes aside."""
    users: list[UserId] = []
    for item in items:
        users += [item.entry.author_id, item.post.author_id]
        if item.post.reply_to_user is not None:
            users.append(item.post.reply_to_user)
    return users
