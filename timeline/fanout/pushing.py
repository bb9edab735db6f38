"""Pushing until it is done: until each append is acknowledged, or left out under a recorded hole."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

import numpy as np
from prometheus_client import Counter

from timeline import metrics
from timeline.domain import pauses
from timeline.domain.entries import Entry
from timeline.domain.limits import Limits
from timeline.domain.pauses import Point
from timeline.fanout.holes import Holes
from timeline.fanout.patience import Patience
from timeline.fanout.plan import Push
from timeline.fanout.ports import Delivery, NotAcknowledged, Pushes

Send = Callable[[Sequence[Delivery]], Awaitable[object]]


class Pushing:
    """Waits for engines that are away, for ever. Whatever else is raised comes through."""

    def __init__(
        self, pushes: Pushes, holes: Holes, patience: Patience, limits: Limits, clock_ms: Callable[[], int]
    ) -> None:
        self._pushes, self._holes, self._patience = pushes, holes, patience
        self._limits, self._clock_ms = limits, clock_ms
        self._left_out = {cause: metrics.LEFT_OUT.labels(cause) for cause in ("home", "profile")}

    async def profiles(self, entries: Iterable[Entry]) -> None:
        """Each to its author's own lists."""
        own = Push([(entry, np.array([entry.author_id], np.int64)) for entry in entries])
        await self._push(own, self._send_profiles, self._left_out["profile"])

    async def homes(self, push: Push) -> None:
        """Each to its followers' lists."""
        if pauses.hold is not None:
            for tweet_id in dict.fromkeys(entry.tweet_id for entry, _ in push.parts):
                await pauses.hold(Point.push, tweet_id)
        await self._push(push, self._pushes.push, self._left_out["home"])

    async def _send_profiles(self, deliveries: Sequence[Delivery]) -> None:
        await self._pushes.push_profiles([(each.entry, each.late) for each in deliveries])

    async def _push(self, push: Push, send: Send, left_out: Counter) -> None:
        """Only what was not acknowledged is pushed again. What is late is decided anew each time: it grows late while Redis is
        away."""
        left = push

        async def once() -> None:
            nonlocal left
            kept = await self._holes.keep(left)
            left_out.inc(left.appends - kept.appends)
            left = kept
            if not left.parts:
                return
            try:
                await send(left.deliveries(self._clock_ms(), self._limits))
            except NotAcknowledged as error:
                left = Push.of(error.left)
                raise

        await self._patience.until_available(once)
