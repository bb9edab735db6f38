"""Fan-out, part by part: throughput (and memory, which is looked at meanwhile), the curve over an author's followers, freshness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from loadtest.bench import curve, hybrid, throughput
from timeline.local import Control

PARTS = ("throughput", "curve", "memory", "freshness", "all")
_AT_TOP = (
    "deliveries_per_s",
    "raw_deliveries_per_s",
    "share_of_raw",
    "textbook_deliveries_per_s",
    "raw_zadd_deliveries_per_s",
    "worker_cpu_us_per_delivery",
    "timeline_bytes",
    "small_author_lag_ratio",
)
_OF_HYBRID = ("throughput", "memory", "all")
_PASSES = 2  # of the whole topic, where memory is looked at: the first one fills the worker's cache of followers
_FRESHNESS = "loadtest.bench.freshness"  # imported by whoever wants its figures alone


@dataclass(frozen=True, kw_only=True)
class Task:
    """`files`: follows and posts of the world, of which only the first `limit_posts` are taken. None for a part that needs none."""

    part: str
    rounds: int
    files: tuple[Path, Path] | None
    limit_posts: int | None = None
    profile_to: Path | None = None

    @staticmethod
    def files_of(part: str, folder: Path | None) -> tuple[Path, Path] | None:
        """Raises NoWorld when that part needs them, and they are not there."""
        return hybrid.files(folder) if part in _OF_HYBRID else None


def measure(engines: Control, folder: Path, task: Task) -> dict[str, Any]:
    """The figures of a part, or of all. Raises WrongWork."""
    figures: dict[str, Any] = {}
    if task.files is not None:
        world, is_bare = hybrid.read(*task.files, task.limit_posts), task.part != "memory"
        if not is_bare:
            world = world.again(_PASSES)
        size = throughput.Size(rounds=task.rounds, bare=is_bare)
        figures["throughput"] = throughput.measure(engines, _in(folder, "throughput"), world, size, task.profile_to)
    if task.part in ("curve", "all"):
        figures["curve"] = curve.measure(engines, _in(folder, "curve"), curve.Size(rounds=task.rounds))
    if task.part in ("freshness", "all"):
        freshness = import_module(_FRESHNESS)
        figures["freshness"] = freshness.measure(engines.env, _in(folder, "freshness"))
    return headline(figures)


def headline(figures: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked for most stands on top."""
    parts = (figures.get("throughput", {}), figures.get("freshness", {}))
    return {name: part[name] for part in parts for name in _AT_TOP if name in part} | dict(figures)


def report(figures: Mapping[str, Any]) -> str:
    """For a person."""
    lines: list[str] = []
    if "throughput" in figures:
        lines += throughput.report(figures["throughput"])
    if "curve" in figures:
        lines += curve.report(figures["curve"])
    if "freshness" in figures:
        lines += import_module(_FRESHNESS).report(figures["freshness"])
    return "\n".join(lines)


def _in(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir()
    return made
