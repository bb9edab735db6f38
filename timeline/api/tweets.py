"""Tweets and retweets: posted, read, deleted."""

from __future__ import annotations

from aiohttp import web

from timeline.api.answers import RetweetedView, TweetsView, TweetView, joined, of_list, of_members
from timeline.api.bodies import EditBody, TweetBody, read_body
from timeline.api.keys import EDITS, READING, WRITER
from timeline.api.params import idempotency_key, ids_of, path_tweet
from timeline.api.routing import Asks, Route, maybe_me_of, me_of
from timeline.domain.errors import BadRequest, Stored, Unavailable
from timeline.domain.ids import TweetId, UserId
from timeline.domain.model import Visibility
from timeline.writing.drafts import Draft
from timeline.writing.service import RetweetOutcome


async def post_tweet(request: web.Request) -> web.StreamResponse:
    me, key = me_of(request), idempotency_key(request)
    body = await read_body(request, TweetBody)
    reading = request.app[READING]
    before = reading.moment()
    posted = await request.app[WRITER].post(me, _draft(body), key)
    if posted.is_new and posted.tweet.quote_of is None:
        shown = await reading.just_written(posted.tweet, posted.author, before)
    else:
        shown = await _shown_to_author(request, me, posted.tweet.id)
    return joined(shown, status=201, headers={"Location": f"/api/tweet/{posted.tweet.id}"})


def _draft(body: TweetBody) -> Draft:
    return Draft(
        text=body.text,
        reply_to=_tweet_id(body.reply_to),
        quote_of=_tweet_id(body.quote_of),
        media_ids=tuple(body.media_ids),
        visibility=Visibility(body.visibility),
    )


def _tweet_id(text: str | None) -> TweetId | None:
    return None if text is None else TweetId(int(text))


async def _shown_to_author(request: web.Request, me: UserId, tweet_id: TweetId) -> bytes:
    """The tweet as it is by now. Raises Stored when it cannot be read: its author must not take it for lost, and post it again."""
    try:
        shown = await request.app[READING].tweets(me, [tweet_id])
    except Unavailable as error:
        raise Stored(
            f"The tweet is stored, as {tweet_id}, and cannot be shown just now. Do not post it again."
        ) from error
    if not shown:
        raise BadRequest(
            "tweet-not-found", f"The tweet {tweet_id} was posted under this Idempotency-Key, and deleted since."
        )
    return shown[0]


async def get_tweet(request: web.Request) -> web.StreamResponse:
    tweet_id = path_tweet(request)
    shown = await request.app[READING].tweets(maybe_me_of(request), [tweet_id])
    if not shown:
        raise BadRequest("tweet-not-found", f"There is no tweet {tweet_id}.")
    return joined(shown[0])


async def get_tweets(request: web.Request) -> web.StreamResponse:
    return of_list("tweets", await request.app[READING].tweets(maybe_me_of(request), ids_of(request)))


async def edit_tweet(request: web.Request) -> web.StreamResponse:
    me, tweet_id = me_of(request), path_tweet(request)
    body = await read_body(request, EditBody)
    given = body.model_fields_set
    edited = await request.app[EDITS].edit(
        me,
        tweet_id,
        body.text if "text" in given else None,
        Visibility(body.visibility) if "visibility" in given else None,
    )
    try:
        shown = await request.app[READING].tweets(me, [edited])
    except Unavailable as error:
        raise Stored(f"The edit of {edited} is stored, and cannot be shown just now.") from error
    if not shown:
        raise BadRequest("tweet-not-found", f"The tweet {edited} was deleted meanwhile.")
    return joined(shown[0])


async def delete_tweet(request: web.Request) -> web.StreamResponse:
    await request.app[WRITER].delete(me_of(request), path_tweet(request))
    return web.Response(status=204)


async def retweet(request: web.Request) -> web.StreamResponse:
    return _retweeted(True, await request.app[WRITER].retweet(me_of(request), path_tweet(request)))


async def undo_retweet(request: web.Request) -> web.StreamResponse:
    return _retweeted(False, await request.app[WRITER].unretweet(me_of(request), path_tweet(request)))


def _retweeted(is_retweeted: bool, outcome: RetweetOutcome) -> web.Response:
    return of_members(
        {
            "retweeted": is_retweeted,
            "retweets_count": outcome.retweets_count,
            "retweet_id": None if outcome.retweet_id is None else str(outcome.retweet_id),
        }
    )


ROUTES = (
    Route(
        method="POST",
        path="/api/tweet",
        handle=post_tweet,
        summary="Post a tweet. Under an Idempotency-Key, a retry returns the first tweet.",
        asks=Asks.must,
        headers=("Idempotency-Key",),
        body=TweetBody,
        answers={201: TweetView},
        problems=(
            "bad-idempotency-key", "user-not-found", "tweet-not-found", "idempotency-conflict", "invalid-tweet",
            "outcome-unknown", "stored",
        ),
    ),
    Route(
        method="GET",
        path="/api/tweet",
        handle=get_tweets,
        summary="Those of these tweets that exist and may be seen, in the order asked.",
        asks=Asks.may,
        query=("ids",),
        answers={200: TweetsView},
        problems=("bad-parameter",),
    ),
    Route(
        method="GET",
        path="/api/tweet/{tweet_id}",
        handle=get_tweet,
        summary="A tweet; of a retweet's id, the retweeted tweet.",
        asks=Asks.may,
        answers={200: TweetView},
        problems=("tweet-not-found",),
    ),
    Route(
        method="PATCH",
        path="/api/tweet/{tweet_id}",
        handle=edit_tweet,
        summary="Change the text or the visibility of one's own tweet. One that changes nothing is no edit.",
        asks=Asks.must,
        body=EditBody,
        answers={200: TweetView},
        problems=("not-yours", "tweet-not-found", "invalid-tweet", "outcome-unknown", "stored"),
    ),
    Route(
        method="DELETE",
        path="/api/tweet/{tweet_id}",
        handle=delete_tweet,
        summary="Delete one's own tweet, or undo one's retweet by its id. Repeating changes nothing.",
        asks=Asks.must,
        answers={204: None},
        problems=("not-yours", "tweet-not-found", "outcome-unknown", "stored"),
    ),
    Route(
        method="POST",
        path="/api/tweet/{tweet_id}/retweet",
        handle=retweet,
        summary="Retweet. Repeating changes nothing.",
        asks=Asks.must,
        answers={200: RetweetedView},
        problems=("not-retweetable", "user-not-found", "tweet-not-found", "outcome-unknown"),
    ),
    Route(
        method="DELETE",
        path="/api/tweet/{tweet_id}/retweet",
        handle=undo_retweet,
        summary="Undo one's retweet. Repeating changes nothing.",
        asks=Asks.must,
        answers={200: RetweetedView},
        problems=("tweet-not-found", "outcome-unknown", "stored"),
    ),
)  # fmt: skip
