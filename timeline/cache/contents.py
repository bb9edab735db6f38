"""Posts, states and authors by id. Newer is never put under older, and that something is not there is never kept.

A node that is away makes misses of what it holds: the store has it, and what the other nodes hold is still used. Unavailable
is raised only when nothing could be asked.

Each value stands behind the tag of the primary that it was written for (cache/replication.py), and is read under no other: a failover
may undo a deletion's record. What was read from the store is put only as of a moment from before that reading, on a primary that was
known then and is the same now, and soon: until then a deletion's record, if it came between, stands there and bars what is older.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from timeline.assembly.ports import Moment
from timeline.cache.connection import Node
from timeline.cache.dataplane import DataPlane
from timeline.cache.errors import ReplyError
from timeline.cache.functions import Functions
from timeline.cache.keys import Keys, slot_of
from timeline.cache.replication import tag_of, untagged
from timeline.domain.errors import Unavailable
from timeline.domain.ids import TweetId, UserId
from timeline.domain.limits import Limits
from timeline.domain.records import UNKNOWN_REPLICATION, Author, Post, State
from timeline.metrics import CACHE_READS

Id = TypeVar("Id", bound=int)
Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class KnownPrimaries:
    """A Moment: the replication id of each primary as known then, and the loop's time."""

    at: float
    ids: dict[Node, bytes]


class Contents:
    """Implements ContentCache (assembly), StateCache and AuthorCache (writing)."""

    def __init__(self, plane: DataPlane, functions: Functions, keys: Keys, limits: Limits) -> None:
        self._plane, self._functions, self._keys, self._limits = plane, functions, keys, limits
        self._counts = {
            (record, result): CACHE_READS.labels(record, result)
            for record in ("post", "state", "author")
            for result in ("hit", "miss")
        }

    def moment(self) -> KnownPrimaries:
        ids = {node: node.replication for node in self._plane.topology.primaries}
        return KnownPrimaries(asyncio.get_running_loop().time(), ids)

    async def posts(self, tweet_ids: Sequence[TweetId]) -> dict[TweetId, Post]:
        def of(data: bytes, tweet_id: int) -> Post | None:
            post = Post.unpack(data)
            return post if post is not None and post.tweet_id == tweet_id else None

        return await self._get("post", tweet_ids, self._keys.post, of)

    async def states(self, tweet_ids: Sequence[TweetId]) -> dict[TweetId, State]:
        return await self._get("state", tweet_ids, self._keys.state, lambda data, _: State.unpack(data))

    async def authors(self, user_ids: Sequence[UserId]) -> dict[UserId, Author]:
        def of(data: bytes, user_id: int) -> Author | None:
            author = Author.unpack(data)
            return author if author is not None and author.user_id == user_id else None

        return await self._get("author", user_ids, self._keys.author, of)

    async def put_posts(self, posts: Sequence[Post], as_of: Moment) -> None:
        values = ((self._keys.post(post.tweet_id), post.pack()) for post in posts)
        await self._put(values, self._limits.post_seconds, as_of)

    async def put_states(self, states: dict[TweetId, State], as_of: Moment) -> None:
        values = ((self._keys.state(tweet_id), state.pack()) for tweet_id, state in states.items())
        await self._put(values, self._limits.state_seconds, as_of)

    async def put_state(self, tweet_id: TweetId, state: State) -> None:
        """Of a change that is stored. Under a tag that is unknown, or no longer right, it is not read, but hides what is older, and
        bars it all the same."""
        key = self._keys.state(tweet_id)
        value = tag_of(self._plane.primary_of(key)) + state.pack()
        await self._functions.call("put_newer", key, value, self._limits.state_seconds * 1000)

    async def put_authors(self, authors: Sequence[Author], as_of: Moment) -> None:
        values = ((self._keys.author(author.user_id), author.pack()) for author in authors)
        await self._put(values, self._limits.author_seconds, as_of)

    async def drop_author(self, user_id: UserId) -> None:
        key = self._keys.author(user_id)
        await self._plane.execute(key, b"DEL", key)

    async def _get(
        self,
        record: str,
        ids: Sequence[Id],
        key_of: Callable[[int], bytes],
        unpack: Callable[[bytes, int], Record | None],
    ) -> dict[Id, Record]:
        """By id, those that are there, of a layout that we know, and under their own id."""
        keys = [key_of(each) for each in ids]
        replies = await self._plane.try_many_told([(key, (b"GET", key)) for key in keys])
        found: dict[Id, Record] = {}
        away = []
        for each, (reply, primary) in zip(ids, replies, strict=True):
            if isinstance(reply, bytes):
                data = untagged(reply, primary)
                value = None if data is None else unpack(data, each)
                if value is not None:
                    found[each] = value
            elif isinstance(reply, ReplyError):
                raise reply
            elif isinstance(reply, Unavailable):
                away.append(reply)
        if away and len(away) == len(replies):
            raise away[0]
        self._counts[record, "hit"].inc(len(found))
        self._counts[record, "miss"].inc(len(ids) - len(found))
        return found

    async def _put(self, values: Iterable[tuple[bytes, bytes]], seconds: int, as_of: Moment) -> None:
        """Raises Unavailable when any could not be put; the others were."""
        assert isinstance(as_of, KnownPrimaries), "a moment of another cache's"
        if (asyncio.get_running_loop().time() - as_of.at) * 1000 > self._limits.fill_within_ms:
            return
        owners = self._plane.topology.owners
        calls: list[tuple[bytes, tuple[bytes | int, ...]]] = []
        for key, value in values:
            node = owners[slot_of(key)]
            known = UNKNOWN_REPLICATION if node is None else as_of.ids.get(node, UNKNOWN_REPLICATION)
            if node is not None and known == node.replication != UNKNOWN_REPLICATION:
                calls.append((key, (tag_of(known) + value, seconds * 1000)))
        await self._functions.call_many("put_newer", calls)
