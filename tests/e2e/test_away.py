"""A reader who was away: evicted, and 5,000 tweets later back. Half of whom he follows have come to be pulled meanwhile."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.inside import Lists, messages_behind
from tests.e2e.readers import HOME, Follower, positions, read_page, walk_down
from tests.oracle import Oracle, Row
from tests.stack import BRISK, Stack, running, until
from timeline.domain.limits import Limits
from timeline.local import Control

READER = 1
AUTHORS = range(101, 141)
LARGE = AUTHORS[:20]
FANS = range(1_001, 1_061)
THRESHOLD = 50
BEFORE, AWAY, AFTER = 400, 5_000, 40
AT_ONCE_SECONDS = 2.0  # of a first page whose history must be read from the store, on a machine that runs all engines
LIMITS = BRISK


@dataclass
class World:
    """Its files; and what homes must hold, of the rows that were loaded."""

    stack: Stack
    folder: Path
    oracle: Oracle

    def write(self, seed: int) -> None:
        """READER follows all authors, FANS the large ones. Retweets and replies name tweets and replies a little further up."""
        pairs = [(READER, author) for author in AUTHORS] + [(fan, author) for fan in FANS for author in LARGE]
        for one, other in pairs:
            self.oracle.follows[one].add(other)
        (self.folder / "follows").write_text("".join(f"{one} {other}\n" for one, other in pairs))
        by_chance = random.Random(seed)
        rows: list[str] = []
        tweets: list[int] = []
        for row in range(1, BEFORE + AWAY + AFTER + 1):
            kind = by_chance.choices(("P", "RT", "RE"), (70, 20, 10))[0] if row > 50 else "P"
            source = 0 if kind == "P" else by_chance.choice(tweets[-50:])
            tweets += [row] if kind != "RT" else []
            rows.append(f"{row} {row} {by_chance.choice(AUTHORS)} {kind} {source} 0\n")
        (self.folder / "posts").write_text("".join(rows))

    def load(self, rows: int) -> str:
        """The first rows, and tell the oracle what they became."""
        files = [f"--{name}={self.folder / name}" for name in ("follows", "posts", "journal")]
        told = self.stack.run("load", *files, f"--limit={rows}")
        noted = (line.split() for line in (self.folder / "journal").read_text().splitlines()[1:] if line != "graph")
        ids = {int(row): int(tweet) for row, tweet in noted}
        lines = [line.split() for line in (self.folder / "posts").read_text().splitlines()[:rows]]
        author_of = {int(row): int(author) for row, _, author, *_ in lines}
        for row, _, author, kind, source, _ in lines:
            made = Row(ids[int(row)], int(author))
            if kind == "RT":
                made.source = ids[int(source)]
            elif kind == "RE":
                made.reply_to_user = author_of[int(source)]
            self.oracle.add(made)
        return told

    def until_delivered(self) -> None:
        until(lambda: messages_behind(self.stack) == 0, 60, "fan-out caught up")
        until(lambda: self.stack.metric("fanout", "timeline_pulled_authors") == len(LARGE), 30, "large ones are pulled")


@pytest.fixture
def world(engines: Control, tmp_path: Path) -> Iterator[World]:
    settings = {"TIMELINE_PUSH_FOLLOWERS_MAX": str(THRESHOLD), "TIMELINE_LIMITS": json.dumps(LIMITS)}
    with running(engines.env, tmp_path, "api", "fanout", "relay", **settings) as stack:
        yield World(stack, tmp_path, Oracle())


def test_who_comes_back_after_5000_tweets_has_the_first_page_at_once_and_all_of_history(world: World) -> None:
    """The first page is what a recomputation says, down to the beginning of history; and the cursors from before he went away still
    lead both ways."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"\nseed {seed}")
    world.write(seed)
    world.load(BEFORE)
    world.until_delivered()
    before = walk_down(world.stack, READER, 20)
    assert before.positions == world.oracle.home(READER)
    first = read_page(world.stack, HOME, READER, 20)
    lease = time.monotonic() + Limits(**LIMITS).notices_lease_ms / 1000
    until(lambda: time.monotonic() > lease, 10, "everybody knows who is pulled")

    lists = Lists(world.stack)
    lists.evict(READER)
    print(world.load(BEFORE + AWAY))
    world.until_delivered()
    assert not lists.exists(READER), "nothing is kept for who is away"
    lists.close()
    left_out = world.stack.metric("fanout", "timeline_left_out_total")
    assert left_out > AWAY / 4, "half of the authors are pulled by now"

    home = world.oracle.home(READER)
    began = time.monotonic()
    back = read_page(world.stack, HOME, READER, 20)
    took = time.monotonic() - began
    assert positions(back) == home[:20]
    assert took < AT_ONCE_SECONDS
    again = time.monotonic()
    assert positions(read_page(world.stack, HOME, READER, 20)) == home[:20]
    then = time.monotonic() - again
    walk = walk_down(world.stack, READER, 100)
    assert walk.positions == home
    assert walk.via["pulled"], "the large ones are not in the list"
    print(
        f"{left_out:,.0f} tweets were left out; the first page took {took * 1000:.0f} ms ({back['source']}), the second"
    )
    print(f"time {then * 1000:.0f} ms; home of {len(home):,} walked down, {dict(walk.via)}")

    down = first["next_cursor"]
    found = positions(first)
    while down is not None:
        page = read_page(world.stack, HOME, READER, 100, down)
        found += positions(page)
        down = page["next_cursor"]
    assert found == before.positions, "the cursor from before goes down to where it went before"
    climb = Climb(world.stack, first["newer_cursor"], before.positions)
    assert climb.found == [one for one in home if one not in set(before.positions)]

    follower = Follower(world.stack, READER, 20, back["newer_cursor"], home)
    world.load(BEFORE + AWAY + AFTER)
    world.until_delivered()
    follower.poll()
    assert not follower.check(world.oracle, world.oracle.home(READER))
    print(
        f"up from before: {climb.pages} pages, {climb.resets} said reset; up since then: {follower.resets} of {follower.pages}"
    )


class Climb:
    """Up from a page read long ago, without a first page in between: whatever a `reset` says, all that is above comes, once."""

    def __init__(self, stack: Stack, cursor: str, seen: list[int]) -> None:
        self.found: list[int] = []
        self.pages = self.resets = 0
        while True:
            page = read_page(stack, HOME, READER, 100, cursor)
            self.pages += 1
            self.resets += page["reset"]
            self.found = positions(page) + self.found
            cursor = page["newer_cursor"]
            if not page["gap"]:
                return
