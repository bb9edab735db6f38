"""Answers: how they leave, and their shapes for the document (answers are joined from fragments, never built from the shapes)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal

import orjson
from aiohttp import web
from multidict import CIMultiDictProxy
from pydantic import BaseModel, ConfigDict, Field

from timeline.assembly.service import Page

PRIVATE = "private, no-cache"
PUBLIC = "public, max-age=30, stale-while-revalidate=30"
VARY = "Authorization, X-User-Id"


def joined(body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)


def of_members(members: Mapping[str, object]) -> web.Response:
    return joined(orjson.dumps(members))


def of_list(name: str, items: Sequence[bytes], **members: object) -> web.Response:
    """`{name: [items], …members}`."""
    return joined(orjson.dumps({name: _array(items), **members}))


def page_body(page: Page) -> bytes:
    return orjson.dumps(
        {
            "tweets": _array(page.tweets),
            "next_cursor": page.next_cursor,
            "newer_cursor": page.newer_cursor,
            "has_more": page.has_more,
            "order": page.order,
            "source": page.source,
            "degraded": page.degraded,
            "missing": page.missing,
            "gap": page.gap,
            "reset": page.reset,
        }
    )


def of_page(page: Page, asked: CIMultiDictProxy[str], *, is_public: bool) -> web.Response:
    """With an ETag; a 304 when the caller has this page.

    It is a weak one: pages that differ in their `newer_cursor` alone are the same. That says, among other things, when the page was
    read, and an earlier one leads to all that the later one does.
    """
    body = page_body(page)
    etag = f'"{hashlib.blake2b(page_body(replace(page, newer_cursor="")), digest_size=16).hexdigest()}"'
    headers = {"ETag": f"W/{etag}", "Cache-Control": PUBLIC if is_public else PRIVATE, "Vary": VARY}
    if _is_known(etag, asked.getall("If-None-Match", [])):
        return web.Response(status=304, headers=headers)
    return joined(body, headers=headers)


def _is_known(etag: str, if_none_match: Sequence[str]) -> bool:
    """RFC 9110, 13.1.2: any of the list, compared weakly, or `*`."""
    known = [part.strip().removeprefix("W/") for line in if_none_match for part in line.split(",")]
    return "*" in known or etag in known


def _array(items: Sequence[bytes]) -> orjson.Fragment:
    return orjson.Fragment(b"[%b]" % b",".join(items))


class View(BaseModel):
    """A shape of an answer. Every member is always there, unless it says otherwise."""

    model_config = ConfigDict(extra="forbid")


_Id = Annotated[str, Field(pattern="^[1-9][0-9]{0,18}$")]
_Time = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$")]


class AuthorView(View):
    id: _Id
    handle: str
    name: str
    avatar_url: str | None


class ReplyToUserView(View):
    id: _Id
    handle: str


class MediaView(View):
    id: str
    url: str
    type: Literal["image", "video", "link"]


class TweetViewerView(View):
    liked: bool
    retweeted: bool


class RetweetedByView(View):
    """Why the tweet is at this place: somebody retweeted it."""

    id: _Id
    user: AuthorView
    created_at: _Time


class UnavailableQuoteView(View):
    """A quoted tweet that the reader may not see, or that is gone."""

    id: _Id
    unavailable: Literal[True]


class WhyView(View):
    """Why an item is on a page, when `explain=true` asked for it."""

    model_config = ConfigDict(extra="allow")
    via: Literal["pushed", "pulled", "store", "own", "trending", "fresh"]
    score: float | None = None
    features: dict[str, float] | None = None


class TweetView(View):
    id: _Id
    author: AuthorView
    text: str
    created_at: _Time
    edited_at: _Time | None
    visibility: Literal["public", "followers"]
    reply_to: _Id | None
    reply_to_user: ReplyToUserView | None
    conversation_id: _Id
    quote: TweetView | UnavailableQuoteView | None
    position: _Id
    media: list[MediaView]
    likes_count: int
    retweets_count: int
    replies_count: int
    viewer: TweetViewerView | None
    retweeted_by: RetweetedByView | None
    why: WhyView | None = Field(None, description="Only there when explain=true asked for it.")


class UserViewerView(View):
    following: bool
    followed_by: bool
    blocking: bool
    muting: bool


class UserView(View):
    id: _Id
    handle: str
    name: str
    avatar_url: str | None
    created_at: _Time
    followers_count: int
    followees_count: int
    tweets_count: int
    viewer: UserViewerView | None


class UsersView(View):
    users: list[UserView]
    next_cursor: str | None


class TweetsView(View):
    tweets: list[TweetView]


class PageView(View):
    tweets: list[TweetView]
    next_cursor: str | None = Field(description="Null at the very end of history, and only there.")
    newer_cursor: str | None
    has_more: bool
    order: Literal["ranked", "recent"]
    source: Literal["cache", "store", "mixed"]
    degraded: bool
    missing: int
    gap: bool
    reset: bool


class FollowingView(View):
    following: bool


class BlockingView(View):
    blocking: bool


class MutingView(View):
    muting: bool


class LikedView(View):
    liked: bool
    likes_count: int


class MarkerView(View):
    """Both null: it was never set."""

    tweet_id: _Id | None
    updated_at: _Time | None


class RetweetedView(View):
    retweeted: bool
    retweets_count: int
    retweet_id: _Id | None


class FaultView(View):
    pointer: str = Field(description="A JSON pointer into the body; empty: the whole.")
    detail: str


class ProblemView(View):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FaultView] | None = Field(None, description="Each bad member; only there when members are bad.")
