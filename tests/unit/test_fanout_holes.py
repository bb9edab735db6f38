"""A Redis node that stays away: its hole is recorded, then it is skipped; nobody else waits for it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from tests.unit.fake_clock import until
from tests.unit.fake_fanout import LIMITS, Worker
from timeline import metrics
from timeline.domain.errors import Unavailable
from timeline.domain.notices import SLOTS
from timeline.fanout.ports import Away

LONG, SHORT = LIMITS.skip_after_ms, LIMITS.skip_after_ms - 1
OTHERS, THEIRS = [10, 11], [500, 501, 502]
GRAPH = {1: OTHERS + THEIRS, 2: [10]}


def node(for_ms: int, first: int = 400, last: int = 600, name: str = "redis-2") -> Away:
    return Away(name, for_ms, ((first, last),))


def worker(*away: Away) -> Worker:
    made = Worker(GRAPH)
    made.pushes.nodes_away = list(away)
    made.pushes.unreachable = {*THEIRS, 450} if away else set()
    return made


async def until_it_waits(made: Worker, *authors: int) -> asyncio.Task[list[int]]:
    """A batch that has been tried some times."""
    task = asyncio.create_task(made.deliver(*authors))
    tries = made.pushes.tries
    await until(lambda: made.pushes.tries > tries + 10)
    assert not task.done()
    return task


def left_out(cause: str) -> float:
    return float(metrics.LEFT_OUT.labels(cause)._value.get())


async def test_a_node_that_stays_away_is_skipped_once_its_hole_is_recorded_and_others_get_theirs() -> None:
    made = worker(node(LONG))
    before = left_out("home")
    (tweet,) = await made.deliver(1)
    assert made.holders(tweet) == set(OTHERS)
    assert made.classes.calls[0] == ("hole", "redis-2")
    assert left_out("home") == before + len(THEIRS)


async def test_a_node_that_is_away_for_a_moment_is_waited_for_and_nothing_is_recorded() -> None:
    made = worker(node(LIMITS.hole_after_ms - 1))
    task = await until_it_waits(made, 1)
    assert made.classes.calls == []
    made.pushes.nodes_away, made.pushes.unreachable = [], set()
    (tweet,) = await task
    assert made.holders(tweet) == {*OTHERS, *THEIRS}


async def test_within_the_bound_a_hole_is_recorded_and_never_used() -> None:
    """So that everybody knows of it by the time when something is left out. If nothing was, no list needs repair."""
    made = worker(node(SHORT))
    task = await until_it_waits(made, 1)
    assert set(made.classes.calls) == {("hole", "redis-2")}
    made.pushes.nodes_away, made.pushes.unreachable = [], set()
    (tweet,) = await task
    assert made.holders(tweet) == {*OTHERS, *THEIRS}
    assert (made.classes.recorded, made.classes.used) == ({}, False)


async def test_nothing_is_left_out_before_everybody_must_know_the_hole() -> None:
    made = worker(node(LONG))
    made.classes.may_leave_out = False
    task = await until_it_waits(made, 1)
    assert set(made.classes.calls) == {("hole", "redis-2")}
    made.classes.may_leave_out = True
    (tweet,) = await task
    assert made.holders(tweet) == set(OTHERS)


async def test_nothing_is_left_out_while_the_hole_cannot_be_recorded_and_others_get_theirs() -> None:
    made = worker(node(LONG))
    made.classes.failures = [Unavailable("cassandra is away")] * 100_000
    before = left_out("home")
    task = await until_it_waits(made, 1)
    assert {user for user, _ in made.pushes.homes} == set(OTHERS)
    assert left_out("home") == before
    made.classes.failures = []
    await task
    assert left_out("home") == before + len(THEIRS)


async def test_later_batches_leave_out_at_once_and_prolong_the_hole() -> None:
    made = worker(node(LONG))
    await made.deliver(1)
    tries, calls = made.pushes.tries, len(made.classes.calls)
    (tweet,) = await made.deliver(1)
    assert made.pushes.tries == tries + 2  # the own lists, the followers; nothing twice
    assert set(made.classes.calls[calls:]) == {("hole", "redis-2")}
    assert made.holders(tweet) == set(OTHERS)


async def test_an_author_whose_own_lists_are_on_that_node_is_delivered_to_others() -> None:
    made = worker(node(LONG))
    made.followers.graph[450] = [10, 500]
    before = left_out("profile")
    (tweet, _) = await made.deliver(450, 2)
    assert [entry.author_id for entry, _ in made.pushes.own] == [2]
    assert left_out("profile") == before + 1
    assert made.holders(tweet) == {10}


async def test_when_it_is_back_its_hole_ends_and_it_gets_everything() -> None:
    made = worker(node(LONG))
    await made.deliver(1)
    made.pushes.nodes_away, made.pushes.unreachable = [], set()
    calls = len(made.classes.calls)
    (tweet,) = await made.deliver(1)
    assert made.holders(tweet) == {*OTHERS, *THEIRS}
    await made.deliver(1)
    assert made.classes.calls[calls:] == [("end_hole", "redis-2")]
    assert made.classes.used


async def test_an_end_of_a_hole_that_fails_is_repeated_and_nothing_is_left_out_meanwhile() -> None:
    made = worker(node(LONG))
    await made.deliver(1)
    made.pushes.nodes_away, made.pushes.unreachable = [], set()
    made.classes.failures = [Unavailable("cassandra is away")] * 3
    (tweet,) = await made.deliver(1)
    assert made.holders(tweet) == {*OTHERS, *THEIRS}
    await made.deliver(1)
    assert not made.classes.recorded
    assert [name for name, _ in made.classes.calls if name == "end_hole"] == ["end_hole"] * 4


async def test_a_hole_whose_record_failed_is_ended_too_since_it_may_stand() -> None:
    made = worker(node(LONG))
    made.classes.failures = [Unavailable("cassandra is away")] * 100_000
    task = await until_it_waits(made, 1)
    made.classes.failures = []
    made.pushes.nodes_away, made.pushes.unreachable = [], set()
    await task
    assert made.classes.calls[-1] == ("end_hole", "redis-2")


async def test_while_every_node_is_away_nothing_is_recorded_and_everything_waits() -> None:
    half = SLOTS // 2
    made = worker(node(LONG, 0, half - 1, "redis-1"), node(LONG, half, SLOTS - 1, "nobody"))
    made.pushes.unreachable = {1, *OTHERS, *THEIRS}
    task = await until_it_waits(made, 1)
    assert made.classes.calls == []
    made.pushes.nodes_away, made.pushes.unreachable = [node(LONG)], set(THEIRS)
    (tweet,) = await task
    assert made.holders(tweet) == set(OTHERS)


async def test_of_two_nodes_only_the_one_that_is_away_long_enough_is_skipped() -> None:
    made = worker(node(LONG), node(SHORT, 0, 20, "redis-1"))
    made.pushes.unreachable = {10, *THEIRS}
    task = await until_it_waits(made, 2, 1)
    assert {user for user, _ in made.pushes.homes} == {11}
    made.pushes.nodes_away, made.pushes.unreachable = [node(LONG)], set(THEIRS)
    _, tweet = await task
    assert made.holders(tweet) == set(OTHERS)


async def test_a_node_without_slots_is_nobodys_loss() -> None:
    made = worker(Away("redis-4", LONG, ()))
    made.pushes.unreachable = set()
    await made.deliver(1)
    assert made.classes.calls == []


async def test_a_hole_is_not_ended_by_one_batch_while_another_prolongs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Worker(GRAPH, limits=replace(LIMITS, fanout_appends_per_push=1), page_max=1)
    made.pushes.nodes_away, made.pushes.unreachable = [node(LONG)], set(THEIRS)
    inside = 0

    async def alone(of_node: object, *, used: bool = True) -> bool:
        nonlocal inside
        inside += 1
        assert inside == 1
        await asyncio.sleep(0)
        inside -= 1
        return True

    monkeypatch.setattr(made.classes, "record_hole", alone)
    monkeypatch.setattr(made.classes, "end_hole", alone)
    rng = np.random.default_rng(1)
    batches = [asyncio.create_task(made.deliver(1)) for _ in range(4)]
    while not all(task.done() for task in batches):
        made.pushes.nodes_away = [node(LONG)] if rng.random() < 0.7 else []
        await asyncio.sleep(0)
    for task in batches:
        task.result()
