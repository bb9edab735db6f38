"""The commit watermark of one partition: the offset below which everything is done, in whatever order batches finish."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Run:
    """Consecutively consumed messages of one partition in one batch: offsets `first` to `last`, which may have gaps."""

    first: int
    last: int
    is_done: bool = False


class Watermark:
    """Runs are taken in ascending order and finished in any. Not for several threads at once."""

    def __init__(self) -> None:
        self._open: deque[Run] = deque()
        self._newest = -1
        self._position: int | None = None

    @property
    def position(self) -> int | None:
        """The offset to commit: everything taken below it is done. None while nothing was ever finished from the start on."""
        return self._position

    @property
    def is_idle(self) -> bool:
        """Whether all that was taken is done."""
        return not self._open

    def follows(self, first: int) -> bool:
        """Whether a run from this offset comes after all that was taken."""
        return first > self._newest

    def take(self, first: int, last: int) -> Run:
        """Note that these are under way. Raises ValueError if they are not above all that was taken before."""
        if not self._newest < first <= last:
            raise ValueError(f"offsets {first} to {last} after {self._newest}")
        self._newest = last
        run = Run(first, last)
        self._open.append(run)
        return run

    def finish(self, run: Run) -> None:
        """This run is done. Finishing it twice changes nothing."""
        run.is_done = True
        while self._open and self._open[0].is_done:
            self._position = self._open.popleft().last + 1
