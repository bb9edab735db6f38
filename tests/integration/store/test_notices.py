"""The notice board: what one process writes, and when the others obey. Every board here is a process with clocks of its own."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from tests.integration.store.conftest import new_keyspace
from timeline.domain.errors import OutcomeUnknown, Unavailable
from timeline.domain.ids import UserId
from timeline.domain.limits import NOTICE_SECONDS, Limits
from timeline.domain.notices import STANDS
from timeline.fanout.ports import Away
from timeline.local import Control
from timeline.store import Store, migrations, open_store
from timeline.store.holes import DAY_MS, HoleReader, ranges, written
from timeline.store.intervals import SHARDS
from timeline.store.notices import StoreNoticeBoard
from timeline.store.session import Cql, Kind, Params

NOW = 1_790_000_000_000
LIMITS = Limits()
LEASE = LIMITS.notices_lease_ms
AHEAD = LIMITS.hole_ahead_ms
MARGIN = LIMITS.notices_margin_ms

_ROWS = Cql("t", "SELECT since, until, TTL(until) FROM pull_intervals WHERE shard = ? AND user_id = ?")
_HOLES = Cql("t", "SELECT node, from_ms, until_ms, slots FROM dirty_intervals WHERE day = ?")
_HOLE = Cql("t", "INSERT INTO dirty_intervals (day, node, from_ms, until_ms, slots) VALUES (?, ?, ?, ?, ?)", Kind.write)
_EMPTY = [Cql("t", f"TRUNCATE {table}", Kind.write) for table in ("pull_intervals", "dirty_intervals")]


@dataclass
class Clock:
    """Real time of a test. `skew_ms` is how far a server's own clock stands off."""

    ms: int = NOW

    def wall(self, skew_ms: int = 0) -> Callable[[], int]:
        return lambda: self.ms + skew_ms

    def seconds(self) -> float:
        return self.ms / 1000


@dataclass
class Faulty:
    """A session that fails where it is told to: before a statement reaches the store, or after."""

    session: Any
    before: set[str] = field(default_factory=set)
    after: set[str] = field(default_factory=set)
    during: Callable[[str], Awaitable[None]] | None = None

    async def _call(self, method: str, cql: Cql, *args: object) -> Any:
        if cql.name in self.before:
            raise OutcomeUnknown("lost")
        answer = await getattr(self.session, method)(cql, *args)
        if self.during is not None:
            await self.during(cql.name)
        if cql.name in self.after:
            raise OutcomeUnknown("its answer was lost")
        return answer

    async def run(self, cql: Cql, params: Params) -> None:
        await self._call("run", cql, params)

    async def rows(self, cql: Cql, params: Params) -> Any:
        return await self._call("rows", cql, params)

    async def page(self, cql: Cql, params: Params, state: Any = None) -> Any:
        return await self._call("page", cql, params, state)

    async def columns(self, cql: Cql, params: Params, state: Any = None) -> Any:
        return await self._call("columns", cql, params, state)

    async def all_columns(self, cql: Cql, params: Params) -> AsyncIterator[Any]:
        state = None
        while True:
            page, state = await self.columns(cql, params, state)
            yield page
            if state is None:
                return


@dataclass
class Process:
    board: StoreNoticeBoard
    session: Faulty


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def process(store: Store, clock: Clock) -> Callable[..., Process]:
    """Makes one; nothing is noticed yet."""
    await store.session.prepare([_ROWS, _HOLES, _HOLE, *_EMPTY])
    for cql in _EMPTY:
        await store.session.run(cql, ())

    def make(skew_ms: int = 0, limits: Limits = LIMITS) -> Process:
        session = Faulty(store.session)
        board = StoreNoticeBoard(session, limits, clock_ms=clock.wall(skew_ms), monotonic=clock.seconds)  # type: ignore[arg-type]
        return Process(board, session)

    return make


async def rows_of(store: Store, author: int) -> list[tuple[int, int | None, int | None]]:
    return await store.session.rows(_ROWS, (author % SHARDS, author))  # type: ignore[return-value]


def pulls(process: Process, author: int, built_ms: int) -> bool:
    """Whether a reader there would pull the author beside a list that was built then and reaches down to the beginning."""
    notices, believed = process.board.read()
    assert believed
    return author in notices.to_pull(np.array([author]), built_ms, 0, MARGIN)


# --- who is pulled


async def test_what_one_begins_another_obeys_when_everybody_must_know_it(
    process: Callable[..., Process], clock: Clock, users: Iterator[UserId]
) -> None:
    one, two, author = process(), process(), next(users)
    await one.board.refresh()
    await two.board.refresh()
    await one.board.begin_pull(author)
    assert one.board.stands(author), "as written by this process"
    assert not two.board.stands(author)
    clock.ms += 3000
    await two.board.refresh()
    assert two.board.stands(author)
    assert pulls(two, author, clock.ms), "readers pull from the first reading on"
    assert two.board.may_skip([author]) == set(), "somebody may still believe an older reading"
    clock.ms += LEASE - 1
    await two.board.refresh()
    assert two.board.may_skip([author]) == set()
    clock.ms += 1
    assert two.board.may_skip([author, next(users), author]) == {author}
    assert one.board.may_skip([author]) == set(), "it has not read for longer than the lease"
    await one.board.refresh()
    assert one.board.may_skip([author]) == set(), "it sees it for the first time"


async def test_nobody_skips_by_a_reading_that_has_lapsed(
    process: Callable[..., Process], clock: Clock, users: Iterator[UserId]
) -> None:
    one, author = process(), next(users)
    assert one.board.read()[1] is False, "nothing was read yet"
    await one.board.begin_pull(author)
    await one.board.refresh()
    clock.ms += LEASE
    await one.board.refresh()
    clock.ms += LEASE
    assert (one.board.may_skip([author]), one.board.read()[1]) == ({author}, True)
    clock.ms += 1
    assert (one.board.may_skip([author]), one.board.read()[1]) == (set(), False)
    assert one.board.stands(author), "as last read"


async def test_a_readings_age_counts_from_before_it_was_sent(process: Callable[..., Process], clock: Clock) -> None:
    one = process()

    async def slow(name: str) -> None:
        clock.ms += 4000 if name == "intervals_all" else 0

    one.session.during = slow
    await one.board.refresh()
    assert one.board.age_seconds == 4.0
    clock.ms += LEASE - 4000
    assert one.board.read()[1]
    clock.ms += 1
    assert not one.board.read()[1]


async def test_an_interval_is_first_seen_when_its_reading_has_ended(
    process: Callable[..., Process], clock: Clock, users: Iterator[UserId]
) -> None:
    one, two, author = process(), process(), next(users)
    await one.board.begin_pull(author)

    async def slow(name: str) -> None:
        clock.ms += 1500 if name == "intervals_all" else 0

    two.session.during = slow
    await two.board.refresh()
    two.session.during = None
    clock.ms += LEASE - 1
    await two.board.refresh()
    assert two.board.may_skip([author]) == set()
    clock.ms += 1
    assert two.board.may_skip([author]) == {author}


async def test_a_reading_that_was_overtaken_changes_nothing(
    process: Callable[..., Process], clock: Clock, users: Iterator[UserId]
) -> None:
    one, two, author = process(), process(), next(users)
    read, gate = asyncio.Event(), asyncio.Event()

    async def held(name: str) -> None:
        if name == "intervals_all":
            read.set()
            await gate.wait()

    two.session.during = held
    late = asyncio.create_task(two.board.refresh())
    async with asyncio.timeout(10):
        await read.wait()
        two.session.during = None
        await one.board.begin_pull(author)
        clock.ms += 5
        await two.board.refresh()
        gate.set()
        await late
    assert two.board.stands(author)
    assert two.board.age_seconds == 0


async def standing_everywhere(clock: Clock, author: UserId, *processes: Process) -> None:
    """An interval of the author that all of them may skip by."""
    await processes[0].board.begin_pull(author)
    for wait in (0, LEASE):
        clock.ms += wait
        for each in processes:
            await each.board.refresh()
    assert all(each.board.may_skip([author]) == {author} for each in processes)


async def test_an_end_is_obeyed_by_its_writer_at_once_and_by_others_at_their_next_reading(
    store: Store, process: Callable[..., Process], clock: Clock, users: Iterator[UserId]
) -> None:
    one, two, author = process(), process(), next(users)
    await standing_everywhere(clock, author, one, two)
    seen: list[set[UserId]] = []

    async def watching(name: str) -> None:
        seen.append(one.board.may_skip([author]))

    one.session.during = watching
    clock.ms += 1000
    await one.board.end_pull(author)
    assert seen == [set()] * 3, "pushing begins before anything is written"
    assert (one.board.stands(author), one.board.may_skip([author])) == (False, set())
    assert two.board.may_skip([author]) == {author}
    ended = clock.ms
    clock.ms += 2000
    await two.board.refresh()
    assert (two.board.stands(author), two.board.may_skip([author])) == (False, set())
    assert pulls(two, author, ended + MARGIN), "workers may have gone on skipping"
    assert not pulls(two, author, ended + MARGIN + 1)
    [(since, until, ttl)] = await rows_of(store, author)
    assert (until, NOTICE_SECONDS - 60 < (ttl or 0) <= NOTICE_SECONDS) == (ended, True), "it goes by itself"
    assert since == NOW


async def test_the_time_of_an_end_is_taken_when_everybodys_next_reading_sees_it(
    store: Store, process: Callable[..., Process], clock: Clock, users: Iterator[UserId]
) -> None:
    one, author = process(), next(users)
    await standing_everywhere(clock, author, one)

    async def slow(name: str) -> None:
        clock.ms += 1900

    one.session.during = slow
    began = clock.ms
    await one.board.end_pull(author)
    assert [row[1] for row in await rows_of(store, author)] == [began + 2 * 1900], "read, and marked as ending"


@pytest.mark.parametrize("fault", ["before", "after"])
@pytest.mark.parametrize("step", ["interval_ending", "interval_end"])
async def test_an_end_of_unknown_outcome_says_no_time_that_others_outlast(
    store: Store, process: Callable[..., Process], clock: Clock, users: Iterator[UserId], step: str, fault: str
) -> None:
    one, two, author = process(), process(), next(users)
    await standing_everywhere(clock, author, one, two)
    getattr(one.session, fault).add(step)
    with pytest.raises(OutcomeUnknown):
        await one.board.end_pull(author)
    assert (one.board.may_skip([author]), one.board.stands(author)) == (set(), True), "push, and try again"
    tried = clock.ms
    clock.ms += 3_600_000  # meanwhile two skips, if it cannot see an end
    await two.board.refresh()
    skips = two.board.may_skip([author]) == {author}
    assert skips == (step == "interval_ending" and fault == "before")
    if not (step == "interval_end" and fault == "after"):
        assert pulls(two, author, clock.ms), "so the end has no time yet"
        assert two.board.stands(author), "and whoever looks tries again"
        two.session.during = None
        await two.board.end_pull(author)
        tried = clock.ms
    await two.board.refresh()
    await one.board.refresh()
    assert [row[1] for row in await rows_of(store, author)] == [tried]
    assert not one.board.stands(author)
    assert not pulls(one, author, tried + MARGIN + 1)


async def test_a_new_interval_must_be_seen_for_as_long_as_the_first(
    process: Callable[..., Process], clock: Clock, users: Iterator[UserId]
) -> None:
    """Whoever knows the end of the first, and not yet the second, does not pull."""
    one, two, author = process(), process(), next(users)
    await standing_everywhere(clock, author, one, two)
    await one.board.end_pull(author)
    await one.board.begin_pull(author)
    assert one.board.stands(author)
    for wait in (1, LEASE - 1):
        clock.ms += wait
        await two.board.refresh()
        assert (two.board.may_skip([author]), two.board.stands(author)) == (set(), True)
    clock.ms += 1
    assert two.board.may_skip([author]) == {author}


async def test_what_begins_and_ends_beside_it_does_not_make_an_interval_younger(
    process: Callable[..., Process], clock: Clock, users: Iterator[UserId]
) -> None:
    one, two = process(), process()
    before, author, after = next(users), next(users), next(users)
    await standing_everywhere(clock, before, one)
    await one.board.begin_pull(author)
    await two.board.refresh()
    clock.ms += LEASE // 2
    await one.board.end_pull(before)
    await one.board.begin_pull(after)
    await two.board.refresh()
    clock.ms += LEASE - LEASE // 2
    assert two.board.may_skip([before, author, after]) == {author}


async def test_an_interval_is_begun_once_and_every_one_that_stands_is_ended(
    store: Store, process: Callable[..., Process], clock: Clock, users: Iterator[UserId]
) -> None:
    one, two, author = process(), process(7), next(users)
    await asyncio.gather(one.board.refresh(), two.board.refresh())
    for each in (one, one, two, two):
        await each.board.begin_pull(author)
    assert [row[:2] for row in await rows_of(store, author)] == [(NOW, None), (NOW + 7, None)]
    await one.board.refresh()
    await one.board.begin_pull(author)
    assert len(await rows_of(store, author)) == 2
    clock.ms += 50
    await one.board.end_pull(author)
    assert [row[:2] for row in await rows_of(store, author)] == [(NOW, NOW + 50), (NOW + 7, NOW + 50)]
    await two.board.end_pull(author)
    assert [row[1] for row in await rows_of(store, author)] == [NOW + 50, NOW + 50]


async def test_an_end_holds_though_its_writers_clock_stands_before_the_beginning(
    store: Store, process: Callable[..., Process], clock: Clock, users: Iterator[UserId]
) -> None:
    ahead, behind, author = process(4000), process(-4000), next(users)
    await standing_everywhere(clock, author, ahead)
    clock.ms = NOW + 10
    await behind.board.end_pull(author)
    assert [row[:2] for row in await rows_of(store, author)] == [(NOW + 4000, NOW + 4000)]


async def test_after_an_end_that_failed_a_beginning_is_another_interval(
    store: Store, process: Callable[..., Process], clock: Clock, users: Iterator[UserId]
) -> None:
    one, author = process(), next(users)
    await standing_everywhere(clock, author, one)
    one.session.before.add("interval_ending")
    with pytest.raises(OutcomeUnknown):
        await one.board.end_pull(author)
    clock.ms += 5
    await one.board.begin_pull(author)
    assert [row[1] for row in await rows_of(store, author)] == [None, None]


async def test_a_beginning_that_fails_is_none(process: Callable[..., Process], users: Iterator[UserId]) -> None:
    one, author = process(), next(users)
    await one.board.refresh()
    one.session.before.add("interval_begin")
    with pytest.raises(Unavailable):
        await one.board.begin_pull(author)
    assert not one.board.stands(author)


async def test_of_several_intervals_the_newest_beginning_and_the_last_end_are_told(
    process: Callable[..., Process], clock: Clock, users: Iterator[UserId]
) -> None:
    one, authors = process(), [next(users) for _ in range(40)]
    for round_ in range(2):
        for author in authors:
            await one.board.begin_pull(author)
        clock.ms += 100
        for author in authors[: 20 if round_ else 40]:
            await one.board.end_pull(author)
    await one.board.refresh()
    notices, _ = one.board.read()
    assert notices.pulled.tolist() == authors
    assert notices.until_ms.tolist() == [NOW + 200] * 20 + [STANDS] * 20
    assert all(NOW + 100 <= since < NOW + 200 for since in notices.since_ms.tolist())
    assert [notices.stands(author) for author in authors] == [False] * 20 + [True] * 20


async def test_more_notices_than_the_bound_are_an_error_and_the_rest_holds(
    process: Callable[..., Process], clock: Clock, users: Iterator[UserId], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = process(), process(limits=Limits(notices_max=5))
    for _ in range(8):
        await one.board.begin_pull(next(users))
    await two.board.refresh()
    await two.board.refresh()
    assert len(two.board.read()[0].pulled) == 5
    assert [record.levelno for record in caplog.records if "notices_max" in record.getMessage()] == [logging.ERROR]


# --- holes

ALL = ((0, 16_383),)


def dirty(process: Process) -> dict[int, int]:
    """Until when, by slot, of some slots."""
    notices, believed = process.board.read()
    assert believed
    return {slot: int(notices.dirty_until_ms[slot]) for slot in (0, 99, 100, 5460, 5461, 16_383)}


async def test_a_hole_is_open_when_everybody_must_know_it_and_told_for_its_slots(
    process: Callable[..., Process], clock: Clock
) -> None:
    worker, reader = process(), process()
    away = Away("a:1", 6000, ((0, 99), (5461, 16_383)))
    assert not await worker.board.record_hole(away)
    await reader.board.refresh()
    until = NOW + AHEAD
    assert dirty(reader) == {0: until, 99: until, 100: 0, 5460: 0, 5461: until, 16_383: until}
    clock.ms += LEASE - 1
    assert not await worker.board.record_hole(away)
    clock.ms += 1
    assert await worker.board.record_hole(away)
    await worker.board.end_hole("a:1")
    await reader.board.refresh()
    assert dirty(reader)[0] == NOW + LEASE
    assert not await worker.board.record_hole(away), "another outage is another hole"


async def test_a_hole_that_is_asked_for_stays_open_by_few_writes(
    store: Store, process: Callable[..., Process], clock: Clock
) -> None:
    worker, away = process(), Away("a:1", 6000, ALL)
    writes: list[str] = []

    async def count(name: str) -> None:
        writes.append(name)

    worker.session.during = count
    answers = []
    for _ in range(300):
        answers.append(await worker.board.record_hole(away))
        clock.ms += 1000
    assert answers == [False] * (LEASE // 1000) + [True] * (300 - LEASE // 1000)
    assert len(writes) <= 300_000 // (AHEAD // 2)
    [(_, from_ms, until_ms, _)] = await store.session.rows(_HOLES, (NOW // DAY_MS,))
    assert (from_ms, until_ms > clock.ms) == (NOW, True)


async def test_a_hole_that_nobody_asks_for_closes_before_its_end_is_told(
    process: Callable[..., Process], clock: Clock
) -> None:
    worker, away = process(), Away("a:1", 6000, ALL)
    assert not await worker.board.record_hole(away)
    worker.session.before.add("hole_put")  # it cannot be prolonged
    clock.ms += AHEAD // 2
    assert await worker.board.record_hole(away)
    clock.ms += AHEAD // 4
    with pytest.raises(OutcomeUnknown):
        await worker.board.record_hole(away)
    worker.session.before.clear()
    clock.ms += AHEAD // 4 - 1
    assert not await worker.board.record_hole(away), "too near to the end that everybody knows"


async def test_a_hole_whose_record_is_of_unknown_outcome_is_not_open(
    process: Callable[..., Process], clock: Clock
) -> None:
    worker, away = process(), Away("a:1", 6000, ALL)
    worker.session.before.add("hole_put")
    with pytest.raises(OutcomeUnknown):
        await worker.board.record_hole(away)
    worker.session.before.clear()
    clock.ms += LEASE
    assert not await worker.board.record_hole(away)


async def test_other_slots_of_a_node_are_another_hole(process: Callable[..., Process], clock: Clock) -> None:
    worker = process()
    await worker.board.record_hole(Away("a:1", 6000, ((0, 99),)))
    clock.ms += LEASE
    assert await worker.board.record_hole(Away("a:1", 6000, ((0, 99),)))
    assert not await worker.board.record_hole(Away("a:1", 6000, ((0, 199),)))


async def test_the_end_of_ones_hole_ends_nobody_elses(process: Callable[..., Process], clock: Clock) -> None:
    one, two, reader = process(), process(), process()
    away = Away("a:1", 6000, ALL)
    await one.board.record_hole(away)
    await two.board.record_hole(away)
    clock.ms += 5
    await one.board.end_hole("a:1")
    await one.board.end_hole("a:1")
    await reader.board.refresh()
    assert dirty(reader)[0] == NOW + AHEAD
    await two.board.end_hole("a:1")
    clock.ms += 1
    await reader.board.refresh()
    assert dirty(reader)[0] == NOW + 5


async def test_batches_at_once_record_a_hole_once(store: Store, process: Callable[..., Process]) -> None:
    worker, away = process(), Away("a:1", 6000, ALL)
    writes: list[str] = []

    async def count(name: str) -> None:
        writes.append(name)

    worker.session.during = count
    assert await asyncio.gather(*(worker.board.record_hole(away) for _ in range(5))) == [False] * 5
    assert writes == ["hole_put"]
    assert len(await store.session.rows(_HOLES, (NOW // DAY_MS,))) == 1


async def test_an_outage_over_midnight_stays_open_in_a_row_a_day(
    store: Store, process: Callable[..., Process], clock: Clock
) -> None:
    midnight = (NOW // DAY_MS + 1) * DAY_MS
    clock.ms = midnight - 60_000
    worker, reader, away = process(), process(), Away("a:1", 6000, ALL)
    answers = []
    for _ in range(120):
        answers.append(await worker.board.record_hole(away))
        clock.ms += 1000
        await reader.board.refresh()
        assert dirty(reader)[0] >= clock.ms
    assert all(answers[LEASE // 1000 :])
    for day in (midnight // DAY_MS - 1, midnight // DAY_MS):
        assert len(await store.session.rows(_HOLES, (day,))) == 1


async def test_old_days_are_read_once_and_those_missed_are_caught_up(
    store: Store, process: Callable[..., Process], clock: Clock
) -> None:
    async def put(day: int, slot: int) -> int:
        until = day * DAY_MS + 5
        await store.session.run(_HOLE, (day, "x", day * DAY_MS, until, f"{slot}-{slot}"))
        return until

    today, reader = NOW // DAY_MS, process()
    old, older, yesterday = await put(today - 20, 1), await put(today - 31, 2), await put(today - 1, 3)
    await put(today - 32, 4)
    await reader.board.refresh()
    assert reader.board.read()[0].dirty_until_ms[1:5].tolist() == [old, older, yesterday, 0]
    await put(today - 20, 5)
    clock.ms += 1
    await reader.board.refresh()
    assert reader.board.read()[0].dirty_until_ms[5] == 0, "what is long past does not change"
    missed = await put(today + 1, 6), await put(today + 2, 7)
    clock.ms += 3 * DAY_MS
    await reader.board.refresh()
    assert reader.board.read()[0].dirty_until_ms[[1, 2, 3, 6, 7]].tolist() == [old, 0, yesterday, *missed]
    clock.ms += 26 * DAY_MS
    await reader.board.refresh()
    assert reader.board.read()[0].dirty_until_ms[[1, 3, 7]].tolist() == [0, yesterday, missed[1]]


async def test_a_first_reading_of_holes_asks_for_no_more_partitions_than_scylla_takes(store: Store) -> None:
    days, _, _ = await HoleReader(store.session, 10).read(NOW)
    assert (len(days), days[-1] - NOW // DAY_MS) == (33, 1)


@pytest.mark.parametrize("slots", [(), ((0, 0),), ((0, 99), (5461, 16_383))])
def test_slots_come_back_as_they_were_written(slots: tuple[tuple[int, int], ...]) -> None:
    assert ranges(written(slots)) == slots


# --- the endless task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for is another's state
            await asyncio.sleep(0.005)


async def test_without_the_store_the_last_notices_stand_until_they_lapse_and_come_back_by_themselves(
    process: Callable[..., Process], clock: Clock, users: Iterator[UserId], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = process(limits=Limits(notices_refresh_ms=5)), process()
    author, other = next(users), next(users)
    await two.board.begin_pull(author)
    caplog.set_level(logging.INFO, "timeline.store.notices")
    stopping = asyncio.Event()
    task = asyncio.create_task(one.board.run(stopping))
    await until(lambda: one.board.stands(author))
    one.session.after.add("holes_of")
    readings = itertools.count()

    async def counted(name: str) -> None:
        next(readings)

    one.session.during = counted
    await two.board.begin_pull(other)
    await until(lambda: next(readings) > 10)
    clock.ms += LEASE
    assert one.board.read()[1]
    clock.ms += 1
    assert not one.board.read()[1]
    assert (one.board.stands(author), one.board.stands(other)) == (True, False)
    one.session.after.clear()
    await until(lambda: one.board.stands(other) and one.board.read()[1])
    stopping.set()
    async with asyncio.timeout(5):
        await task
    told = [record.levelname for record in caplog.records if record.name == "timeline.store.notices"]
    assert told == ["WARNING", "INFO"]


async def test_a_bug_ends_the_task(process: Callable[..., Process]) -> None:
    one = process()

    async def bug(name: str) -> None:
        raise KeyError(name)

    one.session.during = bug
    with pytest.raises(KeyError):
        await one.board.run(asyncio.Event())


async def test_a_store_that_is_open_has_read_the_notices(engines: Control, users: Iterator[UserId]) -> None:
    author = next(users)
    with new_keyspace(engines) as settings:
        migrations.apply(settings)
        async with open_store(settings) as store:
            assert store.notices.read()[1]
            await store.notices.begin_pull(author)
        async with open_store(settings) as store:
            assert store.notices.stands(author)
            assert await store.ids.mint()
            assert store.ids.worker is not None
        assert store.ids.worker is None, "its worker number is given back"


# --- everything at once


class Simulation:
    """Processes whose every call to the store is held before and after, and let go in a random order while time passes. A write may
    lose its answer, never arrive, or arrive minutes later. What is skipped must be pulled, or distrusted, by whoever reads from then
    on."""

    def __init__(self, store: Store, clock: Clock, seed: int) -> None:
        self.store, self.clock, self.rng = store, clock, random.Random(seed)
        self.held: list[asyncio.Future[None]] = []
        self.late: list[tuple[int, Cql, Params]] = []
        self.busy = 0

    async def hold(self) -> None:
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.held.append(gate)
        await gate

    async def real(self, call: Awaitable[Any]) -> Any:
        self.busy += 1
        try:
            return await call
        finally:
            self.busy -= 1

    async def settle(self) -> None:
        """Until everybody is held, or has nothing to do."""
        quiet = 0
        while quiet < 12:
            await asyncio.sleep(0 if not self.busy else 0.0005)
            quiet = 0 if self.busy else quiet + 1

    async def let_one_go(self) -> None:
        if self.held:
            self.held.pop(self.rng.randrange(len(self.held))).set_result(None)
        await self.settle()

    async def pass_time(self, at_most: int) -> None:
        self.clock.ms += self.rng.randrange(at_most)
        due = [item for item in self.late if item[0] <= self.clock.ms]
        for item in due:
            self.late.remove(item)
            await self.store.session.run(item[1], item[2])


class Held:
    """The session of one simulated process."""

    def __init__(self, simulation: Simulation) -> None:
        self._all = simulation
        self._lost = 0.05

    async def _call(self, call: Callable[[], Awaitable[Any]], lost: Callable[[], None] | None = None) -> Any:
        sim, begun = self._all, self._all.clock.ms
        await sim.hold()
        fate = sim.rng.random()
        if sim.clock.ms - begun > LIMITS.cassandra_timeout_ms or fate < self._lost:
            if lost is not None:
                lost()
            raise OutcomeUnknown("lost on the way")
        answer = await sim.real(call())
        await sim.hold()
        if sim.clock.ms - begun > LIMITS.cassandra_timeout_ms or fate < 2 * self._lost:
            raise OutcomeUnknown("answered too late")
        return answer

    async def run(self, cql: Cql, params: Params) -> None:
        sim = self._all

        def lost() -> None:
            if sim.rng.random() < 0.6:
                sim.late.append((sim.clock.ms + sim.rng.choice([100, 5_000, 40_000, 300_000]), cql, params))

        await self._call(lambda: sim.store.session.run(cql, params), lost)

    async def rows(self, cql: Cql, params: Params) -> Any:
        return await self._call(lambda: self._all.store.session.rows(cql, params))

    async def page(self, cql: Cql, params: Params, state: Any = None) -> Any:
        return await self._call(lambda: self._all.store.session.page(cql, params, state))

    async def all_columns(self, cql: Cql, params: Params) -> AsyncIterator[Any]:
        page, state = await self._call(lambda: self._all.store.session.columns(cql, params))
        assert state is None
        yield page


SKEW = LIMITS.clock_skew_ms - 1
_seen: dict[str, int] = {}


@pytest.mark.parametrize("seed", range(8))
async def test_what_any_process_skips_every_other_pulls_or_distrusts(
    store: Store, process: Callable[..., Process], clock: Clock, users: Iterator[UserId], seed: int
) -> None:
    clock.ms = (NOW // DAY_MS + 1) * DAY_MS - 200_000  # a midnight comes by
    sim = Simulation(store, clock, seed)
    rng = sim.rng
    boards = [
        StoreNoticeBoard(Held(sim), LIMITS, clock_ms=clock.wall(rng.choice([-SKEW, 0, SKEW])), monotonic=clock.seconds)  # type: ignore[arg-type]
        for _ in range(4)
    ]
    authors = [next(users) for _ in range(3)]
    nodes = {"a": Away("a", 6000, ((0, 5),)), "b": Away("b", 6000, ((3, 9),))}
    skipped_at = dict.fromkeys(authors, 0)
    left_out_at = np.zeros(10, np.int64)
    tasks: set[asyncio.Task[None]] = set()
    refreshing: dict[int, asyncio.Task[None]] = {}
    skips = holes = 0

    async def leave_out(board: StoreNoticeBoard, away: Away) -> None:
        nonlocal holes
        with suppress(Unavailable):
            if await board.record_hole(away):
                holes += 1
                for first, last in away.slots:
                    left_out_at[first : last + 1] = clock.ms

    async def quietly(call: Awaitable[None]) -> None:
        with suppress(Unavailable):
            await call

    def start(call: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(quietly(call))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    def check() -> None:
        for board in boards:
            notices, believed = board.read()
            if not believed:
                continue
            for author, at in skipped_at.items():
                # a list built just before, by whoever's clock, lacks it
                if at:
                    assert author in notices.to_pull(np.array([author]), at + SKEW, 0, MARGIN), (
                        "a hole that nobody fills"
                    )
            open_ = left_out_at > 0
            assert (notices.dirty_until_ms[:10] + MARGIN >= left_out_at + SKEW)[open_].all(), "a hole that is trusted"

    for _ in range(3000):
        dice = rng.random()
        if dice < 0.5:
            await sim.let_one_go()
        elif dice < 0.72:
            at = rng.randrange(len(boards))
            if at not in refreshing or refreshing[at].done() or rng.random() < 0.05:
                refreshing[at] = start(boards[at].refresh())
        elif dice < 0.85:
            await sim.pass_time(rng.choice([50, 200, 200, 1000, 4000]))
        elif dice < 0.95:
            start(leave_out(rng.choice(boards[:2]), nodes[rng.choice("ab")]))
        elif len(tasks) < 12:
            board, author = rng.choice(boards), rng.choice(authors)
            step = rng.random()
            if step < 0.7:
                start(board.begin_pull(author))
            elif step < 0.85:
                start(board.end_pull(author))
            else:
                start(board.end_hole(rng.choice("ab")))
        for board in boards:
            for author in board.may_skip(authors):
                skips += 1
                skipped_at[author] = clock.ms
        check()
    while tasks or sim.held:
        await sim.let_one_go()
    _seen["skips"] = _seen.get("skips", 0) + skips
    _seen["holes"] = _seen.get("holes", 0) + holes


async def test_the_simulation_skips_and_leaves_out() -> None:
    """Otherwise it has shown nothing."""
    assert min(_seen.get("skips", 0), _seen.get("holes", 0)) > 20, _seen
