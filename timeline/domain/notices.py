"""Notices: what every process must know of the whole deployment before it believes a list. Who is, or was, not fanned out; and in
which slots of Redis fan-out left deliveries out.

Small, read whole from the store every few seconds, and believed for notices_lease_ms (store/notices.py). Whoever makes a notice that
others must obey waits that long before relying on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from timeline.domain.entries import UserIds
from timeline.domain.ids import ID_MAX, first_id_at

STANDS = 2**62  # the end of an interval that has none yet
SLOTS = 16_384  # of a Redis Cluster

Times = npt.NDArray[np.int64]


def _no_times() -> Times:
    return np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Notices:
    """`pulled`: everybody with an interval in pull_intervals that may still matter, ascending, each once; beside each, when the newest
    interval began, and when the last one ended (STANDS: it has not). `dirty_until_ms`: of each slot, the end of the last interval in
    which fan-out left out deliveries to it (0: none). Unix ms, by the clocks of those who wrote them."""

    pulled: UserIds
    since_ms: Times
    until_ms: Times
    dirty_until_ms: Times

    @staticmethod
    def none() -> Notices:
        """Everybody is pushed, and no slot has holes."""
        return Notices(_no_times(), _no_times(), _no_times(), np.zeros(SLOTS, np.int64))

    def stands(self, user_id: int) -> bool:
        """Whether this author is not fanned out now."""
        at = int(np.searchsorted(self.pulled, user_id))
        return at < len(self.pulled) and self.pulled[at] == user_id and self.until_ms[at] == STANDS

    def to_pull(self, authors: UserIds, built_ms: int, floor: int, margin_ms: int) -> UserIds:
        """Those of the authors (ascending) whose tweets a list may lack that was built then and reaches down to `floor`.

        While an interval stands: all of them. After its end: of a list that was built before it, or less than `margin_ms` after
        (workers may have gone on skipping, and clocks differ), as long as the list reaches down to that time.
        """
        known, at = self._known(authors)
        if not len(known):
            return known
        ends = np.minimum(self.until_ms[at] + margin_ms, STANDS)
        lowest = np.array([_first_id(int(end)) for end in ends], np.int64)
        lacks: UserIds = known[(ends == STANDS) | ((built_ms <= ends) & (floor <= lowest))]
        return lacks

    def began_since(self, authors: UserIds, at_ms: int) -> UserIds:
        """Those of the authors whose newest interval began then or later."""
        known, at = self._known(authors)
        return known[self.since_ms[at] >= at_ms]

    def _known(self, authors: UserIds) -> tuple[UserIds, npt.NDArray[np.intp]]:
        """Those of the authors who are in `pulled`, and where: a few binary searches, however many are pulled."""
        if not len(self.pulled):
            return _no_times(), np.empty(0, np.intp)
        at = np.searchsorted(self.pulled, authors)
        at[at == len(self.pulled)] = 0
        is_known = self.pulled[at] == authors
        return authors[is_known], at[is_known]


def _first_id(at_ms: int) -> int:
    return int(ID_MAX) if at_ms >= STANDS else int(first_id_at(at_ms))
