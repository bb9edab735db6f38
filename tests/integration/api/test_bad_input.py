"""Bad input gets the error of the contract, and nothing is written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.integration.api.client import Api

JSON = {"Content-Type": "application/json"}
FAMILY = "\N{MAN}\u200d\N{WOMAN}\u200d\N{GIRL}\u200d\N{BOY}"  # seven code points, one emoji, weight 2


@pytest.fixture(scope="module")
async def me(api: Api) -> int:
    return await api.user()


@pytest.fixture
async def nothing_written(rows: Callable[[], dict[str, int]], me: int) -> AsyncIterator[None]:
    before = rows()
    yield
    assert rows() == before


@pytest.mark.parametrize(
    ("data", "headers", "kind"),
    [
        (b"text=a", JSON, "not-json"),
        (b"", JSON, "not-json"),
        (b'{"text":"a"', JSON, "not-json"),
        (b'{"text":"\\ud800"}', JSON, "not-json"),
        (b'{"text":"\xc3\x28"}', JSON, "not-json"),
        (b'{"text":"a"}', {"Content-Type": "text/plain"}, "bad-content-type"),
        (b'{"text":"a"}', {"Content-Type": "application/x-www-form-urlencoded"}, "bad-content-type"),
        (b'{"text":"a"}' + b" " * 1_000_000, JSON, "body-too-large"),
        (b'{"text":"a"}', JSON | {"Idempotency-Key": "a b"}, "bad-idempotency-key"),
        (b'{"text":"a"}', JSON | {"Idempotency-Key": "k" * 65}, "bad-idempotency-key"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_a_body_that_is_not_one(
    api: Api, me: int, nothing_written: None, data: bytes, headers: dict[str, str], kind: str
) -> None:
    (await api.call("POST", "/api/tweet", me, data=data, headers=headers)).problem(kind)


@pytest.mark.parametrize(
    ("members", "kind", "pointer"),
    [
        ([], "invalid-body", ""),
        ({}, "invalid-body", "/text"),
        ({"text": 1}, "invalid-body", "/text"),
        ({"text": "a", "colour": "red"}, "invalid-body", "/colour"),
        ({"text": "a", "reply_to": str(2**63)}, "invalid-body", "/reply_to"),
        ({"text": "a", "reply_to": 1}, "invalid-body", "/reply_to"),
        ({"text": "a", "quote_of": "-1"}, "invalid-body", "/quote_of"),
        ({"text": "a", "visibility": "friends"}, "invalid-body", "/visibility"),
        ({"text": "a", "reply_to": "1"}, "tweet-not-found", "/reply_to"),
        ({"text": "a", "quote_of": "1"}, "tweet-not-found", "/quote_of"),
        ({"text": ""}, "invalid-tweet", "/text"),
        ({"text": "a" * 281}, "invalid-tweet", "/text"),
        ({"text": "界" * 141}, "invalid-tweet", "/text"),
        ({"text": FAMILY * 140 + "a"}, "invalid-tweet", "/text"),
        ({"text": "a", "media_ids": ["image:a"] * 5}, "invalid-tweet", "/media_ids"),
        ({"text": "a", "media_ids": ["image:a", "song:b"]}, "invalid-tweet", "/media_ids/1"),
        ({"text": "a", "media_ids": ["image:../x"]}, "invalid-tweet", "/media_ids/0"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_a_tweet_that_is_none(
    api: Api, me: int, nothing_written: None, members: Any, kind: str, pointer: str
) -> None:
    problem = (await api.call("POST", "/api/tweet", me, json=members)).problem(kind)
    assert [error["pointer"] for error in problem["errors"]] == [pointer]


@pytest.mark.parametrize(
    "text", ["a" * 280, "界" * 140, FAMILY * 140, "e\u0301" * 280, "https://example.com/" + "x" * 300]
)
async def test_a_tweet_at_the_boundary_is_one(api: Api, me: int, text: str) -> None:
    """280 by weight: an emoji with its joiners counts 2, a letter with its accent 1, a link 23."""
    tweet = await api.post(me, text)
    assert (await api.tweet(tweet["id"])).json["text"] == tweet["text"]


async def test_all_faults_are_told_at_once(api: Api, me: int, nothing_written: None) -> None:
    answer = await api.call("POST", "/api/tweet", me, json={"text": "a" * 281, "media_ids": ["x"]})
    assert {error["pointer"] for error in answer.problem("invalid-tweet")["errors"]} == {"/text", "/media_ids/0"}


@pytest.mark.parametrize(
    ("members", "kind", "pointers"),
    [
        ({"handle": "a" * 16, "name": "A"}, "invalid-user", ["/handle"]),
        ({"handle": "ä", "name": "A"}, "invalid-user", ["/handle"]),
        ({"handle": "", "name": ""}, "invalid-user", ["/handle", "/name"]),
        ({"handle": "ok", "name": "A" * 51}, "invalid-user", ["/name"]),
        ({"handle": "ok"}, "invalid-body", ["/name"]),
        ({"handle": "ok", "name": "A", "avatar_url": "javascript:x"}, "invalid-body", ["/avatar_url"]),
        ({"handle": "ok", "name": "A", "admin": True}, "invalid-body", ["/admin"]),
    ],
    ids=str,
)
async def test_a_user_that_is_none(
    api: Api, me: int, nothing_written: None, members: dict[str, Any], kind: str, pointers: list[str]
) -> None:
    problem = (await api.call("PUT", f"/api/user/{me}", me, json=members)).problem(kind)
    assert [error["pointer"] for error in problem["errors"]] == pointers


@pytest.mark.parametrize("user_id", ["0", "-1", "alice", str(2**63), str(2**64)])
async def test_an_id_that_no_user_can_have(api: Api, me: int, nothing_written: None, user_id: str) -> None:
    body = {"handle": "ok", "name": "A"}
    (await api.call("PUT", f"/api/user/{user_id}", me, json=body)).problem("user-not-found")
    (await api.call("POST", f"/api/follow/{user_id}", me)).problem("user-not-found")
    (await api.call("GET", f"/api/user/{user_id}")).problem("user-not-found")
    (await api.call("GET", f"/api/timeline/user/{user_id}")).problem("user-not-found")


@pytest.mark.parametrize("tweet_id", ["0", "x", str(2**63), str(2**63 - 1)])
async def test_an_id_that_no_tweet_has(api: Api, me: int, nothing_written: None, tweet_id: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/retweet"), ("DELETE", "/retweet")):
        (await api.call(method, f"/api/tweet/{tweet_id}{path}", me)).problem("tweet-not-found")


async def test_an_id_of_two_to_the_63_among_ids(api: Api) -> None:
    (await api.call("GET", f"/api/tweet?ids=1,{2**63}")).problem("bad-parameter")


async def test_the_largest_id_is_one(api: Api) -> None:
    user_id = 2**63 - 1
    body = {"handle": "largest", "name": "Largest"}
    assert (await api.call("PUT", f"/api/user/{user_id}", user_id, json=body)).json["id"] == str(user_id)
    tweet = await api.post(user_id)
    assert await api.home(user_id) == [tweet["id"]]


@pytest.mark.parametrize("cursor", ["", "x", "AAAA", "é", "A" * 70, "A" * 5000, "../../x"])
async def test_a_cursor_that_was_never_ours(api: Api, me: int, cursor: str) -> None:
    for path in ("/api/timeline/home", f"/api/timeline/user/{me}", f"/api/user/{me}/followers"):
        (await api.call("GET", path, me, params={"cursor": cursor})).problem("bad-cursor")


async def test_a_cursor_with_a_bit_changed(api: Api) -> None:
    me = await api.user()
    for _ in range(2):
        await api.post(me)
    page = (await api.call("GET", "/api/timeline/home?limit=1", me)).json
    for cursor in (page["next_cursor"], page["newer_cursor"]):
        assert (await api.call("GET", "/api/timeline/home", me, params={"cursor": cursor})).status == 200
        for at in range(0, len(cursor), 7):
            changed = cursor[:at] + ("B" if cursor[at] != "B" else "C") + cursor[at + 1 :]
            (await api.call("GET", "/api/timeline/home", me, params={"cursor": changed})).problem("bad-cursor")


async def test_a_cursor_of_another_reader_list_or_call(api: Api) -> None:
    me, other = await api.users(2)
    for _ in range(2):
        await api.post(me)
    cursor = (await api.call("GET", "/api/timeline/home?limit=1", me)).json["next_cursor"]
    for path, reader in (
        ("/api/timeline/home", other),
        (f"/api/timeline/user/{me}", me),
        (f"/api/timeline/user/{me}", None),
        (f"/api/user/{me}/followees", me),
    ):
        (await api.call("GET", path, reader, params={"cursor": cursor})).problem("bad-cursor")
