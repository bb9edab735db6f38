"""Bodies: every bad member is named, at once, by a pointer."""

from __future__ import annotations

import json

import pytest

from timeline.api.bodies import Body, EditBody, MarkerBody, TweetBody, UserBody, parse
from timeline.domain.errors import BadRequest
from timeline.domain.limits import Limits

LIMITS = Limits()


def pointers(data: bytes | dict[str, object], model: type[Body] = TweetBody) -> list[str]:
    encoded = data if isinstance(data, bytes) else json.dumps(data).encode()
    with pytest.raises(BadRequest) as caught:
        parse(encoded, model, LIMITS)
    assert caught.value.kind == "invalid-body"
    assert all(fault.detail for fault in caught.value.faults)
    return [fault.pointer for fault in caught.value.faults]


def test_a_whole_tweet_is_taken() -> None:
    body = parse(
        b'{"text":"a","reply_to":"1","quote_of":null,"media_ids":["image:x"],"visibility":"followers"}',
        TweetBody,
        LIMITS,
    )
    assert body == TweetBody(text="a", reply_to="1", media_ids=["image:x"], visibility="followers")


def test_what_may_be_left_out_has_its_default() -> None:
    body = parse(b'{"text":""}', TweetBody, LIMITS)
    assert (body.reply_to, body.quote_of, body.media_ids, body.visibility) == (None, None, [], "public")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"text=a",
        b'{"text":"\\ud800"}',
        b'{"text":"\xff"}',
        b'{"text":NaN}',
        b"\xef\xbb\xbf{}",
        b"[" * 60_000,
    ],
    ids=repr,
)
def test_what_is_not_json_is_said_to_be_that(data: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(data, TweetBody, LIMITS)
    assert caught.value.kind == "not-json"


@pytest.mark.parametrize("data", [b"[]", b"null", b'"a"', b"1"])
def test_a_body_that_is_no_object_is_wrong_as_a_whole(data: bytes) -> None:
    assert pointers(data) == [""]


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"text": 1}, "/text"),
        ({"text": None}, "/text"),
        ({"reply_to": 12}, "/reply_to"),
        ({"reply_to": str(2**63)}, "/reply_to"),
        ({"reply_to": "0"}, "/reply_to"),
        ({"reply_to": "1\n"}, "/reply_to"),
        ({"quote_of": "-1"}, "/quote_of"),
        ({"media_ids": "image:x"}, "/media_ids"),
        ({"media_ids": None}, "/media_ids"),
        ({"media_ids": ["image:x", 1]}, "/media_ids/1"),
        ({"visibility": "private"}, "/visibility"),
        ({"visibility": True}, "/visibility"),
        ({"txet": "a"}, "/txet"),
        ({"a/b~c": 1}, "/a~1b~0c"),
        ({"": 1}, "/"),
    ],
    ids=str,
)
def test_a_bad_member_is_pointed_at(change: dict[str, object], pointer: str) -> None:
    assert pointers({"text": "a"} | change) == [pointer]


def test_all_bad_members_are_named_at_once() -> None:
    assert pointers({"reply_to": "x", "visibility": "x", "more": 1}) == ["/text", "/reply_to", "/visibility", "/more"]


def test_thousands_of_bad_members_are_not_all_named() -> None:
    assert len(pointers({"text": "a"} | {f"m{number}": 1 for number in range(5000)})) == LIMITS.faults_max


def test_a_member_given_twice_is_pointed_at() -> None:
    assert pointers(b'{"text":"a","text":"b"}') == ["/text"]


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "data:text/html,x", "https://a b", 'https://a"b', "https://" + "a" * 3000, ""]
)
def test_an_avatar_is_a_link_that_a_page_may_show(url: str) -> None:
    assert pointers({"handle": "a", "name": "A", "avatar_url": url}, UserBody) == ["/avatar_url"]


@pytest.mark.parametrize("url", [None, "https://img.example/a.png?x=1&y=ü", "http://x/", "/media/a.png"])
def test_a_usual_avatar_is_taken(url: str | None) -> None:
    body = parse(json.dumps({"handle": "a", "name": "A", "avatar_url": url}).encode(), UserBody, LIMITS)
    assert body.avatar_url == url


@pytest.mark.parametrize(
    ("members", "wrong"),
    [
        ({}, [""]),
        ({"text": None}, ["/text"]),
        ({"visibility": None}, ["/visibility"]),
        ({"text": 1, "visibility": "friends"}, ["/text", "/visibility"]),
        ({"text": "a", "media_ids": []}, ["/media_ids"]),
    ],
)
def test_an_edit_says_what_to_change_and_nothing_is_not_null(members: dict[str, object], wrong: list[str]) -> None:
    assert pointers(members, EditBody) == wrong


def test_an_edit_knows_what_was_left_out() -> None:
    assert parse(b'{"text":""}', EditBody, LIMITS).model_fields_set == {"text"}
    assert parse(b'{"visibility":"public"}', EditBody, LIMITS).model_fields_set == {"visibility"}


@pytest.mark.parametrize(
    ("members", "wrong"),
    [
        ({}, ["/tweet_id"]),
        ({"tweet_id": 7}, ["/tweet_id"]),
        ({"tweet_id": "0"}, ["/tweet_id"]),
        ({"tweet_id": str(2**63)}, ["/tweet_id"]),
        ({"tweet_id": "7", "rewind": "true"}, ["/rewind"]),
        ({"tweet_id": "7", "rewind": None}, ["/rewind"]),
    ],
)
def test_a_marker_is_a_decimal_string(members: dict[str, object], wrong: list[str]) -> None:
    assert pointers(members, MarkerBody) == wrong
