"""What a newer cursor can tell and what it cannot, over a list, pulled authors' lists, and a store that tests set by hand."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from timeline.assembly.newer import Newer, News
from timeline.assembly.ports import ListView
from timeline.assembly.skeleton import Walk, Walks
from timeline.assembly.whose import Whose
from timeline.domain.cursors import Cursor
from timeline.domain.entries import Entries, Entry, Rise, Stretch, UserIds, of, to_list
from timeline.domain.errors import Unavailable
from timeline.domain.ids import ID_MAX, TweetId, UserId, first_id_at
from timeline.domain.limits import Limits
from timeline.domain.model import Reader
from timeline.domain.notices import STANDS, Notices
from timeline.domain.records import Header, ListKind

LIMITS = Limits()
NOW = time.time_ns() // 1_000_000
LONG_AGO = NOW - 10**8
PRIMARY = b"a primary of 20 byte"
ME, PULLED, PUSHED = 1, 5, 7
NOTICES = Notices(np.array([PULLED]), np.array([NOW - 10**9]), np.array([STANDS]), Notices.none().dirty_until_ms)


def at(ms: int) -> int:
    return int(first_id_at(ms))


def entries(*pairs: tuple[int, int]) -> Entries:
    return of(Entry(TweetId(tweet), UserId(author)) for tweet, author in pairs)


def view(
    *pairs: tuple[int, int], floor: int = 0, built_ms: int = LONG_AGO, late: int = 0, late_ms: int = 0
) -> ListView:
    header = Header(floor, 9, 0, built_ms, late, 0, late_ms, PRIMARY)
    return ListView(header, entries(*pairs), 1, True, PRIMARY)


@dataclass
class Engines:
    """The home list, lists of pulled authors, and the store's rows as (tweet, author)."""

    home: ListView
    profiles: dict[int, ListView] = field(default_factory=dict)
    rows: list[tuple[int, int]] = field(default_factory=list)
    is_store_away: bool = False

    async def read(self, kind: ListKind, user_id: UserId, newest: int | None) -> ListView:
        return self.home

    async def read_many(self, kind: ListKind, user_ids: UserIds, newest: int | None) -> dict[int, ListView]:
        return {user: self.profiles[user] for user in user_ids.tolist() if user in self.profiles}

    async def begin_build(self, *_: object) -> None:
        return None

    async def reinstall(self, *_: object) -> bool:
        return False

    async def stretch(self, authors: UserIds, below: int, per_author: int) -> Stretch:
        return Stretch(self._of(authors, [row for row in self.rows if row[0] < below]), 0)

    async def rise(self, authors: UserIds, above: int, per_author: int) -> Rise:
        return Rise(self._of(authors, [row for row in self.rows if row[0] > above]), int(ID_MAX))

    def _of(self, authors: UserIds, rows: Sequence[tuple[int, int]]) -> Entries:
        if self.is_store_away:
            raise Unavailable("cassandra is away")
        return entries(*sorted((row for row in rows if row[1] in authors), reverse=True))


class Board:
    def read(self) -> tuple[Notices, bool]:
        return NOTICES, True


class Pages:
    """Everything is shown."""

    async def take(self, found: object, walk: Walk, kind: object, reader: object, new: Entries, *more: object) -> int:
        limit = more[-1]
        assert isinstance(limit, int)
        found.items += [entry.tweet_id for entry in to_list(new)][:limit]  # type: ignore[attr-defined]
        return min(limit, len(new))


def reader() -> Reader:
    nobody = np.empty(0, np.int64)
    return Reader(UserId(ME), np.array([PULLED, PUSHED]), np.zeros(2, np.int64), nobody, nobody, nobody, 1)


NEWER = Newer(Pages(), LIMITS)  # type: ignore[arg-type]


async def walk_at(engines: Engines, as_of_ms: int) -> Walk:
    walks = Walks(lists=engines, history=engines, board=Board(), limits=LIMITS)  # type: ignore[arg-type]
    return await walks.begin(Whose.home(reader(), as_of_ms), None)


async def first_page(engines: Engines, as_of_ms: int) -> tuple[list[int], Cursor]:
    walk = await walk_at(engines, as_of_ms)
    shown = (await walk.below(ID_MAX)).entries["tweet"].tolist()
    return shown, await NEWER.after_page(walk, shown[0], is_first=True, bottom=0)


async def poll(engines: Engines, as_of_ms: int, cursor: Cursor) -> News:
    return await NEWER.read(await walk_at(engines, as_of_ms), reader(), cursor, 20)


async def test_an_author_who_is_listed_at_one_time_and_stored_at_the_next_may_have_more_than_was_seen() -> None:
    """Their list lacked a tweet that was not delivered yet; then it went away, and the store has the tweet, below the horizon."""
    old, other, undelivered = at(NOW - 160_000), at(NOW - 31_000), at(NOW - 60_000)
    engines = Engines(view((other, PUSHED)), {PULLED: view((old, PULLED))})
    engines.rows = [(old, PULLED), (other, PUSHED), (undelivered, PULLED)]
    shown, cursor = await first_page(engines, NOW - 30_000)
    assert shown == [other, old]
    engines.profiles = {}
    assert (await poll(engines, NOW - 10_000, cursor)).reset


async def test_an_author_who_is_stored_at_both_times_has_only_what_is_new() -> None:
    old, new = at(NOW - 160_000), at(NOW - 12_000)
    engines = Engines(view(), rows=[(old, PULLED)])
    _, cursor = await first_page(engines, NOW - 30_000)
    engines.rows.append((new, PULLED))
    news = await poll(engines, NOW - 10_000, cursor)
    assert (news.found.items, news.reset, news.gap) == ([new], False, False)


async def test_a_list_that_was_built_about_when_the_page_was_read_may_hold_what_came_late() -> None:
    """Its building began before the page was read from the store, and pulled what was stored after it."""
    old, other, late = at(NOW - 160_000), at(NOW - 61_000), at(NOW - 120_000)
    engines = Engines(view((other, PUSHED)), rows=[(old, PULLED), (other, PUSHED)])
    _, cursor = await first_page(engines, NOW - 60_000)
    engines.rows.append((late, PULLED))
    engines.profiles = {PULLED: view((old, PULLED), (late, PULLED), built_ms=NOW - 63_000)}
    assert (await poll(engines, NOW - 58_000, cursor)).reset


async def test_a_climb_from_below_the_floor_says_so_when_a_pulled_author_has_something_late() -> None:
    ids = [at(NOW - 10_000_000 + number * 100_000) for number in range(60)]
    floor, late = at(NOW - 1_000_000), ids[5] + 1
    engines = Engines(view((floor, PUSHED), floor=floor))
    engines.rows = [*((one, PUSHED) for one in ids), (floor, PUSHED), (late, PULLED)]
    engines.profiles = {PULLED: view((ids[0] - 5, PULLED), (late, PULLED), late=2, late_ms=NOW - 40_000)}
    cursor = Cursor("newer", ids[10], 9, 0, engines.home.last_arrival, NOW - 50_000, reader().fingerprint)
    assert (await poll(engines, NOW - 30_000, cursor)).reset


async def test_a_page_that_could_not_read_somebody_gives_a_cursor_that_cannot_tell() -> None:
    old, other = at(NOW - 160_000), at(NOW - 61_000)
    engines = Engines(view((other, PUSHED)), rows=[(old, PULLED), (other, PUSHED)], is_store_away=True)
    shown, cursor = await first_page(engines, NOW - 60_000)
    assert shown == [other]
    engines.is_store_away, engines.profiles = False, {PULLED: view((old, PULLED))}
    assert (await poll(engines, NOW - 40_000, cursor)).reset


async def test_a_cursor_of_an_empty_list_has_not_seen_everything() -> None:
    """One from far below its floor goes up through the store."""
    ids = [at(NOW - 10_000_000 + number * 100_000) for number in range(10)]
    engines = Engines(view(floor=at(NOW - 1_000_000)), {PULLED: view()}, [(one, PUSHED) for one in ids])
    walk = await walk_at(engines, NOW - 5_000)
    cursor = await NEWER.after_page(walk, ids[4], is_first=False, bottom=0)
    assert (await poll(engines, NOW, cursor)).found.items == ids[:4:-1]


async def test_with_the_store_away_a_climb_goes_on_with_what_the_list_holds() -> None:
    """And says that it is not all: a 503 would hide what can be shown."""
    floor = at(NOW - 1_000_000)
    engines = Engines(view((floor, PUSHED), floor=floor), {PULLED: view()}, is_store_away=True)
    cursor = Cursor("newer", floor - 10**12, 9, 0, 1, NOW - 50_000, reader().fingerprint)
    walk = await walk_at(engines, NOW)
    news = await NEWER.read(walk, reader(), cursor, 20)
    assert (news.found.items, news.reset, walk.degraded) == ([floor], True, True)
