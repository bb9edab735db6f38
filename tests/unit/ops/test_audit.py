"""The audit goes round all readers at its rate, believes only what two looks show, and gives way to whatever is away."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from tests.unit.fake_clock import FakeClock, settle
from tests.unit.test_compare import ANOTHER, A, B, C, Story, view
from timeline import metrics
from timeline.assembly.compare import Comparison
from timeline.domain.errors import Unavailable
from timeline.domain.ids import UserId
from timeline.domain.limits import Limits
from timeline.ops.audit import Audit

LIMITS = Limits(audit_second_look_ms=10_000, audit_suspects_max=3)
SECOND_LOOK = 10  # seconds
CLEAN, HOLES = Story([A, B, C]).told(), Story([A, B, C], [C]).told()
UNTRUSTED = Story([A, B], home=view([A], on=ANOTHER)).told()
GONE = Comparison(replace(CLEAN.look, home=None), None, ())


class World:
    """Two primaries with readers, and what is found of each."""

    def __init__(self) -> None:
        self.clock = FakeClock(0)
        self.pages: dict[str, list[list[int]]] = {"one": [[1, 2], [], [3]], "two": [[4]]}
        self.away: set[str] = set()
        self.finds: Callable[[int, int], Comparison] = lambda user_id, look: CLEAN
        self.looks: list[tuple[int, float]] = []
        self.scans = 0
        self.before = self._results()

    def parts(self) -> list[str]:
        return list(self.pages)

    async def page(self, part: str, at: int, keys: int) -> tuple[list[UserId], int]:
        self.scans += 1
        if part in self.away:
            raise Unavailable(f"redis: {part} is away")
        pages = self.pages[part]
        return [UserId(user) for user in pages[at]], (at + 1) % len(pages)

    async def examine(self, user_id: UserId) -> Comparison:
        self.looks.append((user_id, self.clock.now_ms() / 1000))
        return self.finds(user_id, sum(user == user_id for user, _ in self.looks))

    @asynccontextmanager
    async def auditing(self, per_second: float = 1) -> AsyncIterator[None]:
        stopping = asyncio.Event()
        audit = Audit(
            self,
            self,
            LIMITS,
            per_second,
            seconds=lambda: self.clock.now_ms() / 1000,
            sleep=self.clock.sleep,
            rng=random.Random(1),
        )
        task = asyncio.create_task(audit.run(stopping))
        yield
        stopping.set()
        await settle()
        assert task.done()
        await task

    def results(self) -> dict[str, float]:
        """What was counted since the beginning."""
        now = self._results()
        return {name: count for name, count in (now - self.before).items() if count}

    @staticmethod
    def _results() -> Counter[str]:
        found: Counter[str] = Counter()
        for metric in (metrics.AUDITED, metrics.HOLES_FOUND):
            for family in metric.collect():
                for sample in family.samples:
                    if sample.name.endswith("_total"):
                        found[next(iter(sample.labels.values()))] += int(sample.value)
        return found


@pytest.fixture
def world() -> World:
    return World()


async def test_every_reader_comes_round_and_no_more_than_the_rate(world: World) -> None:
    async with world.auditing(per_second=2):
        await world.clock.advance(100)
    assert {user for user, _ in world.looks} == {1, 2, 3, 4}
    assert 190 <= len(world.looks) <= 201
    assert world.results() == {"clean": len(world.looks)} or world.results()["clean"] >= len(world.looks) - 1


async def test_a_pass_over_all_primaries_is_told_by_its_gauges(world: World) -> None:
    metrics.AUDIT_PASS_READERS.set(0)
    async with world.auditing():
        await world.clock.advance(30)
    assert metrics.AUDIT_PASS_READERS._value.get() == 3  # one of each page that holds any
    metrics.AUDIT_PASS_READERS.set(0)
    world.away = {"two"}
    async with world.auditing():
        await world.clock.advance(30)
    assert metrics.AUDIT_PASS_READERS._value.get() == 0, "a pass without one of the primaries is none"
    assert {user for user, _ in world.looks} == {1, 2, 3, 4}


async def test_a_difference_counts_when_a_second_look_shows_it_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.pages = {"one": [[1]], "two": [[2]]}
    world.finds = lambda user_id, look: HOLES if user_id == 1 else CLEAN
    async with world.auditing(per_second=0.1):
        await world.clock.advance(SECOND_LOOK * 10)
    assert world.results()["holes"] >= 1
    assert world.results()["push"] == 2 * world.results()["holes"]
    (record, *_) = [record for record in caplog.records if record.message == "hole_found"]
    assert record.levelno == logging.ERROR
    assert record.__dict__["user"] == "1"
    assert record.__dict__["causes"] == {"push": 2}


async def test_nothing_is_counted_before_the_second_look(world: World) -> None:
    world.finds = lambda user_id, look: HOLES
    async with world.auditing():
        await world.clock.advance(LIMITS.audit_second_look_ms / 1000 - 1)
    assert world.results() == {}


async def test_a_difference_that_is_gone_at_the_second_look_is_healed(world: World) -> None:
    world.pages = {"one": [[1]]}
    world.finds = lambda user_id, look: HOLES if look == 1 else CLEAN
    async with world.auditing():
        await world.clock.advance(SECOND_LOOK + 5)
    assert world.results()["healed"] == 1
    assert "push" not in world.results()


async def test_another_difference_at_the_second_look_does_not_count_yet(world: World) -> None:
    other = Story([A, B, C], [A, B]).told()
    world.pages = {"one": [[1]]}
    world.finds = lambda user_id, look: HOLES if look == 1 else other
    async with world.auditing(per_second=0.2):
        await world.clock.advance(SECOND_LOOK * 1.8)
    assert "push" not in world.results()


async def test_lists_that_await_their_rebuild_or_are_gone_are_no_holes(world: World) -> None:
    world.pages = {"one": [[1]], "two": [[2]]}
    world.finds = lambda user_id, look: UNTRUSTED if user_id == 1 else GONE
    async with world.auditing():
        await world.clock.advance(200)
    assert set(world.results()) == {"untrusted", "gone"}


async def test_with_too_many_suspects_nobody_new_is_looked_at_until_they_are_done(world: World) -> None:
    world.pages = {"one": [[user] for user in range(1, 40)]}
    world.finds = lambda user_id, look: HOLES
    async with world.auditing(per_second=10):
        await world.clock.advance(SECOND_LOOK - 1)
        assert (
            len(world.looks) <= LIMITS.audit_suspects_max + 2
        )  # one is with who waits for its time, one waits to be put
        await world.clock.advance(SECOND_LOOK)
        assert world.results()["holes"] >= LIMITS.audit_suspects_max


async def test_an_engine_that_does_not_answer_is_counted_and_the_audit_goes_on(world: World) -> None:
    def find(user_id: int, look: int) -> Comparison:
        if user_id == 4:
            raise Unavailable("cassandra: no answer")
        return CLEAN

    world.finds = find
    metrics.AUDIT_PASS_READERS.set(0)
    async with world.auditing():
        await world.clock.advance(60)
    assert metrics.AUDIT_PASS_READERS._value.get() == 3, "it is not the primary that is away"
    assert world.results()["failed"] >= 1
    assert world.results()["clean"] >= 1


async def test_where_there_are_no_lists_the_keys_are_gone_through_at_a_bounded_rate(world: World) -> None:
    world.pages = {"one": [[], []]}
    async with world.auditing():
        await world.clock.advance(10)
    assert 100 <= world.scans <= 10 * LIMITS.audit_scans_per_second + 1
    world.pages, world.scans = {}, 0
    async with world.auditing():
        await world.clock.advance(1)


async def test_a_bug_ends_the_audit(world: World) -> None:
    def find(user_id: int, look: int) -> Comparison:
        raise KeyError(user_id)

    world.finds = find
    audit = Audit(world, world, LIMITS, 1, seconds=lambda: world.clock.now_ms() / 1000, sleep=world.clock.sleep)
    task = asyncio.create_task(audit.run(asyncio.Event()))
    await world.clock.advance(5)
    assert task.done()
    with pytest.raises(ExceptionGroup):
        await task
