"""The application: routes, middlewares, and what handlers use."""

from __future__ import annotations

from aiohttp import web

from timeline.api import graph, marks, meta, timelines, tweets, users
from timeline.api import markers as marker_routes
from timeline.api import relations as relation_routes
from timeline.api.auth import Authenticator
from timeline.api.keys import (
    AUTHENTICATOR,
    DOCUMENT,
    EDITS,
    LIKES,
    LIMITS,
    MARKED,
    MARKERS,
    PEOPLE,
    READING,
    RELATIONS,
    WRITER,
)
from timeline.api.middleware import as_problems, bounded, finish, observed
from timeline.api.openapi import document
from timeline.api.routing import Route, add_route
from timeline.assembly.marked import Marked
from timeline.assembly.people import People
from timeline.assembly.service import Reading
from timeline.domain.limits import Limits
from timeline.writing.edits import Edits
from timeline.writing.likes import Likes
from timeline.writing.markers import Markers
from timeline.writing.relations import Relations
from timeline.writing.service import Writer

ROUTES: tuple[Route, ...] = (
    *users.ROUTES,
    *graph.ROUTES,
    *relation_routes.ROUTES,
    *tweets.ROUTES,
    *marks.ROUTES,
    *timelines.ROUTES,
    *marker_routes.ROUTES,
    *meta.ROUTES,
)


def make_app(
    *,
    writer: Writer,
    relations: Relations,
    likes: Likes,
    edits: Edits,
    markers: Markers,
    reading: Reading,
    people: People,
    marked: Marked,
    authenticator: Authenticator,
    limits: Limits,
) -> web.Application:
    """The API over these. It owns none of them: wiring opens and closes them."""
    app = web.Application(middlewares=[observed, as_problems, bounded], client_max_size=limits.body_bytes_max)
    app[WRITER], app[RELATIONS], app[LIKES], app[EDITS], app[MARKERS] = writer, relations, likes, edits, markers
    app[READING], app[PEOPLE], app[MARKED] = reading, people, marked
    app[AUTHENTICATOR], app[LIMITS] = authenticator, limits
    app[DOCUMENT] = document(ROUTES, limits)
    for route in ROUTES:
        add_route(app, route)
    app.on_response_prepare.append(finish)
    return app
