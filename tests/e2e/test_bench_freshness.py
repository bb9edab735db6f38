"""The benchmark of freshness and fairness runs, and measures only what is right."""

from __future__ import annotations

from pathlib import Path

from loadtest.bench.fairness import FairSize
from loadtest.bench.freshness import Size, measure, report
from loadtest.bench.mix import Graph, Shown, read_rows
from tests.oracle import EPOCH_MS, Oracle, Row
from timeline.local import Control
from timeline.ops import demo
from timeline.ops.files import Kind

SMALL = Size(
    follows=demo.FOLLOWS,
    posts=demo.POSTS,
    rate=20,
    seconds=5,
    samples=2,
    calm_seconds=5,
    fair=FairSize(rounds=1, rate=20, quiet_seconds=2, fans=20_000),
    fair_rows=500,
)


def test_whoever_is_asked_for_a_post_has_it_in_their_home() -> None:
    """The demo world: everybody of whom it is said that their home must show a row has it in a recomputation."""
    graph, rows = Graph.read(demo.FOLLOWS), read_rows(demo.POSTS, 0, 1_000)
    oracle, shown, ids = Oracle(), Shown(graph, rows), dict[int, Row]()
    for follower, followee in zip(graph.follower.tolist(), graph.followee.tolist(), strict=True):
        oracle.follows[follower].add(followee)
    for at, row in enumerate(rows):
        before, tweet_id = ids.get(row.ref_post), (1_780_000_000_000 - EPOCH_MS + at) << 22
        source = before.shown if before is not None and row.kind is Kind.retweet else None
        to = oracle.rows[before.shown].author if before is not None and row.kind is Kind.reply else None
        ids[row.post_id] = Row(tweet_id, row.author, source, to)
        if row.post_id not in shown.again:
            oracle.add(ids[row.post_id])
    homes = {int(reader): set(oracle.home(int(reader))) for reader in graph.users}
    asked = {row.post_id: shown.to(row).tolist() for row in rows}
    assert {(post, reader) for post in asked for reader in asked[post] if ids[post].id not in homes[reader]} == set()
    assert sum(map(len, asked.values())) > 0.8 * sum(len(graph.followers(row.author)) for row in rows)


def test_the_benchmark_of_freshness_sees_each_post_and_tells_all_its_rounds(engines: Control, tmp_path: Path) -> None:
    """The demo world, briefly: every post asked for was read by followers through the API, out of their lists; both kinds of phases
    have their figures."""
    figures = measure(engines.env, tmp_path, SMALL)
    print("\n" + "\n".join(report(figures)))
    fresh, fair = figures["freshness"], figures["fairness"]
    assert fresh["failed"] == fresh["readable"]["unseen"] == 0
    assert fresh["readable"]["samples"] == SMALL.samples * SMALL.seconds
    assert fresh["readable"]["via"] == {"pushed": fresh["readable"]["readers_asked"]}
    assert fresh["post"]["p50_ms"] <= fresh["readable"]["last_by_id"]["p50_ms"] <= fresh["readable"]["p50_ms"]
    assert fresh["delivery_lag"]["tweet"]["tweets"] > 90
    assert len(fair["quiet"]) == len(fair["push"]) == 1
    assert fair["push"][0]["deliveries"] >= SMALL.fair.fans
    assert figures["small_author_lag_ratio"] > 0
