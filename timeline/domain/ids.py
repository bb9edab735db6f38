"""Ids: users' are somebody else's numbers, tweets' are snowflakes that we mint.

A snowflake is 63 bits: 41 of milliseconds since EPOCH_MS, 12 of worker number, 10 of sequence. So ids order by time,
4,096 processes mint 1,024 a millisecond each, and `id >> 53` is a stretch of 24.8 days, which is a tweet's bucket.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NewType

UserId = NewType("UserId", int)
TweetId = NewType("TweetId", int)

EPOCH_MS = 1_262_304_000_000  # 2010-01-01, so that real events of 2012 can be told; the bits last until 2079
WORKER_BITS, SEQUENCE_BITS = 12, 10
TIME_SHIFT = WORKER_BITS + SEQUENCE_BITS
BUCKET_SHIFT = 53
SEQUENCES = 1 << SEQUENCE_BITS
WORKERS = 1 << WORKER_BITS
ID_MAX = (1 << 63) - 1  # Cassandra's bigint, and every JSON reader's decimal string


def time_ms(tweet_id: int) -> int:
    """When an id was minted, in Unix milliseconds."""
    return (tweet_id >> TIME_SHIFT) + EPOCH_MS


def bucket(tweet_id: int) -> int:
    """The stretch of 24.8 days that a tweet is stored in."""
    return tweet_id >> BUCKET_SHIFT


def first_id_at(unix_ms: int) -> TweetId:
    """The smallest id that may be minted in that millisecond."""
    return TweetId(min(max(unix_ms - EPOCH_MS, 0) << TIME_SHIFT, ID_MAX))


class ClockStepped(Exception):
    """The clock stands before the last id minted: wait or refuse, never repeat."""

    def __init__(self, behind_ms: int) -> None:
        super().__init__(f"the clock is {behind_ms} ms behind the last id")
        self.behind_ms = behind_ms


class Exhausted(Exception):
    """All ids of this millisecond are given out: ask again in the next."""


class Snowflakes:
    """Mints the ids of one worker number, ascending. Not for several threads at once."""

    def __init__(self, worker: int, clock_ms: Callable[[], int]) -> None:
        if not 0 <= worker < WORKERS:
            raise ValueError(f"worker {worker} is not one of 0..{WORKERS - 1}")
        self._worker = worker << SEQUENCE_BITS
        self._clock_ms = clock_ms
        self._last_ms = 0
        self._sequence = 0

    def mint(self, not_before_ms: int = 0, until_ms: int | None = None) -> TweetId:
        """The next id, at `not_before_ms` or later and before `until_ms` (a lease's end).

        Raises ClockStepped (also when it is not yet `not_before_ms`), Exhausted, and LeaseOver at `until_ms`.
        """
        now = self._clock_ms()
        floor = max(self._last_ms, not_before_ms)
        if now < floor:
            raise ClockStepped(floor - now)
        if until_ms is not None and now >= until_ms:
            raise LeaseOver
        if now == self._last_ms:
            if self._sequence + 1 >= SEQUENCES:
                raise Exhausted
            self._sequence += 1
        else:
            self._last_ms, self._sequence = now, 0
        return TweetId((now - EPOCH_MS) << TIME_SHIFT | self._worker | self._sequence)


class LeaseOver(Exception):
    """The worker number's lease has run out: another process may hold it by now."""
