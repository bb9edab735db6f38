"""The reading place."""

from __future__ import annotations

from collections.abc import Callable

from tests.integration.api.client import Api
from timeline.api.answers import MarkerView

PATH = "/api/timeline/home/marker"


async def test_the_reading_place_moves_forward_and_back_only_when_asked(api: Api) -> None:
    me, other = await api.users(2)
    assert (await api.call("GET", PATH, me)).shaped(MarkerView) == {"tweet_id": None, "updated_at": None}

    async def put(tweet_id: str, **members: object) -> dict[str, str]:
        answer = await api.call("PUT", PATH, me, json={"tweet_id": tweet_id} | members)
        found: dict[str, str] = answer.shaped(MarkerView)
        assert (await api.call("GET", PATH, me)).json == found
        return found

    first = await put("500")
    assert first["tweet_id"] == "500"
    for rewind in (False, True):
        assert await put("500", rewind=rewind) == first
    assert await put("499") == first
    assert (await put("501", rewind=False))["tweet_id"] == "501"
    assert (await put("9", rewind=True))["tweet_id"] == "9", "ids are numbers"
    assert (await put("10"))["tweet_id"] == "10"
    assert (await api.call("GET", PATH, other)).json["tweet_id"] is None


async def test_what_is_no_place_is_refused(api: Api, rows: Callable[[], dict[str, int]]) -> None:
    me = await api.user()
    before = rows()
    for members, pointer in (
        ({}, "/tweet_id"), ({"tweet_id": 7}, "/tweet_id"), ({"tweet_id": "7", "x": 1}, "/x"),
        ({"tweet_id": None}, "/tweet_id"), ({"tweet_id": "7", "rewind": "yes"}, "/rewind"),
    ):  # fmt: skip
        answer = await api.call("PUT", PATH, me, json=members)
        assert [error["pointer"] for error in answer.problem("invalid-body")["errors"]] == [pointer]
    (await api.call("PUT", PATH, 999999999, json={"tweet_id": "7"})).problem("user-not-found")
    (await api.call("PUT", PATH, json={"tweet_id": "7"})).problem("unauthenticated")
    assert rows() == before
