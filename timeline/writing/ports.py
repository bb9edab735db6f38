"""What writing needs of the store, the caches and the event log. Implemented in store, cache and eventlog.

Every method may raise Unavailable; a write may raise OutcomeUnknown.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from timeline.domain.entries import Entry
from timeline.domain.ids import TweetId, UserId
from timeline.domain.model import Counts, Reader, Tweet, TweetKey, User, Visibility
from timeline.domain.records import State


class Ids(Protocol):
    """Ids and write times of this process (store/leases.py)."""

    async def mint(self) -> TweetId:
        """A new snowflake, above all that this process minted. Raises Unavailable when the worker number's lease is lost,
        or the clock stepped back by more than clock_step_wait_ms."""

    def now_us(self) -> int:
        """A write timestamp in microseconds, ascending within the process."""


class TweetStore(Protocol):
    """Tweets by author (store/tweets.py)."""

    async def add(self, tweet: Tweet) -> None:
        """One logged batch with `tweet.version` as its timestamp: tweets, tweet_buckets, tweets_by_id, replies, outbox.
        Repeating it changes nothing."""

    async def get_many(self, keys: Sequence[TweetKey]) -> dict[TweetId, Tweet]:
        """Those that exist, deleted ones included (with `deleted` set)."""

    async def authors_of(self, tweet_ids: Sequence[TweetId]) -> dict[TweetId, UserId]:
        """Who wrote these, as far as they exist (deleted ones too)."""

    async def delete(self, key: TweetKey, version: int) -> None:
        """Soft: columns that no insert writes. Repeating it changes nothing."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """What stands under an idempotency key: the first request's tweet id, write time and body hash."""

    tweet_id: TweetId
    version: int
    body_hash: bytes


class IdempotencyStore(Protocol):
    async def find(self, user_id: UserId, key: str) -> Reservation | None:
        """What stands under the key, if anything; nothing is written."""

    async def reserve(self, user_id: UserId, key: str, mine: Reservation) -> Reservation:
        """By compare-and-set: `mine` if the key was free, else what was there. Kept idempotency_key_seconds."""


@dataclass(frozen=True, slots=True)
class Retweeted:
    """A decision about (user, source tweet): the retweet's id, and the write time of the decision."""

    retweet_id: TweetId
    active: bool
    version: int


Bury = Callable[[Retweeted], Awaitable[None]]


class RetweetStore(Protocol):
    """The truth of who retweeted what, by compare-and-set (store/retweets.py)."""

    async def retweet(self, user_id: UserId, source: TweetId, mine: Retweeted, bury: Bury) -> Retweeted:
        """Make it active: answers `mine` if it was not, else the active one that was there, unchanged. `bury` is called with an ended
        decision before another takes its place. Does not write the retweet's own row (TweetStore.add does), but does write the
        mirrors by tweet."""

    async def undo(
        self, user_id: UserId, source: TweetId, version: int, only: TweetId | None = None
    ) -> Retweeted | None:
        """Make it inactive; the decision that stands now (None: there never was one). The mirror is written too. `only`: unless it is
        another retweet that stands by now."""

    async def count(self, source: TweetId) -> int:
        """How many retweets are active, counted up to 10,000 (store: by reading the mirror)."""


@dataclass(frozen=True, slots=True)
class Liked:
    """A decision about (user, tweet), and its write time."""

    active: bool
    version: int


class LikeStore(Protocol):
    """The truth of who likes what, by compare-and-set, and its mirrors (store/likes.py)."""

    async def like(self, user_id: UserId, tweet_id: TweetId, at_us: int) -> Liked:
        """Make it active: the decision that stands now, which may be one from before."""

    async def unlike(self, user_id: UserId, tweet_id: TweetId, at_us: int) -> Liked | None:
        """Make it inactive; the decision that stands now (None: there never was one)."""

    async def count(self, tweet_id: TweetId) -> int:
        """How many likes are active, counted up to 10,000 (store: by reading the mirror)."""


@dataclass(frozen=True, slots=True)
class Edited:
    """What a tweet says, and since when: `edited_ms` is None, and `version` that of its row, if it was never edited."""

    text: str
    visibility: Visibility
    edited_ms: int | None
    version: int


class EditStore(Protocol):
    """store/edits.py"""

    async def edit(self, tweet: Tweet, text: str | None, visibility: Visibility | None, at_us: int) -> Edited:
        """Change the members that are not None, by compare-and-set, the tweet's row included: what it says now. One that changes
        nothing is no edit. `tweet` is its row as read just before; an edit of a row that is deleted meanwhile brings nothing back."""


class CountsStore(Protocol):
    """store/tweets.py"""

    async def counts_of(self, tweet_ids: Sequence[TweetId]) -> dict[TweetId, Counts]:
        """Of each id asked for; zeros where nothing was counted."""


@dataclass(frozen=True, slots=True)
class Marker:
    """How far a reader has read, and the write time (microseconds) at which that was said."""

    tweet_id: TweetId
    version: int


class MarkerStore(Protocol):
    """store/markers.py"""

    async def get(self, user_id: UserId) -> Marker | None:
        """None: it was never set."""

    async def move(self, user_id: UserId, wanted: Marker, *, rewind: bool) -> Marker:
        """By compare-and-set, forward, or anywhere with `rewind`: the marker that stands now."""


class RelationStore(Protocol):
    """Blocks and mutes, by compare-and-set (store/relations.py). Each answers False if nothing changed."""

    async def block(self, user_id: UserId, target: UserId, at_us: int) -> bool:
        """Mirror included. Raises BadRequest("too-many-blocks")."""

    async def unblock(self, user_id: UserId, target: UserId, at_us: int) -> bool:
        """Mirror included."""

    async def mute(self, user_id: UserId, target: UserId, at_us: int) -> bool:
        """Raises BadRequest("too-many-mutes")."""

    async def unmute(self, user_id: UserId, target: UserId, at_us: int) -> bool: ...


class UserStore(Protocol):
    async def put(self, user: User) -> User:
        """Make or change; answers the user as stored (created_ms of the first). Raises BadRequest("handle-taken")."""

    async def get_many(self, user_ids: Sequence[UserId]) -> dict[UserId, User]:
        """Those that exist, deleted ones included (with `deleted` set)."""


class GraphStore(Protocol):
    """Follows and what bars them (store/graph.py)."""

    async def follow(self, follower: UserId, followee: UserId, at_us: int) -> bool:
        """By compare-and-set, mirror included; False if it stood already (the mirror is written again all the same).
        Raises BadRequest("too-many-followees")."""

    async def unfollow(self, follower: UserId, followee: UserId, at_us: int) -> bool:
        """By compare-and-set, mirror included; False if there was nothing to end."""

    async def end_across(self, one: UserId, other: UserId, at_us: int) -> None:
        """End the follows between the two, either way, that stand while a block stands between them, and no others."""

    async def reader(self, user_id: UserId) -> Reader:
        """The whole context, as stored now. An unknown user is a reader who follows nobody."""

    async def is_barred(self, one: UserId, other: UserId) -> bool:
        """Whether a block stands between them, whoever made it."""

    async def follows(self, follower: UserId, followee: UserId) -> bool: ...


class OwnLists(Protocol):
    """cache/timelines.py"""

    async def push_own(self, entry: Entry) -> None:
        """Append to the author's own home and profile lists, where those exist. Best effort: raises Unavailable."""


class StateCache(Protocol):
    """cache/contents.py"""

    async def put_state(self, tweet_id: TweetId, state: State) -> None:
        """Newer over older only. Raises Unavailable."""


class AuthorCache(Protocol):
    """cache/contents.py"""

    async def drop_author(self, user_id: UserId) -> None: ...


class Lease(Protocol):
    """Leased records of one kind, by user: the reader's context, or the marks (cache/leased.py)."""

    async def mark(self, user_id: UserId) -> int:
        """Make what is cached invalid and bar every fill but the one by the token that is answered. Expires by itself after
        reader_lease_seconds, so a process that dies between mark and drop costs only fills. Raises Unavailable."""

    async def drop(self, user_id: UserId) -> None:
        """Forget it, marks and fills under way included: the next read asks the store. Raises Unavailable."""


class EventLog(Protocol):
    """eventlog/publisher.py"""

    def tweet_created(self, tweet: Tweet) -> None:
        """Hand it to Kafka, beside the answer, and clear its outbox row when acknowledged. Never raises, never waits: what
        cannot be handed over (bound reached, Kafka away) is left to the relay, and counted."""

    async def produce_created(self, tweet: Tweet) -> None:
        """Hand it to Kafka and wait until it is acknowledged. Raises Unavailable, OutcomeUnknown."""
