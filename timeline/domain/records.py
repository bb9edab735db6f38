"""What the caches hold: packed values with a version each, so that older is never put over newer.

Every layout begins with one byte that names it. A value of an unknown layout (an older or newer release wrote it) unpacks
to None, which is a miss: the store is asked.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from timeline.domain.entries import UserIds
from timeline.domain.ids import TweetId, UserId
from timeline.domain.model import Counts, Reader, Tweet, Visibility, contains

_HEADER = struct.Struct(">BB20sQQQQQQQ")
_POST = struct.Struct(">BBQQQQQQQ")
_STATE = struct.Struct(">BBQIII")
_AUTHOR = struct.Struct(">BBQQ")
_READER = struct.Struct(">BQQIIII")
_MARKS = struct.Struct(">BQQQII")
HEADER_LAYOUT, POST_LAYOUT, STATE_LAYOUT, AUTHOR_LAYOUT, READER_LAYOUT, MARKS_LAYOUT = 7, 2, 3, 4, 5, 6
HEADER_BYTES = _HEADER.size
UNKNOWN_REPLICATION = bytes(20)


class ListKind(StrEnum):
    """The two lists of entries that a user has: what they read, and what they wrote."""

    home = "timeline"
    profile = "profile"


@dataclass(frozen=True, slots=True)
class Header:
    """The first element of a list of entries.

    `floor`: every delivered entry with an id at or above it is in the list. An entry's arrival number is `base` plus its
    index in the list, the header being index 0; `late` is the newest arrival that came later than W after its id's time (0: none), and
    `late_ms` the time of the newest such arrival, by the node's clock. A rebuild begins a new `epoch`. While `token` is not 0 the
    list is being built, and only what arrived meanwhile is in it. `built_ms` is from before the moment of which the list is: before
    its reader's context was read, and before its history was pulled. `replication` is the id of the primary that the building began
    on: on another, the list may lack what that one acknowledged.
    """

    floor: int
    epoch: int
    base: int
    built_ms: int
    late: int
    token: int = 0
    late_ms: int = 0
    replication: bytes = UNKNOWN_REPLICATION

    @property
    def building(self) -> bool:
        return self.token != 0

    def pack(self) -> bytes:
        numbers = (self.floor, self.epoch, self.base, self.built_ms, self.late, self.token, self.late_ms)
        return _HEADER.pack(HEADER_LAYOUT, 0, self.replication, *numbers)

    @staticmethod
    def unpack(data: bytes) -> Header | None:
        if len(data) != HEADER_BYTES or data[0] != HEADER_LAYOUT:
            return None
        _, _, replication, *numbers = _HEADER.unpack(data)
        floor, epoch, base, built_ms, late, token, late_ms = numbers
        return Header(floor, epoch, base, built_ms, late, token, late_ms, replication)


@dataclass(frozen=True, slots=True)
class Post:
    """The part of a tweet that changes only by an edit: what rules need of it, and its JSON members, `"id":…,"text":…`."""

    version: int
    tweet_id: TweetId
    author_id: UserId
    body: bytes
    followers_only: bool = False
    quote_of: TweetId | None = None
    quote_author: UserId | None = None
    reply_to_user: UserId | None = None
    retweet_of: TweetId | None = None
    retweet_author: UserId | None = None

    def pack(self) -> bytes:
        known = (self.quote_of, self.quote_author, self.reply_to_user, self.retweet_of, self.retweet_author)
        packed = (value or 0 for value in known)
        # a tweet id costs nothing to repeat, and a value found under a wrong key is then seen
        return (
            _POST.pack(POST_LAYOUT, self.followers_only, self.version, self.author_id, *packed)
            + struct.pack(">Q", self.tweet_id)
            + self.body
        )

    @staticmethod
    def unpack(data: bytes) -> Post | None:
        if len(data) < _POST.size + 8 or data[0] != POST_LAYOUT:
            return None
        _, flags, version, author, quote, quote_author, reply_user, retweet, retweet_author = _POST.unpack_from(data)
        (tweet,) = struct.unpack_from(">Q", data, _POST.size)
        return Post(
            version,
            TweetId(tweet),
            UserId(author),
            data[_POST.size + 8 :],
            bool(flags & 1),
            TweetId(quote) if quote else None,
            UserId(quote_author) if quote_author else None,
            UserId(reply_user) if reply_user else None,
            TweetId(retweet) if retweet else None,
            UserId(retweet_author) if retweet_author else None,
        )


NO_COUNTS = Counts()
_FINAL = 1 << 63  # above every version


@dataclass(frozen=True, slots=True)
class State:
    """The part of a tweet that changes: read with every request, 60 s old at most.

    Packed, a deletion is newer than all that is no deletion, whatever the versions: it is final, and an edit decided at the same
    time must not bring the tweet back.
    """

    version: int
    deleted: bool
    followers_only: bool
    counts: Counts = NO_COUNTS

    @property
    def order(self) -> int:
        """Which of two states is newer."""
        return self.version | (_FINAL if self.deleted else 0)

    def pack(self) -> bytes:
        flags = self.deleted | self.followers_only << 1
        return _STATE.pack(
            STATE_LAYOUT, flags, self.order, self.counts.likes, self.counts.retweets, self.counts.replies
        )

    @staticmethod
    def unpack(data: bytes) -> State | None:
        if len(data) != _STATE.size or data[0] != STATE_LAYOUT:
            return None
        _, flags, order, likes, retweets, replies = _STATE.unpack(data)
        return State(order & ~_FINAL, bool(flags & 1), bool(flags & 2), Counts(likes, retweets, replies))

    @staticmethod
    def of(tweet: Tweet, counts: Counts) -> State:
        return State(tweet.version, tweet.deleted, tweet.visibility is Visibility.followers, counts)


@dataclass(frozen=True, slots=True)
class Author:
    """A user as tweets show them: the handle, and the JSON object `{"id":…,"handle":…,"name":…,"avatar_url":…}`."""

    version: int
    user_id: UserId
    handle: str
    body: bytes
    deleted: bool = False

    def pack(self) -> bytes:
        handle = self.handle.encode()
        head = _AUTHOR.pack(AUTHOR_LAYOUT, self.deleted, self.version, self.user_id)
        return head + bytes((len(handle),)) + handle + self.body

    @staticmethod
    def unpack(data: bytes) -> Author | None:
        if len(data) <= _AUTHOR.size or data[0] != AUTHOR_LAYOUT:
            return None
        _, flags, version, user = _AUTHOR.unpack_from(data)
        start = _AUTHOR.size + 1
        end = start + data[_AUTHOR.size]
        try:
            handle = data[start:end].decode()
        except UnicodeDecodeError:
            return None
        return Author(version, UserId(user), handle, data[end:], bool(flags & 1))


@dataclass(frozen=True, slots=True, eq=False)
class Marks:
    """What a reader has liked and retweeted, newest 1,000 tweets of each, ascending, with a floor: below it ask the store."""

    likes: UserIds
    likes_floor: int
    retweets: UserIds
    retweets_floor: int
    version: int

    def liked(self, tweet_id: int) -> bool | None:
        """None: it lies below the floor, and the store must be asked."""
        return contains(self.likes, tweet_id) if tweet_id >= self.likes_floor else None

    def retweeted(self, tweet_id: int) -> bool | None:
        """None: it lies below the floor, and the store must be asked."""
        return contains(self.retweets, tweet_id) if tweet_id >= self.retweets_floor else None


def pack_marks(marks: Marks) -> bytes:
    head = _MARKS.pack(
        MARKS_LAYOUT, marks.version, marks.likes_floor, marks.retweets_floor, len(marks.likes), len(marks.retweets)
    )
    return head + marks.likes.astype(">i8").tobytes() + marks.retweets.astype(">i8").tobytes()


def unpack_marks(data: bytes) -> Marks | None:
    if len(data) < _MARKS.size or data[0] != MARKS_LAYOUT:
        return None
    _, version, likes_floor, retweets_floor, *lengths = _MARKS.unpack_from(data)
    columns = _columns(data, _MARKS.size, lengths)
    if columns is None:
        return None
    likes, retweets = columns
    return Marks(likes, likes_floor, retweets, retweets_floor, version)


def pack_reader(reader: Reader) -> bytes:
    columns = (reader.followees, reader.blocked, reader.blocked_by, reader.muted)
    head = _READER.pack(READER_LAYOUT, reader.user_id, reader.version, *map(len, columns))
    return head + b"".join(column.astype(">i8").tobytes() for column in (*columns, reader.since_ms))


def unpack_reader(data: bytes) -> Reader | None:
    if len(data) < _READER.size or data[0] != READER_LAYOUT:
        return None
    _, user, version, *lengths = _READER.unpack_from(data)
    columns = _columns(data, _READER.size, [*lengths, lengths[0]])
    if columns is None:
        return None
    followees, blocked, blocked_by, muted, since = columns
    return Reader(UserId(user), followees, since, blocked, blocked_by, muted, version)


def _columns(data: bytes, start: int, lengths: list[int]) -> list[UserIds] | None:
    """Columns of these lengths, or None where the data do not hold just that."""
    if len(data) != start + 8 * sum(lengths):
        return None
    columns = []
    for length in lengths:
        columns.append(np.frombuffer(data, ">i8", length, start).astype(np.int64))
        start += 8 * length
    return columns
