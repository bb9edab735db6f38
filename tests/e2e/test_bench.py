"""The benchmarks run, and measure only what is right."""

from __future__ import annotations

from pathlib import Path

from loadtest.bench.home import Size, measure, open_stack, report
from tests.stack import BRISK
from timeline.local import Control

SMALL = Size(
    many=300,
    pulled=30,
    few=40,
    rows_of_pulled=22,
    newest_rows=40,
    rounds=2,
    requests=3,
    limits={
        "late_after_ms": 3_000,
        **BRISK,
    },
)


def test_the_benchmark_of_homes_finds_them_right_and_tells_their_cost(engines: Control, tmp_path: Path) -> None:
    """A reader of 300 accounts, 30 of them pulled: all of history is what a recomputation says; then figures for all readers."""
    with open_stack(engines.env, tmp_path, SMALL) as stack:
        figures = measure(stack, tmp_path, SMALL)
    print(f"\n{report(figures)}")
    readers = figures["readers"]
    assert [of["pulled"] for of in readers.values()] == [30, 0, 4]
    assert all(0 < of["raw_ms"] < of["p50_ms"] and of["cold_ms"] for of in readers.values())
    assert readers["many"]["walked_items"] > readers["few"]["walked_items"] > SMALL.few
