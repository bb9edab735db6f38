"""What the API says of itself."""

from __future__ import annotations

from aiohttp import web

from timeline.api.answers import joined
from timeline.api.keys import DOCUMENT
from timeline.api.routing import Asks, Route


async def openapi(request: web.Request) -> web.StreamResponse:
    return joined(request.app[DOCUMENT], headers={"Cache-Control": "no-cache"})


ROUTES = (
    Route(
        method="GET",
        path="/openapi.json",
        handle=openapi,
        summary="This document.",
        asks=Asks.nobody,
        answers={200: None},
    ),
)
