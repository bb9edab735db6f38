"""Posts, states and authors by id. Newer is never put under older, and that something is not there is never kept.

A node that is away makes misses of what it holds: the store has it, and what the other nodes hold is still used. Unavailable
is raised only when nothing could be asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from timeline.cache.dataplane import DataPlane
from timeline.cache.errors import ReplyError
from timeline.cache.functions import Functions
from timeline.cache.keys import Keys
from timeline.domain.ids import TweetId, UserId
from timeline.domain.limits import Limits
from timeline.domain.records import Author, Post, State
from timeline.metrics import CACHE_READS

Id = TypeVar("Id", bound=int)
Record = TypeVar("Record")


class Contents:
    """Implements ContentCache (assembly), StateCache and AuthorCache (writing)."""

    def __init__(self, plane: DataPlane, functions: Functions, keys: Keys, limits: Limits) -> None:
        self._plane, self._functions, self._keys, self._limits = plane, functions, keys, limits
        self._counts = {
            (record, result): CACHE_READS.labels(record, result)
            for record in ("post", "state", "author")
            for result in ("hit", "miss")
        }

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

    async def put_posts(self, posts: Sequence[Post]) -> None:
        await self._put([(self._keys.post(post.tweet_id), post.pack()) for post in posts], self._limits.post_seconds)

    async def put_states(self, states: dict[TweetId, State]) -> None:
        values = [(self._keys.state(tweet_id), state.pack()) for tweet_id, state in states.items()]
        await self._put(values, self._limits.state_seconds)

    async def put_state(self, tweet_id: TweetId, state: State) -> None:
        await self.put_states({tweet_id: state})

    async def put_authors(self, authors: Sequence[Author]) -> None:
        values = [(self._keys.author(author.user_id), author.pack()) for author in authors]
        await self._put(values, self._limits.author_seconds)

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
        replies = await self._plane.try_many([(key, (b"GET", key)) for key in keys])
        found: dict[Id, Record] = {}
        away = []
        for each, reply in zip(ids, replies, strict=True):
            if isinstance(reply, bytes):
                value = unpack(reply, each)
                if value is not None:
                    found[each] = value
            elif isinstance(reply, ReplyError):
                raise reply
            elif reply is not None:
                away.append(reply)
        if away and len(away) == len(replies):
            raise away[0]
        self._counts[record, "hit"].inc(len(found))
        self._counts[record, "miss"].inc(len(ids) - len(found))
        return found

    async def _put(self, values: Sequence[tuple[bytes, bytes]], seconds: int) -> None:
        """Raises Unavailable when any could not be put; the others were."""
        if values:
            await self._functions.call_many("put_newer", [(key, (value, seconds * 1000)) for key, value in values])
