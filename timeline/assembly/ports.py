"""What reading needs of the caches and the store. Implemented in cache and store.

Every method may raise Unavailable. Cache misses are absent from the answer, never None inside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from timeline.domain.entries import Entries, Stretch, UserIds
from timeline.domain.ids import TweetId, UserId
from timeline.domain.model import Counts, Reader, Tweet, TweetKey, User, UserCounts
from timeline.domain.records import Author, Header, ListKind, Marks, Post, State

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class ListView:
    """A list of entries as read at one moment: the header, and entries in order of arrival, the last `n` or all.

    `first_arrival` is the arrival number of entries[0] (of the next one to come, if there is none).
    """

    header: Header
    entries: Entries
    first_arrival: int
    whole: bool

    @property
    def last_arrival(self) -> int:
        """The number of the newest arrival that was read."""
        return self.first_arrival + len(self.entries) - 1

    def up_to(self, arrival: int) -> ListView:
        """The same without what arrived after that number."""
        return replace(self, entries=self.entries[: max(arrival - self.first_arrival + 1, 0)])


class ListCache(Protocol):
    """cache/timelines.py"""

    async def read(self, kind: ListKind, user_id: UserId, newest: int | None) -> ListView | None:
        """The newest `newest` arrivals, or all; None when there is no list. Renews its expiry."""

    async def begin_build(self, kind: ListKind, user_id: UserId) -> int | None:
        """Put a header that says *building* where there is no list: a token, or None when there is one, or another builds.
        What is pushed from now on is kept. It expires after building_seconds."""

    async def install(
        self, kind: ListKind, user_id: UserId, token: int, history: Stretch, built_ms: int, authors: int = 0
    ) -> bool:
        """Replace the building header by a real one and put `history` before what arrived meanwhile, in one step. `authors` is the
        fingerprint of whose history it is. False, and nothing changed, if the list is no longer this token's."""

    async def abandon(self, kind: ListKind, user_id: UserId, token: int) -> None:
        """Remove the list if it is still being built under this token."""

    async def drop(self, kind: ListKind, user_id: UserId, seen: Header) -> None:
        """Remove the list if its header's epoch is still the one seen: it will be rebuilt on the next read."""


class LeasedCache(Protocol[Record]):
    """Records of one kind by user, that changes mark as dirty (cache/leased.py)."""

    async def get(self, user_id: UserId) -> Record | None: ...

    async def begin_fill(self, user_id: UserId) -> int | None:
        """A token for one fill, or None when a change bars fills just now, or another fill is under way."""

    async def fill(self, user_id: UserId, token: int, record: Record) -> bool:
        """Put what was read from the store after begin_fill. False if a change has come between."""


class ContentCache(Protocol):
    """cache/contents.py"""

    async def posts(self, tweet_ids: Sequence[TweetId]) -> dict[TweetId, Post]: ...

    async def states(self, tweet_ids: Sequence[TweetId]) -> dict[TweetId, State]: ...

    async def authors(self, user_ids: Sequence[UserId]) -> dict[UserId, Author]: ...

    async def put_posts(self, posts: Sequence[Post]) -> None:
        """Newer over older only."""

    async def put_states(self, states: dict[TweetId, State]) -> None:
        """Newer over older only."""

    async def put_authors(self, authors: Sequence[Author]) -> None:
        """Newer over older only."""


class History(Protocol):
    """The pull path's source (store/history.py)."""

    async def stretch(self, authors: UserIds, below: int, per_author: int) -> Stretch:
        """The newest entries of these authors with an id below `below`: from each author up to `per_author`, deleted ones left
        out, merged, cut where the first author may have more. An empty stretch that is not the beginning of history is
        possible (all were deleted): go on from its `complete_from`. IN of pull_authors_per_query, PER PARTITION LIMIT,
        at most pull_queries_in_flight at once; buckets that hold nothing are not asked."""


class TweetReader(Protocol):
    """store/tweets.py"""

    async def get_many(self, keys: Sequence[TweetKey]) -> dict[TweetId, Tweet]:
        """Those that exist, deleted ones included (with `deleted` set)."""

    async def authors_of(self, tweet_ids: Sequence[TweetId]) -> dict[TweetId, UserId]: ...

    async def counts_of(self, tweet_ids: Sequence[TweetId]) -> dict[TweetId, Counts]:
        """Of each id asked for; zeros where nothing was counted."""


class RetweetReader(Protocol):
    """store/retweets.py"""

    async def retweets_of(self, users: UserIds, sources: Sequence[TweetId]) -> list[tuple[UserId, TweetId, TweetId]]:
        """Active retweets of these sources by these users, as (user, source, retweet id), in no order."""


class MarkedBy(Protocol):
    """Who likes or has retweeted a tweet (store/by_time.py)."""

    async def likers(
        self, tweet_id: TweetId, below: tuple[int, int] | None, limit: int
    ) -> tuple[list[UserId], tuple[int, int] | None]:
        """Up to `limit` users, newest first, below (version, user) and where to go on; None at the end. Begin with None."""

    async def retweeters(
        self, tweet_id: TweetId, below: tuple[int, int] | None, limit: int
    ) -> tuple[list[UserId], tuple[int, int] | None]: ...


class MarksReader(Protocol):
    """store/marks.py"""

    async def marks(self, user_id: UserId) -> Marks: ...

    async def marked(self, user_id: UserId, tweet_ids: Sequence[TweetId]) -> tuple[set[TweetId], set[TweetId]]:
        """Of these tweets, those liked and those retweeted by the user."""


class UserReader(Protocol):
    """store/users.py"""

    async def get_many(self, user_ids: Sequence[UserId]) -> dict[UserId, User]:
        """Those that exist, deleted ones included (with `deleted` set)."""

    async def by_handle(self, handle: str) -> User | None:
        """Without regard to case."""

    async def counts(self, user_id: UserId) -> UserCounts: ...


class GraphReader(Protocol):
    """store/graph.py"""

    async def reader(self, user_id: UserId) -> Reader:
        """The whole context, as stored now."""

    async def followees_page(self, user_id: UserId, after: int, limit: int) -> tuple[list[UserId], int | None]:
        """Whom the user follows, ascending by id, above `after`, and where to go on; None at the end. Begin with 0."""

    async def followers_page(
        self, user_id: UserId, after: tuple[int, int], limit: int
    ) -> tuple[list[UserId], tuple[int, int] | None]:
        """Who follows the user, and where to go on (shard, id); None at the end. Begin with (0, 0)."""

    async def followed_by(self, user_id: UserId, others: Sequence[UserId]) -> set[UserId]:
        """Those of the others who follow the user."""
