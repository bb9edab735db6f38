"""Which dead letters have been dealt with: told by marks, in the dead-letter topic itself. Pure.

Kafka deletes nothing in the middle of a topic, so what was dealt with must be noted somewhere. A group's committed offset and its
metadata would not do. Of a group without members the broker forgets them a week after the last commit (offsets.retention.minutes),
while letters live for 30 days: letters that were dropped would stand there again. And of two people at once, one would overwrite what
the other noted. A mark is a message after the letters that it is about: marks are only added, so nobody's is lost, and none goes
before its letters do, since a topic is forgotten from its beginning.

    header dead-dealt-with: retried | dropped         value: 3-17,20         no key
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum

DEALT_WITH = "dead-dealt-with"
FROM_TOPIC = "dead-topic"  # what was buried has it, and a mark never
_RUN = re.compile(r"([0-9]{1,19})(?:-([0-9]{1,19}))?")
_RUNS_SHOWN = 20


class How(StrEnum):
    """What became of a letter."""

    retried = "retried"
    dropped = "dropped"


class Numbers:
    """A set of letters' numbers (their offsets), held as runs of neighbours: a million in a row cost what one does."""

    def __init__(self, numbers: Iterable[int] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for number in numbers:
            self.add(number, number)

    def add(self, first: int, last: int) -> None:
        """All from `first` to `last`, both included."""
        if last < first:
            return
        begin = bisect_left(self._lasts, first - 1)  # the first run that touches or lies beyond
        end = bisect_right(self._firsts, last + 1)
        if begin < end:
            first, last = min(first, self._firsts[begin]), max(last, self._lasts[end - 1])
        self._firsts[begin:end], self._lasts[begin:end] = [first], [last]

    @property
    def runs(self) -> list[tuple[int, int]]:
        """First and last of each run, ascending."""
        return list(zip(self._firsts, self._lasts, strict=True))

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._firsts, number) - 1
        return at >= 0 and number <= self._lasts[at]

    def __iter__(self) -> Iterator[int]:
        for first, last in self.runs:
            yield from range(first, last + 1)

    def __len__(self) -> int:
        return sum(self._lasts) - sum(self._firsts) + len(self._firsts)

    def __sub__(self, other: Numbers) -> Numbers:
        left = Numbers()
        for first, last in self.runs:
            for gone_first, gone_last in other._over(first, last):
                left.add(first, gone_first - 1)
                first = gone_last + 1
            left.add(first, last)
        return left

    def __str__(self) -> str:
        """As a mark spells it: 3-17,20."""
        return ",".join(_spelled(run) for run in self.runs)

    def first(self, most: int) -> Numbers:
        """The lowest of them."""
        found, left = Numbers(), most
        for first, last in self.runs:
            if left < 1:
                break
            found.add(first, min(last, first + left - 1))
            left -= min(last - first + 1, left)
        return found

    def shown(self) -> str:
        """For a person: the beginning of it."""
        some = ", ".join(_spelled(run) for run in self.runs[:_RUNS_SHOWN])
        return f"{some}, …" if len(self.runs) > _RUNS_SHOWN else some

    def _over(self, first: int, last: int) -> list[tuple[int, int]]:
        """The runs that hold any of these."""
        begin, end = bisect_left(self._lasts, first), bisect_right(self._firsts, last)
        return list(zip(self._firsts[begin:end], self._lasts[begin:end], strict=True))


def _spelled(run: tuple[int, int]) -> str:
    return str(run[0]) if run[0] == run[1] else f"{run[0]}-{run[1]}"


def parsed(text: str) -> Numbers | None:
    """What `str` of Numbers says; None where that is not it."""
    found = Numbers()
    for part in text.split(","):
        run = _RUN.fullmatch(part) if part.isascii() else None
        if run is None or int(run[2] or run[1]) < int(run[1]):
            return None
        found.add(int(run[1]), int(run[2] or run[1]))
    return found


def mark_of(headers: Mapping[str, bytes], value: bytes | None, number: int) -> tuple[How, Numbers] | None:
    """What a message of a dead-letter topic says was dealt with, if it is a mark. It can only be about letters that stand before it.
    What looks like a mark and is none is a letter, a buried event with a mark's header of its own too: somebody will see it."""
    if FROM_TOPIC in headers:
        return None
    how = headers.get(DEALT_WITH, b"").decode(errors="replace")
    numbers = parsed((value or b"").decode(errors="replace"))
    if how not in list(How) or numbers is None:
        return None
    after = Numbers()
    after.add(number, 2**63)
    return How(how), numbers - after
