"""Ids of this process: snowflakes under a worker number that is leased by compare-and-set.

The lease's row says who holds the number and until when, and is never removed. **A holder mints no id whose millisecond is at or
after its own `until_ms`; the next holder mints none before it.** So no id is made twice, however far two servers' clocks stand apart
and however late an answer comes: clocks only decide when a number is taken over, not which milliseconds belong to whom. A holder
renews at a third of the lease; one that finds its row changed, or its time over, stops and leases another number.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from timeline import metrics
from timeline.domain.errors import OutcomeUnknown, Unavailable
from timeline.domain.ids import ClockStepped, Exhausted, LeaseOver, Snowflakes, TweetId, time_ms
from timeline.domain.limits import Limits
from timeline.settings import Settings
from timeline.store.session import Cql, Kind, Session

log = logging.getLogger(__name__)

_NUMBERS_TRIED_MAX = 64  # of 4,096: with half of them held, all fail once in 10^19 times
_RETRY_S = 0.5  # of a renewal that failed; some dozen tries fit into what is left of a lease

_GET = Cql("lease_get", "SELECT owner, until_ms FROM worker_leases WHERE worker = ?")
_FIRST = Cql(
    "lease_first", "INSERT INTO worker_leases (worker, owner, until_ms) VALUES (?, ?, ?) IF NOT EXISTS", Kind.cas
)
_TAKE = Cql(
    "lease_take",
    "UPDATE worker_leases SET owner = ?, until_ms = ? WHERE worker = ? IF owner = ? AND until_ms = ?",
    Kind.cas,
)


@dataclass(frozen=True, slots=True)
class _Lease:
    """Ids of `worker` from `from_ms` on and before `until_ms` are ours."""

    worker: int
    owner: str
    from_ms: int
    until_ms: int


class LeasedIds:
    """writing's Ids. Leases at the first mint; `open_ids` ends the renewing and gives the number back."""

    def __init__(
        self,
        session: Session,
        settings: Settings,
        limits: Limits,
        *,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self._session = session
        self._workers = range(settings.worker_min, settings.worker_max + 1)
        self._limits = limits
        self._clock_ms = clock_ms
        self._sleep = sleep
        self._rng = rng or random.SystemRandom()
        self._process = f"{socket.gethostname()}:{os.getpid()}"
        self._lease: _Lease | None = None
        self._snowflakes: Snowflakes | None = None
        self._leasing = asyncio.Lock()
        self._renewing: asyncio.Task[None] | None = None
        self._last_id = 0
        self._last_us = 0

    @property
    def worker(self) -> int | None:
        """The worker number held, if any."""
        return self._lease.worker if self._lease else None

    def now_us(self) -> int:
        """A write timestamp in microseconds, ascending within the process."""
        self._last_us = max(self._last_us + 1, time.time_ns() // 1_000)
        return self._last_us

    async def mint(self) -> TweetId:
        """A new snowflake, above all that this process minted. Raises Unavailable when no worker number can be had, or the clock
        stepped back by more than clock_step_wait_ms."""
        deadline = time.monotonic() + (self._limits.clock_step_wait_ms + self._limits.cassandra_timeout_ms) / 1000
        while True:
            lease, snowflakes = await self._held()
            try:
                minted = snowflakes.mint(max(lease.from_ms, time_ms(self._last_id)), lease.until_ms)
            except LeaseOver:
                self._lost(lease, "ran out")
            except Exhausted:
                await self._sleep(0.001)
            except ClockStepped as error:
                if error.behind_ms > self._limits.clock_step_wait_ms:
                    raise Unavailable(
                        f"the clock stands {error.behind_ms} ms before the last id: see to this machine's clock"
                    ) from error
                await self._sleep(error.behind_ms / 1000)
            else:
                if minted > self._last_id:
                    self._last_id = minted
                    return minted
                # a lower worker number in the same millisecond as the last id: the next millisecond is above both
                await self._sleep(0.001)
            if time.monotonic() > deadline:
                raise Unavailable("no id could be minted in time")

    async def _held(self) -> tuple[_Lease, Snowflakes]:
        if self._lease is None or self._snowflakes is None:
            async with self._leasing:
                if self._lease is None or self._snowflakes is None:
                    self._lease = await self._acquire()
                    self._snowflakes = Snowflakes(self._lease.worker, self._clock_ms)
                    if self._renewing is None or self._renewing.done():  # a bug may have ended it
                        self._renewing = asyncio.create_task(self._renew_forever(), name="renew-worker-lease")
        return self._lease, self._snowflakes

    async def _acquire(self) -> _Lease:
        tried = self._rng.sample(self._workers, min(len(self._workers), _NUMBERS_TRIED_MAX))
        for worker in tried:
            if lease := await self._try(worker):
                log.info("leased worker number %d", worker)
                return lease
        raise Unavailable(
            f"none of {len(tried)} worker numbers from {self._workers.start} to {self._workers.stop - 1} is free: widen "
            "TIMELINE_WORKER_MIN and _MAX, or run fewer processes"
        )

    async def _try(self, worker: int) -> _Lease | None:
        """This number, if its last holder's time is over by our clock."""
        row = await self._session.one(_GET, (worker,), serial=True)
        now = self._clock_ms()
        if row and row[1] > now:
            return None
        # an owner of its own for every lease: an answer that was lost can be told from another process's success
        owner = f"{self._process}:{uuid.uuid4().hex}"
        since = row[1] if row else 0
        wanted = _Lease(worker, owner, since, now + self._limits.worker_lease_ms)
        values: tuple[object, ...]
        if row:
            statement, values = _TAKE, (owner, wanted.until_ms, worker, row[0], row[1])
        else:
            statement, values = _FIRST, (worker, owner, wanted.until_ms)
        return wanted if await self._decided(wanted, statement, values) else None

    async def _decided(self, wanted: _Lease, statement: Cql, values: tuple[object, ...]) -> bool:
        try:
            return await self._session.compare_and_set(statement, values)
        except OutcomeUnknown:
            row = await self._session.one(_GET, (wanted.worker,), serial=True)
            return row == (wanted.owner, wanted.until_ms)

    async def _renew_forever(self) -> None:
        pause = self._limits.worker_lease_ms / 3000
        while True:
            await self._sleep(pause)
            pause = self._limits.worker_lease_ms / 3000
            if self._lease is None:
                continue
            try:
                await self._renew(self._lease)
            except Unavailable as error:
                # ids go on until the lease's time is over: the row is ours until then whatever becomes of this renewal
                log.warning("the lease of worker number %d could not be renewed: %s", self._lease.worker, error)
                pause = min(pause, _RETRY_S)

    async def _renew(self, lease: _Lease) -> None:
        row = await self._session.one(_GET, (lease.worker,), serial=True)
        if row is None or row[0] != lease.owner:
            self._lost(lease, "was taken over")
            return
        # the row may say later than we know, by a renewal whose answer was lost; ours all the same
        until = max(row[1], self._clock_ms() + self._limits.worker_lease_ms)
        wanted = replace(lease, until_ms=until)
        if await self._decided(wanted, _TAKE, (lease.owner, until, lease.worker, lease.owner, row[1])):
            if self._lease is lease:
                self._lease = wanted
        else:
            self._lost(lease, "was taken over")

    def _lost(self, lease: _Lease, how: str) -> None:
        if self._lease is not None and self._lease.owner == lease.owner:
            self._lease = self._snowflakes = None
            metrics.LEASE_LOSSES.inc()
            log.warning("the lease of worker number %d %s", lease.worker, how)

    async def close(self) -> None:
        """End the renewing, and give the number back from the millisecond after the last id on."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
            self._renewing = None
        lease, self._lease, self._snowflakes = self._lease, None, None
        if lease is None:
            return
        free_from = max(lease.from_ms, time_ms(self._last_id) + 1)
        try:
            values = (lease.owner, free_from, lease.worker, lease.owner, lease.until_ms)
            await self._session.compare_and_set(_TAKE, values)
        except Unavailable:
            log.info("worker number %d is left to expire", lease.worker)


@asynccontextmanager
async def open_ids(session: Session, settings: Settings, limits: Limits) -> AsyncIterator[LeasedIds]:
    """Ids for this process. Nothing is leased before the first is asked for."""
    ids = LeasedIds(session, settings, limits)
    try:
        yield ids
    finally:
        await ids.close()
