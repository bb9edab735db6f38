"""Users and who follows whom."""

from __future__ import annotations

from collections.abc import Callable

from tests.integration.api.client import Api
from timeline.api.answers import UsersView, UserView


async def test_a_user_is_made_changed_and_read_as_written(api: Api) -> None:
    me = await api.user()
    before = (await api.call("GET", f"/api/user/{me}", me)).shaped(UserView)
    body = {"handle": f"New_{me}", "name": "名前 \N{GRINNING FACE}", "avatar_url": "https://img.example/1.png"}
    after = (await api.call("PUT", f"/api/user/{me}", me, json=body)).shaped(UserView)
    assert after == before | body
    assert (await api.call("GET", f"/api/user/{me}")).json == after | {"viewer": None}
    assert after["viewer"] == {"following": False, "followed_by": False, "blocking": False, "muting": False}
    assert (await api.call("GET", f"/api/user?handle=nEW_{me}", me)).json == after
    (await api.call("GET", f"/api/user?handle=u{me}", me)).problem("user-not-found")


async def test_a_handle_is_one_users_whatever_its_case(api: Api) -> None:
    me, other = await api.users(2)
    body = {"handle": f"U{other}", "name": "A"}
    (await api.call("PUT", f"/api/user/{me}", me, json=body)).problem("handle-taken")
    assert (await api.call("GET", f"/api/user/{me}")).json["handle"] == f"u{me}"


async def test_a_user_is_changed_by_nobody_else(api: Api) -> None:
    me, other = await api.users(2)
    (await api.call("PUT", f"/api/user/{other}", me, json={"handle": "x", "name": "X"})).problem("forbidden")


async def test_following_is_seen_from_both_sides_and_counted(api: Api) -> None:
    me, other = await api.users(2)
    for _ in range(2):
        await api.follow(me, other)
    mine = (await api.call("GET", f"/api/user/{other}", me)).json
    theirs = (await api.call("GET", f"/api/user/{me}", other)).json
    assert (mine["viewer"]["following"], mine["viewer"]["followed_by"], mine["followers_count"]) == (True, False, 1)
    assert (theirs["viewer"]["following"], theirs["viewer"]["followed_by"], theirs["followees_count"]) == (
        False,
        True,
        1,
    )
    for _ in range(2):
        assert (await api.call("DELETE", f"/api/follow/{other}", me)).json == {"following": False}
    assert (await api.call("GET", f"/api/user/{other}", me)).json["viewer"]["following"] is False
    assert (await api.call("GET", f"/api/user/{other}", me)).json["followers_count"] == 0


async def test_nobody_follows_themselves_or_nobody(api: Api, rows: Callable[[], dict[str, int]]) -> None:
    me = await api.user()
    before = rows()
    (await api.call("POST", f"/api/follow/{me}", me)).problem("self-follow")
    (await api.call("POST", "/api/follow/999999999", me)).problem("user-not-found")
    (await api.call("DELETE", "/api/follow/999999999", me)).problem("user-not-found")
    (await api.call("POST", f"/api/follow/{me}", 999999999)).problem("user-not-found")
    assert rows() == before


async def test_followers_and_followees_are_walked_each_once(api: Api) -> None:
    me, *others = await api.users(8)
    for other in others:
        await api.follow(other, me)
    await api.follow(me, *others)
    for side in ("followers", "followees"):
        found, cursor = list[str](), None
        while True:
            params = {"limit": "3"} | ({"cursor": cursor} if cursor else {})
            page = (await api.call("GET", f"/api/user/{me}/{side}", me, params=params)).shaped(UsersView)
            found += [user["id"] for user in page["users"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert sorted(map(int, found)) == sorted(others)
    (await api.call("GET", "/api/user/999999999/followers")).problem("user-not-found")
