"""Fresh and fair: how soon the last follower can read a tweet through the API, and whether small authors' tweets wait for large ones.

Freshness: rows of hybrid81k in order, posted through the API at a fixed rate whatever the answers do. Of a sample of them, followers
ask for their home until it shows the tweet: from the sending of POST to the end of the answer that has it. Beside it, over all posts,
fan-out's own delivery lag (from the id's time to the acknowledged write to the last follower), in the buckets of its metric.
All 81,306 home lists exist; all follows are days old; nobody is pulled. Fairness: see fairness.py.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from loadtest.bench import hybrid
from loadtest.bench.fairness import CELEBRITY, FairSize, fans, measure_fairness
from loadtest.bench.homes import Homes
from loadtest.bench.loading import load
from loadtest.bench.mix import Graph, Shown, read_rows, told_of
from loadtest.bench.posting import Posted, Posting, Told, client
from loadtest.bench.seeing import FOLLOWERS_MAX, Seen, Watching, spread
from loadtest.bench.wire import Wire
from tests.e2e.inside import messages_behind
from tests.stack import Stack, running, until
from timeline.local import Attached
from timeline.ops.files import PostRow

CALM_CORES = 0.3
LAG = "timeline_delivery_lag_seconds"


@dataclass(frozen=True, kw_only=True)
class Size:
    """`samples` posts a second are waited for by their followers."""

    follows: Path = field(default_factory=lambda: hybrid.files(None)[0])
    posts: Path = field(default_factory=lambda: hybrid.files(None)[1])
    rate: int = 200
    seconds: int = 60
    samples: int = 4
    calm_seconds: int = 180  # compaction after a load ends well within this
    fair: FairSize = field(default_factory=FairSize)
    fair_rows: int = 20_000


def measure(engines: Mapping[str, str], folder: Path, size: Size | None = None) -> dict[str, Any]:
    """Both parts, on one stack of its own. Raises AssertionError where something is not delivered at all."""
    size = size or Size()
    rows = read_rows(size.posts, 0, size.rate * size.seconds)
    later = read_rows(size.posts, len(rows), size.fair_rows)
    graph = Graph.read(size.follows)
    everybody_pushed = {"TIMELINE_PUSH_FOLLOWERS_MAX": str(2 * size.fair.fans)}
    with (
        closing(Wire(engines["TIMELINE_REDIS_NODES"])) as wire,
        wire.room(),
        running(engines, folder, "api", "fanout", "relay", **everybody_pushed) as stack,
    ):
        made = _make(stack, wire, graph, size)
        figures = {"made": made, "freshness": _measure_freshness(stack, graph, rows, size)}
        stack.stop("api", "relay")
        fair = measure_fairness(stack, wire, graph, later, size.fair)
        Homes(wire, stack.settings["TIMELINE_REDIS_KEY_PREFIX"]).drop(fans(size.fair))
    return figures | {"fairness": fair, "small_author_lag_ratio": fair["small_author_lag_ratio"]}


def report(figures: Mapping[str, Any]) -> list[str]:
    """For a person."""
    fresh, fair = figures["freshness"], figures["fairness"]
    seen, worker = fresh["readable"], fresh["delivery_lag"]["tweet"]
    lines = [
        f"freshness at {fresh['rate']} posts/s ({fresh['achieved_rate']} achieved, {fresh['failed']} failed): "
        f"from POST to readable by all followers asked, through the API, p50 {seen['p50_ms']}, p99 {seen['p99_ms']}, "
        f"max {seen['max_ms']} ms ({seen['samples']} posts, {seen['unseen']} unseen)",
        f"  POST itself p50 {fresh['post']['p50_ms']}, p99 {fresh['post']['p99_ms']} ms, sent late by p99 "
        f"{fresh['sent_behind_p99_ms']} ms, {fresh['relayed']:g} told by the relay; delivery lag of all "
        f"{worker['tweets']:,} posts p50 {worker['p50_ms']}, p99 {worker['p99_ms']} (at most {worker['p99_at_most_ms']:g}) ms",
        f"fairness: {fair['what']}: p99 {fair['quiet_p99_ms']} and {fair['push_p99_ms']} ms, "
        f"ratio {fair['small_author_lag_ratio']}",
    ]
    lines += [
        f"  round {number}: quiet p50 {quiet['p50_ms']}, p99 {quiet['p99_ms']} ms ({quiet['posts']} posts); "
        f"push of {push['seconds']} s: p50 {push['p50_ms']}, p99 {push['p99_ms']}, max {push['max_ms']} ms ({push['posts']} posts; "
        f"looked at every {quiet['asked_every_p99_ms']} and {push['asked_every_p99_ms']} ms at p99)"
        for number, (quiet, push) in enumerate(zip(fair["quiet"], fair["push"], strict=True), 1)
    ]
    return lines


def _make(stack: Stack, wire: Wire, graph: Graph, size: Size) -> dict[str, Any]:
    """The graph in the store, and every list in Redis."""
    began = time.monotonic()
    uvloop.run(load(stack, graph, CELEBRITY, fans(size.fair)))
    loaded = time.monotonic()
    homes = Homes(wire, stack.settings["TIMELINE_REDIS_KEY_PREFIX"])
    for users in (graph.users, fans(size.fair)):
        homes.make(users)
    made = time.monotonic()
    _until_calm(size.calm_seconds)
    return {
        "follows": len(graph.follower),
        "lists": len(graph.users) + size.fair.fans,
        "load_seconds": round(loaded - began, 1),
        "lists_seconds": round(made - loaded, 1),
        "calm_seconds": round(time.monotonic() - made, 1),
    }


def _until_calm(seconds: float) -> None:
    """Until the store has compacted what was loaded; on a machine that others use, for a while."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if psutil.cpu_percent(2.0) * psutil.cpu_count() < CALM_CORES * 100:
            return


def _measure_freshness(stack: Stack, graph: Graph, rows: Sequence[PostRow], size: Size) -> dict[str, Any]:
    samples = _sampled(graph, rows, size)
    uvloop.run(_read_before(stack, {reader for readers in samples.values() for reader in readers}))
    load = psutil.getloadavg()
    before, cpu = _lags(stack), _cpu(stack)
    psutil.cpu_percent()
    began = time.monotonic()
    told, seen = uvloop.run(_post(stack, rows, samples, size.rate))
    seconds, busy = time.monotonic() - began, psutil.cpu_percent() * psutil.cpu_count() / 100
    cores = {name: round((used - cpu[name]) / seconds, 2) for name, used in _cpu(stack).items()}
    until(lambda: messages_behind(stack) == 0, 60, "fan-out caught up")
    return {
        "rate": size.rate,
        "achieved_rate": round(len(told.answered_ms) / told.seconds, 1),
        "failed": told.failed.total(),
        "failed_why": dict(told.failed),
        "mix": told_of(graph, rows),
        "waited_for_their_source": told.waited,
        "sent_behind_p99_ms": _percentiles(told.behind_ms)["p99_ms"],
        "post": _percentiles(told.answered_ms),
        "readable": {
            "how": f"of {size.samples} posts a second, by chance, up to {FOLLOWERS_MAX} followers spread over the ids, the last one "
            "included, are asked until they have it: the last first, then the others, so it is told too long by their pages",
            "samples": len(seen.all_ms),
            "readers_asked": sum(map(len, samples.values())),
            **_percentiles(seen.all_ms),
            "last_by_id": _percentiles(seen.last_ms),
            "all_ms": [round(each, 1) for each in seen.all_ms],
            "unseen": seen.unseen,
            "pages": seen.pages,
            "page": _percentiles(seen.page_ms),
            "via": dict(seen.via),
            "wrong": dict(seen.wrong),
        },
        "delivery_lag": _between(before, _lags(stack)),
        "relayed": stack.metric("relay", "timeline_relayed_total"),
        "cores": cores | {"whole machine": round(busy, 2)},
        "load_before": [round(each, 2) for each in load],
    }


def _sampled(graph: Graph, rows: Sequence[PostRow], size: Size) -> dict[int, list[int]]:
    """The followers who are asked, by row: of each stretch of rows one by chance that somebody must be shown."""
    by_chance, shown = random.Random(1), Shown(graph, rows)
    stretch, samples = size.rate // size.samples, {}
    for start in range(0, len(rows), stretch):
        part = list(rows[start : start + stretch])
        by_chance.shuffle(part)
        for row in part:
            if len(readers := shown.to(row)):
                samples[row.post_id] = spread(readers)
                break
    return samples


async def _read_before(stack: Stack, readers: set[int]) -> None:
    """Their homes, once: what the lists are must be what the API trusts."""
    async with client(stack.url) as session:
        watching, sources, waiting = Watching(session), Counter[str](), iter(sorted(readers))

        async def read() -> None:
            for reader in waiting:
                sources[await watching.read_once(reader)] += 1

        await asyncio.gather(*(read() for _ in range(8)))
    assert set(sources) == {"cache"}, f"lists that are not trusted: {sources}"


async def _post(
    stack: Stack, rows: Sequence[PostRow], samples: Mapping[int, Sequence[int]], rate: int
) -> tuple[Told, Seen]:
    async with client(stack.url) as session:
        watching = Watching(session)

        def on_posted(posted: Posted) -> None:
            if readers := samples.get(posted.row.post_id):
                watching.watch(posted, readers)

        return await Posting(session, rate, on_posted).run(rows), await watching.end()


def _lags(stack: Stack) -> dict[str, dict[float, float]]:
    """Fan-out's delivery lags so far: how many up to each bound in seconds, by what they are of."""
    found: dict[str, dict[float, float]] = {}
    for family in text_string_to_metric_families(stack.metrics("fanout")):
        for sample in family.samples if family.name == LAG else ():
            if sample.name == f"{LAG}_bucket":
                found.setdefault(sample.labels.get("of", "tweet"), {})[float(sample.labels["le"])] = sample.value
    return found


def _between(before: Mapping[str, Mapping[float, float]], after: Mapping[str, Mapping[float, float]]) -> dict[str, Any]:
    told = {}
    for of, buckets in after.items():
        bounds = sorted(buckets)
        counts = np.array([buckets[bound] - before.get(of, {}).get(bound, 0.0) for bound in bounds])
        if counts[-1]:
            told[of] = {"tweets": int(counts[-1]), **_quantile(bounds, counts, 50), **_quantile(bounds, counts, 99)}
    return told


def _quantile(bounds: Sequence[float], counts: Any, percent: int) -> dict[str, float]:
    """In between two bounds as if evenly spread; and the upper one, below which it certainly is."""
    rank = counts[-1] * percent / 100
    at = int(np.searchsorted(counts, rank))
    low, below = (bounds[at - 1], counts[at - 1]) if at else (0.0, 0.0)
    high = bounds[at]
    part = (rank - below) / max(counts[at] - below, 1)
    guess = low + (high - low) * part if np.isfinite(high) else low
    return {f"p{percent}_ms": round(guess * 1000, 1), f"p{percent}_at_most_ms": high * 1000}


def _percentiles(milliseconds: Sequence[float]) -> dict[str, float]:
    if not milliseconds:
        return {"p50_ms": float("nan"), "p99_ms": float("nan"), "max_ms": float("nan")}
    p50, p99 = np.percentile(milliseconds, [50, 99]).tolist()
    return {"p50_ms": round(p50, 1), "p99_ms": round(p99, 1), "max_ms": round(max(milliseconds), 1)}


def _cpu(stack: Stack) -> dict[str, float]:
    """Seconds of a core that each has used."""
    processes = {name: psutil.Process(stack.pid(name)) for name in ("api", "fanout", "relay")}
    return {name: sum(each.cpu_times()[:2]) for name, each in (processes | {"bench": psutil.Process()}).items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.freshness")
    parser.add_argument("--engines", type=Path, required=True, metavar="DIR", help="a running `timeline local engines`")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the figures go")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="timeline-bench-") as folder:
        figures = measure(Attached(arguments.engines).env, Path(folder))
    arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    print("\n".join(report(figures)))


if __name__ == "__main__":
    main()
