"""Random histories against the oracle, step by step, as hypothesis finds them: everything that may happen to a timeline, on real
engines, with limits shrunk to single digits, in two processes that share nothing but the engines.

Each step's page is compared with the oracle as it is read. A failing history prints as the steps that hypothesis took, and as a
story with names (ann, t7) in the failure itself.

    TIMELINE_MACHINE=2000 pytest tests/integration/test_machine.py -s --timeout 0
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.integration.world import SMALL, Clock, World, causes_of_degraded_pages, open_world, people, positions
from timeline import metrics
from timeline.assembly.service import Page
from timeline.domain.errors import BadRequest
from timeline.domain.ids import ID_MAX, UserId
from timeline.domain.limits import Limits
from timeline.domain.model import Tweet, Visibility
from timeline.domain.records import Header, ListKind
from timeline.fanout.ports import Away
from timeline.local import Control
from timeline.store import intervals

HISTORIES = int(os.environ.get("TIMELINE_MACHINE", "40"))
STEPS = int(os.environ.get("TIMELINE_MACHINE_STEPS", "50"))
NAMES = ("ann", "ben", "cat", "dan", "eve")
THRESHOLD = 3  # of five people, so that a follow more or less makes an author pulled or pushed
LONG_AGO_US = 3_600_000_000
PAGES_MAX = 80
REMEMBERED_MAX = 16
STEP_SECONDS = 120
RESETS_MAX = 0.8  # of polls: most steps between two of them are such after which nothing can be told


class Brisk(Limits):
    """Times so short that a history lives through them, and engines' own timeouts so long that a busy machine is none that is down."""

    __slots__ = ()

    @property
    def push_timeout_ms(self) -> int:
        return 100

    @property
    def notices_margin_ms(self) -> int:
        return self.notices_lease_ms + 400 + 2 * self.clock_skew_ms


LIMITS = Brisk(
    **{name: getattr(SMALL, name) for name in ("timeline_entries_max", "timeline_slack", "profile_entries_max")},
    tail_entries=4,
    pull_rows_per_author=2,
    page_default=3,
    clock_skew_ms=1,
    retweet_window_ms=300,
    late_after_ms=1_000,
    reader_lease_seconds=1,
    follower_cache_ms=400,
    fresh_follow_ms=1_500,
    notices_refresh_ms=100,
    notices_lease_ms=600,
    hole_ahead_ms=2_000,
    hole_after_ms=1,
    skip_after_ms=1,
    retry_pause_max_ms=20,
    reclassify_seconds=0,
    rebuilds_per_second=100_000,
    replication_check_ms=10**8,  # replication ids are what a test says
    cursor_seen_max=24,
    redis_timeout_ms=20_000,
    cassandra_timeout_ms=20_000,
    cassandra_connect_ms=60_000,
    fill_within_ms=10_000,
    audit_second_look_ms=500,
)


class Stage:
    """An event loop with a world on it, for steps that are not asynchronous themselves."""

    def __init__(self, engines: dict[str, str]) -> None:
        self.loop = asyncio.new_event_loop()
        self._opened: asyncio.Future[World] = self.loop.create_future()
        self._closing = asyncio.Event()
        self._life = self.loop.create_task(self._live(engines))
        self.world: World = self.run(self._open())

    def run(self, what: Awaitable[Any]) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(STEP_SECONDS):
                return await what

        return self.loop.run_until_complete(bounded())

    async def _open(self) -> World:
        await asyncio.wait((self._opened, self._life), return_when=asyncio.FIRST_COMPLETED)
        if not self._opened.done():
            self._life.result()
        return self._opened.result()

    async def _live(self, engines: dict[str, str]) -> None:
        """In one task from its beginning to its end, as what it opens demands."""
        async with AsyncExitStack() as stack:
            world = open_world(engines, LIMITS, processes=2, push_followers_max=THRESHOLD, clock=Clock())
            self._opened.set_result(await stack.enter_async_context(world))
            await self._closing.wait()

    def close(self) -> None:
        self._closing.set()
        self.loop.run_until_complete(self._life)
        self.loop.close()


@dataclass(eq=False)
class Older:
    """A `next_cursor` that somebody remembers."""

    user: int
    cursor: str
    boundary: int


@dataclass(eq=False)
class Newer:
    """A `newer_cursor` that somebody remembers: what they have `seen` at or below their page, and `low`: down to where what they
    have not seen must be told to them. `excused` need not be. `since`: the step from which changes count."""

    user: int
    cursor: str
    seen: set[int]
    low: int
    excused: set[int]
    since: int
    header: Header | None


Step = Callable[..., Awaitable[str | None]]
_STEPS: dict[str, tuple[Step, int, st.SearchStrategy[dict[str, Any]]]] = {}


def step(weight: int = 1, /, **strategies: Any) -> Callable[[Step], Step]:
    """A step that a history may take: it answers what happened, in words, or None if there was nothing to do."""

    def mark(method: Step) -> Step:
        _STEPS[method.__name__] = method, weight, st.fixed_dictionaries(strategies)
        return method

    return mark


@dataclass(frozen=True)
class Call:
    """A step with its arguments."""

    name: str
    arguments: dict[str, Any]

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """By weight. A rule of hypothesis for each would be chosen evenly, and half of them left out of each history."""
    name = draw(st.sampled_from([name for name, (_, weight, _) in _STEPS.items() for _ in range(weight)]))
    return Call(name, draw(_STEPS[name][2]))


# what makes it impossible to tell what came late: a third of the histories does without, so that polls have to answer
DISTURBING = {"follow", "unfollow", "block", "unblock", "mute", "unmute", "evict", "trim", "wipe", "fail_over"}
DISTURBING |= {"change_class", "lose_reach", "deliver_late"}

a_user = st.integers(0, len(NAMES) - 1)
a_process = st.integers(0, 1)
an_index = st.integers(0, 15)
a_limit = st.integers(1, 7)
a_node = st.integers(0, 2)


class Timelines(RuleBasedStateMachine):
    """One history. What is counted is of all histories of a run."""

    stage: ClassVar[Stage]
    done: ClassVar[Counter[str]] = Counter()
    void: ClassVar[Counter[str]] = Counter()
    seen: ClassVar[Counter[str]] = Counter()
    resets: ClassVar[Counter[str]] = Counter()
    histories: ClassVar[int] = 0
    seconds: ClassVar[float] = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.world, self.story = self.stage.world, list[str]()
        self.started, self.failed = time.monotonic(), False
        self.world.begin()
        self.users = [self.world.user(number) for number in range(1, len(NAMES) + 1)]
        self.now = 0
        self.delivered: list[Tweet] = []
        self.older: list[Older] = []
        self.newer: list[Newer] = []
        self.changed: list[tuple[int, int, int]] = []  # at which step, and between whom
        self.shaken: list[
            tuple[int, int]
        ] = []  # at which step, and the tweet that was deleted, or whose visibility changed
        self.disturbed: list[tuple[int, str, int]] = []  # at which step, what, and whom (0: everybody)
        self.failing: dict[str, tuple[int, dict[bytes, tuple[bytes, int]]]] = {}  # at which step, and with what
        self.numbers: dict[int, str] = {}
        self.holes_until = 0.0
        self.ending = self.calm = False

    # --- how a step is taken

    def take(self, method: Step, **arguments: Any) -> None:
        self.now += 1
        name = method.__name__
        if self.calm and name in DISTURBING:
            self.void[name] += 1
            return
        try:
            told = self.stage.run(self._take(method, arguments))
        except BaseException as error:
            self.failed = True
            error.add_note("\n".join([f"The story until {name} {arguments} failed:", *self.told()]))
            raise
        if told is None:
            self.void[name] += 1
        else:
            self.done[name] += 1
            self.tell(told)

    async def _take(self, method: Step, arguments: dict[str, Any]) -> str | None:
        await self.refresh_where_due()
        await self.fail_where_due()
        told = await method(self, **arguments)
        await self.world.settle()
        return told

    def tell(self, what: str) -> None:
        self.story.append(f"{self.now:3} +{(time.monotonic() - self.started) * 1000:6.0f} ms  {what}")

    def told(self) -> list[str]:
        rows = self.world.oracle.rows
        tweets = [
            f"{self.name(row.id)}: {row.id}"
            + (f" retweets {self.name(row.source)}" if row.source else "")
            + (f" replies to {self.who(row.reply_to_user)}" if row.reply_to_user else "")
            + (" for followers" if row.followers_only else "")
            + (" deleted" if row.deleted else "")
            + f" by {self.who(row.author)}"
            for row in rows.values()
        ]
        return [*self.story, *tweets, f"users from {self.users[0]}"]

    def who(self, user: int) -> str:
        return NAMES[self.users.index(user)]

    def name(self, tweet_id: int) -> str:
        return self.numbers.setdefault(tweet_id, f"t{len(self.numbers) + 1}")

    def names(self, tweet_ids: Collection[int]) -> str:
        return " ".join(self.name(each) for each in sorted(tweet_ids, reverse=True)) or "nothing"

    def tweet(self, index: int) -> int | None:
        """One of those that there were, newer ones under smaller numbers."""
        every = list(self.world.oracle.rows)
        return every[-1 - index % len(every)] if every else None

    @property
    def due(self) -> set[int]:
        """Not yet delivered."""
        return {tweet.id for tweet in self.world.log.events}

    def disturb(self, what: str, user: int = 0) -> None:
        self.disturbed.append((self.now, what, user))

    async def refresh_where_due(self) -> None:
        """What `run` of each notice board does in time."""
        for process in self.world.processes:
            board = process.store.notices
            if board.age_seconds > LIMITS.notices_lease_ms / 2_000:
                await board.refresh()

    # --- who is there

    @initialize(
        strangers=st.sets(st.tuples(a_user, a_user), max_size=12),
        pulled=st.sets(a_user, max_size=3),
        posts=st.lists(a_user, max_size=20),
        delivered=st.booleans(),
        walked=st.booleans(),
        calm=st.sampled_from([False, False, True]),
    )
    def begin(self, calm: bool, **drawn: Any) -> None:
        self.calm = calm
        self.take(Timelines._begin, **drawn)

    async def _begin(
        self, strangers: set[tuple[int, int]], pulled: set[int], posts: list[int], delivered: bool, walked: bool
    ) -> str:
        """All others have followed each other for a long time, and some have been pulled for as long."""
        at_us = time.time_ns() // 1_000 - LONG_AGO_US
        everybody = range(len(NAMES))
        follows = {(one, other) for one in everybody for other in everybody if one != other} - strangers
        pairs = sorted((self.users[one], self.users[other]) for one, other in follows)
        await self.world.store.bulk.load_users(people(self.users, at_us))
        self.world.users += self.users
        if pairs:
            followers, followees = np.array(pairs, np.int64).T
            await self.world.store.bulk.load_follows(followers, followees, at_us)
        for one, other in pairs:
            self.world.oracle.follows[one].add(other)
        for author in sorted(pulled):
            await intervals.begin(self.world.store.session, UserId(self.users[author]), at_us // 1000)
        await self._pass_lease()
        if walked:
            for user in self.users:
                await self.page(user, None, 7, 0)
        for author in posts:
            await self.world.post(self.users[author])
        if delivered:
            await self._fan_out(0, list(self.world.log.events))
            self.world.log.events.clear()
        follows_told = ", ".join(f"{self.who(one)} follows {self.who(other)}" for one, other in pairs)
        return (
            f"{follows_told}; pulled: {[NAMES[each] for each in sorted(pulled)]}; {'homes are walked; ' if walked else ''}"
            f"posts of {[NAMES[each] for each in posts]}, {'' if delivered else 'not '}delivered"
        )

    # --- writing

    @step(8, author=a_user, only=st.sampled_from([False, False, False, True]), on=a_process)
    async def post(self, author: int, only: bool, on: int) -> str:
        started = time.monotonic()
        visibility = Visibility.followers if only else Visibility.public
        tweet = await self.world.post(self.users[author], on=on, visibility=visibility)
        self._note_slow(started)
        return f"{NAMES[author]} posts {self.name(tweet.id)}{' for followers' if only else ''} (process {on})"

    @step(3, author=a_user, to=an_index, on=a_process)
    async def reply(self, author: int, to: int, on: int) -> str | None:
        parent = self.tweet(to)
        return parent and await self._draft(author, on, "replies to", parent, reply_to=parent)

    @step(1, author=a_user, what=an_index, on=a_process)
    async def quote(self, author: int, what: int, on: int) -> str | None:
        quoted = self.tweet(what)
        return quoted and await self._draft(author, on, "quotes", quoted, quote_of=quoted)

    async def _draft(self, author: int, on: int, does: str, other: int, **more: int) -> str:
        started = time.monotonic()
        try:
            tweet = await self.world.post(self.users[author], on=on, **more)
        except BadRequest as error:
            return f"{NAMES[author]} may not: {does} {self.name(other)} ({error.kind})"
        self._note_slow(started)
        return f"{NAMES[author]} {does} {self.name(other)}: {self.name(tweet.id)} (process {on})"

    def _note_slow(self, started: float) -> None:
        """A tweet whose writing took long is pushed to its author's lists as a late one."""
        if time.monotonic() - started > (LIMITS.late_after_ms - LIMITS.push_timeout_ms) / 1000:
            self.disturb("late")

    @step(4, user=a_user, what=an_index, on=a_process)
    async def retweet(self, user: int, what: int, on: int) -> str | None:
        source = self.tweet(what)
        if source is None:
            return None
        started = time.monotonic()
        try:
            made = await self.world.retweet(self.users[user], source, on)
        except BadRequest as error:
            return f"{NAMES[user]} may not retweet {self.name(source)} ({error.kind})"
        self._note_slow(started)
        return f"{NAMES[user]} retweets {self.name(source)}: {self.name(made)} (process {on})"

    @step(1, which=an_index, on=a_process)
    async def undo_retweet(self, which: int, on: int) -> str | None:
        standing = [row for row in self.world.oracle.rows.values() if row.source is not None and not row.deleted]
        if not standing:
            return None
        row = standing[-1 - which % len(standing)]
        try:
            await self.world.unretweet(row.author, row.id, on)
        except BadRequest as error:
            return f"{self.who(row.author)} may not undo {self.name(row.id)} ({error.kind})"
        self.shaken.append((self.now, row.shown))
        return f"{self.who(row.author)} undoes {self.name(row.id)} (process {on})"

    @step(2, what=an_index, on=a_process)
    async def delete(self, what: int, on: int) -> str | None:
        tweet = self.tweet(what)
        if tweet is None:
            return None
        row = self.world.oracle.rows[tweet]
        await self.world.delete(row.author, tweet, on)
        self.shaken.append((self.now, row.shown))
        return f"{self.who(row.author)} deletes {self.name(tweet)} (process {on})"

    @step(
        2,
        what=an_index,
        changes_text=st.booleans(),
        visibility=st.sampled_from([None, None, Visibility.public, Visibility.followers]),
        on=a_process,
    )
    async def edit(self, what: int, changes_text: bool, visibility: Visibility | None, on: int) -> str | None:
        tweet = self.tweet(what)
        if tweet is None or (not changes_text and visibility is None):
            return None
        shown = self.world.oracle.rows[tweet].shown
        author = self.world.oracle.rows[shown].author
        text = f"edited at {self.now}" if changes_text else None
        try:
            await self.world.edit(author, tweet, text, visibility, on)
        except BadRequest as error:
            if error.kind != "tweet-not-found":
                raise
            return None
        if visibility is not None:
            self.shaken.append((self.now, shown))
        return f"{self.who(author)} edits {self.name(shown)}: {text}, {visibility} (process {on})"

    # --- the graph

    def _pair(self, one: int, other: int) -> tuple[int, int] | None:
        if one == other:
            return None
        self.changed.append((self.now, self.users[one], self.users[other]))
        return self.users[one], self.users[other]

    @step(4, one=a_user, other=a_user, on=a_process)
    async def follow(self, one: int, other: int, on: int) -> str | None:
        pair = self._pair(one, other)
        if pair is None:
            return None
        if self.world.oracle.is_barred(*pair):
            with pytest.raises(BadRequest, match="block"):
                await self.world.follow(*pair, on)
            return None
        await self.world.follow(*pair, on)
        return f"{NAMES[one]} follows {NAMES[other]} (process {on})"

    @step(2, one=a_user, other=a_user, on=a_process)
    async def unfollow(self, one: int, other: int, on: int) -> str | None:
        return await self._change("unfollow", one, other, on)

    @step(2, one=a_user, other=a_user, on=a_process)
    async def block(self, one: int, other: int, on: int) -> str | None:
        return await self._change("block", one, other, on)

    @step(2, one=a_user, other=a_user, on=a_process)
    async def mute(self, one: int, other: int, on: int) -> str | None:
        return await self._change("mute", one, other, on)

    @step(2, which=an_index, on=a_process)
    async def unblock(self, which: int, on: int) -> str | None:
        return await self._end("unblock", self.world.oracle.blocks, which, on)

    @step(2, which=an_index, on=a_process)
    async def unmute(self, which: int, on: int) -> str | None:
        return await self._end("unmute", self.world.oracle.mutes, which, on)

    async def _end(self, what: str, standing: dict[int, set[int]], which: int, on: int) -> str | None:
        pairs = [(one, other) for one in self.users for other in sorted(standing.get(one, ()))]
        if not pairs:
            return None
        one, other = pairs[which % len(pairs)]
        return await self._change(what, self.users.index(one), self.users.index(other), on)

    async def _change(self, what: str, one: int, other: int, on: int) -> str | None:
        pair = self._pair(one, other)
        if pair is None:
            return None
        await getattr(self.world, what)(*pair, on)
        if what in ("block", "unblock"):
            self.disturb("block", pair[1])
        return f"{NAMES[one]} {what}s {NAMES[other]} (process {on})"

    # --- delivery

    @step(10, which=st.lists(an_index, min_size=1, max_size=4), on=a_process)
    async def deliver(self, which: list[int], on: int) -> str | None:
        """A batch in the order of its writing, or any other."""
        return await self._deliver(which, on)

    @step(1, which=st.lists(an_index, min_size=1, max_size=3), on=a_process)
    async def deliver_late(self, which: list[int], on: int) -> str | None:
        """By a worker whose clock says that W is over: to mark as late what is not so is harmless."""
        process = self.world.processes[on]
        process.shift_ms = LIMITS.late_after_ms
        try:
            return await self._deliver(which, on)
        finally:
            process.shift_ms = 0

    async def _deliver(self, which: list[int], on: int) -> str | None:
        events = self.world.log.events
        batch = [events.pop(each % len(events)) for each in which if events]
        if not batch:
            return None
        if [tweet.id for tweet in batch] != sorted(tweet.id for tweet in batch) or (
            events and batch[-1].id > min(tweet.id for tweet in events)
        ):
            self.seen["batches out of order"] += 1
        told = await self._fan_out(on, batch)
        return f"delivered: {' '.join(self.name(tweet.id) for tweet in batch)} (process {on}){told}"

    @step(2, which=st.lists(an_index, min_size=1, max_size=2), on=a_process)
    async def deliver_again(self, which: list[int], on: int) -> str | None:
        if not self.delivered:
            return None
        batch = [self.delivered[-1 - each % len(self.delivered)] for each in which]
        told = await self._fan_out(on, batch)
        return f"delivered again: {' '.join(self.name(tweet.id) for tweet in batch)} (process {on}){told}"

    async def _fan_out(self, on: int, batch: list[Tweet]) -> str:
        process, started = self.world.processes[on], time.monotonic()
        late, skipped, classes = process.pushes.late, _pulled_skips(), self._classes()
        delivering = asyncio.ensure_future(self.world.fan_out(*batch, on=on))
        while not (await asyncio.wait((delivering,), timeout=0.1))[0]:
            if process.pushes.lost and self.world.clock is not None:
                self.world.clock.put_forward(LIMITS.notices_lease_ms / 4_000)  # until everybody must know of the hole
            await self.refresh_where_due()
        delivering.result()
        self.delivered += [tweet for tweet in batch if tweet not in self.delivered]
        if self._classes() != classes:
            self.disturb("class")
        await self._if_slow(started)
        told = ""
        if process.pushes.late > late:
            self.disturb("late")
            self.seen["late deliveries"] += process.pushes.late - late
            told += ", late"
        if _pulled_skips() > skipped:
            self.seen["skipped for pulled authors"] += int(_pulled_skips() - skipped)
            told += ", followers skipped"
        if process.pushes.lost:
            told += f", {' '.join(process.pushes.lost)} out of reach"
            self.holes_until = time.monotonic() + (LIMITS.hole_ahead_ms + LIMITS.notices_margin_ms) / 1000
        return told

    async def _if_slow(self, started: float) -> None:
        """The end of an interval that was longer in its writing than notices_margin_ms has room for: nobody must skip by what was read
        before."""
        if time.monotonic() - started > 0.3:
            for process in self.world.processes:
                await process.store.notices.refresh()

    def _classes(self) -> list[bool]:
        return [process.store.notices.stands(UserId(user)) for process in self.world.processes for user in self.users]

    @step(2, author=a_user, pull=st.booleans(), known=st.booleans(), on=a_process)
    async def change_class(self, author: int, pull: bool, known: bool, on: int) -> str | None:
        """As if the threshold were another one; known: by everybody, for as long as a lease."""
        board, user = self.world.processes[on].store.notices, UserId(self.users[author])
        if pull:
            await board.begin_pull(user)
        else:
            started = time.monotonic()
            await board.end_pull(user)
            await self._if_slow(started)
        self.disturb("class")
        if known:
            await self._pass_lease()
        return (
            f"{NAMES[author]} is {'pulled' if pull else 'pushed'} from now on{', as is known' * known} (process {on})"
        )

    async def _pass_lease(self) -> None:
        assert self.world.clock is not None
        for process in self.world.processes:
            await process.store.notices.refresh()
        self.world.clock.put_forward(LIMITS.notices_lease_ms / 1_000)
        await self.refresh_where_due()

    @step(1, node=a_node, on=a_process)
    async def lose_reach(self, node: int, on: int) -> str | None:
        """A worker does not reach a node: it records a hole, and leaves deliveries out."""
        name, lost = self.world.nodes()[node], self.world.processes[on].pushes.lost
        if lost:
            return None
        lost[name] = Away(name, 10**6, self.world.slots_of(name))
        self.disturb("hole")
        return f"the worker of process {on} does not reach {name} any more: {self._homes_on(name)}"

    def _homes_on(self, node: str) -> str:
        owners = self.world.cache.plane.topology.owners
        mine = [user for user in self.users if str(owners[self._slot(user)]) == node]
        return " ".join(self.who(user) for user in mine)

    def _slot(self, user: int) -> int:
        return int(self.world.cache.lists.slots_of(np.array([user], np.int64))[0])

    @step(1, on=a_process)
    async def regain_reach(self, on: int) -> str | None:
        on = on if self.world.processes[on].pushes.lost else 1 - on
        lost = self.world.processes[on].pushes.lost
        if not lost:
            return None
        name, _ = lost.popitem()
        self.disturb("hole")
        return f"the worker of process {on} reaches {name} again"

    # --- what happens to Redis

    @step(2, user=a_user, kind=st.sampled_from(["timeline", "timeline", "profile", "reader", "marks"]))
    async def evict(self, user: int, kind: str) -> str:
        await self.world.evict(self.users[user], kind)
        if kind in ("timeline", "profile"):
            self.disturb("evicted", self.users[user] if kind == "timeline" else 0)
        return f"the {kind} of {NAMES[user]} is evicted"

    @step(1, which=an_index, kind=st.sampled_from(["post", "state"]))
    async def evict_content(self, which: int, kind: str) -> str | None:
        tweet = self.tweet(which)
        if tweet is None:
            return None
        await self.world.evict_content(kind, tweet)
        return f"the {kind} of {self.name(tweet)} is evicted"

    @step(2, user=a_user, on=a_process)
    async def trim(self, user: int, on: int) -> str | None:
        """Before it is a quarter over."""
        pusher: Any = self.world.processes[on].cache.lists
        before = metrics.TRIMS._value.get()
        for kind in ListKind:
            await pusher._pusher._trim(kind, {self.users[user]: 1_000})  # longer than any
        if metrics.TRIMS._value.get() == before:
            return None
        self.disturb("trimmed")
        return f"the lists of {NAMES[user]} are trimmed"

    @step(1, node=a_node)
    async def wipe(self, node: int) -> str:
        """A node starts anew with nothing."""
        name = self.world.nodes()[node]
        await self.world.fail_over(name, {})
        self.failing.pop(name, None)
        self.disturb("wiped")
        return f"{name} comes back empty: {self._homes_on(name)}"

    @step(4, node=a_node, after=st.integers(0, 20))
    async def fail_over(self, node: int, after: int) -> str | None:
        """At once, with nothing lost; or some steps later, with what happened in these steps."""
        name = self.world.nodes()[node]
        if name in self.failing:
            return None
        if not after:
            await self.world.fail_over(name, None)
            self.disturb("failover")
            return f"{name} fails over: {self._homes_on(name)}"
        self.failing[name] = self.now + after, await self.world.snapshot(name)
        return f"the replica of {name} hears nothing from now on: {self._homes_on(name)}"

    async def fail_where_due(self) -> None:
        for name, (at, replica) in list(self.failing.items()):
            if at <= self.now or self.ending:
                del self.failing[name]
                await self.world.fail_over(name, replica)
                self.disturb("failover")
                self.seen["failovers that lost writes"] += 1
                self.tell(f"{name} fails over, and what came since is lost: {self._homes_on(name)}")

    @step(2, ms=st.sampled_from([60, 200, 450]))
    async def wait(self, ms: int) -> str:
        """Time is what passes here: W, M, leases."""
        await asyncio.sleep(ms / 1000)
        return f"{ms} ms pass"

    @step(2, on=a_process)
    async def read_notices(self, on: int) -> str:
        """One process; and the other's grow old."""
        assert self.world.clock is not None
        self.world.clock.put_forward(LIMITS.notices_lease_ms / 4_000)
        await self.world.processes[on].store.notices.refresh()
        return f"process {on} reads the notices"

    @step(1)
    async def outlast_leases(self) -> str:
        """So long that everybody must know what was written."""
        await self._pass_lease()
        return "a lease passes"

    # --- reading

    async def page(self, user: int, cursor: str | None, limit: int, on: int) -> Page:
        """One page, as the process answers whose notices are read in time."""
        page = await self._answer(lambda: self.world.home(user, cursor, limit, on))
        self.seen[f"pages from {page.source}"] += 1
        if page.degraded:
            assert time.monotonic() < self.holes_until, f"degraded without a reason: {causes_of_degraded_pages()}"
            self.seen["degraded pages"] += 1
        assert page.missing == 0
        found = positions(page)
        assert len(found) <= limit
        assert found == sorted(set(found), reverse=True), f"out of order, or twice: {self.names(found)}"
        oracle = self.world.oracle
        for shown in map(orjson.loads, page.tweets):
            tweet_id = int(shown["id"])
            assert shown["text"] == self.world.texts[tweet_id], f"{self.name(tweet_id)} says {shown['text']}"
            if oracle.rows[tweet_id].quote_of is not None:
                is_there = not shown["quote"].get("unavailable", False)
                assert is_there == oracle.shows_quote(tweet_id, user), f"the quote in {self.name(tweet_id)}"
        return page

    async def _answer(self, ask: Callable[[], Awaitable[Page]]) -> Page:
        """What a process answers whose notices are read in time, which those of a busy machine are not always."""
        for _ in range(10):
            await self.refresh_where_due()
            lapsed = _lapsed_notices()
            page = await ask()
            await self.world.settle()
            if _lapsed_notices() == lapsed:
                break
        return page

    def check(self, user: int, page: Page, found: list[int], above: int, below: int) -> None:
        """What stands from `above` (included) to below `below`. What is not delivered may be missing, and what it would hide may be
        there."""
        oracle, due = self.world.oracle, self.due
        wanted = {each for each in oracle.home(user) if above <= each < below}
        held_back = {row.shown for row in oracle.rows.values() if row.id in due}
        surely = {each for each in wanted if each not in due or oracle.rows[each].author == user}
        extra = set(found) - wanted
        places = set(oracle.places(user))
        leaked = {each for each in extra if each not in places or oracle.rows[each].shown not in held_back}
        assert not leaked, f"{self.who(user)} reads {self.names(found)}: {self.names(leaked)} must not be there"
        assert all(above <= each < below for each in found), f"{self.names(found)} are not below the cursor"
        missing = surely - set(found)
        if missing and page.degraded:
            self.seen["missing, and said so"] += 1
            return
        assert not missing, (
            f"{self.who(user)} reads {self.names(found)}: {self.names(missing)} is missing (source {page.source})"
        )

    @step(6, user=a_user, limit=a_limit, keep=an_index, on=a_process)
    async def walk(self, user: int, limit: int, keep: int, on: int) -> str:
        """Down to the beginning of history; cursors of it are remembered."""
        me, below, cursor = self.users[user], int(ID_MAX) + 1, None
        pages: list[tuple[Page, list[int]]] = []
        for _ in range(PAGES_MAX):
            page = await self.page(me, cursor, limit, on)
            found, above = positions(page), self.world.boundary(me, page.next_cursor)
            self.check(me, page, found, above, below)
            pages.append((page, found))
            cursor, below = page.next_cursor, above
            if cursor is None:
                break
        else:
            raise AssertionError("a walk that does not end")
        whole = {each for _, found in pages for each in found}
        if not any(page.degraded for page, _ in pages):
            await self._remember(me, pages[0][0], whole, is_first=True)
            deep = pages[keep % len(pages)][0]
            if deep is not pages[0][0]:
                await self._remember(me, deep, whole, is_first=False)
        for cursor in {pages[0][0].next_cursor, pages[keep % len(pages)][0].next_cursor} - {None}:
            self._keep(self.older, Older(me, cursor or "", self.world.boundary(me, cursor)))
        return f"{NAMES[user]} walks by {limit}: {self.names(whole)} (process {on}, {pages[0][0].source})"

    async def _remember(self, user: int, page: Page, whole: set[int], *, is_first: bool) -> None:
        low = 0 if is_first else self.world.boundary(user, page.newer_cursor)
        seen = {each for each in whole if is_first or each <= low}
        header = await self._header(user)
        self._keep(self.newer, Newer(user, page.newer_cursor, seen, low, self._old(user, seen), self.now, header))

    def _old(self, user: int, seen: set[int]) -> set[int]:
        """What was there to be seen, and was not: no news if it comes to be seen. One's own is there at once."""
        due = self.due
        rows = self.world.oracle.rows.values()
        return {row.id for row in rows if row.id not in seen and (row.id not in due or row.author == user)}

    @staticmethod
    def _keep(where: list[Any], what: Any) -> None:
        where.append(what)
        del where[:-REMEMBERED_MAX]

    async def _header(self, user: int, kind: ListKind = ListKind.home) -> Header | None:
        """Of the list as it stands, without a read that would change anything."""
        key = self.world.cache.keys.list_of(kind, user)
        first = await self.world.cache.plane.execute(key, b"LINDEX", key, 0)
        return None if first is None else Header.unpack(first)

    @step(5, which=an_index, limit=a_limit, on=a_process)
    async def go_down(self, which: int, limit: int, on: int) -> str | None:
        """One page more from a cursor of any age."""
        if not self.older:
            return None
        at = self.older[-1 - which % len(self.older)]
        page = await self.page(at.user, at.cursor, limit, on)
        found, above = positions(page), self.world.boundary(at.user, page.next_cursor)
        self.check(at.user, page, found, above, at.boundary)
        if page.next_cursor is not None:
            self._keep(self.older, Older(at.user, page.next_cursor, above))
        if found and not page.degraded:
            low = self.world.boundary(at.user, page.newer_cursor)
            header = await self._header(at.user)
            place = Newer(at.user, page.newer_cursor, set(found), low, self._old(at.user, set(found)), self.now, header)
            place.excused -= {each for each in place.excused if each > low}
            self._keep(self.newer, place)
        return f"{self.who(at.user)} goes down by {limit}: {self.names(found)} (process {on}, {page.source})"

    @step(12, which=an_index, limit=a_limit, all_of_it=st.booleans(), on=a_process)
    async def go_up(self, which: int, limit: int, all_of_it: bool, on: int) -> str | None:
        """From a cursor of any age: one page, or until there is no more."""
        if not self.newer:
            return None
        at = self.newer[-1 - which % len(self.newer)]
        told = [f"{self.who(at.user)} of step {at.since} polls by {limit}:"]
        for _ in range(PAGES_MAX):
            page = await self.page(at.user, at.cursor, limit, on)
            told.append(f"{self.names(positions(page))}{' reset' * page.reset}{' gap' * page.gap}")
            self._count("polls")
            if not await self._go_up(at, page, told) or not (page.gap and all_of_it):
                break
        else:
            raise AssertionError(f"a gap that does not close: {told}")
        return " ".join(told) + f" (process {on})"

    async def _go_up(self, at: Newer, page: Page, told: list[str]) -> bool:
        """Whether it may go on from there."""
        found = positions(page)
        self._check_news(at, page, found, told)
        if page.reset:
            self.newer.remove(at)
            reason = await self._why_reset(at)
            self._count("resets")
            if not self.ending:
                self.resets[reason] += 1
            assert reason != "none", f"reset without a reason: {told}"
            return False
        at.seen |= set(found)
        at.cursor = page.newer_cursor
        missing = {each for each in self._owed(at) if not page.gap or (found and each <= max(found))}
        assert not missing or page.degraded, f"{self.names(missing)} was never told: {told}"
        if not page.gap:
            at.low, at.since, at.header = 0, self.now, await self._header(at.user)
            at.excused |= self._old(at.user, at.seen)
        return True

    def _count(self, what: str) -> None:
        """At the end places of any age are polled, after all that can happen to them."""
        self.seen[f"{what} at the end" if self.ending else what] += 1

    def _check_news(self, at: Newer, page: Page, found: list[int], told: list[str]) -> None:
        oracle, due = self.world.oracle, self.due
        held_back = {row.shown for row in oracle.rows.values() if row.id in due}
        extra = set(found) - set(oracle.home(at.user))
        places = set(oracle.places(at.user))
        leaked = {each for each in extra if each not in places or oracle.rows[each].shown not in held_back}
        assert not leaked, f"{self.names(leaked)} must not be there: {told}"
        twice = at.seen & set(found)
        assert page.reset or not twice, f"{self.names(twice)} was seen before: {told}"

    def _owed(self, at: Newer) -> set[int]:
        """What must have been told by now: what stands in the home, and whose standing there hangs on nothing but its coming."""
        oracle, due = self.world.oracle, self.due
        touched = {other for step_at, *pair in self.changed if step_at > at.since and at.user in pair for other in pair}
        touched.discard(at.user)
        shaken = {shown for step_at, shown in self.shaken if step_at > at.since}
        held_back = {row.shown for row in oracle.rows.values() if row.id in due}
        authors_of = Counter[tuple[int, int]]((row.shown, row.author) for row in oracle.rows.values())
        owed = set()
        for each in oracle.home(at.user):
            row = oracle.rows[each]
            if each in at.seen or each in at.excused or each <= at.low or (each in due and row.author != at.user):
                continue
            concerned = {row.author, row.reply_to_user, oracle.rows[row.shown].author}
            if row.source is not None:
                concerned |= {author for shown, author in authors_of if shown == row.shown}
                concerned.add(oracle.rows[row.shown].reply_to_user)
            is_held_back = row.source is not None and row.shown in held_back
            if not concerned & touched and row.shown not in shaken and not is_held_back:
                owed.add(each)
        return owed

    async def _why_reset(self, at: Newer) -> str:
        """The first reason there is, by the words of docs/api.md: it cannot be told whether something came late."""
        what = {kind for step_at, kind, user in self.disturbed if step_at > at.since and user in (0, at.user)}
        if time.monotonic() < self.holes_until:
            what.add("hole")
        if any(step_at > at.since and one == at.user for step_at, one, _ in self.changed) or "block" in what:
            return "graph"
        for kind in ("evicted", "wiped", "failover", "hole", "late", "class"):
            if kind in what:
                return kind
        header = await self._header(at.user)
        if header is None or at.header is None or header.epoch != at.header.epoch:
            return "built anew"
        if header.base != at.header.base:
            return "trimmed"
        if header.late != at.header.late or header.late_ms != at.header.late_ms:
            return "late"
        cursor = self.world.signer.read(at.cursor, f"home:recent:{at.user}:{at.user}")
        if not cursor.at_ms:
            return "too many seen of pulled authors"
        followed = sorted(self.world.oracle.follows[at.user])
        authors = [await self._header(user, ListKind.profile) for user in followed]
        if any(each is None or each.built_ms >= cursor.at_ms - LIMITS.clock_skew_ms for each in authors):
            return "an author's list built anew"
        notices, _ = self.world.store.notices.read()
        if (notices.since_ms >= cursor.at_ms - LIMITS.notices_margin_ms).any():
            return "somebody pulled a short while before"
        if any(kind == "class" for _, kind, _ in self.disturbed):
            return "once pulled"
        if any(kind == "late" for _, kind, _ in self.disturbed):
            return "late before"
        if at.low:
            return "a page further down"
        return "none"

    @step(2, me=a_user, of=a_user, limit=a_limit, on=a_process)
    async def walk_profile(self, me: int, of: int, limit: int, on: int) -> str:
        reader, author = self.users[me], self.users[of]
        told = f"{NAMES[me]} walks the profile of {NAMES[of]} by {limit} (process {on}): "
        if self.world.oracle.is_barred(reader, author):
            with pytest.raises(BadRequest, match="no user"):
                await self.world.profile(reader, author, None, limit, on)
            return told + "barred"
        found, cursor, degraded = list[int](), None, False
        for _ in range(PAGES_MAX):
            page = await self._answer(functools.partial(self.world.profile, reader, author, cursor, limit, on))
            found += positions(page)
            degraded |= page.degraded
            cursor = page.next_cursor
            if cursor is None:
                break
        wanted = self.world.oracle.profile(author, reader)
        if degraded:
            assert time.monotonic() < self.holes_until, f"degraded without a reason: {causes_of_degraded_pages()}"
            assert set(found) <= set(wanted)
        else:
            assert found == wanted, f"{told}{self.names(found)}, and should be {self.names(wanted)}"
        return told + self.names(found)

    @rule(call=calls())
    def take_step(self, call: Call) -> None:
        self.take(_STEPS[call.name][0], **call.arguments)

    # --- the end

    def teardown(self) -> None:
        try:
            if not self.failed:
                self.take(Timelines._end_of_history)
        finally:
            self.stage.run(self.world.clear())
            type(self).histories += 1
            type(self).seconds += time.monotonic() - self.started

    async def _end_of_history(self) -> str:
        """Everything is delivered, no hole is open: then everybody reads what the oracle says, and remembered places close up."""
        self.ending = True
        for process in self.world.processes:
            process.pushes.lost.clear()
        for on in (0, 1):
            await self._fan_out(on, self.delivered[-1:])  # ends the holes of its worker
        while self.world.log.events:
            await self._fan_out(1, [self.world.log.events.pop(0)])
        await asyncio.sleep(max(self.holes_until - LIMITS.hole_ahead_ms / 1000 - time.monotonic(), 0))
        self.holes_until = 0.0
        await self.fail_where_due()
        for process in self.world.processes:
            await process.store.notices.refresh()
        told = []
        while self.newer:
            last = self.newer[-1]
            told.append(await self.go_up(0, 3, True, len(told) % 2) or "")
            if last in self.newer:
                self.newer.remove(last)
        told += [await self.walk(user, 3, 0, on) for user in range(len(NAMES)) for on in (0, 1)]
        told += [await self.walk_profile(user, (user + 1) % len(NAMES), 3, 1) for user in range(len(NAMES))]
        return "\n".join(told)


def _lapsed_notices() -> float:
    """Pages that were degraded since a busy machine has let the notices grow too old."""
    return float(metrics.DEGRADED_PAGES.labels("notices")._value.get())


def _pulled_skips() -> float:
    return float(metrics.LEFT_OUT.labels("pulled")._value.get())


@pytest.fixture
def stage(engines: Control) -> Iterator[Stage]:
    made = Stage(engines.env)
    try:
        yield made
    finally:
        made.close()


def report() -> str:
    total = sum(Timelines.done.values()) + sum(Timelines.void.values())
    lines = [
        f"{Timelines.histories} histories, {total / max(Timelines.histories, 1):.1f} steps and "
        f"{Timelines.seconds / max(Timelines.histories, 1):.2f} s each"
    ]
    for name, count in Timelines.done.most_common():
        nothing = f" (and {Timelines.void[name]} times nothing to do)" if Timelines.void[name] else ""
        lines.append(f"  {name:16} {count:6} {100 * count / total:5.1f} %{nothing}")
    never = _STEPS.keys() - Timelines.done.keys()
    if never:
        lines.append(f"  never: {', '.join(sorted(never))}")
    lines += [f"  {name}: {count}" for name, count in sorted(Timelines.seen.items())]
    polls = max(Timelines.seen["polls"], 1)
    lines.append(f"  resets: {100 * Timelines.seen['resets'] / polls:.1f} % of polls, by what had happened before:")
    lines += [f"    {reason}: {count}" for reason, count in Timelines.resets.most_common()]
    return "\n".join(lines)


@pytest.mark.timeout(0 if HISTORIES > 50 else 600)
def test_every_history_reads_as_the_oracle_says(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """Down: what the oracle has, page by page, at any moment. Up: everything once, or `reset` with a reason."""
    Timelines.stage = stage
    for counter in (Timelines.done, Timelines.void, Timelines.seen, Timelines.resets):
        counter.clear()
    Timelines.histories, Timelines.seconds = 0, 0.0
    shrinks = (Phase.shrink,) if os.environ.get("TIMELINE_MACHINE_SHRINK") else ()
    try:
        run_state_machine_as_test(
            Timelines,
            settings=settings(
                max_examples=HISTORIES,
                # its own makes five of six histories by repeating parts of another one, and this one makes each anew
                backend="hypothesis-urandom",
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                print_blob=False,
                phases=(Phase.generate, *shrinks),
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        with capsys.disabled():
            print(f"\n{report()}")
    if HISTORIES >= 100:
        assert not _STEPS.keys() - Timelines.done.keys(), "a rule that never did anything"
    polls, resets = Timelines.seen["polls"], Timelines.seen["resets"]
    assert resets <= polls * RESETS_MAX, "a service that always says reset would pass"
