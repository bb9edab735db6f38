"""Whose timeline: which list it is, and whose tweets belong in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from timeline.assembly.ports import ListView
from timeline.domain.entries import UserIds
from timeline.domain.ids import UserId
from timeline.domain.limits import Limits
from timeline.domain.model import Reader
from timeline.domain.notices import Notices
from timeline.domain.records import ListKind


@dataclass(frozen=True, slots=True, eq=False)
class Whose:
    """`everyone`: whose tweets a list of it is built from, ascending. `seen`: of these, whose tweets may be shown now. `reader`: of a
    home. `as_of_ms`: a moment before anything of this was read."""

    kind: ListKind
    user_id: UserId
    everyone: UserIds
    seen: UserIds
    as_of_ms: int
    reader: Reader | None = None

    @staticmethod
    def home(reader: Reader, as_of_ms: int) -> Whose:
        everyone = np.union1d(reader.followees, np.array([reader.user_id], np.int64))
        return Whose(ListKind.home, reader.user_id, everyone, reader.authors, as_of_ms, reader)

    @staticmethod
    def profile(user_id: UserId, as_of_ms: int) -> Whose:
        alone = np.array([user_id], np.int64)
        return Whose(ListKind.profile, user_id, alone, alone, as_of_ms)

    def fresh(self, built_ms: int, limits: Limits) -> UserIds:
        """Whom the reader began to follow later than M before a list was built: fan-out may have served an event from a list of
        followers that was read before the follow, after the list's history was pulled."""
        if self.reader is None:
            return self.everyone[:0]
        return self.reader.followees[self.reader.since_ms > built_ms - limits.fresh_follow_ms]

    def to_pull(self, view: ListView, notices: Notices, limits: Limits) -> UserIds:
        """Those whose tweets this list may lack, ascending: of a home, as long as it is not their own."""
        if self.reader is None:
            return self.everyone[:0]
        built_ms, floor = view.header.built_ms, view.header.floor
        fresh = self.fresh(built_ms, limits)
        by_interval = notices.to_pull(self.seen, built_ms, floor, limits.notices_margin_ms)
        if not len(fresh) and not len(by_interval):
            return by_interval
        found = np.union1d(by_interval, np.intersect1d(fresh, self.seen, assume_unique=True))
        others: UserIds = found[found != self.user_id]
        return others
