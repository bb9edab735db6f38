"""What fan-out needs of the store, the caches and the event log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from timeline.domain.entries import Entry, UserIds
from timeline.domain.errors import Unavailable
from timeline.domain.events import FanoutSlice
from timeline.domain.ids import TweetId, UserId
from timeline.domain.model import Tweet

Answer = TypeVar("Answer")
Event = TypeVar("Event")


@dataclass(frozen=True, slots=True)
class FollowerPage:
    """Some of an author's followers: at most fanout_followers_page ids, in no order."""

    author_id: UserId
    followers: UserIds


class Patiently(Protocol):
    """How one read is done: at once, or again and again until the store is back (fanout/patience.py)."""

    async def __call__(self, call: Callable[[], Awaitable[Answer]], /) -> Answer: ...


async def at_once(call: Callable[[], Awaitable[Answer]], /) -> Answer:
    """A read that fails is not repeated."""
    return await call()


class Followers(Protocol):
    """store/followers.py

    Everything is read now from the store, never from a cache."""

    async def shards(self, authors: Sequence[UserId]) -> Mapping[UserId, int]:
        """How many shards the followers of each are in. Raises Unavailable."""

    def pages(self, authors: Sequence[UserId], patiently: Patiently = at_once) -> AsyncIterator[FollowerPage]:
        """The followers in these authors' first shards, which of a small author are all, once, page by page. Memory is bounded by
        a few pages. Each read is done `patiently`: so that nobody has to begin again, and to push again what was pushed, for one
        page that could not be read. Raises what that raises."""

    async def shard(self, author: UserId, shard: int) -> UserIds:
        """The followers in one shard, ascending. Raises Unavailable."""

    async def count(self, author: UserId, at_most: int) -> int:
        """How many followers the author has, counted no further than `at_most`. Raises Unavailable."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One entry for many home timelines. `late`: its id's time is so far back that readers must be told (DESIGN 5)."""

    entry: Entry
    followers: UserIds
    late: bool


class NotAcknowledged(Unavailable):
    """Redis did not acknowledge all of a push in time. `left` is what remains; what was acknowledged is not pushed again: its lists
    would hold it once more a try, and lose what they held before."""

    def __init__(self, reason: str, left: Sequence[Delivery]) -> None:
        super().__init__(reason)
        self.left = left


class Pushes(Protocol):
    """cache/timelines.py

    Acknowledged is what Redis answered; if it is not `late`, within push_timeout_ms of the call, so that it stands in its list within
    W. What may have happened, for all that is known, is not: to append it twice is harmless.
    """

    async def push(self, deliveries: Sequence[Delivery]) -> int:
        """Append each entry to each follower's home list, where it exists (RPUSHX), and trim lists that are a quarter over.
        Returns the number of appends that Redis acknowledged as done to an existing list. Commands grouped by node, bytes in flight
        bounded. Raises NotAcknowledged with the followers who remain of each delivery."""

    async def push_profiles(self, entries: Sequence[tuple[Entry, bool]]) -> None:
        """Append each (entry, late) to its author's profile list and to the author's own home list, where they exist. Both are on one
        node. Raises NotAcknowledged with the entries of which either list did not acknowledge, each for its author."""

    def away(self) -> Sequence[Away]:
        """The parts of the cluster that cannot be written now."""

    def slots_of(self, users: UserIds) -> npt.NDArray[np.int64]:
        """The hash slot of each user's home list."""


@dataclass(frozen=True, slots=True)
class Away:
    """A Redis node that does not answer: its name, how long it has not, and the slots that it serves, as ranges of which both ends are
    included."""

    node: str
    for_ms: int
    slots: tuple[tuple[int, int], ...]


class Classes(Protocol):
    """store/notices.py: which authors are pulled, and the holes that were recorded."""

    def may_skip(self, authors: Sequence[UserId]) -> set[UserId]:
        """Those whose followers need not be pushed to: an interval stands, every process must know it by now (this one has seen it for
        notices_lease_ms), and this one would know its end."""

    async def settled(self) -> None:
        """Return once this process has read for notices_lease_ms: from then on, may_skip knows every interval that is older than that.
        Raises Unavailable while the last reading is too old to be believed."""

    def stands(self, author: UserId) -> bool:
        """Whether an interval of this author stands, as last read."""

    async def begin_pull(self, author: UserId) -> None:
        """Write an interval that stands, unless one is known. Raises Unavailable."""

    async def end_pull(self, author: UserId) -> None:
        """Write the end of every interval of this author that stands: pushing begins at once. Raises Unavailable, and then it may or
        may not have happened: go on pushing, and repeat it."""

    async def record_hole(self, away: Away) -> bool:
        """Record, or prolong, that deliveries to these slots are left out from now on until hole_ahead_ms later. True once every
        process must know it (recorded for notices_lease_ms, and not yet near its end): only then may a delivery be left out.
        Raises Unavailable."""

    async def end_hole(self, node: str, *, used: bool = True) -> None:
        """Deliveries to that node are not left out any more; not `used`: none ever was, and lists need no repair. Raises
        Unavailable."""


@dataclass(frozen=True, slots=True)
class Batch(Generic[Event]):
    """Events as consumed, in order within a partition; `token` is the consumer's own, to say that it is done."""

    events: Sequence[Event]
    token: object


class Events(Protocol[Event]):
    """eventlog/consumer.py"""

    async def batch(self) -> Batch[Event]:
        """The next events, at least one, at most as many as the consumer was opened for. What cannot be decoded has gone to the
        dead-letter topic."""

    async def done(self, batch: Batch[Event]) -> None:
        """Everything in it is in Redis: the watermark may pass. Committing goes on beside."""


class Slices(Events[FanoutSlice], Protocol):
    """eventlog/slices.py"""

    async def produce(self, slices: Sequence[FanoutSlice]) -> None:
        """Return when the event log has all of them. Raises Unavailable, and then it may have some: produce all again."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Of one slice: its followers up to and including the id `after` have the tweet, or all of them."""

    after: int = 0
    is_done: bool = False


class ProgressStore(Protocol):
    """store/progress.py"""

    async def read(self, tweet_id: TweetId, shard: int) -> Progress:
        """As last saved; none at all where that is forgotten. Raises Unavailable."""

    async def save(self, tweet_id: TweetId, shard: int, progress: Progress) -> None:
        """Once Redis has acknowledged all of it. Raises Unavailable."""


class OutboxStore(Protocol):
    """store/outbox.py. A row stands in the slot of its tweet's id: Unix ms of the id's time // outbox_bucket_ms."""

    def slot(self, ten_seconds: int) -> AsyncIterator[list[Tweet]]:
        """The tweets of one slot whose rows are not cleared, page by page, as they were first written. Raises Unavailable."""

    async def clear(self, tweet: Tweet) -> None:
        """Delete its row. Repeating it changes nothing. Raises Unavailable."""

    async def relay_progress(self) -> int:
        """The Unix ms below which every row is known to be swept; 0 if none was ever saved. Raises Unavailable."""

    async def save_relay_progress(self, swept_ms: int) -> None:
        """The highest value saved stays. Raises Unavailable."""


class TweetRewriter(Protocol):
    """store/tweets.py"""

    async def rewrite(self, tweet: Tweet) -> None:
        """Write the whole tweet, but for the outbox, once more under its own timestamp: changes nothing where it stands already.
        Raises Unavailable."""


class EventProducer(Protocol):
    """eventlog/publisher.py"""

    async def produce_created(self, tweet: Tweet) -> None:
        """Hand its event to Kafka and wait until it is acknowledged. Raises Unavailable, OutcomeUnknown."""
