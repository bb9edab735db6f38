"""How far a long job is: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol, TextIO

from rich import progress as bars
from rich.console import Console

LINE_SECONDS = 5.0


class Step(Protocol):
    """A part of a job under way."""

    def advance(self, more: int) -> None: ...


class Progress:
    """Says nothing."""

    Advance = Callable[[int], None]

    @contextmanager
    def step(self, what: str, total: int | None) -> Iterator[Step]:
        """A part of the job begins; `total` is None where nobody knows it."""
        yield _Silent()


class _Silent:
    def advance(self, more: int) -> None:
        return


@dataclass(slots=True)
class _Lines:
    what: str
    total: int | None
    out: TextIO
    done: int = 0
    began: float = field(default_factory=monotonic)
    told: float = field(default_factory=monotonic)

    def advance(self, more: int) -> None:
        self.done += more
        now = monotonic()
        if now - self.told >= LINE_SECONDS:
            self.told = now
            of = f" of {self.total:,}" if self.total else ""
            rate = self.done / max(now - self.began, 1e-9)
            print(f"{self.what}: {self.done:,}{of}, {rate:,.0f}/s", file=self.out, flush=True)


class LineProgress(Progress):
    """A line every few seconds."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    @contextmanager
    def step(self, what: str, total: int | None) -> Iterator[Step]:
        yield _Lines(what, total, self._out)


class BarProgress(Progress):
    """A bar."""

    def __init__(self, out: TextIO) -> None:
        self._console = Console(file=out)

    @contextmanager
    def step(self, what: str, total: int | None) -> Iterator[Step]:
        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
        )
        with bars.Progress(*columns, console=self._console, refresh_per_second=5) as shown:
            yield _Bar(shown, shown.add_task(what, total=total))


@dataclass(frozen=True, slots=True)
class _Bar:
    shown: bars.Progress
    task: bars.TaskID

    def advance(self, more: int) -> None:
        self.shown.advance(self.task, more)


def progress_for(out: TextIO = sys.stderr) -> Progress:
    """A bar if a person sees it, else lines."""
    return BarProgress(out) if out.isatty() else LineProgress(out)
