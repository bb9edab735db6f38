"""Blocks and mutes, as their users see them."""

from __future__ import annotations

from collections.abc import Callable

from tests.integration.api.client import Api
from tests.integration.api.conftest import until
from timeline.api.answers import PageView, TweetView, UsersView, UserView


async def users_of(api: Api, path: str, me: int | None, limit: int = 2) -> list[str]:
    """A whole list of users."""
    found, cursor = list[str](), None
    while True:
        params = {"limit": str(limit)} | ({"cursor": cursor} if cursor else {})
        page = (await api.call("GET", path, me, params=params)).shaped(UsersView)
        assert len(page["users"]) <= limit
        found += [user["id"] for user in page["users"]]
        cursor = page["next_cursor"]
        if cursor is None:
            return found


async def test_neither_side_of_a_block_is_there_for_the_other(api: Api) -> None:
    me, other, third = await api.users(3)
    await api.follow(me, other)
    await api.follow(other, me)
    tweets = {user: await api.post(user, "t") for user in (me, other)}
    await api.follow(third, me, other)
    for _ in range(2):
        assert (await api.call("POST", f"/api/block/{other}", me)).json == {"blocking": True}
    for one, two in ((me, other), (other, me)):
        tweet_id = tweets[two]["id"]
        (await api.tweet(tweet_id, one)).problem("tweet-not-found")
        (await api.call("GET", f"/api/user/{two}", one)).problem("user-not-found")
        (await api.call("GET", f"/api/user?handle=u{two}", one)).problem("user-not-found")
        (await api.call("GET", f"/api/timeline/user/{two}", one)).problem("user-not-found")
        (await api.call("POST", f"/api/follow/{two}", one)).problem("blocked")
        for call in ("like", "retweet"):
            (await api.call("POST", f"/api/tweet/{tweet_id}/{call}", one)).problem("tweet-not-found")
        for list_of in ("likes", "retweets"):
            (await api.call("GET", f"/api/tweet/{tweet_id}/{list_of}", one)).problem("tweet-not-found")
        for member in ("reply_to", "quote_of"):
            (await api.call("POST", "/api/tweet", one, json={"text": "a", member: tweet_id})).problem("tweet-not-found")
        assert await api.home(one) == [tweets[one]["id"]]
        assert str(two) not in await users_of(api, f"/api/user/{third}/followees", one)
    assert await users_of(api, f"/api/user/{third}/followees", None) == [str(me), str(other)]
    assert await users_of(api, f"/api/user/{me}/followers", me) == [str(third)]
    for _ in range(2):
        assert (await api.call("DELETE", f"/api/block/{other}", me)).json == {"blocking": False}
    for one, two in ((me, other), (other, me)):
        (await api.tweet(tweets[two]["id"], one)).shaped(TweetView)
        viewer = (await api.call("GET", f"/api/user/{two}", one)).shaped(UserView)["viewer"]
        assert viewer == {"following": False, "followed_by": False, "blocking": False, "muting": False}
        assert await api.home(one) == [tweets[one]["id"]]
    for one, two in ((me, other), (other, me)):
        await api.follow(one, two)
        assert len(await api.home(one)) == 2


async def test_a_blocked_users_retweets_and_quotes_are_hidden_with_them(api: Api) -> None:
    me, friend, other = await api.users(3)
    await api.follow(me, friend)
    tweet = await api.post(other, "t")
    quote = await api.post(friend, "q", quote_of=tweet["id"])
    retweet = (await api.call("POST", f"/api/tweet/{tweet['id']}/retweet", friend)).json["retweet_id"]

    async def arrived() -> bool:
        return await api.home(me) == [retweet, quote["id"]]

    await until(arrived)
    await api.call("POST", f"/api/block/{other}", me)
    page = (await api.call("GET", "/api/timeline/home", me)).shaped(PageView)
    assert [shown["position"] for shown in page["tweets"]] == [quote["id"]]
    assert page["tweets"][0]["quote"] == {"id": tweet["id"], "unavailable": True}
    (await api.tweet(retweet, me)).problem("tweet-not-found")


async def test_a_retweets_id_hides_its_source_from_whom_the_retweeter_blocks(api: Api) -> None:
    me, author, retweeter = await api.users(3)
    tweet = await api.post(author, "t")
    retweet = (await api.call("POST", f"/api/tweet/{tweet['id']}/retweet", retweeter)).json["retweet_id"]
    await api.call("POST", f"/api/block/{me}", retweeter)
    (await api.tweet(retweet, me)).problem("tweet-not-found")
    (await api.call("POST", f"/api/tweet/{retweet}/like", me)).problem("tweet-not-found")
    assert (await api.call("POST", f"/api/tweet/{tweet['id']}/like", me)).status == 200


async def test_ones_own_blocks_and_mutes_are_listed_each_once(api: Api) -> None:
    """Those across a block too, or nobody could find whom to unblock; not those who block oneself."""
    me, blocker, *others = await api.users(7)
    assert await users_of(api, "/api/block", me) == await users_of(api, "/api/mute", me) == []
    for path in ("block", "mute"):
        for other in others:
            await api.call("POST", f"/api/{path}/{other}", me)
    await api.call("POST", f"/api/block/{me}", blocker)
    everyone = [str(other) for other in others]
    for limit in (1, 2, 5, 100):
        assert await users_of(api, "/api/block", me, limit) == await users_of(api, "/api/mute", me, limit) == everyone
    page = (await api.call("GET", "/api/block", me)).shaped(UsersView)
    assert all(user["viewer"]["blocking"] and user["viewer"]["muting"] for user in page["users"])
    await api.call("DELETE", f"/api/block/{others[0]}", me)
    await api.call("DELETE", f"/api/mute/{others[1]}", me)
    assert await users_of(api, "/api/block", me) == everyone[1:]
    assert await users_of(api, "/api/mute", me) == [everyone[0], *everyone[2:]]
    cursor = (await api.call("GET", "/api/block?limit=1", me)).json["next_cursor"]
    (await api.call("GET", f"/api/mute?cursor={cursor}", me)).problem("bad-cursor")
    (await api.call("GET", f"/api/block?cursor={cursor}", others[0])).problem("bad-cursor")


async def test_a_muted_user_leaves_home_and_nothing_else(api: Api) -> None:
    me, friend, other = await api.users(3)
    await api.follow(me, friend, other)
    tweet = await api.post(other, "t")
    reply = await api.post(friend, "r", reply_to=tweet["id"])

    async def arrived() -> bool:
        return await api.home(me) == [reply["id"], tweet["id"]]

    await until(arrived)
    for _ in range(2):
        assert (await api.call("POST", f"/api/mute/{other}", me)).json == {"muting": True}
    assert await api.home(me) == [reply["id"]]
    assert await api.profile(other, me) == [tweet["id"]]
    (await api.tweet(tweet["id"], me)).shaped(TweetView)
    assert (await api.call("GET", f"/api/user/{other}", me)).json["viewer"] == {
        "following": True, "followed_by": False, "blocking": False, "muting": True,
    }  # fmt: skip
    assert (await api.call("GET", f"/api/user/{me}", other)).json["viewer"]["muting"] is False
    for _ in range(2):
        assert (await api.call("DELETE", f"/api/mute/{other}", me)).json == {"muting": False}
    assert await api.home(me) == [reply["id"], tweet["id"]]


async def test_nobody_blocks_or_mutes_themselves_or_nobody(api: Api, rows: Callable[[], dict[str, int]]) -> None:
    me = await api.user()
    before = rows()
    for name in ("block", "mute"):
        for method in ("POST", "DELETE"):
            (await api.call(method, f"/api/{name}/{me}", me)).problem(f"self-{name}")
            (await api.call(method, f"/api/{name}/999999999", me)).problem("user-not-found")
            (await api.call(method, f"/api/{name}/{me}", 999999999)).problem("user-not-found")
    assert rows() == before
