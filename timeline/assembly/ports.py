"""What reading needs of the caches and the store. Implemented in cache and store.

Every method may raise Unavailable. Cache misses are absent from the answer, never None inside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from timeline.domain.entries import Entries, Rise, Stretch, UserIds
from timeline.domain.ids import TweetId, UserId
from timeline.domain.model import Counts, Reader, Tweet, TweetKey, User, UserCounts
from timeline.domain.notices import Notices
from timeline.domain.records import UNKNOWN_REPLICATION, Author, Header, ListKind, Marks, Post, State

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class ListView:
    """A list of entries as read at one moment: the header, and entries in order of arrival, the last `n` or all.

    `first_arrival` is the arrival number of entries[0] (of the next one to come, if there is none). `primary` is the replication id
    of the primary that was asked, as known before it was asked; `slot` the hash slot of the list.
    """

    header: Header
    entries: Entries
    first_arrival: int
    whole: bool
    primary: bytes = UNKNOWN_REPLICATION
    slot: int = 0

    @property
    def last_arrival(self) -> int:
        """The number of the newest arrival that was read."""
        return self.first_arrival + len(self.entries) - 1

    @property
    def is_at_home(self) -> bool:
        """Whether it stands on the primary that it was built on: a failover loses writes that Redis has acknowledged."""
        return self.primary != UNKNOWN_REPLICATION and self.header.replication == self.primary

    def up_to(self, arrival: int) -> ListView:
        """The same without what arrived after that number."""
        return replace(self, entries=self.entries[: max(arrival - self.first_arrival + 1, 0)])


@dataclass(frozen=True, slots=True)
class Building:
    """A list that is being built by us: its token, and the replication id of its primary as known before it began."""

    token: int
    replication: bytes


class ListCache(Protocol):
    """cache/timelines.py"""

    async def read(self, kind: ListKind, user_id: UserId, newest: int | None) -> ListView | None:
        """The newest `newest` arrivals, or all; None when there is no list. Renews its expiry."""

    async def read_many(self, kind: ListKind, user_ids: UserIds, newest: int | None) -> dict[UserId, ListView]:
        """As read, of many at once, one write a node. Those that are there, building ones left out; where a node is away, its lists
        are left out as well. Never raises Unavailable."""

    async def begin_build(self, kind: ListKind, user_id: UserId) -> Building | None:
        """Put a header that says *building* where there is no list; None when there is one, or another builds. What is pushed from now
        on is kept. It expires after building_seconds."""

    async def install(
        self, kind: ListKind, user_id: UserId, building: Building, history: Stretch, built_ms: int
    ) -> bool:
        """Replace the building header by a real one and put `history` before what arrived meanwhile, in one step. False, and nothing
        changed, if the list is no longer this building's."""

    async def reinstall(self, kind: ListKind, user_id: UserId, seen: ListView, history: Stretch, built_ms: int) -> bool:
        """Replace the list that was `seen` by `history`, pulled after that, and what arrived since, in one step: a new epoch, trusted
        on `seen.primary`. False, and nothing changed, if the list has another epoch by now, or is gone."""

    async def abandon(self, kind: ListKind, user_id: UserId, building: Building) -> None:
        """Remove the list if it is still being built under this token."""


class NoticeBoard(Protocol):
    """store/notices.py"""

    def read(self) -> tuple[Notices, bool]:
        """The notices as last read, and whether they may still be believed (read at most notices_lease_ms ago)."""


class LeasedCache(Protocol[Record]):
    """Records of one kind by user, that changes mark as dirty (cache/leased.py)."""

    async def get(self, user_id: UserId) -> Record | None: ...

    async def begin_fill(self, user_id: UserId) -> int | None:
        """A token for one fill, or None when a change bars fills just now, or another fill is under way."""

    async def fill(self, user_id: UserId, token: int, record: Record) -> bool:
        """Put what was read from the store after begin_fill. False if a change has come between."""


class Moment(Protocol):
    """A cache's own note of a moment: which primaries it knew, and when."""


class ContentCache(Protocol):
    """cache/contents.py

    What was read from the store may go into the cache only as of a moment from before that reading: on a node that has failed over
    since, or long after, it might outlive a deletion that the node has lost, or that has expired."""

    def moment(self) -> Moment:
        """Now. To be taken before the store is read."""

    async def posts(self, tweet_ids: Sequence[TweetId]) -> dict[TweetId, Post]: ...

    async def states(self, tweet_ids: Sequence[TweetId]) -> dict[TweetId, State]: ...

    async def authors(self, user_ids: Sequence[UserId]) -> dict[UserId, Author]: ...

    async def put_posts(self, posts: Sequence[Post], as_of: Moment) -> None:
        """Newer over older only."""

    async def put_states(self, states: dict[TweetId, State], as_of: Moment) -> None:
        """Newer over older only."""

    async def put_authors(self, authors: Sequence[Author], as_of: Moment) -> None:
        """Newer over older only."""


class History(Protocol):
    """The pull path's source (store/history.py)."""

    async def stretch(self, authors: UserIds, below: int, per_author: int) -> Stretch:
        """The newest entries of these authors with an id below `below`: from each author up to `per_author`, deleted ones left
        out, merged, cut where the first author may have more. An empty stretch that is not the beginning of history is
        possible (all were deleted): go on from its `complete_from`. IN of pull_authors_per_query, PER PARTITION LIMIT,
        at most pull_queries_in_flight at once; buckets that hold nothing are not asked."""

    async def rise(self, authors: UserIds, above: int, per_author: int) -> Rise:
        """The oldest entries of these authors with an id above `above`: `stretch` the other way up. An empty one that does not reach
        the top is possible: go on from its `complete_to`."""


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
