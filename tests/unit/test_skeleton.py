"""How far down a tail of a list is to be trusted."""

from __future__ import annotations

from timeline.assembly.ports import ListView
from timeline.assembly.skeleton import sure_line
from timeline.domain.entries import NO_ENTRIES, Entry, of
from timeline.domain.ids import ID_MAX, TweetId, UserId, first_id_at
from timeline.domain.records import Header

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
