"""Trust: what makes a list worth less than the store, and what then is to be done."""

from __future__ import annotations

from timeline.assembly.ports import ListView
from timeline.assembly.whose import Whose
from timeline.domain.limits import Limits
from timeline.domain.notices import Notices


def distrust(view: ListView, notices: Notices, limits: Limits) -> str | None:
    """Why the list may have a hole, in a word; None where it has none.

    `primary`: it was built on another primary, whose last acknowledged writes may be lost. `hole`: it was built before the end of a
    hole in its slot. No worker leaves out anything after the end that it has recorded, by its own clock; ours may differ from that.
    """
    if not view.is_at_home:
        return "primary"
    dirty_until_ms = int(notices.dirty_until_ms[view.slot])
    if dirty_until_ms and view.header.built_ms <= dirty_until_ms + limits.clock_skew_ms:
        return "hole"
    return None


def is_aged(view: ListView, now_ms: int, limits: Limits) -> bool:
    """Whether notices from before it was built may have been forgotten."""
    return now_ms - view.header.built_ms > limits.timeline_built_seconds_max * 1000


def is_outworn(view: ListView, whose: Whose, notices: Notices, limits: Limits) -> bool:
    """Whether a list that is right has become dear or too old: many authors are pulled only since it was built before something was
    decided about them, and a new one would spare that; or notices from before it was built may have been forgotten."""
    now_ms = whose.as_of_ms
    if is_aged(view, now_ms, limits):
        return True
    pulled = whose.to_pull(view, notices, limits)
    if len(pulled) <= limits.stale_authors_max:
        return False
    anew = notices.to_pull(pulled, now_ms, 0, limits.notices_margin_ms)
    return len(pulled) - len(anew) - len(whose.fresh(now_ms, limits)) > limits.stale_authors_max
