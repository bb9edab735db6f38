"""Hydrate: contents and states for ids, from the caches, and what they lack from the store.

Open: what can be found nowhere since an engine is away is left out and counted (`missing`); what does not exist, or was erased, is
left out silently. A cached post is used only under the version that its state says, so that an edit holds from the next read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

from timeline.assembly.fragments import author_of, post_of
from timeline.assembly.ports import ContentCache, Moment, TweetReader, UserReader
from timeline.domain import pauses
from timeline.domain.errors import Unavailable
from timeline.domain.ids import TweetId, UserId
from timeline.domain.limits import Limits
from timeline.domain.model import Counts, Tweet, TweetKey
from timeline.domain.pauses import Point
from timeline.domain.records import Author, Post, State

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Contents:
    """What was found. A tweet that exists is in `states`; one that is not deleted is in `posts` as well."""

    states: dict[TweetId, State] = field(default_factory=dict)
    posts: dict[TweetId, Post] = field(default_factory=dict)
    missing: set[TweetId] = field(default_factory=set)  # could not be looked up

    def is_live(self, tweet_id: TweetId) -> bool:
        state = self.states.get(tweet_id)
        return state is not None and not state.deleted


class Hydrator:
    """Looks up contents. Shared by all requests: fills are bounded."""

    def __init__(
        self, *, cache: ContentCache, tweets: TweetReader, users: UserReader, limits: Limits, media_url: str
    ) -> None:
        self._cache, self._tweets, self._users = cache, tweets, users
        self._limits, self._media_url = limits, media_url
        self._fills: set[asyncio.Task[None]] = set()

    async def contents(
        self, shown: Collection[TweetId], also_states: Collection[TweetId], authors: dict[TweetId, UserId]
    ) -> Contents:
        """Posts and states of `shown`, states alone of `also_states`. `authors` says who wrote them, as far as is known."""
        wanted = list(dict.fromkeys([*shown, *also_states]))
        found = Contents()
        try:
            found.states, found.posts = await asyncio.gather(
                self._cache.states(wanted), self._cache.posts(list(dict.fromkeys(shown)))
            )
        except Unavailable:
            log.debug("contents_from_store")
        lacking = self._lacking(wanted, set(shown), found)
        if lacking:
            await self._load(lacking, authors, found)
        return found

    def moment(self) -> Moment:
        """Now. To be taken before anything is read, or written, that goes into the caches."""
        return self._cache.moment()

    def written(self, tweet: Tweet, before: Moment) -> tuple[Post, State]:
        """What was written just now, of which nobody else has made anything else yet; and into the caches, so that nobody asks the
        store for it. `before` is a moment from before it was written: whoever may have changed it since is newer."""
        post, state = post_of(tweet, self._media_url), State.of(tweet, Counts())
        self._beside(self._cache.put_states({tweet.id: state}, before))
        self._beside(self._cache.put_posts([post], before))
        return post, state

    async def author(self, user_id: UserId) -> Author | None:
        """One, None if there is no such user. Raises Unavailable when that cannot be told."""
        try:
            found = await self._cache.authors([user_id])
        except Unavailable:
            found = {}
        if user_id not in found:
            found = await self._load_authors([user_id])
        return found.get(user_id)

    async def authors(self, user_ids: Iterable[UserId]) -> dict[UserId, Author]:
        """As tweets show them, deleted ones included. Those that could not be looked up are absent."""
        wanted = list(dict.fromkeys(user_ids))
        if not wanted:
            return {}
        try:
            found = await self._cache.authors(wanted)
        except Unavailable:
            found = {}
        lacking = [user_id for user_id in wanted if user_id not in found]
        if lacking:
            try:
                found |= await self._load_authors(lacking)
            except Unavailable as error:
                log.info("authors_missing", extra={"count": len(lacking), "reason": str(error)})
        return found

    async def close(self) -> None:
        """Wait for fills under way."""
        while self._fills:
            await asyncio.wait(self._fills)

    @staticmethod
    def _lacking(wanted: list[TweetId], shown: set[TweetId], found: Contents) -> list[TweetId]:
        lacking = []
        for tweet_id in wanted:
            state, post = found.states.get(tweet_id), found.posts.get(tweet_id)
            stale = post is not None and state is not None and post.version < state.version
            if stale:
                del found.posts[tweet_id]
            needs_post = tweet_id in shown and (post is None or stale) and not (state is not None and state.deleted)
            if state is None or needs_post:
                lacking.append(tweet_id)
        return lacking

    async def _load(self, lacking: list[TweetId], authors: dict[TweetId, UserId], found: Contents) -> None:
        as_of = self._cache.moment()
        try:
            rows = await self._rows(lacking, authors)
        except Unavailable as error:
            log.info("contents_missing", extra={"count": len(lacking), "reason": str(error)})
            found.missing.update(lacking)
            return
        try:
            counts = await self._tweets.counts_of(list(rows))
        except Unavailable:
            counts = dict.fromkeys(rows, Counts())  # open: a tweet without its counts is better than none
        states = {tweet_id: State.of(tweet, counts[tweet_id]) for tweet_id, tweet in rows.items()}
        posts = [post_of(tweet, self._media_url) for tweet in rows.values() if not tweet.deleted]
        for tweet_id, state in states.items():
            held = found.states.get(tweet_id)
            if held is None or held.order <= state.order:
                found.states[tweet_id] = state
        found.posts.update((post.tweet_id, post) for post in posts)
        if pauses.hold is not None:
            await pauses.hold(Point.fill, lacking[0])
        self._beside(self._cache.put_states(states, as_of))
        self._beside(self._cache.put_posts(posts, as_of))

    async def _rows(self, tweet_ids: list[TweetId], authors: dict[TweetId, UserId]) -> dict[TweetId, Tweet]:
        known = {tweet_id: authors[tweet_id] for tweet_id in tweet_ids if tweet_id in authors}
        unknown = [tweet_id for tweet_id in tweet_ids if tweet_id not in known]
        if unknown:
            known |= await self._tweets.authors_of(unknown)
        return await self._tweets.get_many([TweetKey(author, tweet_id) for tweet_id, author in known.items()])

    async def _load_authors(self, user_ids: list[UserId]) -> dict[UserId, Author]:
        as_of = self._cache.moment()
        rows = await self._users.get_many(user_ids)
        loaded = {user_id: author_of(user) for user_id, user in rows.items()}
        self._beside(self._cache.put_authors(list(loaded.values()), as_of))
        return loaded

    def _beside(self, fill: Coroutine[Any, Any, None]) -> None:
        """Fill a cache beside the answer. Above the bound, or with the cache away, it is left out: the next read tries again."""
        if len(self._fills) >= self._limits.fills_in_flight:
            fill.close()
            return

        async def run() -> None:
            try:
                await fill
            except Unavailable:
                log.debug("fill_left_out")

        task = asyncio.create_task(run(), name="fill")
        self._fills.add(task)
        task.add_done_callback(self._filled)

    def _filled(self, task: asyncio.Task[None]) -> None:
        self._fills.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("bug", exc_info=task.exception())  # the answer is given; it must not go unseen
