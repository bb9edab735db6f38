"""Blocks and mutes."""

from __future__ import annotations

from typing import Literal

from aiohttp import web

from timeline.api.answers import BlockingView, MutingView, UsersView, of_list, of_members
from timeline.api.keys import PEOPLE, RELATIONS
from timeline.api.params import limit_of, path_user, query
from timeline.api.routing import Asks, Route, me_of


async def block(request: web.Request) -> web.StreamResponse:
    await request.app[RELATIONS].block(me_of(request), path_user(request))
    return of_members({"blocking": True})


async def unblock(request: web.Request) -> web.StreamResponse:
    await request.app[RELATIONS].unblock(me_of(request), path_user(request))
    return of_members({"blocking": False})


async def mute(request: web.Request) -> web.StreamResponse:
    await request.app[RELATIONS].mute(me_of(request), path_user(request))
    return of_members({"muting": True})


async def unmute(request: web.Request) -> web.StreamResponse:
    await request.app[RELATIONS].unmute(me_of(request), path_user(request))
    return of_members({"muting": False})


async def list_blocked(request: web.Request) -> web.StreamResponse:
    return await _barred(request, "blocked")


async def list_muted(request: web.Request) -> web.StreamResponse:
    return await _barred(request, "muted")


async def _barred(request: web.Request, side: Literal["blocked", "muted"]) -> web.StreamResponse:
    cursor, limit = query(request, "cursor"), limit_of(request)
    users, next_cursor = await request.app[PEOPLE].barred(me_of(request), side, cursor, limit)
    return of_list("users", users, next_cursor=next_cursor)


ROUTES = (
    Route(
        method="POST",
        path="/api/block/{user_id}",
        handle=block,
        summary="Block a user: neither sees the other, and follows end both ways. Repeating changes nothing.",
        asks=Asks.must,
        answers={200: BlockingView},
        problems=("user-not-found", "self-block", "too-many-blocks", "outcome-unknown", "stored"),
    ),
    Route(
        method="DELETE",
        path="/api/block/{user_id}",
        handle=unblock,
        summary="Block a user no more; no follow comes back. Repeating changes nothing.",
        asks=Asks.must,
        answers={200: BlockingView},
        problems=("user-not-found", "self-block", "outcome-unknown", "stored"),
    ),
    Route(
        method="GET",
        path="/api/block",
        handle=list_blocked,
        summary="Whom one blocks.",
        asks=Asks.must,
        query=("cursor", "limit"),
        answers={200: UsersView},
        problems=("bad-cursor", "bad-parameter"),
    ),
    Route(
        method="POST",
        path="/api/mute/{user_id}",
        handle=mute,
        summary="Mute a user: they leave one's home, and do not learn of it. Repeating changes nothing.",
        asks=Asks.must,
        answers={200: MutingView},
        problems=("user-not-found", "self-mute", "too-many-mutes", "outcome-unknown", "stored"),
    ),
    Route(
        method="DELETE",
        path="/api/mute/{user_id}",
        handle=unmute,
        summary="Mute a user no more. Repeating changes nothing.",
        asks=Asks.must,
        answers={200: MutingView},
        problems=("user-not-found", "self-mute", "outcome-unknown", "stored"),
    ),
    Route(
        method="GET",
        path="/api/mute",
        handle=list_muted,
        summary="Whom one mutes.",
        asks=Asks.must,
        query=("cursor", "limit"),
        answers={200: UsersView},
        problems=("bad-cursor", "bad-parameter"),
    ),
)
