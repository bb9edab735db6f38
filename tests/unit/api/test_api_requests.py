"""Requests over fakes: routes, parameters, headers, caching, failures."""

from __future__ import annotations

import asyncio
import logging
import re
import zlib
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession
from prometheus_client import REGISTRY

from tests.unit.api.fakes import Calls
from timeline.api.app import ROUTES
from timeline.api.errors import KINDS
from timeline.api.routing import Asks, Route
from timeline.domain.errors import BadRequest, Fault, OutcomeUnknown, Overloaded, Stored, Unavailable
from timeline.domain.limits import Limits
from timeline.domain.model import Visibility
from timeline.writing.drafts import Draft

ME = {"X-User-Id": "42"}


async def problem(answer: ClientResponse, kind: str) -> dict[str, Any]:
    members: dict[str, Any] = await answer.json(content_type="application/problem+json")
    assert members["type"] == f"/problems/{kind}"
    assert answer.status == members["status"] == KINDS[kind].status
    assert members["title"]
    assert members["detail"]
    assert answer.headers["X-Request-Id"]
    return members


def path_of(route: Route, value: str = "7") -> str:
    return re.sub(r"{\w+}", value, route.path)


# --- each route asks for what it should


@pytest.mark.parametrize(
    ("method", "path", "call", "status"),
    [
        ("GET", "/api/user/7", ("user", 42, 7), 200),
        ("GET", "/api/user?handle=alice", ("user_by_handle", 42, "alice"), 200),
        ("GET", "/api/user/7/followers", ("followers", 42, 7, None, 20), 200),
        ("GET", "/api/user/7/followees?cursor=c&limit=100", ("followees", 42, 7, "c", 100), 200),
        ("POST", "/api/follow/7", ("follow", 42, 7), 200),
        ("DELETE", "/api/follow/7", ("unfollow", 42, 7), 200),
        ("GET", "/api/tweet/7", ("tweets", 42, [7]), 200),
        ("GET", "/api/tweet?ids=9,7", ("tweets", 42, [9, 7]), 200),
        ("DELETE", "/api/tweet/7", ("delete", 42, 7), 204),
        ("POST", "/api/tweet/7/retweet", ("retweet", 42, 7), 200),
        ("DELETE", "/api/tweet/7/retweet", ("unretweet", 42, 7), 200),
        ("GET", "/api/timeline/home", ("home", 42, None, 20, False), 200),
        ("GET", "/api/timeline/home?limit=1&cursor=c&order=recent&explain=true&x=1", ("home", 42, "c", 1, True), 200),
        ("POST", "/api/block/7", ("block", 42, 7), 200),
        ("DELETE", "/api/block/7", ("unblock", 42, 7), 200),
        ("GET", "/api/block?limit=2&cursor=c", ("blocked", 42, "c", 2), 200),
        ("POST", "/api/mute/7", ("mute", 42, 7), 200),
        ("DELETE", "/api/mute/7", ("unmute", 42, 7), 200),
        ("GET", "/api/mute", ("muted", 42, None, 20), 200),
        ("POST", "/api/tweet/7/like", ("like", 42, 7), 200),
        ("DELETE", "/api/tweet/7/like", ("unlike", 42, 7), 200),
        ("GET", "/api/tweet/7/likes?limit=2&cursor=c", ("likes", 42, 7, "c", 2), 200),
        ("GET", "/api/tweet/7/retweets", ("retweets", 42, 7, None, 20), 200),
        ("GET", "/api/timeline/home/marker", ("get_marker", 42), 200),
        ("GET", "/api/timeline/user/7?limit=3", ("profile", 42, 7, None, 3), 200),
    ],
)
async def test_a_call_asks_for_what_its_path_says(
    http: ClientSession, calls: Calls, method: str, path: str, call: tuple[Any, ...], status: int
) -> None:
    answer = await http.request(method, path, headers=ME)
    assert (answer.status, calls) == (status, [call])


async def test_a_user_is_put_and_answered(http: ClientSession, calls: Calls) -> None:
    answer = await http.put("/api/user/42", headers=ME, json={"handle": "a", "name": "A"})
    assert (answer.status, await answer.json()) == (200, {"id": "42"})
    assert calls == [("put_user", 42, "a", "A", None), ("user", 42, 42)]


async def test_another_user_is_not_mine_to_change(http: ClientSession, calls: Calls) -> None:
    await problem(await http.put("/api/user/7", headers=ME, json={"handle": "a", "name": "A"}), "forbidden")
    assert calls == []


async def test_a_tweet_is_posted_and_answered_with_its_place(http: ClientSession, calls: Calls) -> None:
    members = {"text": "a", "reply_to": "5", "quote_of": "6", "media_ids": ["image:x"], "visibility": "followers"}
    answer = await http.post("/api/tweet", headers=ME | {"Idempotency-Key": "k~!"}, json=members)
    assert (answer.status, answer.headers["Location"], await answer.json()) == (201, "/api/tweet/77", {"id": "77"})
    draft = Draft(text="a", reply_to=5, quote_of=6, media_ids=("image:x",), visibility=Visibility.followers)  # type: ignore[arg-type]
    assert calls == [("moment",), ("post", 42, draft, "k~!"), ("tweets", 42, [77])]


@pytest.mark.parametrize(
    ("key", "shown"), [("first", ("just_written", 77, 42, "before")), ("again", ("tweets", 42, [77]))]
)
async def test_what_was_just_written_is_not_read_and_what_was_there_is(
    http: ClientSession, calls: Calls, key: str, shown: tuple[object, ...]
) -> None:
    answer = await http.post("/api/tweet", headers=ME | {"Idempotency-Key": key}, json={"text": "a"})
    assert (answer.status, await answer.json()) == (201, {"id": "77"})
    assert calls[2:] == [shown]


async def test_a_retweet_says_its_id_and_count(http: ClientSession) -> None:
    made = await (await http.post("/api/tweet/7/retweet", headers=ME)).json()
    undone = await (await http.delete("/api/tweet/7/retweet", headers=ME)).json()
    assert made == {"retweeted": True, "retweets_count": 3, "retweet_id": "78"}
    assert undone == {"retweeted": False, "retweets_count": 2, "retweet_id": None}


async def test_a_like_and_a_relation_say_what_stands_now(http: ClientSession) -> None:
    said = []
    for path in ("/api/tweet/7/like", "/api/block/7", "/api/mute/7"):
        said += [await (await http.request(method, path, headers=ME)).json() for method in ("POST", "DELETE")]
    assert said == [
        {"liked": True, "likes_count": 43}, {"liked": False, "likes_count": 42},
        {"blocking": True}, {"blocking": False}, {"muting": True}, {"muting": False},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("members", "change"),
    [
        ({"text": ""}, ("", None)),
        ({"visibility": "followers"}, (None, Visibility.followers)),
        ({"text": "a", "visibility": "public"}, ("a", Visibility.public)),
    ],
)
async def test_an_edit_changes_what_its_body_holds_and_answers_the_tweet(
    http: ClientSession, calls: Calls, members: dict[str, str], change: tuple[Any, Any]
) -> None:
    answer = await http.patch("/api/tweet/7", headers=ME, json=members)
    assert (answer.status, await answer.json()) == (200, {"id": "7"})
    assert calls == [("edit", 42, 7, *change), ("tweets", 42, [7])]


async def test_an_edited_tweet_that_is_deleted_meanwhile_is_a_404(http: ClientSession, calls: Calls) -> None:
    await problem(await http.patch("/api/tweet/700", headers=ME, json={"text": "a"}), "tweet-not-found")
    assert calls[0] == ("edit", 42, 700, "a", None)


async def test_a_marker_is_put_and_read(http: ClientSession, calls: Calls) -> None:
    for members, rewind in (({"tweet_id": "7"}, False), ({"tweet_id": "7", "rewind": True}, True)):
        answer = await http.put("/api/timeline/home/marker", headers=ME, json=members)
        assert (answer.status, await answer.json()) == (
            200,
            {"tweet_id": "7", "updated_at": "2023-11-14T22:13:20.123Z"},
        )
        assert calls.pop() == ("move_marker", 42, 7, rewind)
    unset = await http.get("/api/timeline/home/marker", headers=ME)
    assert await unset.json() == {"tweet_id": None, "updated_at": None}


async def test_a_page_is_joined_as_the_contract_says(http: ClientSession) -> None:
    answer = await http.get("/api/timeline/home", headers=ME)
    assert await answer.json() == {
        "tweets": [{"id": "2"}, {"id": "1"}], "next_cursor": "on", "newer_cursor": "new", "has_more": True,
        "order": "recent", "source": "cache", "degraded": False, "missing": 0, "gap": False, "reset": False,
    }  # fmt: skip


async def test_a_tweet_that_cannot_be_shown_after_it_was_stored_is_not_called_lost(
    http: ClientSession, calls: Calls
) -> None:
    class Away(Calls):
        def note(self, *call: Any) -> None:
            if call[0] == "tweets":
                raise Unavailable("cassandra")

    calls.__class__ = Away
    said = await problem(await http.post("/api/tweet", headers=ME, json={"text": "a", "quote_of": "6"}), "stored")
    assert "77" in said["detail"]


# --- who asks


@pytest.mark.parametrize("route", [route for route in ROUTES if route.asks is Asks.must], ids=lambda route: route.name)
async def test_a_call_that_needs_a_reader_is_a_401_without(http: ClientSession, calls: Calls, route: Route) -> None:
    answer = await http.request(route.method, path_of(route))
    await problem(answer, "unauthenticated")
    assert answer.headers["WWW-Authenticate"] == 'X-User-Id realm="timeline"'
    assert calls == []


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if route.asks is not Asks.nobody], ids=lambda route: route.name
)
async def test_credentials_that_are_not_valid_are_a_401_everywhere(
    http: ClientSession, calls: Calls, route: Route
) -> None:
    answer = await http.request(route.method, path_of(route), headers={"X-User-Id": str(2**63)})
    await problem(answer, "bad-credentials")
    assert "invalid_token" in answer.headers["WWW-Authenticate"]
    assert calls == []


@pytest.mark.parametrize(
    "path",
    [
        "/api/user/7",
        "/api/user?handle=a",
        "/api/user/7/followers",
        "/api/tweet/7",
        "/api/tweet?ids=7",
        "/api/timeline/user/7",
    ],
)
async def test_public_things_are_read_by_anybody(http: ClientSession, calls: Calls, path: str) -> None:
    assert (await http.get(path)).status == 200
    assert calls[0][1] is None


# --- paths and parameters


@pytest.mark.parametrize("value", ["0", "-1", "01", "a", "1.0", str(2**63), "9" * 400, "%00", "1%0A", "%D9%A4"])
@pytest.mark.parametrize("route", [route for route in ROUTES if "{" in route.path], ids=lambda route: route.name)
async def test_a_path_that_holds_no_id_names_nothing(
    http: ClientSession, calls: Calls, route: Route, value: str
) -> None:
    answer = await http.request(route.method, path_of(route, value), headers=ME, json={} if route.body else None)
    await problem(answer, "user-not-found" if "user_id" in route.path else "tweet-not-found")
    assert calls == []


OUT_OF_RANGE = {
    "limit": ["0", "-1", "101", "a", "", "1.5", "05", "9" * 400, "1&limit=2"],
    "order": ["x", "", "RECENT", "recent&order=recent"],
    "explain": ["1", "yes", "", "TRUE"],
    "ids": ["", "a", "1,", ",1", "1, 2", "0", str(2**63), ",".join(map(str, range(1, 102))), "1&ids=2"],
    "handle": ["", "a&handle=b"],
    "cursor": ["a&cursor=b"],
}


@pytest.mark.parametrize(
    ("route", "name", "value"),
    [(route, name, value) for route in ROUTES for name in route.query for value in OUT_OF_RANGE[name]],
    ids=lambda value: getattr(value, "name", str(value)[:20]),
)
async def test_a_parameter_out_of_its_range_is_a_400(
    http: ClientSession, calls: Calls, route: Route, name: str, value: str
) -> None:
    await problem(await http.get(f"{path_of(route)}?{name}={value}", headers=ME), "bad-parameter")
    assert calls == []


@pytest.mark.parametrize("path", ["/api/tweet", "/api/user"])
async def test_a_parameter_that_must_be_there_is_a_400_without(http: ClientSession, path: str) -> None:
    await problem(await http.get(path), "bad-parameter")


async def test_a_hundred_ids_are_asked_for_at_once(http: ClientSession, calls: Calls) -> None:
    ids = ",".join(map(str, range(1, 101)))
    assert (
        len((await (await http.get(f"/api/tweet?ids={ids}")).json())["tweets"]) == 99
    )  # the fake knows those below 100


async def test_a_cursor_of_somebody_else_is_a_400(http: ClientSession) -> None:
    await problem(await http.get("/api/timeline/home?cursor=forged", headers=ME), "bad-cursor")


@pytest.mark.parametrize("key", ["", "k" * 65, "a b", "ä"])
async def test_an_idempotency_key_is_visible_ascii(http: ClientSession, calls: Calls, key: str) -> None:
    answer = await http.post("/api/tweet", headers=ME | {"Idempotency-Key": key}, json={"text": "a"})
    await problem(answer, "bad-idempotency-key")
    assert calls == []


# --- bodies as they arrive

WITH_BODY = [route for route in ROUTES if route.body is not None]


@pytest.mark.parametrize("route", WITH_BODY, ids=lambda route: route.name)
@pytest.mark.parametrize(
    ("data", "headers", "kind"),
    [
        (b"{", {}, "not-json"),
        (b"", {}, "not-json"),
        (b"[]", {}, "invalid-body"),
        (b'{"more":1}', {}, "invalid-body"),
        (b"{}", {"Content-Type": "text/plain"}, "bad-content-type"),
        (b"{}", {"Content-Type": "application/json; charset=latin-1"}, "bad-content-type"),
        (zlib.compress(b"{}"), {"Content-Encoding": "deflate"}, "bad-content-type"),
        (b" " * 65_537, {}, "body-too-large"),
        (b" " * 1_000_000, {}, "body-too-large"),
    ],
    ids=lambda value: str(value)[:24],
)
async def test_a_body_that_is_not_right_is_refused(
    http: ClientSession, calls: Calls, route: Route, data: bytes, headers: dict[str, str], kind: str
) -> None:
    sent = ME | {"Content-Type": "application/json"} | headers
    answer = await http.request(route.method, path_of(route, "42"), data=data, headers=sent)
    await problem(answer, kind)
    assert calls == []


async def test_a_body_of_the_largest_size_is_read(http: ClientSession) -> None:
    data = b'{"text":"a"}'.ljust(65_536)
    answer = await http.post("/api/tweet", headers=ME | {"Content-Type": "application/json"}, data=data)
    assert answer.status == 201


async def test_a_large_body_is_refused_also_where_none_is_taken(http: ClientSession, calls: Calls) -> None:
    await problem(await http.post("/api/follow/7", headers=ME, data=b" " * 70_000), "body-too-large")
    assert calls == []


async def test_a_body_of_unknown_length_is_not_read_beyond_the_bound(http: ClientSession, calls: Calls) -> None:
    async def endless() -> Any:
        for _ in range(64):
            yield b" " * 16_384

    answer = await http.post("/api/tweet", headers=ME | {"Content-Type": "application/json"}, data=endless())
    await problem(answer, "body-too-large")
    assert calls == []


async def test_a_body_is_refused_before_any_of_it_is_sent_to_a_client_that_asks(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /api/tweet HTTP/1.1\r\nHost: x\r\nX-User-Id: 42\r\nContent-Type: application/json\r\n"
        b"Content-Length: 1000000\r\nExpect: 100-continue\r\n\r\n"
    )
    line = await asyncio.wait_for(reader.readline(), 5)
    writer.close()
    assert b" 413 " in line


async def test_a_client_that_asks_may_send_a_body_that_fits(http: ClientSession) -> None:
    answer = await http.post("/api/tweet", headers=ME, json={"text": "a"}, expect100=True)
    assert answer.status == 201


class TestSlowly:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(body_read_seconds=1)

    async def test_a_body_that_does_not_come_is_not_waited_for(self, http: ClientSession, calls: Calls) -> None:
        async def slow() -> Any:
            yield b"{"
            await asyncio.sleep(3)
            yield b"}"

        answer = await http.post("/api/tweet", headers=ME | {"Content-Type": "application/json"}, data=slow())
        await problem(answer, "body-timeout")
        assert calls == []


# --- what is not there


async def test_an_unknown_path_is_a_404_of_ours(http: ClientSession) -> None:
    await problem(await http.get("/api/nothing"), "not-found")


@pytest.mark.parametrize("path", ["/api/tweet/7/thread", "/api/timeline/home/stream"])
async def test_what_is_not_served_yet_is_not_there(http: ClientSession, path: str) -> None:
    await problem(await http.post(path, headers=ME), "not-found")


async def test_an_unknown_method_says_which_there_are(http: ClientSession) -> None:
    answer = await http.patch("/api/tweet")
    await problem(answer, "method-not-allowed")
    assert {"GET", "POST"} <= set(answer.headers["Allow"].split(","))


async def test_a_tweet_that_is_not_there_is_a_404(http: ClientSession) -> None:
    await problem(await http.get("/api/tweet/100"), "tweet-not-found")


async def test_a_get_may_be_a_head(http: ClientSession) -> None:
    answer = await http.head("/api/tweet/7")
    assert (answer.status, await answer.read(), answer.headers["Content-Length"]) == (200, b"", "10")


@pytest.mark.parametrize(
    "request_text",
    [
        b"FROB / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /api/tweet/" + b"1" * 10_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /api/tweet/1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + b"x" * 10_000 + b"\r\n\r\n",
        b"GET /api/tweet/1 HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 500 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
    ids=["method", "path", "header", "headers", "tls"],
)
async def test_what_is_not_http_is_a_problem_too(port: int, request_text: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request_text)
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    assert b" 400 " in answer.partition(b"\r\n")[0]
    assert b"X-Request-Id: " in answer
    assert b'"/problems/bad-http"' in answer


# --- caching


@pytest.mark.parametrize(
    ("path", "headers", "cache"),
    [
        ("/api/timeline/home", ME, "private, no-cache"),
        ("/api/timeline/user/7", ME, "private, no-cache"),
        ("/api/timeline/user/7", {}, "public, max-age=30, stale-while-revalidate=30"),
    ],
)
async def test_a_page_says_who_may_keep_it_and_its_tag_saves_it(
    http: ClientSession, path: str, headers: dict[str, str], cache: str
) -> None:
    first = await http.get(path, headers=headers)
    tag = first.headers["ETag"]
    assert re.fullmatch(r'W/"[0-9a-f]{32}"', tag)
    for known in (tag, f'"x", {tag}', tag.removeprefix("W/"), "*"):
        again = await http.get(path, headers=headers | {"If-None-Match": known})
        assert (again.status, await again.read()) == (304, b"")
        for answer in (first, again):
            assert (answer.headers["Cache-Control"], answer.headers["Vary"]) == (cache, "Authorization, X-User-Id")
            assert answer.headers["ETag"] == tag
            assert answer.headers["X-Request-Id"]
    assert (await http.get(path, headers=headers | {"If-None-Match": '"x"'})).status == 200


async def test_other_answers_are_nobodys_to_keep(http: ClientSession) -> None:
    for path in ("/api/tweet/7", "/api/tweet/100", "/api/user/7"):
        assert (await http.get(path)).headers["Cache-Control"] == "private, no-cache"


# --- request ids


async def test_a_sane_request_id_comes_back(http: ClientSession) -> None:
    for path in ("/api/tweet/7", "/api/nothing"):
        assert (await http.get(path, headers={"X-Request-Id": "me-1"})).headers["X-Request-Id"] == "me-1"


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "ä"])
async def test_another_request_id_is_replaced(http: ClientSession, given: str) -> None:
    answer = await http.get("/api/tweet/7", headers={"X-Request-Id": given})
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-Id"])


# --- failures


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Unavailable("10.0.0.1 is away"), "unavailable"),
        (OutcomeUnknown("10.0.0.1 is away"), "outcome-unknown"),
        (Overloaded("10.0.0.1 is away"), "overloaded"),
        (Stored("It is stored; repeating it is harmless."), "stored"),
    ],
    ids=str,
)
async def test_an_engine_that_is_away_is_a_503_that_names_no_server(
    http: ClientSession, calls: Calls, error: Exception, kind: str
) -> None:
    calls.fails = error
    answer = await http.post("/api/follow/7", headers=ME)
    said = await problem(answer, kind)
    assert int(answer.headers["Retry-After"]) >= 1
    assert "10.0.0.1" not in said["detail"]


async def test_faults_of_writing_are_pointed_at(http: ClientSession, calls: Calls) -> None:
    calls.fails = BadRequest("invalid-tweet", "no", (Fault("/text", "too long"),))
    said = await problem(await http.post("/api/tweet", headers=ME, json={"text": "a"}), "invalid-tweet")
    assert said["errors"] == [{"pointer": "/text", "detail": "too long"}]


async def test_a_bug_is_a_500_that_the_log_knows_by_its_request_id(
    http: ClientSession, calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    calls.fails = ZeroDivisionError("a secret of the inside")
    with caplog.at_level(logging.ERROR):
        answer = await http.get("/api/tweet/7", headers={"X-Request-Id": "me-2"})
    said = await problem(answer, "internal-error")
    assert "secret" not in str(said)
    assert answer.headers["X-Request-Id"] == "me-2"
    assert any(record.exc_info and isinstance(record.exc_info[1], ZeroDivisionError) for record in caplog.records)


async def test_a_caller_who_goes_in_the_middle_of_a_body_is_no_bug(
    port: int, calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /api/tweet HTTP/1.1\r\nHost: x\r\nX-User-Id: 42\r\nContent-Type: application/json\r\n"
        b"Content-Length: 100\r\nExpect: 100-continue\r\n\r\n"
    )
    assert b" 100 " in await asyncio.wait_for(reader.readline(), 5)  # it is being handled now
    with caplog.at_level(logging.DEBUG):
        writer.transport.abort()
        async with ClientSession(f"http://127.0.0.1:{port}") as http:
            assert (await http.get("/api/tweet/7")).status == 200  # and whatever came of the other has come
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert calls == [("tweets", None, [7])]


async def test_a_connection_of_ours_that_breaks_is_a_bug_and_not_a_caller_who_has_gone(
    http: ClientSession, calls: Calls
) -> None:
    calls.fails = ConnectionResetError("an adapter that did not translate")
    await problem(await http.get("/api/tweet/7"), "internal-error")


async def test_requests_are_counted_by_route_and_not_by_path(http: ClientSession) -> None:
    def count(method: str, route: str, status: str) -> float:
        labels = {"method": method, "route": route, "status": status}
        return REGISTRY.get_sample_value("timeline_http_seconds_count", labels) or 0

    known, unknown = count("GET", "/api/tweet/{tweet_id}", "200"), count("OTHER", "unknown", "404")
    await http.get("/api/tweet/7")
    await http.get("/api/tweet/8")
    await http.request("PROPFIND", "/some/where")
    assert count("GET", "/api/tweet/{tweet_id}", "200") == known + 2
    assert count("OTHER", "unknown", "404") == unknown + 1
