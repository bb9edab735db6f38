"""`timeline audit`: sampled readers' cached timelines against the store, for ever, at a bounded rate.

A pass goes through the keys of every primary, a page at a time, and examines one reader of each page, by chance: so every node comes
round within hours however many readers there are, and whoever is not chosen this time may be the next. A reader with differences is
looked at again a little later; what both looks show is a hole, counted by cause, and told in the log with the reader's id. First and
second looks share one rate.

Fails open: an engine that does not answer costs the readers that were to be examined, and is counted. It never gets in anybody's
way: it pulls within the process's own budget, takes no permit of a rebuild, and renews no expiry.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import monotonic, time

from timeline import metrics
from timeline.assembly.compare import Cause, Comparison, Difference, seen_again
from timeline.domain.errors import Unavailable
from timeline.domain.ids import UserId
from timeline.domain.limits import Limits
from timeline.fanout.stopping import unless
from timeline.ops.diagnosis import summary_of
from timeline.ops.ports import Examines, HomeLists

log = logging.getLogger(__name__)
Sleep = Callable[[float], Awaitable[None]]
_RESULTS = ("clean", "holes", "healed", "untrusted", "gone", "failed")
_TWEETS_TOLD = 5  # of a reader's holes in a log line


class Turns:
    """Turns at a steady rate, for all who ask. None is saved up."""

    def __init__(self, per_second: float, seconds: Callable[[], float], sleep: Sleep) -> None:
        self._apart = 1 / per_second
        self._seconds, self._sleep = seconds, sleep
        self._next = seconds()

    async def turn(self) -> None:
        """Return when it is the caller's turn."""
        now = self._seconds()
        mine = max(self._next, now)
        self._next = mine + self._apart
        if mine > now:
            await self._sleep(mine - now)


@dataclass(frozen=True, slots=True)
class _Suspect:
    """A reader with differences, and when to look again."""

    user_id: UserId
    holes: tuple[Difference, ...]
    due: float


class Audit:
    """One process's audit."""

    def __init__(
        self,
        homes: HomeLists,
        examiner: Examines,
        limits: Limits,
        per_second: float,
        *,
        seconds: Callable[[], float] = monotonic,
        sleep: Sleep = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self._homes, self._examiner, self._limits = homes, examiner, limits
        self._seconds, self._sleep, self._rng = seconds, sleep, rng or random.Random()
        self._turns = Turns(per_second, seconds, sleep)
        self._scans = Turns(limits.audit_scans_per_second, seconds, sleep)
        self._suspects: asyncio.Queue[_Suspect] = asyncio.Queue(limits.audit_suspects_max)
        # every cause is there from the start, at 0, so that the first hole is an increase
        counted: list[Cause] = [cause for cause in Cause if cause is not Cause.untrusted]
        self._holes = {cause: metrics.HOLES_FOUND.labels(cause.value) for cause in counted}
        self._results = {result: metrics.AUDITED.labels(result) for result in _RESULTS}

    async def run(self, stopping: asyncio.Event) -> None:
        """Audit until `stopping` is set. What is being looked at then is given up: nothing has been changed."""
        await unless(stopping, self._for_ever())

    async def _for_ever(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._passes(), name="audit passes")
            tasks.create_task(self._second_looks(), name="audit second looks")

    async def _passes(self) -> None:
        while True:
            readers, is_whole = await self._pass()
            if is_whole:
                metrics.AUDIT_PASS_TIMESTAMP_SECONDS.set(time())
                metrics.AUDIT_PASS_READERS.set(readers)

    async def _pass(self) -> tuple[int, bool]:
        """How many readers were examined, and whether every primary was gone through."""
        await self._scans.turn()
        parts = self._homes.parts()
        self._rng.shuffle(parts)
        readers, is_whole = 0, bool(parts)
        for part in parts:
            try:
                readers += await self._through(part)
            except Unavailable as error:
                is_whole = False
                log.warning("audit_left_out_a_primary", extra={"primary": part, "reason": str(error)})
        return readers, is_whole

    async def _through(self, part: str) -> int:
        """One primary from its first key to its last. Raises Unavailable."""
        readers, at = 0, 0
        while True:
            await self._scans.turn()
            owners, at = await self._homes.page(part, at, self._limits.audit_scan_keys)
            if owners:
                await self._first_look(self._rng.choice(owners))
                readers += 1
            if at == 0:
                return readers

    async def _first_look(self, user_id: UserId) -> None:
        found = await self._examined(user_id)
        if found is None:
            return
        if not found.holes:
            self._results[_calm(found)].inc()
            return
        # waits while too many readers are to be looked at again: then that is what the rate is for
        due = self._seconds() + self._limits.audit_second_look_ms / 1000
        await self._suspects.put(_Suspect(user_id, found.holes, due))

    async def _second_looks(self) -> None:
        while True:
            suspect = await self._suspects.get()
            await self._sleep(max(suspect.due - self._seconds(), 0))
            found = await self._examined(suspect.user_id)
            if found is not None:
                self._judge(suspect, found)

    def _judge(self, suspect: _Suspect, found: Comparison) -> None:
        holes = seen_again(suspect.holes, found.holes)
        if not holes:
            calm = _calm(found)
            self._results["healed" if calm == "clean" else calm].inc()
            return
        self._results["holes"].inc()
        for hole in holes:
            self._holes[hole.cause].inc()
        log.error("hole_found", extra=_told(suspect.user_id, holes))

    async def _examined(self, user_id: UserId) -> Comparison | None:
        """None when an engine did not answer."""
        await self._turns.turn()
        try:
            return await self._examiner.examine(user_id)
        except Unavailable as error:
            self._results["failed"].inc()
            log.info("audit_failed", extra={"user": user_id, "reason": str(error)})
            return None


def _calm(found: Comparison) -> str:
    """What there is to say of a reader without holes."""
    if found.look.home is None or found.look.home.header.building:
        return "gone"
    return "clean" if found.distrust is None else "untrusted"


def _told(user_id: UserId, holes: Sequence[Difference]) -> dict[str, object]:
    tweets = [str(each.tweet_id) for each in holes if each.tweet_id is not None]
    return {
        "user": str(user_id),
        "causes": summary_of(holes),
        "tweets": tweets[:_TWEETS_TOLD],
        "what_to_do": f"timeline doctor timeline {user_id}",
    }
