"""Snowflakes ascend, never repeat, and refuse when the clock or the lease says so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeline.domain.ids import (
    EPOCH_MS,
    ID_MAX,
    SEQUENCES,
    ClockStepped,
    Exhausted,
    LeaseOver,
    Snowflakes,
    bucket,
    first_id_at,
    time_ms,
)

NOW = EPOCH_MS + 500_000_000_000


class Clock:
    def __init__(self, now: int = NOW) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


@given(st.lists(st.integers(-3, 3), max_size=200))
def test_ids_ascend_whatever_the_clock_does(steps: list[int]) -> None:
    clock = Clock()
    snowflakes, minted = Snowflakes(7, clock), []
    for step in steps:
        clock.now += step
        try:
            minted.append(snowflakes.mint())
        except ClockStepped:
            continue
    assert minted == sorted(set(minted))
    assert all(time_ms(one) <= max(clock.now, NOW + 600) for one in minted)


def test_a_millisecond_has_1024_ids_and_then_no_more() -> None:
    snowflakes = Snowflakes(0, Clock())
    assert len({snowflakes.mint() for _ in range(SEQUENCES)}) == SEQUENCES
    with pytest.raises(Exhausted):
        snowflakes.mint()


def test_an_id_lies_between_the_lease_before_and_the_end_of_its_own() -> None:
    clock = Clock()
    snowflakes = Snowflakes(1, clock)
    with pytest.raises(ClockStepped):
        snowflakes.mint(not_before_ms=NOW + 1)
    with pytest.raises(LeaseOver):
        snowflakes.mint(until_ms=NOW)
    assert time_ms(snowflakes.mint(not_before_ms=NOW, until_ms=NOW + 1)) == NOW


@given(st.integers(EPOCH_MS, EPOCH_MS + (1 << 41) - 1), st.integers(0, 4095))
def test_an_id_tells_its_time_its_worker_and_its_bucket(now: int, worker: int) -> None:
    minted = Snowflakes(worker, Clock(now)).mint()
    assert time_ms(minted) == now
    assert minted >> 10 & 4095 == worker
    assert 0 < minted + 1 <= ID_MAX + 1
    assert bucket(minted) == (now - EPOCH_MS) >> 31
    assert first_id_at(now) <= minted < max(first_id_at(now + 1), minted + 1)


def test_a_worker_number_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="4096"):
        Snowflakes(4096, Clock())
