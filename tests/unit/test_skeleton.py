"""How far down a tail of a list is to be trusted."""

from __future__ import annotations

import numpy as np

from timeline.assembly.ports import ListView
from timeline.assembly.skeleton import Walk, Whose, sure_line
from timeline.domain.entries import NO_ENTRIES, Entry, of
from timeline.domain.ids import ID_MAX, TweetId, UserId, first_id_at
from timeline.domain.limits import Limits
from timeline.domain.records import Header, ListKind

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
        return ListView(Header(0, self.epoch, 0, T, 0), entries, first, newest is None)


def walk_over(lists: GrowingList) -> Walk:
    whose = Whose(ListKind.home, UserId(1), np.array([1, 2], np.int64), 0)
    return Walk(whose, lists=lists, history=None, rebuilder=None, limits=Limits())  # type: ignore[arg-type]


async def test_a_walk_is_of_the_moment_when_its_list_was_first_read() -> None:
    """What arrives before the whole list is read is left to the next newer cursor: it would count as seen, and never be shown."""
    walk = walk_over(GrowingList(arrived=10))
    await walk.open(4)
    first = await walk.below(ID_MAX)
    rest = await walk.below(first.complete_from)
    assert rest.complete_from == 0
    assert len(first.entries) + len(rest.entries) == 10
    assert walk.view is not None
    assert walk.view.last_arrival == 10


async def test_a_list_that_was_rebuilt_under_a_walk_is_not_used_on() -> None:
    """Its arrivals have other numbers: nothing could be said about what has been seen."""
    lists = GrowingList(arrived=10)
    walk = walk_over(lists)
    await walk.open(4)
    lists.epoch += 1
    assert await walk.list_below(ID_MAX) is None
    assert walk.view is None
