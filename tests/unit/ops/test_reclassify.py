"""`timeline job reclassify`: the rule that it shares with the workers, how much is under way, and what goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from tests.unit.fake_clock import settle
from timeline.domain.entries import UserIds
from timeline.domain.errors import Unavailable
from timeline.domain.ids import UserId
from timeline.domain.limits import Limits
from timeline.domain.notices import SLOTS, STANDS, Notices
from timeline.fanout.rule import Change, Rule
from timeline.ops.reclassify import Reclassification, skips_small

LIMITS = Limits(reclassify_authors_per_second=10, reclassify_authors_in_flight=3)
RULE = Rule.of(LIMITS, 100)


@pytest.mark.parametrize(
    ("followers", "stands", "is_ending", "change"),
    [
        (100, False, False, None),
        (101, False, False, Change.begin),
        (101, True, False, Change.begin),  # maybe one that is being ended, by somebody else
        (80, True, False, None),
        (79, True, False, Change.end),
        (79, False, False, None),
        (0, False, True, Change.end),
        (90, True, True, Change.end),
        (101, True, True, Change.end),
    ],
)
def test_the_rule_has_a_gap_between_its_bounds_and_finishes_what_was_begun(
    followers: int, stands: bool, is_ending: bool, change: Change | None
) -> None:
    assert RULE.change(followers, stands=stands, is_ending=is_ending) is change


def test_a_threshold_that_one_shard_may_exceed_leaves_small_authors_out() -> None:
    assert [skips_small(LIMITS, threshold) for threshold in (100_000, 6_250, 6_249, 1)] == [False, False, True, True]


class FakeFollowers:
    def __init__(self, counts: dict[int, int]) -> None:
        self.counts, self.shards_min, self.under_way, self.most = counts, 0, 0, 0
        self.failure: Exception | None = None
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def large(self, shards_min: int) -> AsyncIterator[UserIds]:
        self.shards_min = shards_min
        for author in self.counts:
            yield np.array([author], np.int64)

    async def count(self, author: UserId, at_most: int) -> int:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await self.may_go_on.wait()
        if self.failure is not None:
            raise self.failure
        self.under_way -= 1
        return min(self.counts[author], at_most)


class FakeBoard:
    def __init__(self, *standing: int) -> None:
        self.standing, self.ending, self.refreshed, self.calls = set(standing), set[int](), 0, list[tuple[str, int]]()

    def read(self) -> tuple[Notices, bool]:
        pulled = np.array(sorted(self.standing | self.ending), np.int64)
        ends = np.full(len(pulled), STANDS)
        return Notices(pulled, ends, ends, np.zeros(SLOTS, np.int64)), True

    async def refresh(self) -> None:
        self.refreshed += 1

    def stands(self, author: UserId) -> bool:
        return author in self.standing or author in self.ending

    def is_being_ended(self, author: UserId) -> bool:
        return author in self.ending and author not in self.standing

    async def begin_pull(self, author: UserId) -> None:
        self.calls.append(("begin", author))
        self.standing.add(author)

    async def end_pull(self, author: UserId) -> None:
        self.calls.append(("end", author))
        self.standing.discard(author)
        self.ending.discard(author)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def made(board: FakeBoard, followers: FakeFollowers, clock: Clock, *, dry_run: bool = False) -> Reclassification:
    return Reclassification(
        board, followers, LIMITS, 100_000, dry_run=dry_run, tell=lambda line: None, seconds=clock, sleep=clock.sleep
    )


async def test_everybody_is_counted_once_and_the_notices_are_fresh_before_and_after() -> None:
    board, followers = FakeBoard(1, 2), FakeFollowers({2: 200_000, 3: 200_000, 1: 5})
    figures = await made(board, followers, Clock()).run()
    assert (figures.counted, figures.begun, figures.ended, figures.pulled) == (3, 1, 1, 2)
    assert sorted(board.calls) == [("begin", 3), ("end", 1)]
    assert board.refreshed == 2
    assert followers.shards_min == 17  # 17 shards of 5,000, a quarter over, and not 16


async def test_a_dry_run_writes_nothing_and_counts_the_same() -> None:
    board, followers = FakeBoard(1), FakeFollowers({3: 200_000, 1: 5})
    board.ending = {4}
    followers.counts[4] = 100_001
    figures = await made(board, followers, Clock(), dry_run=True).run()
    assert (figures.counted, figures.begun, figures.ended, board.calls) == (3, 2, 2, [])


async def test_so_many_are_counted_at_once_and_in_a_second_and_no_more() -> None:
    followers, clock = FakeFollowers(dict.fromkeys(range(1, 31), 5)), Clock()
    followers.may_go_on.clear()
    running = asyncio.create_task(made(FakeBoard(), followers, clock).run())
    await settle()
    assert followers.under_way == 3
    followers.may_go_on.set()
    await running
    assert followers.most == 3
    assert clock.now == pytest.approx(2.9)


async def test_a_store_that_goes_away_ends_the_run_with_its_own_error() -> None:
    followers = FakeFollowers(dict.fromkeys(range(1, 31), 5))
    followers.failure = Unavailable("cassandra: no host answers")
    with pytest.raises(Unavailable, match="no host answers"):
        await made(FakeBoard(), followers, Clock()).run()
    assert followers.most <= 3
