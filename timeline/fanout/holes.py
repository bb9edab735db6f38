"""Holes: what fan-out leaves out while a Redis node stays away, recorded before it is left out.

A recorded hole makes every list in its slots untrusted until it was rebuilt after the hole's end, so whatever is left out under it is
found again. That costs a rebuild a list: it is done only when a node stays away past skip_after_ms, and never when all are away,
since then there is nobody for whom to go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

import numpy as np

from timeline.domain.errors import Unavailable
from timeline.domain.limits import Limits
from timeline.domain.notices import SLOTS
from timeline.fanout.plan import Mask, Push
from timeline.fanout.ports import Away, Classes, Pushes

_log = logging.getLogger(__name__)


class Holes:
    """Of one worker; all its batches share it."""

    def __init__(self, pushes: Pushes, classes: Classes, limits: Limits) -> None:
        self._pushes, self._classes = pushes, classes
        self._record_after_ms, self._skip_after_ms = limits.hole_after_ms, limits.skip_after_ms
        # Nodes with a hole that is not ended, and whether anything was left out under it
        self._of: dict[str, bool] = {}
        self._lock = asyncio.Lock()  # a hole is not ended by one batch while another one prolongs it

    async def keep(self, push: Push) -> Push:
        """The push without what is to be left out just now. With the store away nothing is: no hole can be recorded."""
        slots = await self._slots()
        # from here to the end nothing waits: what is left out is left out while the hole stands
        return push if slots is None else push.only(lambda users: ~slots[self._pushes.slots_of(users)])

    def are_everywhere(self) -> bool:
        """Whether no node can be written now."""
        return bool(_mask(self._pushes.away()).all())

    async def _slots(self) -> Mask | None:
        """The slots to which deliveries may be left out now; None where there are none."""
        if not self._of and not self._pushes.away():
            return None
        async with self._lock:
            away = self._pushes.away()
            await self._end_except({each.node for each in away})
            if _mask(away).all():
                return None
            staying = [each for each in away if each.slots and each.for_ms >= self._record_after_ms]
            known = [each for each in staying if await self._record(each, each.for_ms >= self._skip_after_ms)]
            recorded = [each for each in known if each.for_ms >= self._skip_after_ms]
        return _mask(recorded) if recorded else None

    async def _record(self, away: Away, leaves_out: bool) -> bool:
        self._of.setdefault(away.node, False)  # even if it fails: the record may stand
        try:
            may = await self._classes.record_hole(away)
        except Unavailable as error:
            # until it is, all deliveries wait
            _log.warning("hole_not_recorded", extra={"node": away.node, "reason": str(error)})
            return False
        if may and leaves_out and not self._of[away.node]:
            self._of[away.node] = True
            _log.warning(
                "deliveries_left_out",
                extra={
                    "node": away.node,
                    "away_ms": away.for_ms,
                    "until": "it is back; then its lists are rebuilt when read",
                },
            )
        return may

    async def _end_except(self, away: set[str]) -> None:
        """Of nodes that are back. A hole that cannot be ended is so with the next push, and lapses hole_ahead_ms after its record."""
        for node in [node for node in self._of if node not in away]:
            try:
                await self._classes.end_hole(node, used=self._of[node])
            except Unavailable as error:
                _log.info("hole_not_ended", extra={"node": node, "reason": str(error)})
            else:
                if self._of.pop(node):
                    _log.info(
                        "deliveries_go_on", extra={"node": node, "effect": "its lists are rebuilt when they are read"}
                    )


def _mask(away: Iterable[Away]) -> Mask:
    """Their slots."""
    mask = np.zeros(SLOTS, np.bool_)
    for each in away:
        for first, last in each.slots:
            mask[first : last + 1] = True
    return mask
