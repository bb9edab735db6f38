"""The sure line: how far down a list, or a tail of one, lacks nothing."""

from __future__ import annotations

from timeline.assembly.ports import ListView
from timeline.domain.entries import Stretch, newest_first
from timeline.domain.ids import ID_MAX, first_id_at, time_ms


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


def between(view: ListView, line: int, boundary: int) -> Stretch:
    """The list's entries from `line` up to below `boundary`."""
    ids = view.entries["tweet"]
    return Stretch(newest_first(view.entries[(ids >= line) & (ids < boundary)]), line)
