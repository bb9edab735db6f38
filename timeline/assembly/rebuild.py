"""Rebuild: a list made from the store, where there is none (new, returning, evicted), or in the place of one that is not trusted.

Where there is none: a header that says *building* first, so that pushes meanwhile are kept; then the pulled history; then one
atomic install. In place: the list is read; then history is pulled; then one atomic step puts history before what arrived since it
was read. A tweet is in the store before it is pushed, so whichever way the two cross, it is in the list. A builder that dies
leaves a header that expires, or the list as it was.

Admitted at a bounded rate: a node that comes back, or fails over, makes all its lists wanting at one moment, and the store
must not be flooded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from time import monotonic
from typing import Any

from timeline.assembly.ports import History, ListCache, ListView
from timeline.assembly.whose import Whose
from timeline.domain import pauses
from timeline.domain.entries import Entries, Stretch, UserIds, concatenated
from timeline.domain.errors import Unavailable
from timeline.domain.ids import ID_MAX, UserId
from timeline.domain.limits import Limits
from timeline.domain.pauses import Point
from timeline.domain.records import ListKind
from timeline.metrics import REBUILDS

log = logging.getLogger(__name__)


class Rebuilder:
    """Rebuilds lists: one flight a list, rebuilds_in_flight at once, rebuilds_per_second over time. Shared by all requests."""

    def __init__(
        self, lists: ListCache, history: History, limits: Limits, seconds: Callable[[], float] = monotonic
    ) -> None:
        self._lists, self._history, self._limits = lists, history, limits
        # of their own: one reader's pulled authors must not use up what homes need
        self._admissions = {
            kind: Admission(limits.rebuilds_per_second, limits.rebuilds_in_flight, seconds) for kind in ListKind
        }
        self._flights: dict[tuple[ListKind, UserId], asyncio.Task[bool]] = {}

    async def build(self, whose: Whose) -> bool:
        """Where there is no list: whether it is there now, by this call or one under way. False when another process builds it, the
        bound is reached, or the store or the cache did not answer: the caller reads from the store instead."""
        return await self._flight(whose, lambda: self._build(whose))

    async def again(self, whose: Whose, seen: ListView) -> bool:
        """In the place of the list that was `seen`: whether a new one is there now. False as `build`: that list still stands then."""
        return await self._flight(whose, lambda: self._again(whose, seen))

    def beside(self, whose: Whose, seen: ListView | None) -> None:
        """Build, or build again, beside the answer: the next read finds it."""
        if (whose.kind, whose.user_id) not in self._flights:
            self._start(whose, lambda: self._build(whose) if seen is None else self._again(whose, seen))

    async def close(self) -> None:
        """Wait for what is under way."""
        while self._flights:
            await asyncio.wait(list(self._flights.values()))

    async def _flight(self, whose: Whose, make: Callable[[], Coroutine[Any, Any, str]]) -> bool:
        task = self._flights.get((whose.kind, whose.user_id)) or self._start(whose, make)
        return task is not None and await asyncio.shield(
            task
        )  # a request that is given up does not take others' list away

    def _start(self, whose: Whose, make: Callable[[], Coroutine[Any, Any, str]]) -> asyncio.Task[bool] | None:
        flights = sum(kind is whose.kind for kind, _ in self._flights)
        if flights >= self._limits.rebuilds_in_flight or not self._admissions[whose.kind].admits():
            REBUILDS.labels("refused").inc()
            return None
        key = (whose.kind, whose.user_id)
        task = asyncio.create_task(self._counted(whose, make), name=f"rebuild {whose.kind.name}")
        self._flights[key] = task
        task.add_done_callback(lambda _: self._landed(key, task))
        return task

    def _landed(self, key: tuple[ListKind, UserId], task: asyncio.Task[bool]) -> None:
        self._flights.pop(key, None)
        if not task.cancelled() and task.exception() is not None:
            log.error("bug", exc_info=task.exception())  # nobody may be waiting for it: it must not go unseen

    async def _counted(self, whose: Whose, make: Callable[[], Coroutine[Any, Any, str]]) -> bool:
        try:
            result = await make()
        except Unavailable as error:
            log.info("rebuild_failed", extra={"kind": whose.kind.value, "reason": str(error)})
            result = "failed"
        REBUILDS.labels(result).inc()
        return result in ("installed", "reinstalled")

    async def _build(self, whose: Whose) -> str:
        kind, user_id = whose.kind, whose.user_id
        building = await self._lists.begin_build(kind, user_id)
        if building is None:
            # the store was not asked: lists of a node that is away take nothing from others
            self._admissions[kind].give_back()
            return "lost"
        try:
            history = await self._history_of(whose)
            installed = await self._lists.install(kind, user_id, building, history, whose.as_of_ms)
        except (Unavailable, asyncio.CancelledError):
            # or it would be in nobody's way but ours until it expires
            with suppress(Unavailable):
                await self._lists.abandon(kind, user_id, building)
            raise
        return "installed" if installed else "lost"

    async def _again(self, whose: Whose, seen: ListView) -> str:
        history = await self._history_of(whose)
        done = await self._lists.reinstall(whose.kind, whose.user_id, seen, history, whose.as_of_ms)
        return "reinstalled" if done else "lost"

    async def _history_of(self, whose: Whose) -> Stretch:
        if pauses.hold is not None:
            await pauses.hold(Point.build, whose.user_id)
        home = whose.kind is ListKind.home
        entries_max = self._limits.timeline_entries_max if home else self._limits.profile_entries_max
        history = await self._pull(whose.everyone, entries_max)
        if pauses.hold is not None:
            await pauses.hold(Point.install, whose.user_id)
        return history

    async def _pull(self, authors: UserIds, entries_max: int) -> Stretch:
        """The newest `entries_max` entries, or all of history if it holds fewer, or what rebuild_stretches_max stretches hold."""
        parts: list[Entries] = []
        boundary, count = int(ID_MAX), 0
        for _ in range(self._limits.rebuild_stretches_max):
            if count >= entries_max or boundary <= 0:
                break
            stretch = await self._history.stretch(authors, boundary, self._limits.pull_rows_per_author)
            parts.append(stretch.entries)
            count += len(stretch.entries)
            boundary = stretch.complete_from
        entries = concatenated(parts)
        if len(entries) <= entries_max:
            return Stretch(entries, boundary)
        kept = entries[:entries_max]
        # the floor: every entry at or above the oldest one kept is here
        return Stretch(kept, int(kept["tweet"][-1]))


class Admission:
    """A bucket of permits that fills at a steady rate."""

    def __init__(self, per_second: float, at_once: int, seconds: Callable[[], float]) -> None:
        self._per_second, self._at_once, self._seconds = per_second, at_once, seconds
        self._permits, self._filled = float(at_once), seconds()

    def admits(self) -> bool:
        """Take a permit, if there is one."""
        now = self._seconds()
        self._permits = min(self._at_once, self._permits + (now - self._filled) * self._per_second)
        self._filled = now
        if self._permits < 1:
            return False
        self._permits -= 1
        return True

    def give_back(self) -> None:
        """A permit that was taken and not used."""
        self._permits = min(self._at_once, self._permits + 1)
