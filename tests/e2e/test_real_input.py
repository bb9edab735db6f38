"""Real input through the whole service, as real processes, with the largest authors pulled: every walk equals a recomputation from the
files, id for id, and whoever goes up by `newer_cursor` while posts arrive has seen everything once.

Small by default: the demo world's follows and its first rows, with a low threshold and short leases. `TIMELINE_REPLAY=full` replays
the first 50,000 rows of hybrid81k over all its 2,106,919 follows, with a threshold of 1,000 and the limits of production, from
TIMELINE_DATA_DIR or ../shared/data beside the clone; it takes some twenty minutes on two cores. `TIMELINE_REPLAY_SEED` repeats a
sample.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pytest

from tests.e2e.inside import Lists, messages_behind
from tests.e2e.readers import ASKED_AGAIN, HOME, Follower, Walk, walk_down
from tests.oracle import Oracle, Row
from tests.stack import BRISK, Stack, running, until
from timeline.domain.limits import Limits
from timeline.local import Control
from timeline.ops import demo
from timeline.ops.files import Kind, read_follows, read_posts

FULL = os.environ.get("TIMELINE_REPLAY") == "full"
FIRST_ROWS = 100  # before these users read nothing is there; after them half of the sample has lists to push to
LARGEST = 5
PAGES = (100, 20, 7)  # limits, by turns

# Small lists, so that floors, trims and the store below them matter; leases of a second or two, so that they run out
SMALL = {
    "timeline_entries_max": 60,
    "timeline_slack": 15,
    "profile_entries_max": 20,
    "tail_entries": 20,
    **BRISK,
}


@dataclass(frozen=True)
class Size:
    follows: Path
    posts: Path
    rows: int
    middle: int  # so many rows are there when everybody has walked down
    sample: int
    load_seconds: int
    threshold: int
    limits: dict[str, int] = field(default_factory=dict)
    rate: int | None = None  # of the second part; None: as fast as it goes

    @staticmethod
    def chosen() -> Size:
        if not FULL:
            return Size(demo.FOLLOWS, demo.POSTS, 2_000, 1_400, 40, 240, 200, SMALL, 60)
        folder = Path(os.environ.get("TIMELINE_DATA_DIR", Path(__file__).parents[3] / "shared" / "data"))
        return Size(folder / "hybrid81k.follows.gz", folder / "hybrid81k.posts.gz", 50_000, 25_000, 500, 3_600, 1_000)


class World:
    """The files, what the service made of them, and what homes must hold."""

    def __init__(self, size: Size, stack: Stack, journal: Path) -> None:
        self.size, self.stack, self.journal = size, stack, journal
        self.limits = Limits(**size.limits)
        self.oracle = Oracle()
        follows = read_follows(size.follows)
        for one, other in zip(follows.follower.tolist(), follows.followee.tolist(), strict=True):
            self.oracle.follows[one].add(other)
        self.followers = Counter(follows.followee.tolist())
        self.followees = Counter(follows.follower.tolist())
        self.rows = list(islice(read_posts(size.posts), size.rows))

    def load(self, rows: int, rate: int | None = None) -> str:
        files = ("--follows", str(self.size.follows), "--posts", str(self.size.posts))
        pace = () if rate is None else ("--rate", str(rate))
        arguments = (*files, "--limit", str(rows), "--journal", str(self.journal), *pace)
        patient = json.dumps({**self.size.limits, "cassandra_timeout_ms": 20_000})  # two million follows, on two cores
        return self.stack.run("load", *arguments, seconds=self.size.load_seconds, TIMELINE_LIMITS=patient)

    def tell_oracle(self, rows: int) -> None:
        """Which tweet a row became stands in the journal; all else is from the file."""
        noted = (line.split() for line in self.journal.read_text().splitlines()[1:] if line != "graph")
        ids = {int(row): int(tweet) for row, tweet in noted}
        author_of = {row.post_id: row.author for row in self.rows}
        for row in self.rows[:rows]:
            made = Row(ids[row.post_id], row.author)
            if row.kind is Kind.retweet:
                made.source = ids[row.ref_post]
            elif row.kind is Kind.reply:
                made.reply_to_user = author_of[row.ref_post]
            self.oracle.add(made)

    def sample(self, seed: int) -> list[int]:
        """Users by chance, and the largest by followers and by followees."""
        everybody = sorted(set(self.followers) | set(self.followees))
        largest = [user for by in (self.followers, self.followees) for user, _ in by.most_common(LARGEST)]
        return list(dict.fromkeys([*random.Random(seed).sample(everybody, self.size.sample), *largest]))

    def until_follows_are_old(self) -> None:
        """Whom one began to follow lately is pulled, large or small."""
        since_ms = int(self.journal.read_text().split(maxsplit=3)[2]) / 1000
        wait = self.limits.fresh_follow_ms / 1000
        until(lambda: time.time() > since_ms / 1000 + wait, wait + 5, "follows that are fresh no more")

    def until_delivered(self, rows: int) -> None:
        """Everything that belongs in lists is there, and whoever has too many followers and has posted is known as pulled."""
        until(lambda: messages_behind(self.stack) == 0, 600 if FULL else 60, "fan-out caught up")
        large = {row.author for row in self.rows[:rows] if self.followers[row.author] > self.size.threshold}
        until(lambda: self.stack.metric("fanout", "timeline_pulled_authors") == len(large), 30, f"{len(large)} pulled")

    def until_all_know(self) -> None:
        """Nobody believes any more what was read before, so fan-out leaves out the followers of whoever is pulled now."""
        seconds = self.limits.notices_lease_ms / 1000
        known = time.monotonic() + seconds
        until(lambda: time.monotonic() > known, seconds + 5, "the lease of older notices has run out")


@pytest.fixture
def world(engines: Control, tmp_path: Path) -> Iterator[World]:
    size = Size.chosen()
    settings = {
        "TIMELINE_PUSH_FOLLOWERS_MAX": str(size.threshold),
        "TIMELINE_LIMITS": json.dumps(size.limits),
    }
    with running(engines.env, tmp_path, "api", "fanout", "relay", **settings) as stack:
        yield World(size, stack, tmp_path / "journal")


@pytest.fixture
def lists(world: World) -> Iterator[Lists]:
    made = Lists(world.stack)
    yield made
    made.close()


def difference(found: list[int], wanted: list[int]) -> str:
    """What a failure should say."""
    missing, extra = [one for one in wanted if one not in found], [one for one in found if one not in wanted]
    twice = [one for one, count in Counter(found).items() if count > 1]
    return f"{len(found)} of {len(wanted)}; missing {missing[:5]}, extra {extra[:5]}, twice {twice[:5]}"


@pytest.mark.timeout(2 * 3600 if FULL else 420)
def test_every_walk_over_real_input_equals_a_recomputation_from_the_files(world: World, lists: Lists) -> None:
    """For a sample and the largest, half of whom have lists from the beginning. In the middle everybody walks down to the beginning of
    history; then up again by `newer_cursor`, from the top and from the bottom, while the rest arrives; at the end down once more."""
    seed = int(os.environ.get("TIMELINE_REPLAY_SEED") or random.SystemRandom().randrange(2**32))
    print(f"\nTIMELINE_REPLAY_SEED={seed}")
    print(world.load(FIRST_ROWS))
    sample = world.sample(seed)
    early, late = sample[::2], sample[1::2]
    make_lists(world, lists, early[::2])
    world.until_follows_are_old()
    make_lists(world, lists, early[1::2])
    assert not any(map(lists.exists, late))

    middle = world.size.middle
    print(world.load(middle))
    world.tell_oracle(middle)
    world.until_delivered(middle)
    world.until_all_know()
    assert all(map(lists.exists, early))
    walks = check_down(world, sample)
    for user in early[::10]:
        lists.evict(user)
    check_up(world, sample, walks)
    for user in early[5::10]:
        lists.evict(user)
    check_again(world, sample)
    left_out, pulled = (
        world.stack.metric("fanout", name) for name in ("timeline_left_out_total", "timeline_pulled_authors")
    )
    print(f"{pulled:,.0f} authors are pulled; fan-out left out {left_out:,.0f} of their tweets")
    assert left_out > 0
    print(f"asked for again: {dict(ASKED_AGAIN)}")
    print(
        "\n".join(told(world.stack, "timeline_rebuilds_total", "timeline_degraded_pages_total", "timeline_pages_total"))
    )


def make_lists(world: World, lists: Lists, users: Sequence[int]) -> None:
    """They read. An engine that does not answer in time may leave somebody without a list until the next read."""
    for user in users:
        until(lambda user=user: walk_down(world.stack, user, 100) and lists.exists(user), what=f"a list of {user}")  # type: ignore[misc]


def check_down(world: World, sample: Sequence[int]) -> list[Walk]:
    """Everybody, while nothing is posted: exactly what a recomputation says."""
    wrong, walks, began, via = [], [], time.monotonic(), Counter[str]()
    for number, user in enumerate(sample):
        limit = PAGES[number % len(PAGES)]
        walks.append(walk_down(world.stack, user, limit))
        via += walks[-1].via
        wanted = world.oracle.home(user)
        if walks[-1].positions != wanted:
            wrong.append(f"home of {user}, {limit} a page: {difference(walks[-1].positions, wanted)}")
    assert not wrong, "\n".join([f"in the middle {len(wrong)} walks differ", *wrong[:20]])
    assert {"pulled", "pushed", "store"} <= set(via), "not everything that a walk can go through was gone through"
    items = sum(len(walk.positions) for walk in walks)
    print(
        f"middle: {len(walks)} users walked down {items:,} items in {time.monotonic() - began:.0f} s, {dict(sorted(via.items()))}"
    )
    return walks


def check_up(world: World, sample: Sequence[int], walks: Sequence[Walk]) -> None:
    """Everybody up from the first page and from the last one, while the rest arrives; some walk down again as well."""
    pairs = list(zip(sample, walks, strict=True))
    limits = [PAGES[number % len(PAGES)] for number in range(len(pairs))]
    top = [
        Follower(world.stack, user, limit, walk.newer_cursor, walk.positions)
        for (user, walk), limit in zip(pairs, limits, strict=True)
    ]
    bottom = [
        Follower(world.stack, user, limit, walk.bottom_newer_cursor, walk.bottom)
        for (user, walk), limit in zip(pairs, limits, strict=True)
    ]
    wrong: list[str] = []
    began, rounds = time.monotonic(), 0
    with ThreadPoolExecutor(1) as pool:
        loading: Future[str] = pool.submit(world.load, world.size.rows, world.size.rate)
        while not loading.done():
            rounds += 1
            for follower in (*bottom, *top):
                follower.poll()
            for user, walk in pairs[rounds % 10 :: 10]:
                wrong += differs_in_flight(user, walk, walk_down(world.stack, user, 20))
        print(loading.result())
    world.tell_oracle(world.size.rows)
    world.until_delivered(world.size.rows)
    for follower in (*bottom, *top):
        follower.poll()
    for what, followers in (("from the top", top), ("from the bottom", bottom)):
        for follower in followers:
            if said := follower.check(world.oracle, world.oracle.home(follower.user)):
                wrong.append(f"{follower.user} {what}, {follower.resets} resets: {said}")
        figures = {
            name: sum(getattr(follower, name) for follower in followers) for name in ("pages", "items", "both_ways")
        }
        resets = [follower.resets for follower in followers if follower.resets]
        print(f"up {what}: {figures}; {len(resets)} of {len(followers)} were told to reset, {sum(resets)} times in all")
    assert not wrong, "\n".join([f"on the way up {len(wrong)} differ", *wrong[:20]])
    print(f"up: {rounds} rounds in {time.monotonic() - began:.0f} s")


def differs_in_flight(user: int, before: Walk, now: Walk) -> list[str]:
    """A walk while posts arrive has all that was there before, and nothing twice."""
    missing = sorted(set(before.positions) - set(now.positions))
    if not missing and now.positions == sorted(set(now.positions), reverse=True):
        return []
    return [f"home of {user} while posts arrive: {len(now.positions)} items, missing {missing[:5]}, or out of order"]


def check_again(world: World, sample: Sequence[int]) -> None:
    """Home and profile of everybody, when all has arrived."""
    wrong, items, began = [], 0, time.monotonic()
    for number, user in enumerate(sample):
        limit, reader = (100, 20)[number % 2], sample[number - 1]
        home, profile = world.oracle.home(user), world.oracle.profile(user, reader)
        for what, path, who, wanted in (
            ("home", HOME, user, home),
            ("home again", HOME, user, home),
            ("profile", f"/api/timeline/user/{user}", reader, profile),
        ):
            found = walk_down(world.stack, who, limit, path).positions
            items += len(found)
            if found != wanted:
                wrong.append(f"{what} of {user}, read by {who}, {limit} a page: {difference(found, wanted)}")
    assert not wrong, "\n".join([f"at the end {len(wrong)} walks differ", *wrong[:20]])
    longest = max(len(world.oracle.home(user)) for user in sample)
    print(
        f"end: {len(sample)} users, {items:,} items walked in {time.monotonic() - began:.0f} s; the longest home is {longest:,}"
    )


def told(stack: Stack, *names: str) -> list[str]:
    """The api's metrics of these names, as they are."""
    return [line for line in stack.metrics("api").splitlines() if line.startswith(names)]
