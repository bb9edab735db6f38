"""Likes, and who likes or has retweeted a tweet."""

from __future__ import annotations

from typing import Literal

from aiohttp import web

from timeline.api.answers import LikedView, UsersView, of_list, of_members
from timeline.api.keys import LIKES, MARKED
from timeline.api.params import limit_of, path_tweet, query
from timeline.api.routing import Asks, Route, maybe_me_of, me_of


async def like(request: web.Request) -> web.StreamResponse:
    count = await request.app[LIKES].like(me_of(request), path_tweet(request))
    return of_members({"liked": True, "likes_count": count})


async def unlike(request: web.Request) -> web.StreamResponse:
    count = await request.app[LIKES].unlike(me_of(request), path_tweet(request))
    return of_members({"liked": False, "likes_count": count})


async def list_likes(request: web.Request) -> web.StreamResponse:
    return await _people(request, "likes")


async def list_retweets(request: web.Request) -> web.StreamResponse:
    return await _people(request, "retweets")


async def _people(request: web.Request, mark: Literal["likes", "retweets"]) -> web.StreamResponse:
    tweet_id, cursor, limit = path_tweet(request), query(request, "cursor"), limit_of(request)
    users, next_cursor = await request.app[MARKED].page(maybe_me_of(request), tweet_id, mark, cursor, limit)
    return of_list("users", users, next_cursor=next_cursor)


ROUTES = (
    Route(
        method="POST",
        path="/api/tweet/{tweet_id}/like",
        handle=like,
        summary="Like a tweet. Repeating changes nothing.",
        asks=Asks.must,
        answers={200: LikedView},
        problems=("user-not-found", "tweet-not-found", "outcome-unknown"),
    ),
    Route(
        method="DELETE",
        path="/api/tweet/{tweet_id}/like",
        handle=unlike,
        summary="Like a tweet no more. Repeating changes nothing.",
        asks=Asks.must,
        answers={200: LikedView},
        problems=("user-not-found", "tweet-not-found", "outcome-unknown"),
    ),
    Route(
        method="GET",
        path="/api/tweet/{tweet_id}/likes",
        handle=list_likes,
        summary="Who likes a tweet, newest first.",
        asks=Asks.may,
        query=("cursor", "limit"),
        answers={200: UsersView},
        problems=("bad-cursor", "bad-parameter", "tweet-not-found"),
    ),
    Route(
        method="GET",
        path="/api/tweet/{tweet_id}/retweets",
        handle=list_retweets,
        summary="Who has retweeted a tweet, newest first.",
        asks=Asks.may,
        query=("cursor", "limit"),
        answers={200: UsersView},
        problems=("bad-cursor", "bad-parameter", "tweet-not-found"),
    ),
)
