"""Likes, and who likes or has retweeted a tweet."""

from __future__ import annotations

from collections.abc import Callable

from tests.integration.api.client import Api
from tests.integration.api.test_relations import users_of
from timeline.api.answers import LikedView, TweetView, UsersView


async def test_a_like_is_one_however_often_and_is_marked_at_once(api: Api) -> None:
    me, other = await api.users(2)
    tweet = await api.post(other, "t")
    path = f"/api/tweet/{tweet['id']}/like"
    for _ in range(2):
        answer = (await api.call("POST", path, me)).shaped(LikedView)
        assert answer == {"liked": True, "likes_count": 1}
    assert (await api.tweet(tweet["id"], me)).shaped(TweetView)["viewer"] == {"liked": True, "retweeted": False}
    assert (await api.tweet(tweet["id"], other)).json["viewer"]["liked"] is False
    page = (await api.call("GET", f"/api/timeline/user/{other}", me)).json
    assert page["tweets"][0]["viewer"]["liked"] is True
    assert (await api.call("POST", path, other)).json == {"liked": True, "likes_count": 2}
    for _ in range(2):
        assert (await api.call("DELETE", path, me)).shaped(LikedView) == {"liked": False, "likes_count": 1}
    assert (await api.tweet(tweet["id"], me)).json["viewer"]["liked"] is False
    assert (await api.call("POST", path, me)).json == {"liked": True, "likes_count": 2}


async def test_a_retweets_id_likes_the_retweeted_tweet(api: Api) -> None:
    me, author, retweeter = await api.users(3)
    tweet = await api.post(author, "t")
    retweet = (await api.call("POST", f"/api/tweet/{tweet['id']}/retweet", retweeter)).json["retweet_id"]
    assert (await api.call("POST", f"/api/tweet/{retweet}/like", me)).json == {"liked": True, "likes_count": 1}
    assert (await api.tweet(tweet["id"], me)).json["viewer"]["liked"] is True
    for tweet_id in (tweet["id"], retweet):
        assert await users_of(api, f"/api/tweet/{tweet_id}/likes", me) == [str(me)]
        assert await users_of(api, f"/api/tweet/{tweet_id}/retweets", None) == [str(retweeter)]


async def test_what_may_not_be_seen_may_not_be_liked(api: Api, rows: Callable[[], dict[str, int]]) -> None:
    me, author = await api.users(2)
    hidden, gone = await api.post(author, "h", visibility="followers"), await api.post(author, "g")
    await api.call("DELETE", f"/api/tweet/{gone['id']}", author)
    before = rows()
    for tweet_id in (hidden["id"], gone["id"], "1", "x"):
        for method in ("POST", "DELETE"):
            (await api.call(method, f"/api/tweet/{tweet_id}/like", me)).problem("tweet-not-found")
        for list_of in ("likes", "retweets"):
            for reader in (me, None):
                (await api.call("GET", f"/api/tweet/{tweet_id}/{list_of}", reader)).problem("tweet-not-found")
    (await api.call("POST", f"/api/tweet/{hidden['id']}/like", 999999999)).problem("user-not-found")
    assert rows() == before
    assert (await api.call("POST", f"/api/tweet/{hidden['id']}/like", author)).status == 200


async def test_likers_and_retweeters_come_newest_first_each_once(api: Api) -> None:
    author, *others = await api.users(8)
    tweet = await api.post(author, "t")
    for name, list_of in (("like", "likes"), ("retweet", "retweets")):
        path = f"/api/tweet/{tweet['id']}/{name}"
        for other in others:
            await api.call("POST", path, other)
        await api.call("DELETE", path, others[1])
        await api.call("DELETE", path, others[2])
        await api.call("POST", path, others[2])
        expected = [str(user) for user in (others[2], *others[:2:-1], others[0])]
        for limit in (1, 3, 100):
            assert await users_of(api, f"/api/tweet/{tweet['id']}/{list_of}", None, limit) == expected
    await api.call("POST", f"/api/block/{author}", others[0])
    assert str(others[0]) not in await users_of(api, f"/api/tweet/{tweet['id']}/likes", author)
    page = (await api.call("GET", f"/api/tweet/{tweet['id']}/likes?limit=1", author)).shaped(UsersView)
    (await api.call("GET", f"/api/tweet/{tweet['id']}/retweets?cursor={page['next_cursor']}", author)).problem(
        "bad-cursor"
    )
