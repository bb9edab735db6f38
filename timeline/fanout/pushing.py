"""Pushing: tried once, and then until it is done, which is when each append is acknowledged, or left out under a recorded hole."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from prometheus_client import Counter

from timeline import metrics
from timeline.domain import pauses
from timeline.domain.entries import Entry
from timeline.domain.errors import Unavailable
from timeline.domain.limits import Limits
from timeline.domain.pauses import Point
from timeline.fanout.holes import Holes
from timeline.fanout.patience import Patience
from timeline.fanout.plan import Push
from timeline.fanout.ports import Delivery, NotAcknowledged, Pushes
from timeline.fanout.room import Room

Send = Callable[[Sequence[Delivery]], Awaitable[object]]


@dataclass(slots=True)
class Left:
    """What of a batch of so many events was tried and is not acknowledged, and when the last append of each tweet so far was."""

    events: int
    profiles: list[Push] = field(default_factory=list)
    homes: list[Push] = field(default_factory=list)
    reached_ms: dict[int, int] = field(default_factory=dict)

    @property
    def appends(self) -> int:
        return sum(push.appends for push in (*self.profiles, *self.homes))


class Pushing:
    """Each push is tried once, so that a node that is away holds up nothing on the others; what is left is then tried until it is
    done, for ever. Whatever is raised but Unavailable comes through."""

    def __init__(
        self, pushes: Pushes, holes: Holes, patience: Patience, limits: Limits, clock_ms: Callable[[], int]
    ) -> None:
        self._pushes, self._holes, self._patience = pushes, holes, patience
        self._limits, self._clock_ms = limits, clock_ms
        self._left_out = {cause: metrics.LEFT_OUT.labels(cause) for cause in ("home", "profile")}

    async def profiles(self, entries: Iterable[Entry], left: Left) -> None:
        """Each to its author's own lists."""
        own = Push([(entry, np.array([entry.author_id], np.int64)) for entry in entries])
        left.profiles, _ = await self._try([own], self._send_profiles, self._left_out["profile"])

    async def homes(self, push: Push, left: Left, room: Room) -> None:
        """Each to its followers' lists. Where much is left already, that comes first."""
        if left.homes and left.appends + push.appends > self._limits.fanout_left_appends_max:
            await self.finish(left, room)
        if pauses.hold is not None:
            for tweet_id in dict.fromkeys(entry.tweet_id for entry, _ in push.parts):
                await pauses.hold(Point.push, tweet_id)
        remain, _ = await self._try([push], self._pushes.push, self._left_out["home"])
        left.homes += remain
        self._note(left, [push])

    async def finish(self, left: Left, room: Room) -> None:
        """Return when nothing is left: each append is acknowledged, or left out under a recorded hole. Meanwhile others go on in the
        batch's room, unless all nodes are away."""
        if left.profiles or left.homes:
            with room.parked(left.events, 0 if self._holes.are_everywhere() else left.appends):
                await self._finish(left)

    async def _finish(self, left: Left) -> None:
        waited = left.homes

        async def once() -> None:
            left.profiles, one = await self._try(left.profiles, self._send_profiles, self._left_out["profile"])
            left.homes, other = await self._try(left.homes, self._pushes.push, self._left_out["home"])
            if (error := one or other) is not None:
                raise error

        await self._patience.until_available(once)
        self._note(left, waited)

    async def _try(
        self, pushes: Sequence[Push], send: Send, left_out: Counter
    ) -> tuple[list[Push], Unavailable | None]:
        """What is left of each, and the last reason why. Only what was not acknowledged is left. What is late is decided anew each
        time: it grows late while Redis is away."""
        left = list[Push]()
        reason: Unavailable | None = None
        for push in pushes:
            kept = await self._holes.keep(push)
            left_out.inc(push.appends - kept.appends)
            if not kept.parts:
                continue
            try:
                await send(kept.deliveries(self._clock_ms(), self._limits))
            except NotAcknowledged as error:
                left.append(Push.of(error.left))
                reason = error
            except Unavailable as error:
                left.append(kept)
                reason = error
        return left, reason

    async def _send_profiles(self, deliveries: Sequence[Delivery]) -> None:
        await self._pushes.push_profiles([(each.entry, each.late) for each in deliveries])

    def _note(self, left: Left, pushes: Iterable[Push]) -> None:
        now_ms = self._clock_ms()
        for push in pushes:
            left.reached_ms.update(dict.fromkeys([entry.tweet_id for entry, _ in push.parts], now_ms))
