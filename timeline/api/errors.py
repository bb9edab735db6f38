"""Problems (RFC 9457): the one table of everything that an answer can say went wrong. docs/errors.md lists the same kinds.

`type` is the stable part, for programs; `title` and `detail` are for people and may change.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import orjson
from aiohttp import web

from timeline.domain.errors import BadRequest, Fault, OutcomeUnknown, Overloaded, Stored, Unavailable

log = logging.getLogger(__name__)

PROBLEM_TYPE = "application/problem+json"
_RETRY_AFTER_SECONDS = 2  # longer than a failover of one primary's connection takes, shorter than patience


@dataclass(frozen=True, slots=True)
class Kind:
    status: int
    title: str


KINDS: Mapping[str, Kind] = {
    "bad-cursor": Kind(400, "Not a cursor of this list"),
    "bad-parameter": Kind(400, "A query parameter is out of its range"),
    "bad-idempotency-key": Kind(400, "Not an Idempotency-Key"),
    "not-json": Kind(400, "The body is not JSON"),
    "bad-http": Kind(400, "Not HTTP as it should be"),
    "unauthenticated": Kind(401, "It must be said who asks"),
    "bad-credentials": Kind(401, "What says who asks is not valid"),
    "forbidden": Kind(403, "This is somebody else's"),
    "not-yours": Kind(403, "This is somebody else's"),
    "blocked": Kind(403, "A block stands between the two"),
    "not-retweetable": Kind(403, "This tweet is not for others to retweet"),
    "not-found": Kind(404, "There is nothing here"),
    "user-not-found": Kind(404, "There is no such user"),
    "tweet-not-found": Kind(404, "There is no such tweet"),
    "method-not-allowed": Kind(405, "This cannot be done here"),
    "body-timeout": Kind(408, "The body did not arrive in time"),
    "handle-taken": Kind(409, "The handle is taken"),
    "idempotency-conflict": Kind(409, "The Idempotency-Key was used for something else"),
    "body-too-large": Kind(413, "The body is too large"),
    "bad-content-type": Kind(415, "The body must be application/json"),
    "invalid-body": Kind(422, "The body is not what this call takes"),
    "invalid-tweet": Kind(422, "Not a tweet that can be stored"),
    "invalid-user": Kind(422, "Not a user that can be stored"),
    "self-follow": Kind(422, "Nobody follows themselves"),
    "self-block": Kind(422, "Nobody blocks themselves"),
    "self-mute": Kind(422, "Nobody mutes themselves"),
    "too-many-blocks": Kind(422, "Too many are blocked already"),
    "too-many-mutes": Kind(422, "Too many are muted already"),
    "too-many-followees": Kind(422, "Too many are followed already"),
    "internal-error": Kind(500, "This is a bug of ours"),
    "unavailable": Kind(503, "Not to be answered just now"),
    "overloaded": Kind(503, "Too much is asked just now"),
    "outcome-unknown": Kind(503, "It may or may not have happened"),
    "stored": Kind(503, "It is stored, but may not be seen at once"),
}
_BY_STATUS = {404: "not-found", 405: "method-not-allowed", 413: "body-too-large", 415: "bad-content-type"}


def problem(
    kind: str, detail: str, faults: tuple[Fault, ...] = (), headers: Mapping[str, str] | None = None
) -> web.Response:
    """The answer of a kind. A kind that is not in the table is a KeyError, which is a bug."""
    known = KINDS[kind]
    members: dict[str, object] = {
        "type": f"/problems/{kind}",
        "title": known.title,
        "status": known.status,
        "detail": detail,
    }
    if faults:
        members["errors"] = [{"pointer": fault.pointer, "detail": fault.detail} for fault in faults]
    sent = dict(headers or {})
    if known.status == 503:
        sent["Retry-After"] = str(_RETRY_AFTER_SECONDS)
    return web.Response(body=orjson.dumps(members), status=known.status, content_type=PROBLEM_TYPE, headers=sent)


def of_bad_request(error: BadRequest, challenge: str) -> web.Response:
    """`challenge` is the WWW-Authenticate of a 401."""
    if error.kind == "bad-credentials":
        challenge += ', error="invalid_token"'
    is_challenge = KINDS[error.kind].status == 401
    return problem(error.kind, error.detail, error.faults, {"WWW-Authenticate": challenge} if is_challenge else None)


def of_unavailable(error: Unavailable) -> web.Response:
    """A 503 that says what the caller may rely on, and not which server of ours did not answer (that is logged)."""
    log.warning("unavailable", extra={"kind": type(error).__name__, "reason": str(error)})
    if isinstance(error, Stored):
        return problem("stored", str(error))
    if isinstance(error, Overloaded):
        return problem("overloaded", "Nothing was done. Ask again, a little later.")
    if isinstance(error, OutcomeUnknown):
        return problem(
            "outcome-unknown", "It may have been stored. Repeat it; a POST of a tweet under the same Idempotency-Key."
        )
    return problem("unavailable", "An engine behind this did not answer. Ask again, a little later.")


def of_http(error: web.HTTPException) -> web.StreamResponse:
    """aiohttp's own refusals (no such route, no such method) in our form."""
    if error.status < 400:
        return error
    if error.status in _BY_STATUS:
        kind, detail = _BY_STATUS[error.status], KINDS[_BY_STATUS[error.status]].title + "."
    else:
        kind, detail = "bad-http", error.reason
    return problem(kind, detail, headers={"Allow": error.headers["Allow"]} if "Allow" in error.headers else None)


def of_bug(error: Exception) -> web.Response:
    log.error("bug", exc_info=error)
    return problem("internal-error", "It is logged under the X-Request-Id of this answer.")
