"""Timelines: home and profile, a page at a time."""

from __future__ import annotations

from aiohttp import web

from timeline.api.answers import PageView, of_page
from timeline.api.keys import READING
from timeline.api.params import BOOLEANS, ORDERS, choice_of, limit_of, path_user, query
from timeline.api.routing import Asks, Route, maybe_me_of, me_of


async def home(request: web.Request) -> web.StreamResponse:
    cursor, limit = query(request, "cursor"), limit_of(request)
    choice_of(request, "order", ORDERS, "ranked")  # checked; nothing ranks here, and the page says which order it is in
    explain = choice_of(request, "explain", BOOLEANS, False)
    page = await request.app[READING].home(me_of(request), cursor, limit, explain=explain)
    return of_page(page, request.headers, is_public=False)


async def profile(request: web.Request) -> web.StreamResponse:
    user_id, cursor, limit = path_user(request), query(request, "cursor"), limit_of(request)
    me = maybe_me_of(request)
    page = await request.app[READING].profile(me, user_id, cursor, limit)
    return of_page(page, request.headers, is_public=me is None)


ROUTES = (
    Route(
        method="GET",
        path="/api/timeline/home",
        handle=home,
        summary="What those one follows, and oneself, have posted, replied and retweeted.",
        asks=Asks.must,
        query=("cursor", "limit", "order", "explain"),
        headers=("If-None-Match",),
        answers={200: PageView, 304: None},
        problems=("bad-cursor", "bad-parameter"),
    ),
    Route(
        method="GET",
        path="/api/timeline/user/{user_id}",
        handle=profile,
        summary="What a user has posted, replied and retweeted, newest first.",
        asks=Asks.may,
        query=("cursor", "limit"),
        headers=("If-None-Match",),
        answers={200: PageView, 304: None},
        problems=("bad-cursor", "bad-parameter", "user-not-found"),
    ),
)
