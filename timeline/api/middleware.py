"""What happens to every request, outermost first: it is named and measured, its failure becomes a problem, its size is checked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import perf_counter

from aiohttp import hdrs, web
from prometheus_client import Histogram

from timeline.api import errors
from timeline.api.answers import PRIVATE, VARY
from timeline.api.keys import AUTHENTICATOR, LIMITS
from timeline.api.params import is_visible_ascii
from timeline.api.routing import check_length
from timeline.domain import tokens
from timeline.domain.errors import BadRequest, Unavailable
from timeline.metrics import HTTP_SECONDS
from timeline.observe import REQUEST_ID

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
HEADER = "X-Request-Id"
_NOWHERE = "unknown"  # every path that is no route: a label must not grow with what strangers ask for
_measured: dict[tuple[str, str, int], Histogram] = {}


@web.middleware
async def observed(request: web.Request, handler: Handler) -> web.StreamResponse:
    REQUEST_ID.set(_request_id(request))  # each request runs in a task, and so in a context, of its own
    started = perf_counter()
    response = await handler(request)
    _child(request, response.status).observe(perf_counter() - started)
    return response


@web.middleware
async def as_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except BadRequest as error:
        return errors.of_bad_request(error, request.app[AUTHENTICATOR].challenge)
    except Unavailable as error:
        return errors.of_unavailable(error)
    except web.HTTPException as error:
        return errors.of_http(error)
    except web.RequestPayloadError:
        return errors.problem("bad-http", "The body is not what its headers say.")
    except Exception as error:  # noqa: BLE001 - logged as a bug, counted as a 500; it must not take the process with it
        if isinstance(error, ConnectionError) and request.transport is None:
            # the caller has gone in the middle of a body: nobody gets this, but raised it would be logged as a bug
            return errors.problem("bad-http", "The body did not arrive.")
        return errors.of_bug(error)


@web.middleware
async def bounded(request: web.Request, handler: Handler) -> web.StreamResponse:
    check_length(request)
    return await handler(request)


async def finish(request: web.Request, response: web.StreamResponse) -> None:
    """On every answer, also those that aiohttp gives by itself."""
    response.headers[HEADER] = REQUEST_ID.get() or _request_id(request)
    response.headers.setdefault(hdrs.CACHE_CONTROL, PRIVATE)
    response.headers.setdefault(hdrs.VARY, VARY)
    response.headers.setdefault("X-Content-Type-Options", "nosniff")


def new_request_id() -> str:
    return tokens.name()


def _request_id(request: web.Request) -> str:
    """The caller's, if it is sane."""
    given = request.headers.getall(HEADER, [])
    if len(given) == 1 and is_visible_ascii(given[0], request.app[LIMITS].request_id_characters_max):
        return given[0]
    return new_request_id()


def _child(request: web.Request, status: int) -> Histogram:
    resource = request.match_info.route.resource
    route = _NOWHERE if resource is None else resource.canonical
    method = request.method if route != _NOWHERE or request.method in hdrs.METH_ALL else "OTHER"
    key = (method, route, status)
    if key not in _measured:
        _measured[key] = HTTP_SECONDS.labels(method, route, str(status))
    return _measured[key]
