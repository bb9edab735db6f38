"""Serving an application on a port, and ending it in order."""

from __future__ import annotations

import errno
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from timeline.api.errors import problem
from timeline.api.middleware import HEADER, new_request_id
from timeline.domain.limits import Limits
from timeline.settings import SettingError

log = logging.getLogger(__name__)


@asynccontextmanager
async def serving(app: web.Application, *, name: str, host: str, port: int, limits: Limits) -> AsyncIterator[int]:
    """Serve until the context is left: then no connection is taken any more, idle ones are closed, and requests under way have half
    of drain_seconds.

    Yields the port (of 0, the one that was free). Raises SettingError when it cannot listen there; `name` is the setting's.

    A handler goes on when its caller hangs up (aiohttp's default): a write that was begun is finished.
    """
    runner = _Runner(
        app,
        access_log=None,  # a line a request costs more than the request; timeline_http_seconds counts them
        handle_signals=False,
        handler_cancellation=False,
        # aiohttp waits this long, and as long again after it has told a handler; events are drained after that
        shutdown_timeout=limits.drain_seconds / 4,
        keepalive_timeout=limits.keepalive_seconds,
        max_line_size=limits.header_bytes_max,
        max_field_size=limits.header_bytes_max,
        auto_decompress=False,  # a body that grows when unpacked is refused (415)
    )
    await runner.setup()
    try:
        try:
            # not reuse_port: a second process on the port must fail, and not take half of the requests
            await web.TCPSite(runner, host, port, backlog=1024).start()
        except OSError as error:
            raise _cannot_listen(name, host, port, error) from error
        bound = runner.addresses[0][1]
        log.info("listening", extra={"door": name, "host": host, "port": bound})
        yield bound
    finally:
        await runner.cleanup()


def _cannot_listen(name: str, host: str, port: int, error: OSError) -> SettingError:
    taken = error.errno == errno.EADDRINUSE
    wrong = (
        f"port {port} on {host} is taken"
        if taken
        else f"cannot listen on {host} port {port}: {error.strerror or error}"
    )
    return SettingError(f"TIMELINE_{name}", wrong, "Stop what listens there, or set another.")


class _Connection(RequestHandler):
    """aiohttp answers what is not HTTP (a header too long, a method unknown) in text, and logs a traceback of it."""

    __slots__ = ()

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status >= 500 or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        log.info("not_http", extra={"reason": type(exc).__name__, "remote": request.remote})
        answer = problem("bad-http", "The request line or a header is not right, or too long.")
        answer.headers[HEADER] = new_request_id()
        answer.force_close()
        return answer


class _Server(web.Server):
    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Runner(web.AppRunner):
    """Serves with our connections. There is no public way to name the class; a release that changes this fails the test of it."""

    __slots__ = ()

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=made._loop,
            **made._kwargs,
        )
