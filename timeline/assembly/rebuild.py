"""Rebuild: a list that is not there (new, returning, evicted) made again from the store.

First a header that says *building*, so that pushes meanwhile are kept; then the pulled history; then one atomic install.
A tweet is in the store before it is pushed, so whichever way the two cross, it is in the list: pushed before the header, it
was stored before the pull; pushed after, it is kept. A builder that dies leaves a header that expires.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from timeline.assembly.ports import History, ListCache
from timeline.domain.entries import Entries, Stretch, UserIds, concatenated
from timeline.domain.errors import Unavailable
from timeline.domain.ids import ID_MAX, UserId
from timeline.domain.limits import Limits
from timeline.domain.records import ListKind
from timeline.metrics import REBUILDS

log = logging.getLogger(__name__)


class Rebuilder:
    """Rebuilds lists, a bounded number at once."""

    def __init__(self, lists: ListCache, history: History, limits: Limits, clock_ms: Callable[[], int]) -> None:
        self._lists, self._history, self._limits, self._clock_ms = lists, history, limits, clock_ms
        self._running = asyncio.Semaphore(limits.rebuilds_in_flight)

    async def rebuild(self, kind: ListKind, user_id: UserId, authors: UserIds, fingerprint: int) -> bool:
        """Whether the list is there now, by this call. False when another process builds it, the bound is reached, or the store or the
        cache did not answer: the caller reads from the store instead."""
        if self._running.locked():
            REBUILDS.labels("refused").inc()
            return False
        async with self._running:
            result = await self._build(kind, user_id, authors, fingerprint)
        REBUILDS.labels(result).inc()
        return result == "installed"

    async def _build(self, kind: ListKind, user_id: UserId, authors: UserIds, fingerprint: int) -> str:
        built_ms = self._clock_ms()
        try:
            token = await self._lists.begin_build(kind, user_id)
            if token is None:
                return "lost"
            try:
                history = await self._pull(authors, self._entries_max(kind))
                installed = await self._lists.install(kind, user_id, token, history, built_ms, fingerprint)
            except (Unavailable, asyncio.CancelledError):
                await self._lists.abandon(
                    kind, user_id, token
                )  # or it would be in nobody's way but ours until it expires
                raise
        except Unavailable as error:
            log.info("rebuild_failed", extra={"kind": kind.value, "reason": str(error)})
            return "failed"
        return "installed" if installed else "lost"

    def _entries_max(self, kind: ListKind) -> int:
        home = kind is ListKind.home
        return self._limits.timeline_entries_max if home else self._limits.profile_entries_max

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
