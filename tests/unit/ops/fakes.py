"""A service in memory, as far as a load goes through it; it can fail at will."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from timeline.domain.entries import UserIds
from timeline.domain.errors import BadRequest
from timeline.domain.ids import TweetId, UserId
from timeline.domain.model import Tweet, User
from timeline.ops.ports import Doors
from timeline.writing.drafts import Draft
from timeline.writing.service import Posted, RetweetOutcome


class FakeService:
    """Keeps idempotency keys and retweets as the service does. `before` is called with every write, and may raise."""

    def __init__(self) -> None:
        self.tweets: dict[int, Tweet] = {}
        self.by_key: dict[tuple[int, str], Tweet] = {}
        self.retweets: dict[tuple[int, int], int] = {}
        self.users: list[User] = []
        self.follows: list[tuple[int, int]] = []
        self.graph_loads: list[int] = []
        self.forgotten: list[int] = []
        self.before: Callable[[int, str], None] = lambda author, text: None
        self.under_way = self.most_under_way = 0
        self._next = 1000

    @property
    def doors(self) -> Doors:
        return Doors(self, self, self, self)

    async def load_users(self, users: Sequence[User], progress: Callable[[int], None]) -> None:
        self.users = list(users)
        progress(len(users))

    async def load_follows(
        self, follower: UserIds, followee: UserIds, at_us: int, progress: Callable[[int], None]
    ) -> None:
        self.graph_loads.append(at_us)
        self.follows = list(zip(follower.tolist(), followee.tolist(), strict=True))
        progress(2 * len(follower))

    async def forget_readers(self, user_ids: Sequence[int]) -> None:
        self.forgotten = list(user_ids)

    async def authors_of(self, tweet_ids: Sequence[TweetId]) -> Mapping[TweetId, UserId]:
        return {one: self.tweets[one].author_id for one in tweet_ids if one in self.tweets}

    async def post(self, me: UserId, draft: Draft, idempotency_key: str | None) -> Posted:
        await self._turn(me, draft.text)
        assert idempotency_key is not None
        author = User(id=me, handle=f"u{me}", name=f"U {me}", avatar_url=None, created_ms=1, version=1)
        known = self.by_key.get((me, idempotency_key))
        if known is not None:
            return Posted(known, author, False)
        parent = None
        if draft.reply_to is not None:
            if draft.reply_to not in self.tweets:
                raise BadRequest("tweet-not-found", f"There is no tweet {draft.reply_to}.")
            parent = self.tweets[draft.reply_to]
        made = TweetId(self._mint())
        tweet = Tweet(
            id=made, author_id=me, text=draft.text, version=1, conversation_id=made, reply_to=draft.reply_to,
            reply_to_user=parent and parent.author_id,
        )  # fmt: skip
        self.tweets[made] = self.by_key[me, idempotency_key] = tweet
        return Posted(tweet, author, True)

    async def retweet(self, me: UserId, tweet_id: TweetId) -> RetweetOutcome:
        await self._turn(me)
        if tweet_id not in self.tweets:
            raise BadRequest("tweet-not-found", f"There is no tweet {tweet_id}.")
        source = self.tweets[tweet_id].retweet_of or tweet_id
        if (me, source) not in self.retweets:
            made = TweetId(self._mint())
            self.retweets[me, source] = made
            self.tweets[made] = Tweet(
                id=made, author_id=me, text="", version=1, conversation_id=source, retweet_of=source
            )
        return RetweetOutcome(TweetId(self.retweets[me, source]), 1)

    async def _turn(self, author: int, text: str = "") -> None:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            for _ in range(author % 7):
                await asyncio.sleep(0)
            self.before(author, text)
        finally:
            self.under_way -= 1

    def _mint(self) -> int:
        self._next += 1
        return self._next
