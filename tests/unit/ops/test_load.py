"""Loading: what a row becomes, in which order, and how a run goes on where another ended."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from tests.unit.ops.fakes import FakeService
from timeline.domain.errors import Unavailable
from timeline.domain.limits import Limits
from timeline.ops import demo
from timeline.ops.files import BadFile, Kind, read_posts
from timeline.ops.journal import Journal, JournalError
from timeline.ops.load import Figures, LoadPlan, run_load
from timeline.ops.pace import AsRecorded, Steady
from timeline.ops.people import handle_of
from timeline.ops.progress import Progress
from timeline.ops.texts import text_of

FOLLOWS = "1 2\n2 1\n3 1\n3 3\n"
POSTS = """\
1 100 1 P 0 0
2 101 2 MT 0 1
3 102 2 RE 1 1
4 103 3 RT 1 1
5 104 3 RT 1 1
6 105 1 RT 1 1
7 106 2 RE 4 3
8 107 2 RT 4 3
"""
LIMITS = Limits(load_retry_seconds=1)


@pytest.fixture
def service() -> FakeService:
    return FakeService()


def plan_of(folder: Path, follows: str = FOLLOWS, posts: str = POSTS) -> LoadPlan:
    (folder / "f").write_text(follows)
    (folder / "p").write_text(posts)
    return LoadPlan(follows=folder / "f", posts=folder / "p", journal=folder / "new" / "journal")


async def load(plan: LoadPlan, service: FakeService, limits: Limits = LIMITS) -> Figures:
    return await run_load(plan, service.doors, limits, Progress())


def ids_of(plan: LoadPlan) -> dict[int, int]:
    lines = plan.journal.read_text().splitlines()
    return {int(row): int(tweet) for row, tweet in (line.split() for line in lines[1:] if line != "graph")}


async def test_every_kind_of_row_becomes_what_it_means(tmp_path: Path, service: FakeService) -> None:
    plan = plan_of(tmp_path)
    figures = await load(plan, service)
    ids = ids_of(plan)
    rows = {row: service.tweets[tweet] for row, tweet in ids.items()}
    assert [user.id for user in service.users] == [1, 2, 3]
    assert service.follows == [(1, 2), (2, 1), (3, 1)]
    assert service.forgotten == [1, 2, 3]
    assert (rows[1].reply_to, rows[1].retweet_of) == (None, None)
    assert f"@{handle_of(1)}" in rows[2].text
    assert rows[2].reply_to is None
    assert (rows[3].reply_to, rows[3].reply_to_user) == (ids[1], 1)
    assert rows[4].retweet_of == ids[1]
    assert ids[5] == ids[4], "a retweet that the file repeats changes nothing"
    assert rows[6].retweet_of == ids[1], "one's own may be retweeted"
    assert rows[7].reply_to == ids[4], "the service knows what a reply to a retweet means"
    assert rows[8].retweet_of == ids[1], "retweeting a retweet acts on its source"
    assert figures.rows == {"post": 1, "mention": 1, "reply": 2, "retweet": 3, "no-op": 1}
    assert figures.own_follows == 1


async def test_the_ids_of_an_author_ascend_in_file_order_and_references_come_first(
    service: FakeService, tmp_path: Path
) -> None:
    plan = LoadPlan(follows=demo.FOLLOWS, posts=demo.POSTS, journal=tmp_path / "j", limit=800)
    await load(plan, service)
    ids, last = ids_of(plan), dict[int, int]()
    repeated = set()
    for row in list(read_posts(demo.POSTS))[:800]:
        mine = ids[row.post_id]
        if row.kind is Kind.retweet and mine in repeated:
            continue
        repeated.add(mine)
        assert mine > last.get(row.author, 0)
        assert mine > ids.get(row.ref_post, 0)
        last[row.author] = mine
    assert 1 < service.most_under_way <= LIMITS.load_rows_in_flight


async def test_a_second_run_does_nothing_and_a_larger_limit_goes_on(tmp_path: Path, service: FakeService) -> None:
    plan = plan_of(tmp_path)
    await load(replace(plan, limit=3), service)
    assert len(service.tweets) == 3
    figures = await load(plan, service)
    assert (figures.resumed, sum(figures.rows.values())) == (3, 5)
    again = await load(plan, service)
    assert (again.resumed, sum(again.rows.values()), len(service.graph_loads)) == (8, 0, 1)


async def test_a_repeated_retweet_is_told_as_such_by_the_next_run_too(tmp_path: Path, service: FakeService) -> None:
    plan = plan_of(tmp_path)
    await load(replace(plan, limit=4), service)
    assert (await load(replace(plan, limit=5), service)).rows == {"no-op": 1}


@pytest.mark.parametrize("cut", range(0, 120, 7))
async def test_wherever_the_journal_breaks_off_the_ids_are_the_same_again(
    tmp_path: Path, service: FakeService, cut: int
) -> None:
    plan = plan_of(tmp_path)
    await load(plan, service)
    ids, count, text = ids_of(plan), len(service.tweets), plan.journal.read_text()
    head = text.index("graph\n") + len("graph\n")
    plan.journal.write_text(text[: min(head + cut, len(text))])
    await load(plan, service)
    assert ids_of(plan) == ids
    assert len(service.tweets) == count


async def test_a_load_that_was_stopped_goes_on_without_duplicates(tmp_path: Path, service: FakeService) -> None:
    plan = LoadPlan(follows=demo.FOLLOWS, posts=demo.POSTS, journal=tmp_path / "j", limit=600)
    whole = FakeService()
    await load(replace(plan, journal=tmp_path / "whole"), whole)
    running = asyncio.create_task(load(plan, service))
    enough = asyncio.Event()
    service.before = lambda author, text: enough.set() if len(service.tweets) >= 150 else None
    await enough.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert service.under_way == 0
    assert 150 <= len(service.tweets) < len(whole.tweets)
    await load(plan, service)
    assert sorted(t.text for t in service.tweets.values()) == sorted(t.text for t in whole.tweets.values())


async def test_an_engine_that_is_away_for_a_moment_is_waited_for(tmp_path: Path, service: FakeService) -> None:
    failures = iter([True, True] + [False] * 100)

    def flaky(author: int, text: str) -> None:
        if next(failures):
            raise Unavailable("away")

    service.before = flaky
    assert sum((await load(plan_of(tmp_path), service)).rows.values()) == 8


async def test_an_engine_that_stays_away_ends_the_load_and_keeps_the_order(
    tmp_path: Path, service: FakeService
) -> None:
    def away(author: int, text: str) -> None:
        if text == text_of(2, 2, 1):
            raise Unavailable("away for good")

    service.before = away
    plan = plan_of(tmp_path)
    with pytest.raises(Unavailable, match="away for good"):
        await load(plan, service)
    assert 2 not in {tweet.author_id for tweet in service.tweets.values()}
    service.before = lambda author, text: None
    await load(plan, service)
    ids = ids_of(plan)
    assert all(one < other for one, other in pairwise([ids[2], ids[3], ids[7], ids[8]]))


async def test_a_row_that_is_refused_is_counted_with_what_refers_to_it(tmp_path: Path, service: FakeService) -> None:
    plan = plan_of(tmp_path)
    await load(replace(plan, limit=1), service)
    del service.tweets[ids_of(plan)[1]]
    service.tweets[1] = next(iter(service.by_key.values()))  # so that the journal is believed
    plan.journal.write_text(plan.journal.read_text() + "0 1\n")
    figures = await load(plan, service)
    assert figures.rows == {"mention": 1, "refused": 6}


async def test_a_journal_of_data_that_was_thrown_away_is_set_aside(tmp_path: Path, service: FakeService) -> None:
    plan = plan_of(tmp_path)
    await load(plan, service)
    fresh = FakeService()
    await load(plan, fresh)
    assert len(fresh.tweets) == len(service.tweets)
    assert fresh.graph_loads
    assert plan.journal.with_name("journal.stale").exists()


async def test_a_journal_of_other_files_is_refused(tmp_path: Path, service: FakeService) -> None:
    await load(plan_of(tmp_path), service)
    with pytest.raises(JournalError, match="other files"):
        await load(plan_of(tmp_path, posts=POSTS.replace("8 107 2", "8 107 1")), service)


def test_half_a_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal.open(path, "x", 1) as journal:
        journal.add(1, 2)
    whole = path.read_text()
    path.write_text(whole + "3 123456")
    with Journal.open(path, "x", 1) as journal:
        assert journal.done.tweets == {1: 2}
    assert path.read_text() == whole


def test_a_damaged_journal_says_which_line(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal.open(path, "x", 1) as journal:
        journal.add(1, 2)
    path.write_text(path.read_text() + "3 four\n")
    with pytest.raises(JournalError, match="line 3"):
        Journal.open(path, "x", 1)


async def test_a_bad_line_ends_the_load_after_what_stood_above(tmp_path: Path, service: FakeService) -> None:
    plan = plan_of(tmp_path, posts=POSTS + "9 108 1 RT 99 1\n")
    with pytest.raises(BadFile, match="line 9"):
        await load(plan, service)


@pytest.mark.parametrize(("follows", "posts"), [("1 x\n", POSTS), (FOLLOWS, "1 100 1 P 0\n")])
async def test_files_that_cannot_be_read_leave_no_journal(
    follows: str, posts: str, tmp_path: Path, service: FakeService
) -> None:
    plan = plan_of(tmp_path, follows, posts)
    with pytest.raises(BadFile):
        await load(plan, service)
    assert not plan.journal.exists()
    await load(plan_of(tmp_path), service)


def test_pace_is_so_many_a_second_or_as_recorded() -> None:
    assert [Steady(4)(number, 0) for number in (0, 2, 8)] == [0, 0.5, 2]
    recorded = AsRecorded(10)
    assert [recorded(0, 100), recorded(1, 100), recorded(2, 160)] == [0, 0, 6]
