"""The application: routes, middlewares, and what handlers use."""

from __future__ import annotations

from aiohttp import web

from timeline.api import graph, meta, timelines, tweets, users
from timeline.api.auth import Authenticator
from timeline.api.keys import AUTHENTICATOR, DOCUMENT, LIMITS, PEOPLE, READING, WRITER
from timeline.api.middleware import as_problems, bounded, finish, observed
from timeline.api.openapi import document
from timeline.api.routing import Route, add_route
from timeline.assembly.people import People
from timeline.assembly.service import Reading
from timeline.domain.limits import Limits
from timeline.writing.service import Writer

ROUTES: tuple[Route, ...] = (
    *users.ROUTES,
    *graph.ROUTES,
    *tweets.ROUTES,
    *timelines.ROUTES,
    *meta.ROUTES,
)


def make_app(
    *, writer: Writer, reading: Reading, people: People, authenticator: Authenticator, limits: Limits
) -> web.Application:
    """The API over these. It owns none of them: wiring opens and closes them."""
    app = web.Application(middlewares=[observed, as_problems, bounded], client_max_size=limits.body_bytes_max)
    app[WRITER], app[READING], app[PEOPLE] = writer, reading, people
    app[AUTHENTICATOR], app[LIMITS] = authenticator, limits
    app[DOCUMENT] = document(ROUTES, limits)
    for route in ROUTES:
        add_route(app, route)
    app.on_response_prepare.append(finish)
    return app
