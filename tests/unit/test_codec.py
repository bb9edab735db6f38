"""Events as JSON and back."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeline.domain.entries import RETWEET_BIT
from timeline.domain.errors import PoisonEvent
from timeline.domain.events import FanoutSlice, TweetCreated
from timeline.domain.ids import ID_MAX, TweetId, UserId, first_id_at, time_ms
from timeline.domain.model import Tweet
from timeline.eventlog.codec import created, decode, decode_slice, encode, encode_slice, key, slice_key

NOW_MS = 1_780_000_000_000
SKEW_MS = 5_000
TWEET = first_id_at(NOW_MS - 1000)

ids = st.integers(1, ID_MAX)
members = st.dictionaries(
    st.text(min_size=1).filter(
        lambda name: name not in ("version", "tweet_id", "author_id", "reply_to_user", "retweet_of")
    ),
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text() | st.lists(st.text(max_size=3), max_size=3),
    max_size=4,
)


@given(
    tweet=st.integers(1, TWEET),
    author=st.integers(0, ID_MAX),
    reference=st.just(0) | ids | ids.map(lambda of: of | RETWEET_BIT),
    version=st.integers(1, 9),
    unknown=members,
)
def test_an_event_survives_its_way_through_kafka_with_members_that_we_do_not_know(
    tweet: int, author: int, reference: int, version: int, unknown: dict[str, object]
) -> None:
    event = TweetCreated(TweetId(tweet), UserId(author), reference, version, unknown)
    assert decode(encode(event), NOW_MS, SKEW_MS) == event


@given(
    tweet=st.integers(1, TWEET),
    author=st.integers(0, ID_MAX),
    reference=st.just(0) | ids | ids.map(lambda of: of | RETWEET_BIT),
    shard=st.integers(0, 2**31 - 1),
    version=st.integers(1, 9),
    unknown=members,
)
def test_a_slice_survives_its_way_with_the_version_and_the_members_of_its_tweet(
    tweet: int, author: int, reference: int, shard: int, version: int, unknown: dict[str, object]
) -> None:
    unknown.pop("shard", None)
    of = FanoutSlice.of(TweetCreated(TweetId(tweet), UserId(author), reference, version, unknown), shard)
    assert decode_slice(encode_slice(of), NOW_MS, SKEW_MS) == of
    assert (of.entry.reference, of.version, of.unknown) == (reference, version, unknown)


def test_slices_of_an_author_have_keys_of_their_own() -> None:
    event = TweetCreated(TweetId(TWEET), UserId(7), 0)
    assert [slice_key(FanoutSlice.of(event, shard)) for shard in range(2)] == [b"7:0", b"7:1"]


@pytest.mark.parametrize("shard", [None, -1, 2**31, True, "1", 1.5])
def test_a_slice_without_the_number_of_its_shard_is_poison(shard: object) -> None:
    with pytest.raises(PoisonEvent, match="shard"):
        decode_slice(_json(shard=shard), NOW_MS, SKEW_MS)


def test_ids_are_decimal_strings_and_the_key_is_the_author() -> None:
    tweet = Tweet(id=TWEET, author_id=UserId(7), text="x", version=1, conversation_id=TWEET, reply_to_user=UserId(9))
    event = created(tweet)
    assert orjson.loads(encode(event)) == {
        "version": 1,
        "tweet_id": str(TWEET),
        "author_id": "7",
        "reply_to_user": "9",
    }
    assert key(event) == b"7"


def _json(**changes: object) -> bytes:
    event = {"version": 1, "tweet_id": str(TWEET), "author_id": "7", **changes}
    return orjson.dumps({name: value for name, value in event.items() if value != "absent"})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no value"),
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"7", "not a JSON object"),
        (_json(version=0), "version"),
        (_json(version=True), "version"),
        (_json(version="1"), "version"),
        (_json(version="absent"), "version"),
        (_json(tweet_id="absent"), "tweet_id is missing"),
        (_json(author_id=None), "author_id is missing"),
        (_json(tweet_id=7), "tweet_id is not an id"),
        (_json(tweet_id="-7"), "tweet_id is not an id"),
        (_json(author_id="٧"), "author_id is not an id"),
        (_json(author_id="7" * 20), "author_id is not an id"),
        (_json(author_id=str(2**63)), "above the largest id"),
        (_json(retweet_of="8", reply_to_user="9"), "both"),
    ],
)
def test_what_is_no_event_is_poison_and_says_why(value: bytes | None, reason: str) -> None:
    with pytest.raises(PoisonEvent, match=reason):
        decode(value, NOW_MS, SKEW_MS)


@given(value=st.binary(max_size=60) | st.recursive(st.none() | st.text(), st.lists).map(orjson.dumps))
def test_arbitrary_bytes_are_never_anything_else_than_poison(value: bytes) -> None:
    with pytest.raises(PoisonEvent):
        decode(value, NOW_MS, SKEW_MS)


def test_an_id_from_further_ahead_than_clocks_differ_is_poison() -> None:
    at_the_edge = first_id_at(NOW_MS + SKEW_MS)
    assert decode(_json(tweet_id=str(at_the_edge)), NOW_MS, SKEW_MS).tweet_id == at_the_edge
    beyond = first_id_at(NOW_MS + SKEW_MS + 1)
    assert time_ms(beyond) == NOW_MS + SKEW_MS + 1
    with pytest.raises(PoisonEvent, match="5001 ms in the future"):
        decode(_json(tweet_id=str(beyond)), NOW_MS, SKEW_MS)
