"""A route as data: what serves it is also what documents it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from aiohttp import hdrs, web
from pydantic import BaseModel

from timeline.api import errors
from timeline.api.auth import Caller
from timeline.api.bodies import Body, too_large
from timeline.api.keys import AUTHENTICATOR, CALLER, LIMITS
from timeline.domain.errors import BadRequest
from timeline.domain.ids import UserId

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Asks(StrEnum):
    """Whether a call needs a reader. Credentials that are not valid are a 401 everywhere but where nobody looks at them."""

    must = "must"
    may = "may"
    nobody = "nobody"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """`answers`: the shape of each good status (None: no body). `problems`: the kinds that this call adds to those of every call."""

    method: str
    path: str
    handle: Handler
    summary: str
    asks: Asks
    answers: Mapping[int, type[BaseModel] | None]
    problems: tuple[str, ...] = ()
    query: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    body: type[Body] | None = field(default=None)

    @property
    def name(self) -> str:
        return self.handle.__name__


def add_route(app: web.Application, route: Route) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        _identify(request, route.asks)
        return await route.handle(request)

    app.router.add_route(route.method, route.path, handle, expect_handler=_expect)
    if route.method == hdrs.METH_GET:
        app.router.add_route(hdrs.METH_HEAD, route.path, handle, expect_handler=_expect)


def caller_of(request: web.Request) -> Caller:
    """Of a call that must have one."""
    caller = request[CALLER]
    assert caller is not None
    return caller


def me_of(request: web.Request) -> UserId:
    """Of a call that must have a reader."""
    return caller_of(request).user_id


def maybe_me_of(request: web.Request) -> UserId | None:
    caller = request[CALLER]
    return None if caller is None else caller.user_id


def _identify(request: web.Request, asks: Asks) -> None:
    caller = None if asks is Asks.nobody else request.app[AUTHENTICATOR].caller(request.headers)
    if caller is None and asks is Asks.must:
        raise BadRequest("unauthenticated", "This call is made for somebody: say for whom.")
    request[CALLER] = caller


def check_length(request: web.Request) -> None:
    """Refuse a body by what it says of itself, before any of it is read. Raises BadRequest("body-too-large")."""
    limits = request.app[LIMITS]
    if request.content_length is not None and request.content_length > limits.body_bytes_max:
        raise too_large(limits)


async def _expect(request: web.Request) -> web.StreamResponse | None:
    """A client that waits for leave to send a body gets it only if the body may come."""
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
        try:
            check_length(request)
        except BadRequest as error:
            refusal = errors.of_bad_request(error, "")
            refusal.force_close()
            return refusal
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # it is no part of the answer; aiohttp's own handler does the same
    return None
