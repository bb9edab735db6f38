"""Writing and reading as the API sees them: they note what they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timeline.assembly.service import Page
from timeline.domain.errors import BadRequest
from timeline.domain.ids import TweetId, UserId
from timeline.domain.model import Tweet, User, Visibility
from timeline.writing.drafts import Draft
from timeline.writing.ports import Marker
from timeline.writing.service import Posted, RetweetOutcome

NEW_TWEET = TweetId(77)


class Calls(list[tuple[Any, ...]]):
    """What the handlers asked for; `fails` is raised by the next call."""

    fails: BaseException | None = None

    def note(self, *call: Any) -> None:
        self.append(call)
        if self.fails is not None:
            raise self.fails


class FakeWriter:
    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def put_user(self, user_id: UserId, handle: str, name: str, avatar_url: str | None) -> None:
        self._calls.note("put_user", user_id, handle, name, avatar_url)

    async def follow(self, me: UserId, other: UserId) -> None:
        self._calls.note("follow", me, other)

    async def unfollow(self, me: UserId, other: UserId) -> None:
        self._calls.note("unfollow", me, other)

    async def post(self, me: UserId, draft: Draft, idempotency_key: str | None) -> Posted:
        """Under the key `again` there is a tweet already."""
        self._calls.note("post", me, draft, idempotency_key)
        author = User(id=me, handle="a", name="A", avatar_url=None, created_ms=1, version=1)
        tweet = Tweet(
            id=NEW_TWEET, author_id=me, text=draft.text, version=1, conversation_id=NEW_TWEET, quote_of=draft.quote_of
        )
        return Posted(tweet, author, idempotency_key != "again")

    async def delete(self, me: UserId, tweet_id: TweetId) -> None:
        self._calls.note("delete", me, tweet_id)

    async def retweet(self, me: UserId, tweet_id: TweetId) -> RetweetOutcome:
        self._calls.note("retweet", me, tweet_id)
        return RetweetOutcome(TweetId(78), 3)

    async def unretweet(self, me: UserId, tweet_id: TweetId) -> RetweetOutcome:
        self._calls.note("unretweet", me, tweet_id)
        return RetweetOutcome(None, 2)


class FakeRelations:
    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def block(self, me: UserId, other: UserId) -> None:
        self._calls.note("block", me, other)

    async def unblock(self, me: UserId, other: UserId) -> None:
        self._calls.note("unblock", me, other)

    async def mute(self, me: UserId, other: UserId) -> None:
        self._calls.note("mute", me, other)

    async def unmute(self, me: UserId, other: UserId) -> None:
        self._calls.note("unmute", me, other)


class FakeLikes:
    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def like(self, me: UserId, tweet_id: TweetId) -> int:
        self._calls.note("like", me, tweet_id)
        return 43

    async def unlike(self, me: UserId, tweet_id: TweetId) -> int:
        self._calls.note("unlike", me, tweet_id)
        return 42


class FakeEdits:
    """Every id means itself."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def edit(self, me: UserId, tweet_id: TweetId, text: str | None, visibility: Visibility | None) -> TweetId:
        self._calls.note("edit", me, tweet_id, text, visibility)
        return tweet_id


class FakeMarkers:
    """Nobody has set one."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def get(self, me: UserId) -> Marker | None:
        self._calls.note("get_marker", me)
        return None

    async def move(self, me: UserId, tweet_id: TweetId, *, rewind: bool) -> Marker:
        self._calls.note("move_marker", me, tweet_id, rewind)
        return Marker(tweet_id, 1_700_000_000_123_000)


class FakeMarked:
    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def page(
        self, me: UserId | None, tweet_id: TweetId, mark: str, cursor: str | None, limit: int
    ) -> tuple[list[bytes], str | None]:
        self._calls.note(mark, me, tweet_id, cursor, limit)
        return [b'{"id":"5"}'], None


class FakeReading:
    """Knows the tweets below 100, and one page."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def home(self, me: UserId, cursor: str | None, limit: int, *, explain: bool = False) -> Page:
        self._calls.note("home", me, cursor, limit, explain)
        return self._page(cursor)

    async def profile(self, me: UserId | None, user_id: UserId, cursor: str | None, limit: int) -> Page:
        self._calls.note("profile", me, user_id, cursor, limit)
        return self._page(cursor)

    async def tweets(self, me: UserId | None, tweet_ids: Sequence[TweetId]) -> list[bytes]:
        self._calls.note("tweets", me, list(tweet_ids))
        return [b'{"id":"%d"}' % tweet_id for tweet_id in tweet_ids if tweet_id < 100]

    def moment(self) -> str:
        self._calls.note("moment")
        return "before"

    async def just_written(self, tweet: Tweet, author: User, before: str) -> bytes:
        self._calls.note("just_written", tweet.id, author.id, before)
        return b'{"id":"%d"}' % tweet.id

    @staticmethod
    def _page(cursor: str | None) -> Page:
        if cursor == "forged":
            raise BadRequest("bad-cursor", "no")
        return Page(tweets=[b'{"id":"2"}', b'{"id":"1"}'], next_cursor="on", newer_cursor="new", source="cache")


class FakePeople:
    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def user(self, me: UserId | None, user_id: UserId) -> bytes:
        self._calls.note("user", me, user_id)
        return b'{"id":"%d"}' % user_id

    async def user_by_handle(self, me: UserId | None, handle: str) -> bytes:
        self._calls.note("user_by_handle", me, handle)
        return b'{"handle":"%b"}' % handle.encode()

    async def page(
        self, me: UserId | None, user_id: UserId, side: str, cursor: str | None, limit: int
    ) -> tuple[list[bytes], str | None]:
        self._calls.note(side, me, user_id, cursor, limit)
        return [b'{"id":"5"}'], "on"

    async def barred(self, me: UserId, side: str, cursor: str | None, limit: int) -> tuple[list[bytes], str | None]:
        self._calls.note(side, me, cursor, limit)
        return [b'{"id":"5"}'], "on"
