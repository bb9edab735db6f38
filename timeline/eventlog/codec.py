"""Events as JSON and back: the only place that knows how an event is spelled in Kafka.

    {"version": 1, "tweet_id": "…", "author_id": "…", "reply_to_user": "…"}      or "retweet_of", or neither

Ids are decimal strings, since JSON readers round large numbers. Members that this release does not know are kept and written again.
"""

from __future__ import annotations

from typing import Any

import orjson

from timeline.domain.entries import reference_to
from timeline.domain.errors import PoisonEvent
from timeline.domain.events import TweetCreated
from timeline.domain.ids import ID_MAX, TweetId, UserId, time_ms
from timeline.domain.model import Tweet

_KNOWN = ("version", "tweet_id", "author_id", "reply_to_user", "retweet_of")
_DIGITS_MAX = 19


def created(tweet: Tweet) -> TweetCreated:
    """The event that tells of a stored tweet."""
    return TweetCreated(tweet.id, tweet.author_id, tweet.entry.reference)


def key(event: TweetCreated) -> bytes:
    """What decides the partition: the author, so that one author's events stay in order."""
    return str(event.author_id).encode()


def encode(event: TweetCreated) -> bytes:
    entry = event.entry
    members: dict[str, object] = {
        **event.unknown,
        "version": event.version,
        "tweet_id": str(event.tweet_id),
        "author_id": str(event.author_id),
    }
    if entry.retweet_of is not None:
        members["retweet_of"] = str(entry.retweet_of)
    if entry.reply_to_user is not None:
        members["reply_to_user"] = str(entry.reply_to_user)
    return orjson.dumps(members)


def decode(value: bytes | None, now_ms: int, clock_skew_ms: int) -> TweetCreated:
    """The event. Raises PoisonEvent with the reason: not JSON, a member that is missing or no id, or an id minted more than
    `clock_skew_ms` after `now_ms`."""
    members = _object(value)
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
    return TweetCreated(
        TweetId(tweet_id),
        UserId(author_id),
        reference_to(retweet_of=retweet_of, reply_to_user=reply_to_user),
        version,
        {name: member for name, member in members.items() if name not in _KNOWN},
    )


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
