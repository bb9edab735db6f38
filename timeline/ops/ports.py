"""What loading, the audit and jobs need of the store, the caches and of writing. Every method may raise Unavailable."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from timeline.assembly.compare import Comparison
from timeline.domain.entries import UserIds
from timeline.domain.ids import TweetId, UserId
from timeline.domain.model import User
from timeline.domain.notices import Notices
from timeline.writing.drafts import Draft
from timeline.writing.service import Posted, RetweetOutcome


class BulkGraph(Protocol):
    """store/bulk.py"""

    async def load_users(self, users: Sequence[User], progress: Callable[[int], None]) -> None:
        """Nothing is checked. Repeating changes nothing. `progress` is told how many more users are in."""

    async def load_follows(
        self, follower: UserIds, followee: UserIds, at_us: int, progress: Callable[[int], None]
    ) -> None:
        """Two columns side by side. Repeating changes nothing. `progress` is told of rows: two a follow."""


class Posting(Protocol):
    """writing/service.py: the same code that serves POST."""

    async def post(self, me: UserId, draft: Draft, idempotency_key: str | None) -> Posted:
        """Raises BadRequest."""

    async def retweet(self, me: UserId, tweet_id: TweetId) -> RetweetOutcome:
        """Repeating changes nothing. Raises BadRequest."""


class Known(Protocol):
    """store/tweets.py"""

    async def authors_of(self, tweet_ids: Sequence[TweetId]) -> Mapping[TweetId, UserId]: ...


class Readers(Protocol):
    """cache/opening.py"""

    async def forget_readers(self, user_ids: Sequence[int]) -> None:
        """Drop what is cached of these as readers: their next read knows whom they follow now."""


@dataclass(frozen=True, slots=True)
class Doors:
    """What a load goes through."""

    graph: BulkGraph
    writer: Posting
    known: Known
    readers: Readers


class HomeLists(Protocol):
    """cache/sampling.py: which home lists there are."""

    def parts(self) -> list[str]:
        """The primaries by name, as they are known now."""

    async def page(self, part: str, at: int, keys: int) -> tuple[list[UserId], int]:
        """The owners of home lists among about `keys` more keys of a primary, and where to go on; 0 at the end. Begin with 0."""


class Examines(Protocol):
    """assembly/examine.py"""

    async def examine(self, user_id: UserId) -> Comparison:
        """What differs now between what is cached for this reader and the store."""


class Board(Protocol):
    """store/notices.py: who is pulled, and the changes of that."""

    def read(self) -> tuple[Notices, bool]:
        """The notices as last read, and whether they may still be believed."""

    async def refresh(self) -> None:
        """Read them now."""

    def stands(self, author: UserId) -> bool:
        """Whether an interval of this author stands, as last read or as written since."""

    def is_being_ended(self, author: UserId) -> bool:
        """Whether an interval stands, as last read, and each that does is being ended: by somebody who may have died."""

    async def begin_pull(self, author: UserId) -> None:
        """Write an interval that stands, unless one does. Nothing is written, and none stands, where there are too many."""

    async def end_pull(self, author: UserId) -> None:
        """Write the end of every interval of this author that stands. Repeating it changes nothing."""


class CountedFollowers(Protocol):
    """store/followers.py"""

    def large(self, shards_min: int) -> AsyncIterator[UserIds]:
        """Every author with so many follower shards or more, some at a time, each once; not those with one."""

    async def count(self, author: UserId, at_most: int) -> int:
        """How many followers the author has, counted no further than `at_most`."""
