"""The benchmarks run, and measure only what is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtest.bench import bridge, curve, fanout, hybrid, throughput
from loadtest.bench.home import Size, measure, open_stack, report
from loadtest.bench.homes import Homes
from tests.stack import BRISK
from timeline.local import Control
from timeline.ops import demo

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

SHORT_LISTS = {"timeline_entries_max": 40, "timeline_slack": 10}


def test_the_benchmark_of_homes_finds_them_right_and_tells_their_cost(engines: Control, tmp_path: Path) -> None:
    """A reader of 300 accounts, 30 of them pulled: all of history is what a recomputation says; then figures for all readers."""
    with open_stack(engines.env, tmp_path, SMALL) as stack:
        figures = measure(stack, tmp_path, SMALL)
    print(f"\n{report(figures)}")
    readers = figures["readers"]
    assert [of["pulled"] for of in readers.values()] == [30, 0, 4]
    assert all(0 < of["raw_ms"] < of["p50_ms"] and of["cold_ms"] for of in readers.values())
    assert readers["many"]["walked_items"] > readers["few"]["walked_items"] > SMALL.few


def test_the_benchmark_of_the_way_to_the_driver_measures_both_ways_and_a_bare_socket(engines: Control) -> None:
    figures = bridge.measure(engines.env, bridge.Size(rounds=2, warm_rounds=1, requests=320, paced=50))
    print(f"\n{bridge.report(figures)}")
    assert len(figures["rounds"]) == 2
    assert min(figures["raw_per_s"], figures["loop"]["per_s"], figures["thread"]["per_s"]) > 0
    assert all(0 < figures[way]["p50_ms"] <= figures[way]["p99_ms"] for way in ("loop", "thread"))


def test_a_world_told_twice_is_the_same_again_each_retweet_of_the_post_before_it() -> None:
    once = hybrid.read(demo.FOLLOWS, demo.POSTS)
    twice, ids = once.again(2), np.arange(1, 2 * once.posts + 1)
    assert (twice.posts, twice.deliveries) == (2 * once.posts, 2 * once.deliveries)
    assert (twice.arrivals == 2 * once.arrivals).all()
    first, second = (list(twice.events(ids))[part] for part in (slice(once.posts), slice(once.posts, None)))
    assert [each.author_id for each in first] == [each.author_id for each in second]
    of_first, of_second = ([each.entry.retweet_of for each in part] for part in (first, second))
    assert of_second == [source and source + once.posts for source in of_first]
    assert any(of_first)


def test_the_benchmark_of_fan_out_counts_each_delivery_and_tells_all_its_rates(
    engines: Control, tmp_path: Path
) -> None:
    """The demo world, once: lists have had what the files say, cut ones included; then all figures, each run among them."""
    world = hybrid.read(demo.FOLLOWS, demo.POSTS)
    figures = throughput.measure(engines, tmp_path, world, throughput.Size(rounds=1, limits=SHORT_LISTS))
    told = fanout.headline({"throughput": figures})
    print("\n" + fanout.report(told))
    rates = [f"{name}deliveries_per_s" for name in ("", "raw_", "textbook_", "raw_zadd_")]
    assert all(told[rate] > 0 for rate in rates)
    (run,) = figures["runs"]
    assert run["fanout"]["deliveries"] == run["fanout"]["told"] == run["raw"]["deliveries"] == world.deliveries
    assert figures["timeline"]["full_lists"] > 100
    assert 40 <= figures["timeline"]["mean_entries"] <= 50
    assert told["timeline_bytes"] > 40 * 24
    assert run["fanout"]["rss_bytes"]


def test_the_benchmark_of_fan_out_gives_no_figures_of_wrong_work(
    engines: Control, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One list that lacks one entry is enough."""
    read = Homes.read

    def lacking(self: Homes, users: np.ndarray) -> Any:
        found = read(self, users)
        found.arrived[7] -= 1
        return found

    monkeypatch.setattr(Homes, "read", lacking)
    world = hybrid.read(demo.FOLLOWS, demo.POSTS, 100)
    with pytest.raises(throughput.WrongWork, match="1 lists are wrong"):
        throughput.measure(engines, tmp_path, world, throughput.Size(rounds=1, bare=False))


def test_the_curve_tells_the_cost_of_each_size(engines: Control, tmp_path: Path) -> None:
    """Of 10 and of 6,000 followers, the latter in two shards."""
    size = curve.Size(population=6_000, sizes=(10, 6_000), rounds=1)
    figures = curve.measure(engines, tmp_path, size)
    print("\n" + "\n".join(curve.report(figures)))
    assert all(of["cpu_us"] > 0 and of["wall_us"] > 0 for of in figures["by_followers"].values())
    assert list(figures["by_followers"]) == ["10", "6000"]
