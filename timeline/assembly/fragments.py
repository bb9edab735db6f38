"""JSON fragments: the parts of an answer that are made once and cached, and the joining of them.

A tweet is `{` + members that change only by an edit (Post.body) + members that belong to this reader and moment + `}`. So a page is
joined from bytes and never built as objects and dumped.
"""

from __future__ import annotations

from datetime import UTC, datetime

import orjson

from timeline.domain import media
from timeline.domain.ids import TweetId, time_ms
from timeline.domain.model import Tweet, User, Visibility
from timeline.domain.records import Author, Marks, Post, State

NULL = b"null"
FALSE, TRUE = b"false", b"true"
UNMARKED = b'{"liked":false,"retweeted":false}'


def rfc3339(unix_ms: int) -> str:
    """2026-01-31T12:00:00.000Z"""
    moment = datetime.fromtimestamp(unix_ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{unix_ms % 1000:03d}Z"


def id_or_null(value: int | None) -> str | None:
    return None if value is None else str(value)


def post_of(tweet: Tweet, media_url: str) -> Post:
    """What is cached of a tweet's content. A retweet has a body too: the id and time of the retweet itself."""
    members = {
        "id": str(tweet.id),
        "text": tweet.text,
        "created_at": rfc3339(tweet.created_ms),
        "edited_at": None if tweet.edited_ms is None else rfc3339(tweet.edited_ms),
        "visibility": tweet.visibility.value,
        "reply_to": id_or_null(tweet.reply_to),
        "conversation_id": str(tweet.conversation_id),
        "media": [
            {"id": item, "url": media.url(item, media_url), "type": media.kind(item)} for item in tweet.media_ids
        ],
    }
    return Post(
        version=tweet.version,
        tweet_id=tweet.id,
        author_id=tweet.author_id,
        body=orjson.dumps(members)[1:-1],
        followers_only=tweet.visibility is Visibility.followers,
        quote_of=tweet.quote_of,
        quote_author=tweet.quote_author,
        reply_to_user=tweet.reply_to_user,
        retweet_of=tweet.retweet_of,
        retweet_author=tweet.retweet_author,
    )


def author_of(user: User) -> Author:
    """What is cached of a user, as tweets show them."""
    members = {"id": str(user.id), "handle": user.handle, "name": user.name, "avatar_url": user.avatar_url}
    return Author(user.version, user.id, user.handle, orjson.dumps(members), user.deleted)


def reply_to_user(author: Author | None, user_id: int | None) -> bytes:
    """`{"id","handle"}` of the user replied to; null for a tweet that is no reply, or whose addressee is gone."""
    if user_id is None or author is None or author.deleted:
        return NULL
    return orjson.dumps({"id": str(user_id), "handle": author.handle})


def retweeted_by(retweet_id: TweetId, author: Author) -> bytes:
    created = rfc3339(time_ms(retweet_id))
    return b'{"id":"%d","user":%b,"created_at":"%b"}' % (retweet_id, author.body, created.encode())


def viewer(marks: Marks | None, tweet_id: TweetId, liked: set[TweetId], retweeted: set[TweetId]) -> bytes:
    """Of a reader with marks; null for nobody. `liked` and `retweeted` are what lay below the marks' floors."""
    if marks is None:
        return NULL
    likes, retweets = marks.liked(tweet_id), marks.retweeted(tweet_id)
    return b'{"liked":%b,"retweeted":%b}' % (
        TRUE if (likes or tweet_id in liked) else FALSE,
        TRUE if (retweets or tweet_id in retweeted) else FALSE,
    )


def tweet(
    post: Post,
    state: State,
    author: Author,
    *,
    replied_to: bytes,
    quote: bytes,
    position: int,
    viewer: bytes,
    retweeted_by: bytes,
    why: bytes = b"",
) -> bytes:
    """One tweet as API.md says it."""
    counts = state.counts
    return (
        b'{%b,"author":%b,"reply_to_user":%b,"quote":%b,"position":"%d",'
        b'"likes_count":%d,"retweets_count":%d,"replies_count":%d,"viewer":%b,"retweeted_by":%b%b}'
        % (
            post.body,
            author.body,
            replied_to,
            quote,
            position,
            counts.likes,
            counts.retweets,
            counts.replies,
            viewer,
            retweeted_by,
            why,
        )
    )


def unavailable_quote(tweet_id: TweetId) -> bytes:
    return b'{"id":"%d","unavailable":true}' % tweet_id
