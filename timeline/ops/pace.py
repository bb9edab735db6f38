"""When the rows of a load are due."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Pace = Callable[[int, int], float]
"""(number of the row in this run, its recorded second) → seconds after the start at which it is due."""


def at_once(number: int, unix_seconds: int) -> float:
    return 0.0


@dataclass(frozen=True, slots=True)
class Steady:
    """So many rows a second."""

    rows_per_second: float

    def __call__(self, number: int, unix_seconds: int) -> float:
        return number / self.rows_per_second


class AsRecorded:
    """Spaced like the recorded times, divided by `speed`; the first row of a run is due at once."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._first: int | None = None

    def __call__(self, number: int, unix_seconds: int) -> float:
        if self._first is None:
            self._first = unix_seconds
        return (unix_seconds - self._first) / self._speed
