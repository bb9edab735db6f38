"""Real input: who follows whom, what they did, and in whose homes that has to be seen."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from timeline.domain.entries import UserIds
from timeline.ops.files import Kind, PostRow, read_follows, read_posts


def read_rows(posts: Path, first: int, rows: int) -> list[PostRow]:
    """In order, from the one numbered `first`."""
    return list(islice(read_posts(posts), first, first + rows))


class Graph:
    """Follows, as two arrays side by side, by followee."""

    def __init__(self, follower: UserIds, followee: UserIds) -> None:
        order = np.lexsort((follower, followee))
        self.follower, self.followee = follower[order], followee[order]

    @staticmethod
    def read(path: Path) -> Graph:
        follows = read_follows(path)
        return Graph(follows.follower, follows.followee)

    @property
    def users(self) -> UserIds:
        return np.union1d(self.follower, self.followee)

    def followers(self, author: int) -> UserIds:
        """Ascending."""
        first, last = np.searchsorted(self.followee, [author, author + 1])
        found: UserIds = self.follower[first:last]
        return found

    def counts(self, authors: Sequence[int]) -> npt.NDArray[np.int64]:
        """How many followers each has."""
        asked = np.asarray(authors, np.int64)
        first, last = (np.searchsorted(self.followee, asked, side) for side in ("left", "right"))
        return np.asarray(last - first, np.int64)


class Shown:
    """Whose home page must show a row. Followers whom a rule may keep from it are left out, so nobody waits in vain: of a reply, who
    does not follow both; of a retweet, in whose home the same tweet may already have a place."""

    def __init__(self, graph: Graph, rows: Sequence[PostRow]) -> None:
        self._graph = graph
        self._rows = {row.post_id: row for row in rows}
        self._shown: dict[int, PostRow] = {}  # by row: the one whose tweet it shows
        self._retweeters: defaultdict[int, set[int]] = defaultdict(set)  # by the row that they retweet
        self.again: set[int] = set()  # retweets of what their author has retweeted before: nothing new
        for row in rows:
            self._note(row)

    def _note(self, row: PostRow) -> None:
        self._shown[row.post_id] = shown = self._shown[row.ref_post] if row.kind is Kind.retweet else row
        if row.kind is Kind.retweet:
            if row.author in self._retweeters[shown.post_id]:
                self.again.add(row.post_id)
            self._retweeters[shown.post_id].add(row.author)

    def to(self, row: PostRow) -> UserIds:
        """Ascending; never the author."""
        followers: UserIds = self._graph.followers(row.author)
        if row.post_id in self.again:
            return followers[:0]
        if row.kind is Kind.reply:
            to = self._shown[row.ref_post].author
            if to != row.author:
                followers = np.intersect1d(followers, np.append(self._graph.followers(to), to))
        if row.kind is Kind.retweet:
            shown = self._shown[row.post_id]
            for other in {shown.author, *self._retweeters[shown.post_id]} - {row.author}:
                followers = np.setdiff1d(followers, np.append(self._graph.followers(other), other))
            if shown.author == row.author:  # a retweet of one's own: the same followers have both
                followers = followers[:0]
        others: UserIds = followers[followers != row.author]
        return others


def told_of(graph: Graph, rows: Sequence[PostRow]) -> dict[str, object]:
    """What these rows are, for whoever reads the figures."""
    followers = graph.counts([row.author for row in rows])
    p50, p90, p99 = np.percentile(followers, [50, 90, 99]).tolist()
    return {
        "rows": len(rows),
        "kinds": dict(Counter(row.kind.name for row in rows)),
        "authors": len({row.author for row in rows}),
        "followers": {
            "mean": round(float(followers.mean()), 1),
            "p50": p50,
            "p90": p90,
            "p99": p99,
            "max": int(followers.max()),
        },
    }
