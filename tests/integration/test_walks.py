"""Walks over random histories, in both directions, equal the oracle: limits shrunk to single digits, real engines, one process.

What is random: who posts, replies, retweets, undoes, edits, deletes, follows, blocks and mutes, and who ends it; when each event is
delivered, in which order, how late and how often; which lists are evicted; who reads, and with which limit.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator

import numpy as np
import pytest

from tests.integration.world import World, open_world, positions
from timeline.assembly.service import Page
from timeline.domain.errors import BadRequest
from timeline.domain.model import Tweet, Visibility
from timeline.local import Control

STEPS = 80
SEEDS = range(int(os.environ.get("TIMELINE_WALKS", "25")))  # histories; a long run sets more


@pytest.fixture(scope="module")
async def engine_world(engines: Control) -> AsyncIterator[World]:
    async with open_world(engines.env) as made:
        yield made


@pytest.fixture
def world(engine_world: World) -> World:
    """The same engines for all, nobody and nothing of the test before."""
    engine_world.begin()
    return engine_world


class History:
    """One random history; `log` says what happened, for whoever has to understand a failure."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.random = world, random.Random(seed)
        self.users = [world.user(number) for number in range(1, 6)]
        self.delivered: list[Tweet] = []
        self.log: list[str] = []
        self.counts: Counter[str] = Counter()

    async def run(self, steps: int) -> None:
        await self.world.sign_up(*self.users)
        moves = {
            self.post: 6,
            self.reply: 4,
            self.retweet: 5,
            self.delete: 2,
            self.edit: 2,
            self.follow: 6,
            self.unfollow: 1,
            self.block: 1,
            self.unblock: 2,
            self.mute: 1,
            self.unmute: 1,
            self.deliver: 8,
            self.redeliver: 1,
            self.evict: 1,
            self.read: 8,
        }
        for _ in range(steps):
            (move,) = self.random.choices(list(moves), list(moves.values()))
            self.counts[move.__name__] += 1
            await move()

    def any_user(self) -> int:
        return self.random.choice(self.users)

    def any_tweet(self) -> int | None:
        return self.random.choice(list(self.world.oracle.rows)) if self.world.oracle.rows else None

    async def post(self) -> None:
        author = self.any_user()
        only = self.random.random() < 0.2
        tweet = await self.world.post(author, visibility=Visibility.followers if only else Visibility.public)
        self.log.append(f"{author} posts {tweet.id} {'for followers' if only else ''}")

    async def reply(self) -> None:
        author, to = self.any_user(), self.any_tweet()
        try:
            tweet = to and await self.world.post(author, reply_to=to)
        except BadRequest:
            return
        self.log.append(f"{author} replies {tweet and tweet.id} to {to}")

    async def retweet(self) -> None:
        user, what = self.any_user(), self.any_tweet()
        try:
            made = what and await self.world.retweet(user, what)
        except BadRequest:
            return
        self.log.append(f"{user} retweets {what} as {made}")

    async def delete(self) -> None:
        what = self.any_tweet()
        if what is None:
            return
        author = self.world.oracle.rows[what].author
        await self.world.delete(author, what)
        self.log.append(f"{author} deletes {what}")

    async def edit(self) -> None:
        """A retweet's id means the retweeted tweet; who did not write that may not edit it."""
        what = self.any_tweet()
        if what is None:
            return
        author = self.world.oracle.rows[self.world.oracle.rows[what].shown].author
        text = self.random.choice([None, f"edited {self.random.random()}"])
        visibility = self.random.choice([None, *Visibility] if text else list(Visibility))
        try:
            await self.world.edit(author, what, text, visibility)
        except BadRequest as error:
            assert error.kind == "tweet-not-found"  # noqa: PT017 - which is not always raised
            return
        self.log.append(f"{author} edits {what}: {text}, {visibility}")

    async def follow(self) -> None:
        one, other = self.random.sample(self.users, 2)
        try:
            await self.world.follow(one, other)
        except BadRequest:
            assert self.world.oracle.is_barred(one, other)
            return
        assert not self.world.oracle.is_barred(one, other)
        self.log.append(f"{one} follows {other}")

    async def unfollow(self) -> None:
        one, other = self.random.sample(self.users, 2)
        await self.world.unfollow(one, other)
        self.log.append(f"{one} unfollows {other}")

    async def block(self) -> None:
        one, other = self.random.sample(self.users, 2)
        await self.world.block(one, other)
        self.log.append(f"{one} blocks {other}")

    async def unblock(self) -> None:
        """A block that stands, or one of nobody's."""
        standing = [(one, other) for one, others in self.world.oracle.blocks.items() for other in sorted(others)]
        one, other = self.random.choice(standing or [tuple(self.random.sample(self.users, 2))])
        await self.world.unblock(one, other)
        self.log.append(f"{one} unblocks {other}")

    async def mute(self) -> None:
        one, other = self.random.sample(self.users, 2)
        await self.world.mute(one, other)
        self.log.append(f"{one} mutes {other}")

    async def unmute(self) -> None:
        standing = [(one, other) for one, others in self.world.oracle.mutes.items() for other in sorted(others)]
        one, other = self.random.choice(standing or [tuple(self.random.sample(self.users, 2))])
        await self.world.unmute(one, other)
        self.log.append(f"{one} unmutes {other}")

    async def deliver(self) -> None:
        """Some of what is due, in any order."""
        due = self.world.log.events
        self.random.shuffle(due)
        for _ in range(self.random.randint(1, 4)):
            if due:
                tweet = due.pop()
                late = self.random.random() < 0.2
                await self.world.deliver(tweet, late=late)
                self.delivered.append(tweet)
                self.log.append(f"{tweet.id} is delivered {'late' if late else ''}")

    async def redeliver(self) -> None:
        if self.delivered:
            tweet = self.random.choice(self.delivered)
            await self.world.deliver(tweet)
            self.log.append(f"{tweet.id} is delivered again")

    async def evict(self) -> None:
        user = self.any_user()
        await self.world.evict(user)
        self.log.append(f"the list of {user} is evicted")

    async def read(self) -> None:
        """Home from top to bottom: what was delivered, or is one's own, must be there; nothing that does not belong may be."""
        user, limit = self.any_user(), self.random.randint(1, 7)
        walked = await self.world.walk(user, limit)
        due = {tweet.id for tweet in self.world.log.events if tweet.author_id != user}
        self.check(f"home of {user} by {limit}", user, walked, due)

    def check(self, what: str, user: int, walked: list[int], due: set[int]) -> None:
        """What is still due may be missing, and what it would hide may be there."""
        wanted = self.world.oracle.home(user)
        story = "\n".join([*self.log[-40:], f"{what}: {walked}, and should be {wanted} but for {due}"])
        assert walked == sorted(set(walked), reverse=True), f"out of order or twice:\n{story}"
        if not due:
            assert walked == wanted, story
            return
        held_back = {row.shown for row in self.world.oracle.rows.values() if row.id in due}
        surely = [one for one in wanted if one not in due]
        assert set(surely) <= set(walked), f"missing:\n{story}"
        extra = set(walked) - set(wanted)
        assert all(self.world.oracle.rows[one].shown in held_back for one in extra), f"leaked:\n{story}"


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_walk_yields_what_a_recomputation_yields(world: World, seed: int) -> None:
    """Nothing missing, nothing twice, nothing that does not belong: at any moment of a history, and at its end for everybody."""
    history = History(world, seed)
    await history.run(STEPS)
    await world.deliver_all()
    for user in history.users:
        history.check(f"home of {user} at the end", user, await world.walk(user, 2), set())
        if world.oracle.is_barred(user, history.users[0]):
            with pytest.raises(BadRequest, match="no user"):
                await world.walk(history.users[0], 3, profile_of=user)
            continue
        profile = await world.walk(history.users[0], 3, profile_of=user)
        assert profile == world.oracle.profile(user, history.users[0]), "\n".join([*history.log, f"profile of {user}"])
    print(dict(history.counts))


class Polling(History):
    """A reader who polls by `newer_cursor` while others write: what it has seen, and from where it goes on."""

    def __init__(self, world: World, seed: int) -> None:
        super().__init__(world, seed)
        self.me, self.cursor = self.users[0], ""
        self.seen: set[int] = set()
        self.resets = 0

    async def run(self, steps: int) -> None:
        await self.world.sign_up(*self.users)
        for other in self.users[1:]:
            await self.world.follow(self.me, other)
        for one in self.users[1:]:
            await self.world.follow(one, self.me)
        await self.restart()
        moves = {
            self.post: 6,
            self.reply: 2,
            self.retweet: 3,
            self.deliver: 8,
            self.redeliver: 3,
            self.evict_mine: 1,
            self.poll: 6,
        }
        for _ in range(steps):
            (move,) = self.random.choices(list(moves), list(moves.values()))
            await move()
        await self.world.deliver_all()
        await self.poll()

    async def restart(self) -> None:
        """The first page, and all below it."""
        limit = self.random.randint(1, 4)
        page = await self.world.home(self.me, None, limit)
        self.cursor, self.seen = page.newer_cursor, set(positions(page))
        while page.next_cursor is not None:
            page = await self.world.home(self.me, page.next_cursor, limit)
            self.seen |= set(positions(page))

    async def evict_mine(self) -> None:
        await self.world.evict(self.me)
        self.log.append("my list is evicted")

    async def poll(self) -> None:
        limit = self.random.randint(1, 3)
        for _ in range(200):
            page = await self.world.home(self.me, self.cursor, limit)
            found = positions(page)
            self.log.append(f"polled {found} {'gap' if page.gap else ''} {'reset' if page.reset else ''}")
            self.cursor = page.newer_cursor
            if page.reset:
                self.resets += 1
                await self.restart()
                break
            assert found == sorted(set(found), reverse=True)
            assert not self.seen & set(found), "\n".join([*self.log[-40:], f"seen before: {self.seen & set(found)}"])
            self.seen |= set(found)
            if not page.gap:
                break
        else:
            raise AssertionError("\n".join([*self.log[-40:], "a gap that never closes"]))
        due = {tweet.id for tweet in self.world.log.events if tweet.author_id != self.me}
        # a retweet may have been hidden by a place that came late: then it was seen, and would not be now
        wanted = {one for one in self.world.oracle.home(self.me) if one not in due}
        missing = wanted - self.seen
        held_back = {row.shown for row in self.world.oracle.rows.values() if row.id in due}
        missing = {one for one in missing if self.world.oracle.rows[one].shown not in held_back}
        assert not missing, "\n".join([*self.log[-40:], f"never seen: {missing}"])


@pytest.mark.parametrize("seed", SEEDS)
async def test_polling_by_newer_cursor_sees_everything_once(world: World, seed: int) -> None:
    """Whatever arrives, in whatever order, late or twice, also when the page rules hide much: seen once, or the answer says reset."""
    polling = Polling(world, seed)
    await polling.run(STEPS)


async def have_followed(world: World, one: int, other: int) -> None:
    """Since long ago: nobody is pulled as one whom the list may lack."""
    long_ago_us = time.time_ns() // 1_000 - 3_600_000_000
    await world.store.bulk.load_follows(np.array([one]), np.array([other]), long_ago_us)
    world.oracle.follows[one].add(other)


async def test_newer_returns_what_came_once_wherever_it_belongs(world: World) -> None:
    """Late arrivals below the page are returned, redeliveries are not, and a full page says that there is a gap."""
    me, other = world.user(1), world.user(2)
    await world.sign_up(me, other)
    await have_followed(world, me, other)
    await world.walk(me)
    first = [await world.post(other) for _ in range(3)]
    world.log.events.clear()
    await world.deliver(first[0], first[2])
    page = await world.home(me)
    assert positions(page) == [first[2].id, first[0].id]
    await world.deliver(first[2])
    again = await world.home(me, page.newer_cursor)
    assert (positions(again), again.gap, again.reset) == ([], False, False)
    await world.deliver(first[1], late=True)
    more = [await world.post(other) for _ in range(4)]
    world.log.events.clear()
    await world.deliver(*more)
    found: list[int] = []
    cursor = again.newer_cursor
    for _ in range(10):
        page = await world.home(me, cursor, 2)
        assert not page.reset
        found += sorted(positions(page))
        cursor = page.newer_cursor
        if not page.gap:
            break
    assert found == [first[1].id, *(tweet.id for tweet in more)]


async def test_newer_than_an_older_page_leads_back_up_without_a_hole(world: World) -> None:
    """Down by `next_cursor`, then up by `newer_cursor` from the lowest page, gives everything once in both directions."""
    me, other = world.user(1), world.user(2)
    await world.sign_up(me, other)
    await have_followed(world, me, other)
    await world.walk(me)
    for _ in range(7):
        await world.post(other)
    await world.deliver_all()
    page = await world.home(me, None, 2)
    while page.next_cursor is not None:
        page = await world.home(me, page.next_cursor, 2)
    up, cursor = positions(page), page.newer_cursor
    for _ in range(20):
        page = await world.home(me, cursor, 2)
        up += sorted(positions(page))
        cursor = page.newer_cursor
        if not page.gap:
            break
    assert up == sorted(world.oracle.home(me))


async def test_a_list_that_is_gone_and_one_that_is_not_trusted_are_rebuilt(world: World) -> None:
    """Evicted, and back: the whole history, at once; and the list is there again, so that pushes reach it."""
    me, other = world.user(1), world.user(2)
    await world.sign_up(me, other)
    await have_followed(world, me, other)
    for _ in range(20):
        await world.post(other)
    world.log.events.clear()  # nothing was ever delivered
    assert await world.walk(me, 5) == world.oracle.home(me)
    tweet = await world.post(other)
    await world.deliver_all()
    page = await world.home(me)
    assert positions(page)[0] == tweet.id
    assert page.source == "cache"


async def test_a_poll_gets_past_tweets_of_one_moment_that_one_reading_of_the_store_does_not_hold(world: World) -> None:
    """Of an author who is pulled from the store, more than pull_rows_per_author within W: a gap closes all the same."""
    me, other = world.user(1), world.user(2)
    await world.sign_up(me, other)
    await world.follow(me, other)
    await world.walk(me)
    for _ in range(7):
        await world.post(other)

    async def pulled_from_the_store(cursor: str | None) -> Page:
        await world.settle()
        await world.evict(other, "profile")
        return await world.home(me, cursor, 2)

    page = await pulled_from_the_store(None)
    while page.next_cursor is not None:
        page = await pulled_from_the_store(page.next_cursor)
    up = positions(page)
    for _ in range(20):
        page = await pulled_from_the_store(page.newer_cursor)
        assert not page.reset
        up += sorted(positions(page))
        if not page.gap:
            break
    assert not page.gap
    assert up == sorted(world.oracle.home(me))


async def test_what_a_page_had_from_below_the_list_is_not_told_again(world: World) -> None:
    """Of an author who is pulled, younger than W, and yet below the floor of a list that was trimmed since."""
    me, other = world.user(1), world.user(2)
    await world.sign_up(me, other)
    await world.follow(me, other)
    await world.walk(me)
    for _ in range(3):
        await world.post(other)
    for _ in range(12):
        await world.post(me)
    await world.settle()
    await world.evict(other, "profile")
    page = await world.home(me, None, 20)
    assert positions(page) == world.oracle.home(me)
    page = await world.home(me, page.newer_cursor, 20)
    assert (positions(page), page.gap) == ([], False)
