"""A world from files as `timeline load` reads them: who follows whom, and what they did, in its order.

hybrid81k is SNAP's ego-Twitter laid over the users of its Higgs-Twitter (McAuley and Leskovec 2012, De Domenico et al. 2013): 81,306
users, 2,106,919 follows, 350,573 posts of 1 to 7 July 2012, 21,038,889 deliveries.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from timeline.cache.appends import Appends
from timeline.domain.entries import ENTRY, ENTRY_BYTES, RETWEET_BIT, UserIds
from timeline.domain.events import TweetCreated
from timeline.domain.ids import TweetId, UserId, first_id_at
from timeline.ops.files import Kind, read_follows, read_posts

Numbers = npt.NDArray[np.int64]

_MINTED_A_MS = 100  # a service of 100,000 posts a second: all of the world is a few seconds old when it is told
_BATCH_POSTS = 500  # what a worker takes at once (limits.fanout_batch_events)
_NOBODY = -1


class NoWorld(Exception):
    """A file of it is not there: which, and what to do."""


def files(folder: Path | None) -> tuple[Path, Path]:
    """Follows and posts of hybrid81k in that folder, or TIMELINE_DATA_DIR, or ../shared/data beside the clone. Raises NoWorld."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    chosen = folder or Path(os.environ.get("TIMELINE_DATA_DIR", beside))
    found = chosen / "hybrid81k.follows.gz", chosen / "hybrid81k.posts.gz"
    for path in found:
        if not path.is_file():
            raise NoWorld(f"there is no file {path}: name the folder of hybrid81k with --data or TIMELINE_DATA_DIR")
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Hybrid:
    """`users` ascending. Post i is by `author[i]`; it retweets post `source[i]` or replies to user `addressed[i]`, -1 where it does
    not. `followers[starts[a] : starts[a + 1]]` follow user a."""

    users: UserIds
    author: UserIds
    source: Numbers
    addressed: Numbers
    starts: Numbers
    followers: UserIds

    @property
    def posts(self) -> int:
        return len(self.author)

    @property
    def deliveries(self) -> int:
        """To followers: one's own posts, which stand in one's own home too, are not counted."""
        return int(self._counts(self.author).sum())

    @property
    def arrivals(self) -> Numbers:
        """How many entries each of `users` must get: of everybody followed, and their own."""
        posted = np.bincount(self.author, minlength=len(self.starts))
        of_follow = np.repeat(posted[: len(self.starts) - 1], np.diff(self.starts))
        total = np.bincount(self.followers, weights=of_follow, minlength=len(self.starts)).astype(np.int64)
        result: Numbers = (total + posted)[self.users]
        return result

    def follows(self) -> tuple[UserIds, UserIds]:
        """Those whom any post reaches, as two columns: follower, followee."""
        authors = np.unique(self.author)
        followee = np.repeat(authors, self._counts(authors))
        return self._followers_of(authors), followee

    def mint(self) -> Numbers:
        """Ids of the posts: the last ones are of now."""
        at = np.arange(self.posts, dtype=np.int64)
        first_ms = time.time_ns() // 1_000_000 - self.posts // _MINTED_A_MS
        return int(first_id_at(first_ms)) + (at // _MINTED_A_MS << 22) + at % _MINTED_A_MS

    def events(self, ids: Numbers) -> Iterator[TweetCreated]:
        """In order."""
        columns = zip(ids.tolist(), self.author.tolist(), self._references(ids).tolist(), strict=True)
        for tweet, author, reference in columns:
            yield TweetCreated(TweetId(tweet), UserId(author), reference)

    def appends(self, ids: Numbers) -> Iterator[Appends]:
        """What their followers get, for a worker's batch of posts at a time."""
        packed = np.empty(self.posts, ENTRY)
        packed["tweet"], packed["author"], packed["ref"] = ids, self.author, self._references(ids)
        rows = packed.view(np.uint8).reshape(-1, ENTRY_BYTES)
        for start in range(0, self.posts, _BATCH_POSTS):
            authors = self.author[start : start + _BATCH_POSTS]
            of_post = np.repeat(np.arange(start, start + len(authors)), self._counts(authors))
            yield Appends(self._followers_of(authors), rows[of_post])

    def first(self, posts: int | None) -> Hybrid:
        """The same with no more posts than that."""
        return Hybrid(
            self.users, self.author[:posts], self.source[:posts], self.addressed[:posts], self.starts, self.followers
        )

    def again(self, times: int) -> Hybrid:
        """The same posts so many times over, each time after the last."""
        after = np.repeat(np.arange(times), self.posts) * self.posts
        source = np.tile(self.source, times)
        source = np.where(source == _NOBODY, _NOBODY, source + after)
        author, addressed = np.tile(self.author, times), np.tile(self.addressed, times)
        return Hybrid(self.users, author, source, addressed, self.starts, self.followers)

    def _references(self, ids: Numbers) -> npt.NDArray[np.uint64]:
        retweeted = ids[self.source].astype(np.uint64) | np.uint64(RETWEET_BIT)
        replied = np.maximum(self.addressed, 0).astype(np.uint64)
        result: npt.NDArray[np.uint64] = np.where(self.source != _NOBODY, retweeted, replied)
        return result

    def _counts(self, authors: UserIds) -> Numbers:
        return self.starts[authors + 1] - self.starts[authors]

    def _followers_of(self, authors: UserIds) -> UserIds:
        parts = [self.followers[self.starts[author] : self.starts[author + 1]] for author in authors.tolist()]
        return np.concatenate([np.empty(0, np.int64), *parts])


def read(follows: Path, posts: Path, limit: int | None = None) -> Hybrid:
    """With the first `limit` posts. Raises BadFile, OSError."""
    edges = read_follows(follows)
    pairs = np.unique(np.stack([edges.followee, edges.follower], axis=1), axis=0)
    rows = list(islice(read_posts(posts), limit))
    place = {row.post_id: at for at, row in enumerate(rows)}
    author = np.array([row.author for row in rows], np.int64)
    source = [place[row.ref_post] if row.kind is Kind.retweet else _NOBODY for row in rows]
    addressed = [rows[place[row.ref_post]].author if row.kind is Kind.reply else _NOBODY for row in rows]
    users = np.unique(np.concatenate([pairs.ravel(), author]))
    counts = np.bincount(pairs[:, 0], minlength=int(users[-1]) + 1)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    return Hybrid(users, author, np.array(source), np.array(addressed), starts, pairs[:, 1].copy())
