"""The reading place in one's home."""

from __future__ import annotations

from aiohttp import web

from timeline.api.answers import MarkerView, of_members
from timeline.api.bodies import MarkerBody, read_body
from timeline.api.keys import MARKERS
from timeline.api.routing import Asks, Route, me_of
from timeline.assembly.fragments import rfc3339
from timeline.domain.ids import TweetId
from timeline.writing.ports import Marker


async def put_marker(request: web.Request) -> web.StreamResponse:
    me, body = me_of(request), await read_body(request, MarkerBody)
    return _shown(await request.app[MARKERS].move(me, TweetId(int(body.tweet_id)), rewind=body.rewind))


async def get_marker(request: web.Request) -> web.StreamResponse:
    return _shown(await request.app[MARKERS].get(me_of(request)))


def _shown(marker: Marker | None) -> web.Response:
    if marker is None:
        return of_members({"tweet_id": None, "updated_at": None})
    return of_members({"tweet_id": str(marker.tweet_id), "updated_at": rfc3339(marker.version // 1000)})


ROUTES = (
    Route(
        method="PUT",
        path="/api/timeline/home/marker",
        handle=put_marker,
        summary="Say how far one has read. It only moves forward, unless rewind is true; the marker that stands is answered.",
        asks=Asks.must,
        body=MarkerBody,
        answers={200: MarkerView},
        problems=("user-not-found", "outcome-unknown"),
    ),
    Route(
        method="GET",
        path="/api/timeline/home/marker",
        handle=get_marker,
        summary="How far one has read.",
        asks=Asks.must,
        answers={200: MarkerView},
    ),
)
