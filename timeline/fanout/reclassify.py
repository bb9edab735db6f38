"""Who is pushed and who is pulled, and when that changes.

What holds is the intervals that everybody knows (Classes), never the setting: the setting only says when one is begun or ended.
Upward, followers of a small author were just counted by reading them; of large ones, and downward, they are counted now and then. To
fail here is harmless, as long as an author whose end may be written is pushed: who is pulled and pushed at once is only read twice.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from math import inf
from time import monotonic

from timeline.domain import pauses
from timeline.domain.errors import Unavailable
from timeline.domain.ids import UserId
from timeline.domain.limits import Limits
from timeline.domain.pauses import Point
from timeline.fanout.ports import Classes, Followers
from timeline.fanout.rule import Change, Rule

_log = logging.getLogger(__name__)


class Reclassify:
    """Of one worker. `push_followers_max`: with more followers than this, an author comes to be pulled."""

    def __init__(
        self,
        classes: Classes,
        followers: Followers,
        limits: Limits,
        push_followers_max: int,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._classes, self._followers, self._clock = classes, followers, clock
        self._rule = Rule.of(limits, push_followers_max)
        self._pause_seconds, self._authors_max = limits.reclassify_seconds, limits.notices_max
        self._counted: OrderedDict[UserId, float] = (
            OrderedDict()
        )  # when, of authors who are large or pulled; the oldest first
        # Whose end may be written or not, each of whom had a standing interval: never more than there are intervals
        self._ending: set[UserId] = set()

    def pulled(self, authors: Sequence[UserId]) -> set[UserId]:
        """Those of them who are not pushed now."""
        return self._classes.may_skip(authors) - self._ending

    async def after_push(self, followers: Mapping[UserId, int]) -> None:
        """Of authors who were just pushed it is known how many followers each has. Begin and end intervals by that. While the store is
        away it is left to their next tweets."""
        for author, count in followers.items():
            if not await self._follow(author, count):
                return

    async def _follow(self, author: UserId, count: int) -> bool:
        """False if the store is away."""
        stands, is_ending = self._classes.stands(author), author in self._ending
        change = self._rule.change(count, stands=stands, is_ending=is_ending)
        if change is Change.end:
            return await self._end(author)
        return change is None or await self._begin(author)

    async def after_slicing(self, shards: Mapping[UserId, int]) -> None:
        """Of authors who were just handed on in slices it is known in how many shards their followers are. Those who may have more
        than the threshold are counted."""
        found = await self._count(
            [author for author, count in shards.items() if self._rule.may_be_many(count) or self._is_undecided(author)]
        )
        if found is not None:
            await self._follow(*found)

    async def recount(self, pulled: Collection[UserId]) -> list[UserId]:
        """Those of the pulled who are to be pushed from now on, this batch included."""
        found = await self._count(pulled)
        if found is None or not self._rule.is_few(found[1]):
            return []
        await self._end(found[0])
        return [found[0]]

    async def _count(self, authors: Collection[UserId]) -> tuple[UserId, int] | None:
        """The one of them who was counted longest ago, if that is reclassify_seconds ago, and how many followers it has, counted to
        just above the threshold: one a batch, since that reads so many rows."""
        now = self._clock()
        author = min(authors, key=self._last_counted, default=None)
        if author is None or now - self._last_counted(author) < self._pause_seconds:
            return None
        self._note(author, now)
        try:
            return author, await self._followers.count(author, self._rule.enough)
        except Unavailable as error:
            _log.info("followers_not_counted", extra={"reason": str(error)})
            return None

    def _is_undecided(self, author: UserId) -> bool:
        """Whether an interval stands although the author was pushed."""
        return author in self._ending or self._classes.stands(author)

    def _last_counted(self, author: UserId) -> float:
        return self._counted.get(author, -inf)

    def _note(self, author: UserId, now: float) -> None:
        self._counted[author] = now
        self._counted.move_to_end(author)
        while len(self._counted) > self._authors_max:
            self._counted.popitem(last=False)

    async def _begin(self, author: UserId) -> bool:
        """Asked for even if one stands: it may be one that is being ended, by a worker that has died."""
        is_new = not self._classes.stands(author)
        if is_new:
            await self._pause(author)
        try:
            await self._classes.begin_pull(author)
        except Unavailable as error:
            _log.info("pull_not_begun", extra={"author": author, "reason": str(error)})
            return False
        if is_new:
            _log.info("pull_begun", extra={"author": author})
        return True

    async def _end(self, author: UserId) -> bool:
        """From here on the author is pushed, until it is certain that every interval has its end."""
        self._ending.add(author)
        await self._pause(author)
        try:
            await self._classes.end_pull(author)
        except Unavailable as error:
            _log.info("pull_not_ended", extra={"author": author, "reason": str(error)})
            return False
        self._ending.discard(author)
        _log.info("pull_ended", extra={"author": author})
        return True

    async def _pause(self, author: UserId) -> None:
        if pauses.hold is not None:
            await pauses.hold(Point.reclassify, author)
