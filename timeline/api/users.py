"""Users: made, changed, read."""

from __future__ import annotations

from aiohttp import web

from timeline.api.answers import UserView, joined
from timeline.api.bodies import UserBody, read_body
from timeline.api.keys import PEOPLE, WRITER
from timeline.api.params import path_user, query
from timeline.api.routing import Asks, Route, caller_of, maybe_me_of
from timeline.domain.errors import BadRequest


async def put_user(request: web.Request) -> web.StreamResponse:
    user_id, caller = path_user(request), caller_of(request)
    if not caller.may_change(user_id):
        raise BadRequest("forbidden", "A user is changed by that user, or by an admin.")
    body = await read_body(request, UserBody)
    await request.app[WRITER].put_user(user_id, body.handle, body.name, body.avatar_url)
    return joined(await request.app[PEOPLE].user(caller.user_id, user_id))


async def get_user(request: web.Request) -> web.StreamResponse:
    return joined(await request.app[PEOPLE].user(maybe_me_of(request), path_user(request)))


async def find_user(request: web.Request) -> web.StreamResponse:
    handle = query(request, "handle")
    if not handle:
        raise BadRequest("bad-parameter", "The query parameter handle must be there.")
    return joined(await request.app[PEOPLE].user_by_handle(maybe_me_of(request), handle))


ROUTES = (
    Route(
        method="PUT",
        path="/api/user/{user_id}",
        handle=put_user,
        summary="Make or change a user: one's own, or any as an admin.",
        asks=Asks.must,
        body=UserBody,
        answers={200: UserView},
        problems=("forbidden", "user-not-found", "handle-taken", "invalid-user"),
    ),
    Route(
        method="GET",
        path="/api/user/{user_id}",
        handle=get_user,
        summary="A user.",
        asks=Asks.may,
        answers={200: UserView},
        problems=("user-not-found",),
    ),
    Route(
        method="GET",
        path="/api/user",
        handle=find_user,
        summary="The user with this handle.",
        asks=Asks.may,
        query=("handle",),
        answers={200: UserView},
        problems=("bad-parameter", "user-not-found"),
    ),
)
