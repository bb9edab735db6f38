"""What fan-out needs of the store, the caches and the event log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from timeline.domain.entries import Entry, UserIds
from timeline.domain.errors import Unavailable
from timeline.domain.events import TweetCreated
from timeline.domain.ids import UserId
from timeline.domain.model import Tweet

Answer = TypeVar("Answer")


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
    """store/followers.py"""

    def pages(self, authors: Sequence[UserId], patiently: Patiently = at_once) -> AsyncIterator[FollowerPage]:
        """Every follower of these authors, once, page by page, read now from the store (never from a cache). Memory is bounded
        by a few pages. Each read is done `patiently`: so that nobody has to begin again, and to push again what was pushed, for
        one page that could not be read. Raises what that raises."""


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


@dataclass(frozen=True, slots=True)
class Batch:
    """Events as consumed, in order within a partition; `token` is the consumer's own, to say that it is done."""

    events: Sequence[TweetCreated]
    token: object


class Events(Protocol):
    """eventlog/consumer.py"""

    async def batch(self) -> Batch:
        """The next events, at least one, at most fanout_batch_events. What cannot be decoded has gone to the dead-letter topic."""

    async def done(self, batch: Batch) -> None:
        """Everything in it is in Redis: the watermark may pass. Committing goes on beside."""

    async def reject(self, event: TweetCreated, batch: Batch, reason: str) -> None:
        """An event that can never succeed: to its dead-letter topic, acknowledged, before `done`."""


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
