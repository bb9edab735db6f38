"""Events as JSON and back: the only place that knows how an event is spelled in Kafka.

    tweet.created  {"version": 1, "tweet_id": "…", "author_id": "…", "reply_to_user": "…"}      or "retweet_of", or neither
    fanout.slice   the same, and "shard": 17

Ids are decimal strings, since JSON readers round large numbers. Members that this release does not know are kept and written again.
"""

from __future__ import annotations

from typing import Any

import orjson

from timeline.domain.entries import reference_to
from timeline.domain.errors import PoisonEvent
from timeline.domain.events import FanoutSlice, TweetCreated
from timeline.domain.ids import ID_MAX, TweetId, UserId, time_ms
from timeline.domain.model import Tweet

_KNOWN = ("version", "tweet_id", "author_id", "reply_to_user", "retweet_of")
_KNOWN_OF_SLICE = (*_KNOWN, "shard")
_DIGITS_MAX = 19
_SHARD_MAX = 2**31 - 1  # an int of the store


def created(tweet: Tweet) -> TweetCreated:
    """The event that tells of a stored tweet."""
    return TweetCreated(tweet.id, tweet.author_id, tweet.entry.reference)


def key(event: TweetCreated) -> bytes:
    """What decides the partition: the author, so that one author's events stay in order."""
    return str(event.author_id).encode()


def slice_key(event: FanoutSlice) -> bytes:
    """What decides the partition: author and shard, so that an author's slices spread over all workers, and a shard's followers are
    cached by one."""
    return f"{event.author_id}:{event.shard}".encode()


def encode(event: TweetCreated) -> bytes:
    return orjson.dumps({**event.unknown, **_members(event)})


def encode_slice(event: FanoutSlice) -> bytes:
    return orjson.dumps({**event.unknown, **_members(event), "shard": event.shard})


def decode(value: bytes | None, now_ms: int, clock_skew_ms: int) -> TweetCreated:
    """The event. Raises PoisonEvent with the reason: not JSON, a member that is missing or no id, or an id minted more than
    `clock_skew_ms` after `now_ms`."""
    members = _object(value)
    version, tweet_id, author_id, reference = _common(members, now_ms, clock_skew_ms)
    return TweetCreated(tweet_id, author_id, reference, version, _unknown(members, _KNOWN))


def decode_slice(value: bytes | None, now_ms: int, clock_skew_ms: int) -> FanoutSlice:
    """The event. Raises PoisonEvent as `decode`, and where the shard is no number of one."""
    members = _object(value)
    version, tweet_id, author_id, reference = _common(members, now_ms, clock_skew_ms)
    shard = members.get("shard")
    if not isinstance(shard, int) or isinstance(shard, bool) or not 0 <= shard <= _SHARD_MAX:
        raise PoisonEvent("shard is not the number of one")
    return FanoutSlice(tweet_id, author_id, reference, shard, version, _unknown(members, _KNOWN_OF_SLICE))


def _members(event: TweetCreated | FanoutSlice) -> dict[str, object]:
    members: dict[str, object] = {
        "version": event.version,
        "tweet_id": str(event.tweet_id),
        "author_id": str(event.author_id),
    }
    entry = event.entry
    if entry.retweet_of is not None:
        members["retweet_of"] = str(entry.retweet_of)
    if entry.reply_to_user is not None:
        members["reply_to_user"] = str(entry.reply_to_user)
    return members


def _common(members: dict[str, Any], now_ms: int, clock_skew_ms: int) -> tuple[int, TweetId, UserId, int]:
    """Version, tweet, author, reference. Raises PoisonEvent."""
    version = members.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise PoisonEvent("version is not a whole number from 1")
    tweet_id, author_id = _id(members, "tweet_id"), _id(members, "author_id")
    if tweet_id is None or author_id is None:
        raise PoisonEvent(f"{'tweet_id' if tweet_id is None else 'author_id'} is missing")
    retweet_of, reply_to_user = _id(members, "retweet_of"), _id(members, "reply_to_user")
    if retweet_of is not None and reply_to_user is not None:
        raise PoisonEvent("both retweet_of and reply_to_user: a retweet is never a reply")
    ahead = time_ms(tweet_id) - now_ms
    if ahead > clock_skew_ms:
        raise PoisonEvent(f"tweet_id lies {ahead} ms in the future")
    reference = reference_to(retweet_of=retweet_of, reply_to_user=reply_to_user)
    return version, TweetId(tweet_id), UserId(author_id), reference


def _unknown(members: dict[str, Any], known: tuple[str, ...]) -> dict[str, object]:
    return {name: member for name, member in members.items() if name not in known}


def _object(value: bytes | None) -> dict[str, Any]:
    if value is None:
        raise PoisonEvent("no value")
    try:
        members = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise PoisonEvent(f"not JSON: {error}") from error
    if not isinstance(members, dict):
        raise PoisonEvent("not a JSON object")
    return members


def _id(members: dict[str, Any], name: str) -> int | None:
    """A member's id; None where it is absent or null."""
    text = members.get(name)
    if text is None:
        return None
    if not isinstance(text, str) or not (text.isascii() and text.isdigit()) or len(text) > _DIGITS_MAX:
        raise PoisonEvent(f"{name} is not an id in a decimal string")
    number = int(text)
    if number > ID_MAX:
        raise PoisonEvent(f"{name} is above the largest id")
    return number
