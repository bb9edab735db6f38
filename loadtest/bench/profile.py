"""What cProfile found, as a text."""

from __future__ import annotations

import pstats
from pathlib import Path

_LINES = 60


def write(dump: Path, target: Path) -> None:
    """The functions that took most, by their own time; then by theirs and that of what they call. Only the process's main thread:
    drivers' threads are in cpu_by_thread_s."""
    with target.open("w") as out:
        stats = pstats.Stats(str(dump), stream=out)
        stats.strip_dirs().sort_stats("tottime").print_stats(_LINES)
        stats.sort_stats("cumulative").print_stats(_LINES)
