"""How far down a tail of a list is to be trusted."""

from __future__ import annotations

import numpy as np

from timeline.assembly.ports import ListView
from timeline.assembly.skeleton import Walk, Walks
from timeline.assembly.sure import sure_line
from timeline.assembly.whose import Whose
from timeline.domain.entries import NO_ENTRIES, Entry, of
from timeline.domain.ids import ID_MAX, TweetId, UserId, first_id_at
from timeline.domain.limits import Limits
from timeline.domain.model import Reader
from timeline.domain.notices import STANDS, Notices
from timeline.domain.records import Header, ListKind

PRIMARY = bytes(range(20))
T = 1_700_000_000_000
W = 10_000


def view(times: list[int], *, whole: bool = False, late: int = 0, floor: int = 0) -> ListView:
    """A tail whose first arrival is number 101."""
    entries = of(Entry(TweetId(first_id_at(time)), UserId(1)) for time in times) if times else NO_ENTRIES
    return ListView(Header(floor, 1, 0, T, late), entries, 101, whole)


def test_a_whole_list_is_sure_down_to_its_floor() -> None:
    assert sure_line(view([T], whole=True, floor=5), W) == 5


def test_a_tail_is_sure_above_the_time_of_its_first_entry_plus_w() -> None:
    assert sure_line(view([T, T + 60_000]), W) == first_id_at(T + W + 1)


def test_a_tail_is_never_sure_below_the_floor() -> None:
    floor = first_id_at(T + 2 * W)
    assert sure_line(view([T, T + 60_000], floor=floor), W) == floor


def test_a_tail_with_a_late_entry_in_it_is_sure_of_nothing() -> None:
    assert sure_line(view([T, T + 60_000], late=101), W) == ID_MAX
    assert sure_line(view([T, T + 60_000], late=102), W) == ID_MAX


def test_a_late_entry_before_the_tail_does_no_harm() -> None:
    assert sure_line(view([T, T + 60_000], late=100), W) == first_id_at(T + W + 1)


def test_an_empty_tail_is_sure_of_nothing() -> None:
    assert sure_line(view([]), W) == ID_MAX


class GrowingList:
    """A list to which one more entry is pushed between two reads of it."""

    def __init__(self, arrived: int) -> None:
        self.arrived, self.epoch = arrived, 7

    async def read(self, kind: ListKind, user_id: UserId, newest: int | None) -> ListView:
        count = self.arrived if newest is None else min(newest, self.arrived)
        first = self.arrived - count + 1
        entries = of(
            Entry(TweetId(first_id_at(T + 60_000 * number)), UserId(2)) for number in range(first, self.arrived + 1)
        )
        self.arrived += 1
        return ListView(Header(0, self.epoch, 0, T, 0, replication=PRIMARY), entries, first, newest is None, PRIMARY)


class Board:
    """Nobody is pulled, no slot has holes; whether that may be believed."""

    def __init__(self, *, believed: bool = True) -> None:
        self.believed = believed

    def read(self) -> tuple[Notices, bool]:
        return Notices.none(), self.believed


def reader(follows: dict[int, int]) -> Reader:
    """User 1, who began to follow these at these times."""
    followees = np.array(sorted(follows), np.int64)
    since = np.array([follows[one] for one in sorted(follows)], np.int64)
    nobody = np.empty(0, np.int64)
    return Reader(UserId(1), followees, since, nobody, nobody, nobody, 0)


async def walk_over(lists: GrowingList, board: Board | None = None) -> Walk:
    whose = Whose.home(reader({2: 0}), T + 1)
    walks = Walks(lists=lists, history=None, board=board or Board(), limits=Limits())  # type: ignore[arg-type]
    return await walks.begin(whose, 4)


async def test_a_walk_is_of_the_moment_when_its_list_was_first_read() -> None:
    """What arrives before the whole list is read is left to the next newer cursor: it would count as seen, and never be shown."""
    walk = await walk_over(GrowingList(arrived=10))
    first = await walk.below(ID_MAX)
    rest = await walk.below(first.complete_from)
    assert rest.complete_from == 0
    assert len(first.entries) + len(rest.entries) == 10
    assert walk.view is not None
    assert walk.view.last_arrival == 10


async def test_a_list_that_was_rebuilt_under_a_walk_is_not_used_on() -> None:
    """Its arrivals have other numbers: nothing could be said about what has been seen."""
    lists = GrowingList(arrived=10)
    walk = await walk_over(lists)
    lists.epoch += 1
    assert await walk.list_below(ID_MAX) is None
    assert walk.view is None


async def test_a_home_read_without_notices_to_believe_says_that_it_is_degraded() -> None:
    """Somebody may be pulled by now, and this process does not know."""
    assert not (await walk_over(GrowingList(arrived=10))).degraded
    assert (await walk_over(GrowingList(arrived=10), Board(believed=False))).degraded


def notices(*intervals: tuple[int, int]) -> Notices:
    """(user, end) of each."""
    users, ends = zip(*sorted(intervals), strict=True)
    return Notices(np.array(users), np.zeros(len(users), np.int64), np.array(ends), Notices.none().dirty_until_ms)


def pulled(whose: Whose, known: Notices, built_ms: int, floor: int = 0) -> list[int]:
    return whose.to_pull(ListView(Header(floor, 1, 0, built_ms, 0), NO_ENTRIES, 1, True), known, Limits()).tolist()


def test_who_is_not_fanned_out_is_pulled_whenever_the_list_was_built() -> None:
    whose = Whose.home(reader({2: 0, 3: 0}), T)
    assert pulled(whose, notices((3, STANDS), (4, STANDS)), T - 1) == [3]


def test_who_is_fanned_out_again_is_pulled_as_long_as_the_list_may_lack_something() -> None:
    """Built before the end, or so little after it that some worker may have gone on skipping; and reaching down to that time."""
    whose, margin = Whose.home(reader({2: 0}), T), Limits().notices_margin_ms
    known = notices((2, T))
    assert pulled(whose, known, T + margin) == [2]
    assert pulled(whose, known, T + margin + 1) == []
    assert pulled(whose, known, T - 1, floor=first_id_at(T + margin)) == [2]
    assert pulled(whose, known, T - 1, floor=first_id_at(T + margin + 1)) == []


def test_whom_one_began_to_follow_later_than_m_before_the_list_was_built_is_pulled() -> None:
    """Fan-out may have served a tweet, after the list was built, from a list of followers that was read before the follow."""
    whose, m = (
        Whose.home(reader({2: T - Limits().fresh_follow_ms, 3: T - Limits().fresh_follow_ms + 1}), T),
        Notices.none(),
    )
    assert pulled(whose, m, T) == [3]


def test_nobody_pulls_themselves() -> None:
    """One's own tweets are in one's own list in any case."""
    assert pulled(Whose.home(reader({2: 0}), T), notices((1, STANDS)), T) == []
