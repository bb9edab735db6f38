"""Real input through the whole service, as real processes: every walk equals a recomputation from the files, id for id.

Small by default: the demo world's follows and its first rows. `TIMELINE_REPLAY=full` replays the first 50,000 rows of hybrid81k over
all its 2,106,919 follows, from TIMELINE_DATA_DIR or ../shared/data beside the clone, and takes some ten minutes on two cores.
`TIMELINE_REPLAY_SEED` repeats a sample.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition
from redis.cluster import ClusterNode, RedisCluster

from tests.oracle import Oracle, Row
from tests.stack import Stack, running, until
from timeline.local import Control
from timeline.ops import demo
from timeline.ops.files import Kind, read_follows, read_posts

FULL = os.environ.get("TIMELINE_REPLAY") == "full"
FIRST_ROWS = 100  # before these users read nothing is there; after them half of the sample has lists to push to
LARGEST = 5


@dataclass(frozen=True)
class Size:
    follows: Path
    posts: Path
    rows: int
    sample: int
    load_seconds: int

    @staticmethod
    def chosen() -> Size:
        if not FULL:
            return Size(demo.FOLLOWS, demo.POSTS, 1_500, 60, 240)
        folder = Path(os.environ.get("TIMELINE_DATA_DIR", Path(__file__).parents[3] / "shared" / "data"))
        return Size(folder / "hybrid81k.follows.gz", folder / "hybrid81k.posts.gz", 50_000, 500, 3_600)


class World:
    """The files, what the service made of them, and what homes must hold."""

    def __init__(self, size: Size, stack: Stack, journal: Path) -> None:
        self.size, self.stack, self.journal = size, stack, journal
        self.oracle = Oracle()
        follows = read_follows(size.follows)
        for one, other in zip(follows.follower.tolist(), follows.followee.tolist(), strict=True):
            self.oracle.follows[one].add(other)
        self.followers = Counter(follows.followee.tolist())
        self.followees = Counter(follows.follower.tolist())

    def load(self, rows: int) -> str:
        files = ("--follows", str(self.size.follows), "--posts", str(self.size.posts))
        arguments = (*files, "--limit", str(rows), "--journal", str(self.journal))
        return self.stack.run("load", *arguments, seconds=self.size.load_seconds)

    def tell_oracle(self) -> None:
        """Which tweet a row became stands in the journal; all else is from the file."""
        noted = (line.split() for line in self.journal.read_text().splitlines()[1:] if line != "graph")
        ids = {int(row): int(tweet) for row, tweet in noted}
        author_of = {}
        for row in islice(read_posts(self.size.posts), self.size.rows):
            author_of[row.post_id] = row.author
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


class Lists:
    """The home lists in Redis."""

    def __init__(self, stack: Stack) -> None:
        nodes = [node.rsplit(":", 1) for node in stack.settings["TIMELINE_REDIS_NODES"].split(",")]
        self._redis = RedisCluster(startup_nodes=[ClusterNode(host, int(port)) for host, port in nodes])
        self._prefix = stack.settings["TIMELINE_REDIS_KEY_PREFIX"]

    def exists(self, user: int) -> bool:
        return bool(self._redis.exists(f"{self._prefix}timeline:{{{user}}}"))

    def evict(self, user: int) -> None:
        self._redis.delete(f"{self._prefix}timeline:{{{user}}}", f"{self._prefix}profile:{{{user}}}")

    def close(self) -> None:
        self._redis.close()


@pytest.fixture
def world(engines: Control, tmp_path: Path) -> Iterator[World]:
    with running(engines.env, tmp_path, "api", "fanout", "relay") as stack:
        yield World(Size.chosen(), stack, tmp_path / "journal")


@pytest.fixture
def lists(world: World) -> Iterator[Lists]:
    made = Lists(world.stack)
    yield made
    made.close()


def messages_behind(stack: Stack) -> int:
    """Between what fan-out has committed and the end of its topic: below what is committed everything is in Redis."""
    settings = stack.settings
    reader = Consumer(
        {"bootstrap.servers": settings["TIMELINE_KAFKA_BOOTSTRAP"], "group.id": settings["TIMELINE_KAFKA_GROUP"]}
    )
    try:
        topic = settings["TIMELINE_KAFKA_TOPIC_PREFIX"] + "tweet.created"
        numbers = reader.list_topics(topic, timeout=10).topics[topic].partitions
        behind = 0
        for place in reader.committed([TopicPartition(topic, number) for number in numbers], timeout=10):
            first, end = reader.get_watermark_offsets(place, timeout=10)
            behind += end - max(place.offset, first)
        return behind
    finally:
        reader.close()


def difference(found: list[int], wanted: list[int]) -> str:
    """What a failure should say."""
    missing, extra = [one for one in wanted if one not in found], [one for one in found if one not in wanted]
    twice = [one for one, count in Counter(found).items() if count > 1]
    return f"{len(found)} of {len(wanted)}; missing {missing[:5]}, extra {extra[:5]}, twice {twice[:5]}"


@pytest.mark.timeout(2 * 3600 if FULL else 420)
def test_every_walk_over_real_input_equals_a_recomputation_from_the_files(world: World, lists: Lists) -> None:
    """Home and profile, for a sample, the largest, and the newly returned, half of whom had lists while the rest was posted."""
    seed = int(os.environ.get("TIMELINE_REPLAY_SEED") or random.SystemRandom().randrange(2**32))
    print(f"\nTIMELINE_REPLAY_SEED={seed}")
    print(world.load(FIRST_ROWS))
    sample = world.sample(seed)
    early, late = sample[::2], sample[1::2]
    for user in early:
        world.stack.walk("/api/timeline/home", user)
    until(lambda: all(map(lists.exists, early)), what="lists of those who have read")
    assert not any(map(lists.exists, late))

    print(world.load(world.size.rows))
    world.tell_oracle()
    until(lambda: messages_behind(world.stack) == 0, 600 if FULL else 60, "fan-out caught up")
    assert all(map(lists.exists, early))
    returned = early[::10]
    for user in returned:
        lists.evict(user)

    wrong, items, began = [], 0, time.monotonic()
    for number, user in enumerate(sample):
        limit, reader = (100, 20)[number % 2], sample[number - 1]
        home, profile = world.oracle.home(user), world.oracle.profile(user, reader)
        for what, path, who, wanted in (
            ("home", "/api/timeline/home", user, home),
            ("home again", "/api/timeline/home", user, home),
            ("profile", f"/api/timeline/user/{user}", reader, profile),
        ):
            found = world.stack.walk(path, who, limit)
            items += len(found)
            if found != wanted:
                wrong.append(f"{what} of {user}, read by {who}, {limit} a page: {difference(found, wanted)}")
    assert not wrong, "\n".join([f"seed {seed}: {len(wrong)} walks differ", *wrong[:20]])
    print(
        f"{len(sample)} users ({len(early)} with lists, {len(returned)} of them returned), {items:,} items walked in "
        f"{time.monotonic() - began:.0f} s; the longest home is {max(len(world.oracle.home(user)) for user in sample):,}"
    )
