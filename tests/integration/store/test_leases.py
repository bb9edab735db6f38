"""Worker numbers and ids: no id twice, whatever clocks and processes do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from timeline import metrics
from timeline.domain.errors import OutcomeUnknown, Unavailable
from timeline.domain.ids import SEQUENCE_BITS, WORKERS, time_ms
from timeline.settings import Settings
from timeline.store import Store
from timeline.store.leases import LeasedIds
from timeline.store.session import Cql, Kind

NOW = 1_790_000_000_000
LEASE_MS = 30_000
_CLEAN = Cql("t", "TRUNCATE worker_leases", Kind.write)
_ROW = Cql("t", "SELECT owner, until_ms FROM worker_leases WHERE worker = ?")


class Clock:
    """A clock that a test moves. Sleeping moves it too."""

    def __init__(self, now_ms: int = NOW) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms

    async def sleep(self, seconds: float) -> None:
        self.now_ms += max(1, round(seconds * 1000))
        await asyncio.sleep(0)


class Process:
    """A process with a clock of its own. Its renewals happen when a test says so."""

    def __init__(self, store: Store, settings: Settings, clock: Clock, numbers: tuple[int, int] = (0, 4095)) -> None:
        some = settings.model_copy(update={"worker_min": numbers[0], "worker_max": numbers[1]})
        self.clock = clock
        self.ids = LeasedIds(store.session, some, settings.limits, clock_ms=clock, sleep=self._sleep)
        self._asleep = asyncio.Event()
        self._wake = asyncio.Event()

    async def _sleep(self, seconds: float) -> None:
        if asyncio.current_task() is not self.ids._renewing:
            await self.clock.sleep(seconds)
            return
        self._asleep.set()
        await self._wake.wait()
        self._wake.clear()

    async def renew(self) -> None:
        """One round of the background renewal."""
        await self._asleep.wait()
        self._asleep.clear()
        self._wake.set()
        await self._asleep.wait()


@pytest.fixture
async def clean(store: Store) -> Store:
    await store.session.prepare([_CLEAN, _ROW])
    await store.session.run(_CLEAN, ())
    return store


@pytest.fixture
async def opened() -> AsyncIterator[list[Process]]:
    """Processes that are closed at the end."""
    processes: list[Process] = []
    yield processes
    for process in processes:
        await process.ids.close()


def losses() -> float:
    return float(metrics.LEASE_LOSSES._value.get())


async def test_ids_ascend_and_carry_the_leased_number(clean: Store, settings: Settings, opened: list[Process]) -> None:
    process = Process(clean, settings, Clock(), (7, 7))
    opened.append(process)
    ids = [await process.ids.mint() for _ in range(5000)]
    assert ids == sorted(set(ids))
    assert {tweet >> SEQUENCE_BITS & WORKERS - 1 for tweet in ids} == {7} == {process.ids.worker}


async def test_nothing_is_leased_before_the_first_id(clean: Store, settings: Settings, opened: list[Process]) -> None:
    opened.append(Process(clean, settings, Clock(), (3, 3)))
    assert await clean.session.one(_ROW, (3,)) is None
    await opened[0].ids.mint()
    row = await clean.session.one(_ROW, (3,))
    assert row is not None
    assert row[1] == NOW + LEASE_MS


async def test_a_number_that_is_held_is_not_leased_again(
    clean: Store, settings: Settings, opened: list[Process]
) -> None:
    opened += [Process(clean, settings, Clock(), (5, 5)), Process(clean, settings, Clock(), (5, 5))]
    await opened[0].ids.mint()
    with pytest.raises(Unavailable, match="TIMELINE_WORKER_MIN"):
        await opened[1].ids.mint()
    opened[1].clock.now_ms = NOW + LEASE_MS
    assert time_ms(await opened[1].ids.mint()) >= NOW + LEASE_MS


async def test_a_holder_whose_number_was_taken_mints_only_before_the_taker_does(
    clean: Store, settings: Settings, opened: list[Process]
) -> None:
    behind, ahead = Process(clean, settings, Clock(), (5, 5)), Process(clean, settings, Clock(NOW + 3_600_000), (5, 5))
    opened += [behind, ahead]
    first = await behind.ids.mint()
    taken = await ahead.ids.mint()  # by its clock the lease is long over
    behind.clock.now_ms = NOW + LEASE_MS - 1
    late = await behind.ids.mint()
    assert first < late < taken
    assert time_ms(late) < NOW + LEASE_MS <= time_ms(taken)
    behind.clock.now_ms += 1
    before = losses()
    with pytest.raises(Unavailable):
        await behind.ids.mint()
    assert losses() == before + 1


async def test_the_taker_waits_for_the_end_of_the_lease_by_its_own_clock(
    clean: Store, settings: Settings, opened: list[Process]
) -> None:
    one, two = Process(clean, settings, Clock(), (5, 5)), Process(clean, settings, Clock(NOW + LEASE_MS), (5, 5))
    opened += [one, two]
    await one.ids.mint()
    acquire = two.ids._acquire

    async def acquire_and_step_back() -> object:
        lease = await acquire()
        two.clock.now_ms = NOW + 10  # where the first holder may still mint
        return lease

    two.ids._acquire = acquire_and_step_back  # type: ignore[assignment,method-assign]
    with pytest.raises(Unavailable, match="clock"):
        await two.ids.mint()
    two.clock.now_ms = NOW + LEASE_MS - 500
    assert time_ms(await two.ids.mint()) >= NOW + LEASE_MS


async def test_a_renewed_lease_goes_on(clean: Store, settings: Settings, opened: list[Process]) -> None:
    process = Process(clean, settings, Clock(), (5, 5))
    opened.append(process)
    ids = [await process.ids.mint()]
    for _ in range(12):
        process.clock.now_ms += LEASE_MS // 3
        await process.renew()
        ids.append(await process.ids.mint())
    assert ids == sorted(set(ids))
    assert time_ms(ids[-1]) == NOW + 4 * LEASE_MS


async def test_a_lost_lease_is_noticed_by_renewing_and_another_is_taken(
    clean: Store, settings: Settings, opened: list[Process]
) -> None:
    one, two = Process(clean, settings, Clock(), (5, 5)), Process(clean, settings, Clock(NOW + 2 * LEASE_MS), (5, 5))
    opened += [one, two]
    await one.ids.mint()
    await two.ids.mint()
    before = losses()
    await one.renew()
    assert losses() == before + 1
    assert one.ids.worker is None


async def test_ids_ascend_across_a_change_of_number(clean: Store, settings: Settings, opened: list[Process]) -> None:
    process = Process(clean, settings, Clock(), (0, 63))
    opened.append(process)
    last = await process.ids.mint()
    numbers = set()
    for _ in range(30):
        numbers.add(process.ids.worker)
        process.ids._lost(process.ids._lease, "was taken away by the test")  # type: ignore[arg-type]
        following = await process.ids.mint()
        assert following > last
        last = following
    assert len(numbers) > 5


async def test_a_small_step_back_is_waited_for_and_a_large_one_refused(
    clean: Store, settings: Settings, opened: list[Process]
) -> None:
    process = Process(clean, settings, Clock())
    opened.append(process)
    first = await process.ids.mint()
    process.clock.now_ms -= 900
    second = await process.ids.mint()
    assert second > first
    process.clock.now_ms = NOW - 5_000
    with pytest.raises(Unavailable, match="clock"):
        await process.ids.mint()
    process.clock.now_ms = NOW + 5
    assert await process.ids.mint() > second


async def test_a_number_given_back_is_free_above_its_last_id(
    clean: Store, settings: Settings, opened: list[Process]
) -> None:
    one, two = Process(clean, settings, Clock(), (5, 5)), Process(clean, settings, Clock(NOW), (5, 5))
    opened.append(two)
    last = await one.ids.mint()
    await one.ids.close()
    with pytest.raises(Unavailable, match="TIMELINE_WORKER_MIN"):
        await two.ids.mint()
    two.clock.now_ms = NOW + 1
    assert await two.ids.mint() > last


async def test_an_unknown_outcome_is_settled_by_reading(
    clean: Store, settings: Settings, opened: list[Process]
) -> None:
    process = Process(clean, settings, Clock(), (5, 5))
    opened.append(process)
    real = clean.session.compare_and_set

    class Unsure:
        def __getattr__(self, name: str) -> object:
            return getattr(clean.session, name)

        async def compare_and_set(self, *call: object) -> bool:
            await real(*call)  # type: ignore[arg-type]
            raise OutcomeUnknown("timed out")

    process.ids._session = Unsure()  # type: ignore[assignment]
    first = await process.ids.mint()
    process.clock.now_ms += LEASE_MS // 2
    await process.renew()
    process.clock.now_ms += LEASE_MS // 2 + 1
    assert await process.ids.mint() > first


async def test_a_hundred_processes_with_bad_clocks_never_make_an_id_twice(
    clean: Store, settings: Settings, opened: list[Process]
) -> None:
    rng = random.Random(11)
    minted: list[list[int]] = []

    async def live(number: int) -> None:
        process = Process(clean, settings, Clock(NOW + rng.randrange(-100_000, 100_000)), (0, 24))
        opened.append(process)
        mine: list[int] = []
        minted.append(mine)
        for _ in range(40):
            action = rng.random()
            if action < 0.3:
                process.clock.now_ms += rng.randrange(LEASE_MS)
            elif action < 0.4:
                process.clock.now_ms -= rng.randrange(2 * LEASE_MS)
            elif action < 0.45:
                await process.ids.close()
            elif action < 0.6 and process.ids.worker is not None:
                await process.renew()
            try:
                mine += [await process.ids.mint() for _ in range(20)]
            except Unavailable:
                process.clock.now_ms += rng.randrange(LEASE_MS)  # no number, or a clock too far behind

    await asyncio.gather(*(live(number) for number in range(100)))
    everything = [tweet for mine in minted for tweet in mine]
    assert len(everything) > 10_000
    assert len(set(everything)) == len(everything)
    assert all(mine == sorted(mine) for mine in minted)


def test_write_times_ascend(store: Store) -> None:
    times = [store.ids.now_us() for _ in range(1000)]
    assert times == sorted(set(times))
