"""The graph: who follows whom."""

from __future__ import annotations

from typing import Literal

from aiohttp import web

from timeline.api.answers import FollowingView, UsersView, of_list, of_members
from timeline.api.keys import PEOPLE, WRITER
from timeline.api.params import limit_of, path_user, query
from timeline.api.routing import Asks, Route, maybe_me_of, me_of


async def follow(request: web.Request) -> web.StreamResponse:
    await request.app[WRITER].follow(me_of(request), path_user(request))
    return of_members({"following": True})


async def unfollow(request: web.Request) -> web.StreamResponse:
    await request.app[WRITER].unfollow(me_of(request), path_user(request))
    return of_members({"following": False})


async def list_followers(request: web.Request) -> web.StreamResponse:
    return await _people(request, "followers")


async def list_followees(request: web.Request) -> web.StreamResponse:
    return await _people(request, "followees")


async def _people(request: web.Request, side: Literal["followers", "followees"]) -> web.StreamResponse:
    user_id, cursor, limit = path_user(request), query(request, "cursor"), limit_of(request)
    users, next_cursor = await request.app[PEOPLE].page(maybe_me_of(request), user_id, side, cursor, limit)
    return of_list("users", users, next_cursor=next_cursor)


ROUTES = (
    Route(
        method="POST",
        path="/api/follow/{user_id}",
        handle=follow,
        summary="Follow a user. Repeating changes nothing.",
        asks=Asks.must,
        answers={200: FollowingView},
        problems=("blocked", "user-not-found", "self-follow", "too-many-followees", "stored"),
    ),
    Route(
        method="DELETE",
        path="/api/follow/{user_id}",
        handle=unfollow,
        summary="Follow a user no more. Repeating changes nothing.",
        asks=Asks.must,
        answers={200: FollowingView},
        problems=("user-not-found", "stored"),
    ),
    Route(
        method="GET",
        path="/api/user/{user_id}/followers",
        handle=list_followers,
        summary="Who follows a user.",
        asks=Asks.may,
        query=("cursor", "limit"),
        answers={200: UsersView},
        problems=("bad-cursor", "bad-parameter", "user-not-found"),
    ),
    Route(
        method="GET",
        path="/api/user/{user_id}/followees",
        handle=list_followees,
        summary="Whom a user follows.",
        asks=Asks.may,
        query=("cursor", "limit"),
        answers={200: UsersView},
        problems=("bad-cursor", "bad-parameter", "user-not-found"),
    ),
)
