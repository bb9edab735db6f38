"""`timeline load`: a graph in bulk, then posts through the writer that serves POST, so that everything behind it happens as in life.

What a row becomes: P a tweet; MT a tweet that names ref_user by handle in its text; RE a reply to the tweet of ref_post; RT a
retweet of it. Rows go out in file order, many at once, but a row waits for the row it refers to and for its author's row before, so
the ids of an author ascend in file order. The journal makes a second run go on where the first one ended; what was written and not
yet noted is written again under the same key, and is the same tweet. (Keys are kept idempotency_key_seconds: go on within a day.)

Memory: the follows, 16 bytes each, while the graph is loaded; then some 300 bytes for each row of posts, to know what it became.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from time import monotonic, time_ns

import numpy as np

from timeline.domain.entries import UserIds
from timeline.domain.errors import BadRequest, Unavailable
from timeline.domain.ids import TweetId, UserId
from timeline.domain.limits import Limits
from timeline.ops.files import BadFile, Follows, Kind, PostRow, digest, read_follows, read_posts
from timeline.ops.journal import Journal
from timeline.ops.pace import Pace, at_once
from timeline.ops.people import make_users
from timeline.ops.ports import Doors
from timeline.ops.progress import Progress
from timeline.ops.texts import text_of
from timeline.writing.drafts import Draft

log = logging.getLogger(__name__)
_TIMES_KEPT = 100_000  # a fair sample of them, from which the percentiles are told
_REFUSED_SHOWN = 5  # refused rows that are told one by one; the figures count them all


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """What to load: `limit` first rows of posts (None: all), at which pace."""

    follows: Path
    posts: Path
    journal: Path
    limit: int | None = None
    pace: Pace = at_once


@dataclass(slots=True)
class Figures:
    """What a run did. Rows of earlier runs are `resumed`."""

    users: int = 0
    follows: int = 0
    own_follows: int = 0
    graph_seconds: float = 0.0
    rows: Counter[str] = field(default_factory=Counter)  # post, mention, reply, retweet, no-op, refused
    resumed: int = 0
    posts_seconds: float = 0.0
    milliseconds: list[float] = field(default_factory=list)
    timed: int = 0

    def took(self, milliseconds: float) -> None:
        """A row took so long. Beyond _TIMES_KEPT, every row is as likely as any other to be among those kept."""
        self.timed += 1
        if len(self.milliseconds) < _TIMES_KEPT:
            self.milliseconds.append(milliseconds)
        elif (place := random.randrange(self.timed)) < _TIMES_KEPT:
            self.milliseconds[place] = milliseconds

    def lines(self) -> list[str]:
        """For a person."""
        told = []
        if self.follows:
            seconds = max(self.graph_seconds, 1e-9)
            told.append(
                f"graph: {self.users:,} users, {self.follows:,} follows in {self.graph_seconds:.1f} s "
                f"({(self.users + 2 * self.follows) / seconds:,.0f} rows/s)"
                + (f"; {self.own_follows} follows of oneself left out" if self.own_follows else "")
            )
        else:
            told.append("graph: was loaded before")
        names = ", ".join(f"{count:,} {name}" for name, count in sorted(self.rows.items()))
        told.append(
            f"posts: {names or 'none'} in {self.posts_seconds:.1f} s "
            f"({sum(self.rows.values()) / max(self.posts_seconds, 1e-9):,.0f} rows/s)"
            + (f"; {self.resumed:,} were done before" if self.resumed else "")
        )
        if self.milliseconds:
            p50, p99 = np.percentile(self.milliseconds, [50, 99])
            told.append(f"a row: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
        return told


async def run_load(plan: LoadPlan, doors: Doors, limits: Limits, progress: Progress) -> Figures:
    """Load it, or go on. Raises BadFile, JournalError, OSError; Unavailable when an engine stays away for load_retry_seconds."""
    about = await asyncio.to_thread(digest, (plan.follows, plan.posts))
    # a new journal is of files that can be read: it would be in the way of the same files put right
    graph = None if plan.journal.exists() else await _read_graph(plan)
    figures = Figures()
    with await _open_journal(plan.journal, about, doors) as journal:
        if not journal.done.graph:
            began = monotonic()
            read = graph or await _read_graph(plan)
            await _load_graph(read, doors, journal.done.at_us, figures, progress)
            del graph, read  # their memory is the posts' now
            figures.graph_seconds = monotonic() - began
            journal.graph_loaded()
        await _Replay(plan, doors, limits, journal, figures, progress).run()
    return figures


async def _open_journal(path: Path, about: str, doors: Doors) -> Journal:
    """The journal, or a new one if the store knows nothing of what stands in it (its data was thrown away)."""
    journal = Journal.open(path, about, time_ns() // 1000)
    noted = list(journal.done.tweets.values())
    asked = [TweetId(noted[at]) for at in sorted({0, len(noted) // 2, len(noted) - 1})] if noted else []
    try:
        stale = bool(asked) and not await doors.known.authors_of(asked)
    except BaseException:
        journal.__exit__(None, None, None)
        raise
    # without a row in it, there is nothing to ask for: the graph is loaded once more, which changes nothing
    if not noted:
        journal.done.graph = False
    return _set_aside(journal, path, about) if stale else journal


def _set_aside(journal: Journal, path: Path, about: str) -> Journal:
    journal.__exit__(None, None, None)
    aside = path.with_name(path.name + ".stale")
    path.replace(aside)
    log.warning("journal_of_another_store", extra={"moved_to": str(aside)})
    return Journal.open(path, about, time_ns() // 1000)


async def _read_graph(plan: LoadPlan) -> tuple[Follows, UserIds]:
    """The follows, and who is named in the posts. Raises BadFile, OSError."""
    return await asyncio.to_thread(lambda: (read_follows(plan.follows), _people_in(plan.posts)))


async def _load_graph(
    graph: tuple[Follows, UserIds], doors: Doors, at_us: int, figures: Figures, progress: Progress
) -> None:
    follows, others = graph
    ids = np.union1d(np.union1d(follows.follower, follows.followee), others).tolist()
    users = list(make_users(ids, at_us))
    with progress.step("users", len(users)) as step:
        await doors.graph.load_users(users, step.advance)
    with progress.step("rows of follows", 2 * len(follows.follower)) as step:
        await doors.graph.load_follows(follows.follower, follows.followee, at_us, step.advance)
    # whoever has read while it was loaded was told of follows that were not there yet
    await doors.readers.forget_readers(np.unique(follows.follower).tolist())
    figures.users, figures.follows, figures.own_follows = len(users), len(follows.follower), follows.own


def _people_in(posts: Path) -> UserIds:
    people = {user for row in read_posts(posts) for user in (row.author, row.ref_user) if user}
    return np.array(sorted(people), np.int64)


class _Refused(Exception):
    """A row that the service does not take, or that refers to one that it did not take."""


class _Replay:
    """The posts of one run."""

    def __init__(
        self, plan: LoadPlan, doors: Doors, limits: Limits, journal: Journal, figures: Figures, progress: Progress
    ) -> None:
        self._plan, self._doors, self._limits = plan, doors, limits
        self._journal, self._figures, self._progress = journal, figures, progress
        self._tweets = journal.done.tweets
        self._room = asyncio.Semaphore(limits.load_rows_in_flight)
        self._rows: dict[int, asyncio.Task[None]] = {}  # under way, by row
        self._authors: dict[UserId, asyncio.Task[None]] = {}  # the last one under way, by author
        self._retweeted: set[tuple[int, int]] = set()
        self._failed: BaseException | None = None

    async def run(self) -> None:
        began = monotonic()
        total = self._plan.limit
        with self._progress.step("posts", total) as step:
            try:
                await self._send_all(began, step.advance)
            finally:
                await self._settle()
        self._figures.posts_seconds = monotonic() - began
        if self._failed is not None:
            raise self._failed

    async def _send_all(self, began: float, advance: Progress.Advance) -> None:
        number = 0
        for row in self._file_rows():
            if self._failed is not None:
                return
            if row.post_id in self._tweets:
                self._resume(row)
                advance(1)
                if not self._figures.resumed % 1000:
                    await asyncio.sleep(0)
                continue
            pause = began + self._plan.pace(number, row.unix_seconds) - monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
            await self._room.acquire()
            self._start(row, advance)
            number += 1

    def _file_rows(self) -> Iterator[PostRow]:
        known: set[int] = set()
        for number, row in enumerate(islice(read_posts(self._plan.posts), self._plan.limit), 1):
            if row.ref_post and row.ref_post not in known:
                raise BadFile(self._plan.posts, number, f"ref_post {row.ref_post} is not above")
            known.add(row.post_id)
            yield row

    def _resume(self, row: PostRow) -> None:
        self._figures.resumed += 1
        if row.kind is Kind.retweet:
            self._retweeted.add((row.author, self._tweets.get(row.ref_post, 0)))

    def _start(self, row: PostRow, advance: Progress.Advance) -> None:
        before = [task for task in (self._rows.get(row.ref_post), self._authors.get(row.author)) if task is not None]
        task = asyncio.get_running_loop().create_task(self._row(row, before))
        self._rows[row.post_id] = self._authors[row.author] = task

        def ended(task: asyncio.Task[None]) -> None:
            self._room.release()
            del self._rows[row.post_id]
            if self._authors.get(row.author) is task:
                del self._authors[row.author]
            error = None if task.cancelled() else task.exception()
            if error is not None and self._failed is None:
                self._failed = error
            advance(1)

        task.add_done_callback(ended)

    async def _row(self, row: PostRow, before: list[asyncio.Task[None]]) -> None:
        if before:
            # whether the one referred to went well is seen by what it left in the journal
            await asyncio.wait(before)
        if self._failed is not None:
            return  # an author's rows must not overtake each other
        began = monotonic()
        try:
            outcome, tweet_id = await self._patiently(row)
        except _Refused as refused:
            self._figures.rows["refused"] += 1
            if self._figures.rows["refused"] <= _REFUSED_SHOWN:
                log.warning("row_refused", extra={"post_id": row.post_id, "reason": str(refused)})
            return
        self._figures.took((monotonic() - began) * 1000)
        self._figures.rows[outcome] += 1
        self._journal.add(row.post_id, tweet_id)

    async def _patiently(self, row: PostRow) -> tuple[str, int]:
        """Again while an engine is away, ever more slowly, within load_retry_seconds. Raises the last Unavailable."""
        deadline, pause = monotonic() + self._limits.load_retry_seconds, 0.05
        while True:
            try:
                return await self._write(row)
            except Unavailable as error:
                if monotonic() + pause > deadline or self._failed is not None:
                    raise
                log.info("row_retried", extra={"post_id": row.post_id, "reason": str(error)})
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, self._limits.retry_pause_max_ms / 1000)

    async def _write(self, row: PostRow) -> tuple[str, int]:
        """What the row became, and its id. Raises _Refused, Unavailable."""
        source = self._tweets.get(row.ref_post)
        if row.ref_post and source is None:
            raise _Refused(f"it refers to {row.ref_post}, which was refused")
        try:
            if row.kind is Kind.retweet:
                assert source is not None
                return await self._retweet(row.author, TweetId(source))
            mentioned = row.ref_user if row.kind is Kind.mention and row.ref_user else None
            reply_to = TweetId(source) if row.kind is Kind.reply and source is not None else None
            draft = Draft(text=text_of(row.post_id, row.author, mentioned), reply_to=reply_to)
            posted = await self._doors.writer.post(row.author, draft, f"load-{row.post_id}")
        except BadRequest as error:
            faults = "; ".join(f"{fault.pointer} {fault.detail}" for fault in error.faults)
            raise _Refused(f"{error.detail} {faults}".strip()) from error
        return row.kind.name, posted.tweet.id

    async def _retweet(self, author: UserId, source: TweetId) -> tuple[str, int]:
        outcome = await self._doors.writer.retweet(author, source)
        if outcome.retweet_id is None:
            raise _Refused("there is no retweet after retweeting")
        # an author's rows go one after the other, so this is exact
        again = (author, source) in self._retweeted
        self._retweeted.add((author, source))
        return ("no-op" if again else Kind.retweet.name), outcome.retweet_id

    async def _settle(self) -> None:
        """Whatever is under way ends, well or not, before the journal is closed; a cancelled load does not wait for retries."""
        current = asyncio.current_task()
        if current is not None and current.cancelling():
            self._failed = self._failed or asyncio.CancelledError()
        while self._rows:
            with suppress(asyncio.CancelledError):
                await asyncio.wait(list(self._rows.values()), timeout=self._limits.drain_seconds)
            if current is not None and current.cancelling():
                for task in list(self._rows.values()):
                    task.cancel()
                await asyncio.sleep(0)
