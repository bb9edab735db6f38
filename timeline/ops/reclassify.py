"""`timeline job reclassify`: every author who may be on the wrong side of the threshold, once, by the workers' own rule.

Workers reclassify an author with the author's next tweet; this is for those who have not tweeted since the threshold was changed, or
since they came to be many or few. Looked at are all of whom an interval stands, or is being ended, and all with so many follower
shards that they may be above the threshold. Who has one shard is in no table of shards, and is left to the next tweet.

**Why it may end an interval beside workers who still believe it.** Upwards there is nothing to it: who is skipped is decided by each
worker's own reading. Downwards the end is written in two steps (store/intervals.py), and nothing in what makes that safe depends on
who writes it, since to every other process a worker that ends an interval is a stranger too:

- Whoever begins to read the notices once the first step is acknowledged sees it, and pushes. Until then a reading is believed for
  notices_lease_ms, counted from before it was sent, so the last delivery is left out less than notices_lease_ms after the
  acknowledgement.
- The end's time is taken from the clock after that acknowledgement, so the last delivery is left out less than notices_lease_ms after
  the end, by whatever clock within its skew.
- A list that was built before a delivery was left out may lack it; one that was built after has it from history. Readers pull the
  author for every list that was built up to notices_margin_ms after the end, which is more than that lease and twice the skew, as
  long as the list reaches down to then (Notices.to_pull).
- A job that dies, or loses its answer, between the steps leaves an author who is pushed *and* pulled: read twice, and whole. A second
  step of unknown outcome may come to light late: what it then says was true at its time, since the first one was acknowledged.

A worker that ends an interval pushes that author's tweets itself from then on (`_ending` in fanout/reclassify.py): so that it repeats
the end until that is certain, and does not wait for its own next reading. This job repeats it when it is run again, and so does
whoever takes the author's next tweet, if the followers are few enough.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from time import monotonic

from timeline.domain.errors import Unavailable
from timeline.domain.ids import UserId
from timeline.domain.limits import Limits
from timeline.domain.notices import STANDS
from timeline.fanout.rule import Change, Rule
from timeline.ops.audit import Turns
from timeline.ops.ports import Board, CountedFollowers

Tell = Callable[[str], None]
Sleep = Callable[[float], Awaitable[None]]


@dataclass(slots=True)
class Figures:
    """Of a run: authors."""

    counted: int = 0
    begun: int = 0
    ended: int = 0
    refused: int = 0  # there are more notices than notices_max
    pulled: int = 0  # in all, afterwards


class Reclassification:
    """One run. A dry one writes nothing, and tells what another would do."""

    def __init__(
        self,
        board: Board,
        followers: CountedFollowers,
        limits: Limits,
        push_followers_max: int,
        *,
        dry_run: bool,
        tell: Tell,
        seconds: Callable[[], float] = monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._board, self._followers, self._dry_run, self._tell = board, followers, dry_run, tell
        self._rule = Rule.of(limits, push_followers_max)
        self._turns = Turns(limits.reclassify_authors_per_second, seconds, sleep)
        self._slots = asyncio.Semaphore(limits.reclassify_authors_in_flight)
        self._figures = Figures()

    async def run(self) -> Figures:
        """Raises Unavailable: what was told is done, and another run does the rest."""
        await self._board.refresh()
        try:
            async with asyncio.TaskGroup() as tasks:
                async for author in self._authors():
                    await self._turns.turn()
                    await self._slots.acquire()
                    tasks.create_task(self._look(author))
        except* Unavailable as errors:
            raise _first(errors) from errors
        await self._board.refresh()
        self._figures.pulled = len(self._standing())
        return self._figures

    def _standing(self) -> list[UserId]:
        notices, _ = self._board.read()
        return [UserId(author) for author in notices.pulled[notices.until_ms == STANDS].tolist()]

    async def _authors(self) -> AsyncIterator[UserId]:
        """Each once: those of whom an interval stands, never more than notices_max; then those who may be above the threshold."""
        standing = set(self._standing())
        for author in standing:
            yield author
        async for some in self._followers.large(_shards_min(self._rule)):
            for author in some.tolist():
                if author not in standing:
                    yield UserId(author)

    async def _look(self, author: UserId) -> None:
        try:
            count = await self._followers.count(author, self._rule.enough)
            self._figures.counted += 1
            stands, is_ending = self._board.stands(author), self._board.is_being_ended(author)
            change = self._rule.change(count, stands=stands, is_ending=is_ending)
            if change is Change.end:
                await self._end(author, count)
                stands, change = False, self._rule.change(count, stands=False, is_ending=False)
            if change is Change.begin and not stands:
                await self._begin(author, count)
        finally:
            self._slots.release()

    async def _begin(self, author: UserId, count: int) -> None:
        if not self._dry_run:
            await self._board.begin_pull(author)
            if not self._board.stands(author):
                self._figures.refused += 1
                return
        self._figures.begun += 1
        what = "would be pulled" if self._dry_run else "pulled"
        self._tell(f"author {author}: {self._told(count)}: {what} from now on")

    async def _end(self, author: UserId, count: int) -> None:
        if not self._dry_run:
            await self._board.end_pull(author)
        self._figures.ended += 1
        what = "would be pushed" if self._dry_run else "pushed"
        self._tell(f"author {author}: {self._told(count)}: {what} from now on")

    def _told(self, count: int) -> str:
        if count >= self._rule.enough:
            return f"{count:,} followers or more"
        return "1 follower" if count == 1 else f"{count:,} followers"


def skips_small(limits: Limits, push_followers_max: int) -> bool:
    """Whether authors of one shard may be above the threshold: they are in no table, and wait for their next tweet."""
    return Rule.of(limits, push_followers_max).may_be_many(1)


def _shards_min(rule: Rule) -> int:
    """The fewest shards whose followers may be above the threshold. Only who has two or more is in the table."""
    low, high = 1, max(rule.push_max, 1) + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if rule.may_be_many(middle) else (middle + 1, high)
    return low


def _first(errors: BaseExceptionGroup[Unavailable]) -> Unavailable:
    found = errors.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found
