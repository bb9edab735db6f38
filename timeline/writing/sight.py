"""What a writer may act on: users that exist, tweets that the writer may see."""

from __future__ import annotations

from timeline.domain.errors import BadRequest, Fault
from timeline.domain.ids import TweetId, UserId
from timeline.domain.model import Tweet, TweetKey, User, Visibility
from timeline.writing.ports import GraphStore, TweetStore, UserStore


class Sight:
    """Looks things up in the store, past all caches. Shared by all requests."""

    def __init__(self, *, graph: GraphStore, tweets: TweetStore) -> None:
        self._graph, self._tweets = graph, tweets

    async def find(self, tweet_id: TweetId, pointer: str = "") -> Tweet:
        """The row of a bare id, deleted or not. Raises BadRequest("tweet-not-found")."""
        authors = await self._tweets.authors_of([tweet_id])
        rows = await self._tweets.get_many([TweetKey(author, tweet_id) for author in authors.values()])
        if tweet_id not in rows:
            raise no_tweet(tweet_id, pointer)
        return rows[tweet_id]

    async def source(self, me: UserId, tweet_id: TweetId, pointer: str = "") -> Tweet:
        """The tweet that an id means (of a retweet, the retweeted one), if `me` may see it. Raises BadRequest("tweet-not-found")."""
        tweet = await self.find(tweet_id, pointer)
        if tweet.retweet_of is not None and not tweet.deleted:
            if tweet.author_id != me and await self._graph.is_barred(me, tweet.author_id):
                raise no_tweet(tweet_id, pointer)
            tweet = await self.find(tweet.retweet_of, pointer)
        if tweet.deleted or not await self.may_see(me, tweet):
            raise no_tweet(tweet_id, pointer)
        return tweet

    async def may_see(self, me: UserId, tweet: Tweet) -> bool:
        """Whether a block or its visibility keeps it from `me`. Deletion is not asked about."""
        if tweet.author_id == me:
            return True
        if await self._graph.is_barred(me, tweet.author_id):
            return False
        return tweet.visibility is Visibility.public or await self._graph.follows(me, tweet.author_id)


async def must_exist(users: UserStore, *user_ids: UserId) -> dict[UserId, User]:
    """These. Raises BadRequest("user-not-found") unless all of them do."""
    found = await users.get_many(user_ids)
    for user_id in user_ids:
        if user_id not in found or found[user_id].deleted:
            raise BadRequest("user-not-found", f"There is no user {user_id}.")
    return found


def no_tweet(tweet_id: TweetId, pointer: str = "") -> BadRequest:
    """The refusal: there is no such tweet, or it is none of the caller's business."""
    faults = (Fault(pointer, "no such tweet"),) if pointer else ()
    return BadRequest("tweet-not-found", f"There is no tweet {tweet_id}.", faults)
