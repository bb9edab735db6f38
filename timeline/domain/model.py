"""What is stored: tweets, users, the graph around a reader. Plain values, as the store tells them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from timeline.domain.entries import Entry, UserIds, reference_to
from timeline.domain.ids import TweetId, UserId, time_ms


class Visibility(StrEnum):
    """Who may see a tweet, blocks aside: everybody, or the author and those who follow the author now."""

    public = "public"
    followers = "followers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tweet:
    """A tweet as its row says, or a retweet: a row with an id of its own, no text, and `retweet_of` set.

    `version` is the write time, in microseconds, of the newest change (creation, edit, deletion): it orders what caches
    hold. A deleted tweet is still a value, with `deleted` set and its content not to be shown.
    """

    id: TweetId
    author_id: UserId
    text: str
    version: int
    visibility: Visibility = Visibility.public
    conversation_id: TweetId
    reply_to: TweetId | None = None
    reply_to_user: UserId | None = None
    quote_of: TweetId | None = None
    quote_author: UserId | None = None
    media_ids: tuple[str, ...] = ()
    retweet_of: TweetId | None = None
    retweet_author: UserId | None = None
    edited_ms: int | None = None
    deleted: bool = False

    @property
    def created_ms(self) -> int:
        return time_ms(self.id)

    @property
    def entry(self) -> Entry:
        """What timelines hold of it."""
        return Entry(
            self.id,
            self.author_id,
            reference_to(retweet_of=self.retweet_of, reply_to_user=self.reply_to_user),
        )


@dataclass(frozen=True, slots=True)
class TweetKey:
    """The author and the id: together they name a row's partition, `((author, id >> 53), id)`."""

    author_id: UserId
    tweet_id: TweetId


@dataclass(frozen=True, slots=True)
class Counts:
    """Of a tweet."""

    likes: int = 0
    retweets: int = 0
    replies: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A profile. `version` is the write time, in microseconds, of the newest change; `deleted` users are nobody's business."""

    id: UserId
    handle: str
    name: str
    avatar_url: str | None
    created_ms: int
    version: int
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class UserCounts:
    followers: int
    followees: int
    tweets: int


def _none() -> UserIds:
    return np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """What a read needs to know of its reader. All arrays ascending by user id; `since_ms` beside `followees`: when the store decided
    that the follow stands, by its own clock (a caller's may have stood still since it asked).

    `version` (microseconds) orders two contexts of one reader. `follows` and the like take and give one id;
    `has_followed` and the like are for whole columns of entries.
    """

    user_id: UserId
    followees: UserIds
    since_ms: UserIds
    blocked: UserIds
    blocked_by: UserIds
    muted: UserIds
    version: int

    @staticmethod
    def nobody(user_id: UserId) -> Reader:
        """A reader who follows nobody and bars nobody."""
        return Reader(user_id, _none(), _none(), _none(), _none(), _none(), 0)

    def follows(self, user_id: int) -> bool:
        return contains(self.followees, user_id)

    def bars(self, user_id: int) -> bool:
        """Whether a block stands between the two, whoever made it."""
        return contains(self.blocked, user_id) or contains(self.blocked_by, user_id)

    def mutes(self, user_id: int) -> bool:
        return contains(self.muted, user_id)

    def sees_author(self, user_id: int) -> bool:
        """Whether tweets of this author belong in the reader's home: oneself, or followed, not muted, no block."""
        return user_id == self.user_id or (self.follows(user_id) and not self.mutes(user_id) and not self.bars(user_id))

    @property
    def fingerprint(self) -> int:
        """A number for all that decides what the reader sees: another follow, block or mute, or the same one ended and begun again, is
        another number (of 63 bits). 4 µs for 200 followees."""
        columns = (self.followees, self.since_ms, self.blocked, self.blocked_by, self.muted)
        told = b"".join(len(column).to_bytes(4, "big") + column.tobytes() for column in columns)
        return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest(), "big") >> 1

    @property
    def authors(self) -> UserIds:
        """Everyone whose tweets belong in the reader's home, ascending: oneself, and the followed that `sees_author`."""
        barred = np.concatenate([self.blocked, self.blocked_by, self.muted])
        followed = np.setdiff1d(self.followees, barred, assume_unique=False) if len(barred) else self.followees
        return np.union1d(followed, np.array([self.user_id], np.int64))


def contains(ascending: UserIds, user_id: int) -> bool:
    """Whether the sorted array holds the id: a binary search, 1 µs."""
    at = int(
        ascending.searchsorted(user_id)
    )  # the method: numpy's function of the same name costs several times as much
    return at < len(ascending) and int(ascending[at]) == user_id


def contains_each(ascending: UserIds, user_ids: UserIds) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """For each of `user_ids` whether the sorted array holds it."""
    if not len(ascending):
        return np.zeros(len(user_ids), np.bool_)
    at = np.searchsorted(ascending, user_ids)
    at[at == len(ascending)] = 0
    return np.asarray(ascending[at] == user_ids)
