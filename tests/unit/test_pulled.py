"""Pulled: stretches of authors whose tails end at different lines."""

from __future__ import annotations

import numpy as np

from timeline.assembly.ports import ListView
from timeline.assembly.pulled import Pulled
from timeline.domain.entries import Entry, UserIds, of
from timeline.domain.ids import ID_MAX, TweetId, UserId, first_id_at
from timeline.domain.limits import Limits
from timeline.domain.notices import Notices
from timeline.domain.records import Header, ListKind

LIMITS = Limits(pull_rows_per_author=5)
PRIMARY = bytes(range(20))
AUTHORS = np.arange(1, 31, dtype=np.int64)
EACH, EVERY_MS, T = 40, 300, 1_700_000_000_000


class Profiles:
    """Each author has posted every 300 ms, a little after the one before."""

    def __init__(self) -> None:
        self.reads: list[tuple[int, int | None]] = []

    async def read_many(self, kind: ListKind, user_ids: UserIds, newest: int | None) -> dict[UserId, ListView]:
        assert kind is ListKind.profile
        self.reads.append((len(user_ids), newest))
        return {UserId(user): self._view(user, newest or EACH) for user in user_ids.tolist()}

    @staticmethod
    def _view(user: int, newest: int) -> ListView:
        times = [T + EVERY_MS * number + user for number in range(EACH)]
        entries = of(Entry(TweetId(first_id_at(at)), UserId(user)) for at in times[-newest:])
        header = Header(0, 1, 0, T, 0, replication=PRIMARY)
        return ListView(header, entries, EACH - newest + 1, newest == EACH, PRIMARY)


async def test_tails_too_young_to_be_sure_are_read_whole_all_at_once() -> None:
    """And not one author at a time, with a stretch between that holds nothing."""
    profiles = Profiles()
    pulled = Pulled(
        AUTHORS,
        lists=profiles,  # type: ignore[arg-type]
        history=None,  # type: ignore[arg-type]
        rebuilder=None,  # type: ignore[arg-type]
        notices=Notices.none(),
        limits=LIMITS,
        as_of_ms=T,
    )
    stretch = await pulled.below(int(ID_MAX))
    assert len(stretch.entries) >= LIMITS.pull_rows_per_author
    assert profiles.reads == [(len(AUTHORS), LIMITS.pull_rows_per_author), (len(AUTHORS), None)]
    assert stretch.complete_from == 0
    assert len(stretch.entries) == len(AUTHORS) * EACH
