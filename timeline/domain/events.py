"""What happened, in the past tense. Events travel by Kafka as JSON (eventlog/codec.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from timeline.domain.entries import Entry
from timeline.domain.ids import TweetId, UserId

EVENT_VERSION = 1


@dataclass(frozen=True, slots=True)
class TweetCreated:
    """A tweet, reply, quote or retweet is stored. Its id is the event's too: taken twice, it changes nothing.

    `unknown` keeps members that this release does not know, so that passing an event on loses nothing.
    """

    tweet_id: TweetId
    author_id: UserId
    reference: int
    version: int = EVENT_VERSION
    unknown: Mapping[str, object] = field(default_factory=dict)

    @property
    def entry(self) -> Entry:
        return Entry(self.tweet_id, self.author_id, self.reference)


@dataclass(frozen=True, slots=True)
class FanoutSlice:
    """A tweet is to reach one follower shard of its author, who has several. Tweet and shard are its identity: taken twice, it changes
    nothing. Version and unknown members are its tweet's.
    """

    tweet_id: TweetId
    author_id: UserId
    reference: int
    shard: int
    version: int = EVENT_VERSION
    unknown: Mapping[str, object] = field(default_factory=dict)

    @staticmethod
    def of(event: TweetCreated, shard: int) -> FanoutSlice:
        return FanoutSlice(event.tweet_id, event.author_id, event.reference, shard, event.version, event.unknown)

    @property
    def entry(self) -> Entry:
        return Entry(self.tweet_id, self.author_id, self.reference)
