"""What the application holds for its handlers, each under a typed key."""

from __future__ import annotations

from aiohttp import web

from timeline.api.auth import Authenticator, Caller
from timeline.assembly.marked import Marked
from timeline.assembly.people import People
from timeline.assembly.service import Reading
from timeline.domain.limits import Limits
from timeline.writing.edits import Edits
from timeline.writing.likes import Likes
from timeline.writing.markers import Markers
from timeline.writing.relations import Relations
from timeline.writing.service import Writer

WRITER = web.AppKey("writer", Writer)
READING = web.AppKey("reading", Reading)
PEOPLE = web.AppKey("people", People)
RELATIONS = web.AppKey("relations", Relations)
LIKES = web.AppKey("likes", Likes)
EDITS = web.AppKey("edits", Edits)
MARKERS = web.AppKey("markers", Markers)
MARKED = web.AppKey("marked", Marked)
LIMITS = web.AppKey("limits", Limits)
AUTHENTICATOR: web.AppKey[Authenticator] = web.AppKey("authenticator")
DOCUMENT = web.AppKey("document", bytes)
CALLER: web.RequestKey[Caller | None] = web.RequestKey("caller")
