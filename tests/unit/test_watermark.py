"""The commit watermark: whatever order batches finish in, nothing is committed ahead."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeline.eventlog.ledger import Ledger
from timeline.fanout.watermark import Watermark

TOPIC = "tweet.created"
ONE, OTHER = (TOPIC, 0), (TOPIC, 1)


@st.composite
def finishing(draw: st.DrawFn) -> tuple[list[tuple[int, int]], list[int]]:
    """Runs of ascending offsets with gaps, and the order in which they finish: some of them, some twice."""
    edges = sorted(draw(st.sets(st.integers(0, 500), min_size=1, max_size=20)))
    runs = [(first, draw(st.integers(first, following - 1))) for first, following in pairwise([*edges, 501])]
    return runs, draw(st.lists(st.sampled_from(range(len(runs))), max_size=3 * len(runs)))


@given(finishing())
def test_the_watermark_stands_just_above_what_is_done_from_the_start_on(
    case: tuple[list[tuple[int, int]], list[int]],
) -> None:
    offsets, order = case
    watermark = Watermark()
    runs = [watermark.take(first, last) for first, last in offsets]
    finished: set[int] = set()
    for each in order:
        watermark.finish(runs[each])
        finished.add(each)
        done = next((at for at in range(len(runs)) if at not in finished), len(runs))
        assert watermark.position == (offsets[done - 1][1] + 1 if done else None)
        assert watermark.is_idle == (done == len(runs))


@given(finishing(), st.integers(0, 20))
def test_taking_and_finishing_may_interleave(case: tuple[list[tuple[int, int]], list[int]], ahead: int) -> None:
    offsets, _ = case
    watermark = Watermark()
    runs = []
    for at, (first, last) in enumerate(offsets):
        runs.append(watermark.take(first, last))
        if at >= ahead:
            watermark.finish(runs[at - ahead])
            assert watermark.position == offsets[at - ahead][1] + 1


def test_runs_are_taken_in_ascending_order_only() -> None:
    watermark = Watermark()
    watermark.take(5, 9)
    with pytest.raises(ValueError, match="after 9"):
        watermark.take(9, 12)


def test_a_batch_that_ends_after_its_partition_came_back_moves_nothing() -> None:
    ledger = Ledger()
    ledger.open([ONE])
    old = ledger.take({ONE: (10, 20)})
    ledger.close([ONE])
    ledger.open([ONE])
    new = ledger.take({ONE: (5, 20)})
    ledger.finish(old)
    assert ledger.to_commit() == {}
    ledger.finish(new)
    assert ledger.to_commit() == {ONE: 21}


def test_offsets_that_step_back_begin_a_new_account() -> None:
    ledger = Ledger()
    ledger.open([ONE])
    first = ledger.take({ONE: (10, 20)})
    again = ledger.take({ONE: (0, 4)})
    ledger.finish(first)
    assert ledger.to_commit() == {}, "the broker began again at 0: 21 would pass over what it still has to deliver"
    ledger.finish(again)
    assert ledger.to_commit() == {ONE: 5}


def test_only_what_moved_since_the_broker_took_it_is_committed_again() -> None:
    ledger = Ledger()
    ledger.open([ONE, OTHER])
    ledger.finish(ledger.take({ONE: (0, 4), OTHER: (7, 7)}))
    assert ledger.to_commit() == {ONE: 5, OTHER: 8}
    ledger.committed(ONE, 5)
    assert ledger.to_commit() == {OTHER: 8}, "a commit that was not acknowledged is tried again"
    assert ledger.to_commit([ONE]) == {}


def test_messages_of_a_partition_that_went_away_are_in_no_account() -> None:
    ledger = Ledger()
    ledger.open([ONE])
    runs = ledger.take({ONE: (0, 0), OTHER: (3, 9)})
    ledger.finish(runs)
    assert ledger.to_commit() == {ONE: 1}


def test_waiting_for_batches_ends_when_they_are_done_or_time_is_up() -> None:
    ledger = Ledger()
    ledger.open([ONE, OTHER])
    runs = ledger.take({ONE: (0, 4)})
    assert not ledger.wait_idle([ONE], 0.01)
    assert ledger.wait_idle([OTHER], 0), "what is under way elsewhere is not waited for"
    threading.Timer(0.02, ledger.finish, [runs]).start()
    assert ledger.wait_idle([ONE], 10)
