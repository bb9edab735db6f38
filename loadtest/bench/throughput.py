"""All of hybrid81k into lists that exist: deliveries a second from Kafka to acknowledged and committed, what one costs, and what the
worker and the lists hold in memory. By turns with it, in the same minutes on the same cluster, the limits of bare.py.

No figures of wrong work: after each run, each list must have had exactly what the files say, none of it marked as late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from loadtest.bench import bare, profile
from loadtest.bench.bare import Bare
from loadtest.bench.graph import load_follows
from loadtest.bench.homes import Homes
from loadtest.bench.hybrid import Hybrid, Numbers
from loadtest.bench.machine import engines_on, facts, on_core, two_cores, until_idle
from loadtest.bench.wire import Wire
from loadtest.bench.worker import Place, Work, settings_of, work
from tests.stack import Stack
from timeline.domain.limits import Limits
from timeline.local import Control

WANTED_PER_S, WANTED_OF_RAW, WANTED_BYTES = 300_000, 0.6, 26 * 1024

_PROFILED_POSTS = 50_000


@dataclass(frozen=True, kw_only=True)
class Size:
    """`bare`: whether the limits beside it are measured too."""

    rounds: int = 5
    bare: bool = True
    limits: Mapping[str, int] = field(default_factory=dict)


class WrongWork(Exception):
    """Lists do not hold what they should: there are no figures then."""


def measure(
    engines: Control, folder: Path, world: Hybrid, size: Size, profile_to: Path | None = None
) -> dict[str, Any]:
    """Raises WrongWork."""
    core, other_core = two_cores()
    settings = settings_of(size.limits)
    stack = Stack(engines.env, folder, **settings)
    stack.prepare()
    loaded_s = load_follows(stack.settings, *world.follows())
    with engines_on(engines, other_core), _open(stack, world) as scene:
        place = Place(stack, engines, core, other_core)
        idle_s = until_idle(engines)
        rounds = [scene.round(place, size) for _ in range(size.rounds)]
        figures = {
            "what": "deliveries of the whole topic, from Kafka to acknowledged and committed, by one process alone on a core",
            "of": f"{world.posts:,} events, {world.deliveries:,} deliveries, {len(world.users):,} lists that exist",
            "settings": settings,
            "cores": {"worker": core, "engines": other_core, "raw, textbook, raw_zadd": core},
            "loaded_seconds": round(loaded_s, 1),
            "idle_after_seconds": round(idle_s, 1),
            **_medians(rounds),
            "timeline": scene.timeline_bytes(Limits(**size.limits)),
            **facts(),
            "runs": [each.told() for each in rounds],
        }
        figures["timeline_bytes"] = figures["timeline"]["mean_bytes"]
        figures["memory"] = [_memory(each.fanout.rss_bytes) for each in rounds]
        if profile_to is not None:
            scene.profiled(place, profile_to)
    return figures


def report(figures: Mapping[str, Any]) -> list[str]:
    """For a person."""
    lines = [figures["what"], f"{figures['of']}; {figures['machine']}; load {figures['load'][0]:.1f}"]
    first = figures["runs"][0]["fanout"]
    lines += [
        f"fan-out    {figures['deliveries_per_s']:9,} deliveries/s (wanted: {WANTED_PER_S:,})",
        f"           cpu of the worker {figures['worker_cpu_us_per_delivery']} us a delivery; seconds of cpu in the first run: "
        f"worker {first['cpu_by_thread_s']}, engines {first['engines_cpu_s']}, others {first['others_cpu_s']}",
    ]
    if "raw_deliveries_per_s" in figures:
        lines += [
            f"raw limit  {figures['raw_deliveries_per_s']:9,}",
            f"           fan-out is {figures['share_of_raw']} of it (wanted: {WANTED_OF_RAW})",
            f"raw zadd   {figures['raw_zadd_deliveries_per_s']:9,}",
            f"textbook   {figures['textbook_deliveries_per_s']:9,}",
        ]
    for number, run in enumerate(figures["runs"], 1):
        rates = ", ".join(f"{name} {of['deliveries_per_s']:,}" for name, of in run.items())
        lines.append(f"  run {number}: {rates}; {run['fanout']['wall_s']:.1f} s; rss {figures['memory'][number - 1]}")
    lines.append(f"timeline   {figures['timeline']} (wanted: at most {WANTED_BYTES:,} bytes)")
    return lines


@dataclass(frozen=True, slots=True)
class _Round:
    fanout: Work
    beside: Mapping[str, Bare]

    def told(self) -> dict[str, Any]:
        others = {
            name: {"deliveries_per_s": round(each.deliveries_per_s)} | asdict(each)
            for name, each in self.beside.items()
        }
        return {"fanout": self.fanout.told_as(), **others}


@dataclass(frozen=True, slots=True)
class _Scene:
    """A world's lists in one stack."""

    stack: Stack
    world: Hybrid
    wire: Wire
    homes: Homes

    def round(self, place: Place, size: Size) -> _Round:
        """The limits first: at the end, lists are as fan-out leaves them."""
        beside = self._beside(place) if size.bare else {}
        return _Round(self._fan_out(place, self.world), beside)

    def timeline_bytes(self, limits: Limits) -> dict[str, Any]:
        """Of lists that are full, in their steady state: between the cap and where they are cut."""
        entries = self.homes.read(self.world.users).entries
        low, high = limits.timeline_entries_max, limits.timeline_entries_max + limits.timeline_slack
        full = np.flatnonzero((entries >= low) & (entries <= high))
        taken = self.homes.sizes(self.world.users[full])
        return {
            "full_lists": len(full),
            "mean_bytes": round(float(taken.mean())) if len(full) else None,
            "mean_entries": round(float(entries[full].mean()), 1) if len(full) else None,
            "most_bytes": int(taken.max()) if len(full) else None,
        }

    def profiled(self, place: Place, target: Path) -> None:
        """What a worker's main thread does with the first posts, and for how long, to that file."""
        dump = self.stack.folder / "profile"
        self._fan_out(place, self.world.first(_PROFILED_POSTS), dump)
        profile.write(dump, target)

    def _fan_out(self, place: Place, world: Hybrid, dump: Path | None = None) -> Work:
        self.homes.make(world.users)
        done = work(place, world.events(world.mint()), world.deliveries, dump)
        found = self.homes.read(world.users)
        _check(found.arrived, world.arrivals, "entries have arrived in")
        _check(found.late, np.zeros_like(found.late), "is the newest late arrival of")
        if done.told != world.deliveries:
            raise WrongWork(f"the worker has counted {done.told:,} deliveries of {world.deliveries:,}")
        return done

    def _beside(self, place: Place) -> dict[str, Bare]:
        world, prefix = self.world, self.stack.settings["TIMELINE_REDIS_KEY_PREFIX"]
        runs: Mapping[str, Callable[[], Bare]] = {
            "raw": lambda: bare.raw(self.wire, self.homes, world),
            "raw_zadd": lambda: bare.raw_zadd(self.wire, prefix, world),
            "textbook": lambda: bare.textbook(self.stack.settings["TIMELINE_REDIS_NODES"], self.wire, prefix, world),
        }
        self.homes.make(world.users)
        until_idle(place.engines)
        found = {}
        for name, run in runs.items():
            with on_core(place.core):
                found[name] = run()
            if name == "raw":
                arrived = self.homes.read(world.users).arrived
                if arrived.sum() != world.deliveries:
                    raise WrongWork(f"raw: {arrived.sum():,} entries have arrived, not {world.deliveries:,}")
                self.homes.drop(world.users)
        return found


@contextmanager
def _open(stack: Stack, world: Hybrid) -> Iterator[_Scene]:
    wire = Wire(stack.settings["TIMELINE_REDIS_NODES"])
    homes = Homes(wire, stack.settings["TIMELINE_REDIS_KEY_PREFIX"])
    try:
        with wire.room():
            try:
                yield _Scene(stack, world, wire, homes)
            finally:
                homes.drop(world.users)  # or a cluster that is not ours has to evict them
    finally:
        wire.close()


def _check(found: Numbers, wanted: Numbers, what: str) -> None:
    wrong = np.flatnonzero(found != wanted)
    if len(wrong):
        first = wrong[0]
        raise WrongWork(f"{found[first]:,} {what} list {first}, not {wanted[first]:,}; {len(wrong):,} lists are wrong")


def _medians(rounds: list[_Round]) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "deliveries_per_s": round(median(each.fanout.deliveries_per_s for each in rounds)),
        "worker_cpu_us_per_delivery": round(median(each.fanout.cpu_us for each in rounds), 3),
    }
    for name in rounds[0].beside:
        figures[f"{name}_deliveries_per_s"] = round(median(each.beside[name].deliveries_per_s for each in rounds))
    if "raw" in rounds[0].beside:
        figures["share_of_raw"] = round(figures["deliveries_per_s"] / figures["raw_deliveries_per_s"], 3)
    return figures


def _memory(rss: list[int]) -> dict[str, float]:
    """MiB of the worker over a run: of each quarter, the mean."""
    quarters = {
        f"quarter_{number}_mib": mean(part) for number, part in enumerate(np.array_split(rss, 4), 1) if len(part)
    }
    return {name: round(taken / 2**20, 1) for name, taken in {**quarters, "peak_mib": max(rss)}.items()}
