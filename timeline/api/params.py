"""Paths, queries and headers, taken apart. A query parameter that nobody knows is ignored; a known one out of its range is a 400."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from aiohttp import web

from timeline.api.auth import parse_id
from timeline.api.keys import LIMITS
from timeline.domain.errors import BadRequest
from timeline.domain.ids import TweetId, UserId
from timeline.domain.limits import Limits

T = TypeVar("T")
BOOLEANS: Mapping[str, bool] = {"true": True, "false": False}
ORDERS: Mapping[str, str] = {"ranked": "ranked", "recent": "recent"}


def path_user(request: web.Request) -> UserId:
    """Raises BadRequest("user-not-found"): what is no id names nobody."""
    text = request.match_info["user_id"]
    user_id = parse_id(text)
    if user_id is None:
        raise BadRequest("user-not-found", "There is no user with this id.")
    return UserId(user_id)


def path_tweet(request: web.Request) -> TweetId:
    """Raises BadRequest("tweet-not-found")."""
    tweet_id = parse_id(request.match_info["tweet_id"])
    if tweet_id is None:
        raise BadRequest("tweet-not-found", "There is no tweet with this id.")
    return TweetId(tweet_id)


def query(request: web.Request, name: str) -> str | None:
    """Raises BadRequest("bad-parameter") when it is given twice."""
    given = request.query.getall(name, [])
    if len(given) > 1:
        raise _bad(name, "is given more than once")
    return given[0] if given else None


def limit_of(request: web.Request) -> int:
    limits = request.app[LIMITS]
    text = query(request, "limit")
    if text is None:
        return limits.page_default
    value = parse_id(text)
    if value is None or value > limits.page_max:
        raise _bad("limit", f"is a number from 1 to {limits.page_max}")
    return value


def choice_of(request: web.Request, name: str, choices: Mapping[str, T], default: T) -> T:
    text = query(request, name)
    if text is None:
        return default
    if text not in choices:
        raise _bad(name, f"is one of {', '.join(choices)}")
    return choices[text]


def ids_of(request: web.Request) -> list[TweetId]:
    """Of `?ids=1,2,3`: at least one, at most ids_per_request_max."""
    most = request.app[LIMITS].ids_per_request_max
    parts = (query(request, "ids") or "").split(",", most)
    ids = [parse_id(part) for part in parts]
    if len(ids) > most or None in ids:
        raise _bad("ids", f"is 1 to {most} tweet ids with commas between them")
    return [TweetId(value) for value in ids if value is not None]


def idempotency_key(request: web.Request) -> str | None:
    """Raises BadRequest("bad-idempotency-key")."""
    given = request.headers.getall("Idempotency-Key", [])
    if not given:
        return None
    longest = request.app[LIMITS].idempotency_key_characters_max
    if len(given) > 1 or not is_visible_ascii(given[0], longest):
        raise BadRequest(
            "bad-idempotency-key", f"An Idempotency-Key is one value of 1 to {longest} visible ASCII characters."
        )
    return given[0]


def is_visible_ascii(text: str, longest: int) -> bool:
    return 1 <= len(text) <= longest and all("!" <= character <= "~" for character in text)


def described(limits: Limits) -> dict[str, dict[str, object]]:
    """The query parameters as OpenAPI has them, by name."""
    return {
        "cursor": _described("Where to go on, as an answer gave it.", type="string"),
        "limit": _described(
            "How many at most.", type="integer", minimum=1, maximum=limits.page_max, default=limits.page_default
        ),
        "order": _described("By rank or by time.", type="string", enum=list(ORDERS), default="ranked"),
        "explain": _described("Say of each item why it is there.", type="boolean", default=False),
        "handle": _described("Whose; case does not matter.", type="string", required=True),
        "ids": _described(
            f"Tweet ids, at most {limits.ids_per_request_max}, with commas between them.", type="string", required=True
        ),
    }


def _described(text: str, *, required: bool = False, **schema: object) -> dict[str, object]:
    return {"description": text, "required": required, "schema": schema}


def _bad(name: str, wrong: str) -> BadRequest:
    return BadRequest("bad-parameter", f"The query parameter {name} {wrong}.")
