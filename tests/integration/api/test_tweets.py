"""Tweets: posted, replied to, quoted, hidden, deleted, retweeted."""

from __future__ import annotations

from collections.abc import Callable

from tests.integration.api.client import Api
from timeline.api.answers import RetweetedView, TweetsView, TweetView


async def test_a_tweet_is_read_as_it_was_posted(api: Api) -> None:
    me = await api.user()
    tweet = await api.post(
        me, 'Grüße \N{GRINNING FACE} <b> \\ " \u2028 \x00', media_ids=["image:a.b-c_1", "video:x", "link:y"]
    )
    assert (await api.tweet(tweet["id"], me)).shaped(TweetView) == tweet
    assert tweet["author"] == {"id": str(me), "handle": f"u{me}", "name": f"U {me}", "avatar_url": None}
    assert [(each["id"], each["type"]) for each in tweet["media"]] == [
        ("image:a.b-c_1", "image"), ("video:x", "video"), ("link:y", "link"),
    ]  # fmt: skip
    assert (tweet["conversation_id"], tweet["position"]) == (tweet["id"], tweet["id"])
    assert tweet["viewer"] == {"liked": False, "retweeted": False}
    assert (tweet["reply_to"], tweet["reply_to_user"], tweet["quote"], tweet["edited_at"], tweet["retweeted_by"]) == (
        None,
    ) * 5
    assert (await api.tweet(tweet["id"])).shaped(TweetView) == tweet | {"viewer": None}


async def test_text_is_kept_in_its_composed_form(api: Api) -> None:
    assert (await api.post(await api.user(), "e\u0301"))["text"] == "\u00e9"


async def test_media_alone_is_a_tweet(api: Api) -> None:
    assert (await api.post(await api.user(), "", media_ids=["image:x"]))["text"] == ""


async def test_a_reply_names_its_parent_and_conversation(api: Api) -> None:
    me, other = await api.users(2)
    root = await api.post(me)
    reply = await api.post(other, "b", reply_to=root["id"])
    answer = await api.post(me, "c", reply_to=reply["id"])
    assert (reply["reply_to"], reply["reply_to_user"]) == (root["id"], {"id": str(me), "handle": f"u{me}"})
    assert reply["conversation_id"] == answer["conversation_id"] == root["id"]
    assert (await api.tweet(answer["id"], me)).shaped(TweetView) == answer


async def test_a_quote_holds_the_quoted_tweet_and_not_its_own_quote(api: Api) -> None:
    me, other = await api.users(2)
    first = await api.post(me, "1")
    second = await api.post(other, "2", quote_of=first["id"])
    third = await api.post(me, "3", quote_of=second["id"])
    assert second["quote"]["id"] == first["id"]
    assert third["quote"]["text"] == "2"
    assert third["quote"]["quote"] is None
    assert (await api.call("DELETE", f"/api/tweet/{second['id']}", other)).status == 204
    assert (await api.tweet(third["id"])).shaped(TweetView)["quote"] == {"id": second["id"], "unavailable": True}


async def test_a_tweet_for_followers_is_there_for_them_alone(api: Api, rows: Callable[[], dict[str, int]]) -> None:
    me, follower, stranger = await api.users(3)
    await api.follow(follower, me)
    tweet = await api.post(me, "psst", visibility="followers")
    for reader in (me, follower):
        assert (await api.tweet(tweet["id"], reader)).shaped(TweetView)["visibility"] == "followers"
    before = rows()
    for other in (stranger, None):
        (await api.tweet(tweet["id"], other)).problem("tweet-not-found")
        assert (await api.call("GET", f"/api/tweet?ids={tweet['id']}", other)).json == {"tweets": []}
    for member in ("reply_to", "quote_of"):
        (await api.call("POST", "/api/tweet", stranger, json={"text": "a", member: tweet["id"]})).problem(
            "tweet-not-found"
        )
    (await api.call("POST", f"/api/tweet/{tweet['id']}/retweet", stranger)).problem("tweet-not-found")
    (await api.call("POST", f"/api/tweet/{tweet['id']}/retweet", follower)).problem("not-retweetable")
    (await api.call("DELETE", f"/api/tweet/{tweet['id']}", stranger)).problem("tweet-not-found")
    assert rows() == before
    assert (await api.call("POST", f"/api/tweet/{tweet['id']}/retweet", me)).status == 200


async def test_many_tweets_are_answered_in_the_order_asked(api: Api) -> None:
    me = await api.user()
    ids = [(await api.post(me, str(number)))["id"] for number in range(4)]
    await api.call("DELETE", f"/api/tweet/{ids[1]}", me)
    asked = [ids[3], "1", ids[0], ids[1], ids[2]]
    answer = (await api.call("GET", f"/api/tweet?ids={','.join(asked)}", me)).shaped(TweetsView)
    assert [tweet["id"] for tweet in answer["tweets"]] == [ids[3], ids[0], ids[2]]


async def test_a_deleted_tweet_is_gone_for_everybody_at_once_and_deleting_again_is_well(api: Api) -> None:
    me, other = await api.users(2)
    tweet = await api.post(me)
    (await api.call("DELETE", f"/api/tweet/{tweet['id']}", other)).problem("not-yours")
    assert (await api.tweet(tweet["id"], other)).status == 200
    for _ in range(2):
        assert (await api.call("DELETE", f"/api/tweet/{tweet['id']}", me)).status == 204
    for reader in (me, other, None):
        (await api.tweet(tweet["id"], reader)).problem("tweet-not-found")
    assert await api.profile(me) == await api.home(me) == []
    (await api.call("POST", "/api/tweet", other, json={"text": "a", "reply_to": tweet["id"]})).problem(
        "tweet-not-found"
    )


async def test_a_retweet_is_one_however_often_and_its_id_means_the_retweeted(api: Api) -> None:
    me, other = await api.users(2)
    tweet = await api.post(other)
    path = f"/api/tweet/{tweet['id']}/retweet"
    first = (await api.call("POST", path, me)).shaped(RetweetedView)
    assert (await api.call("POST", path, me)).json == first
    assert (first["retweeted"], first["retweets_count"]) == (True, 1)
    retweet_id = first["retweet_id"]
    shown = (await api.tweet(retweet_id, me)).shaped(TweetView)
    assert (shown["id"], shown["position"], shown["viewer"]["retweeted"]) == (tweet["id"], retweet_id, True)
    assert (shown["retweeted_by"]["id"], shown["retweeted_by"]["user"]["id"]) == (retweet_id, str(me))
    reply = await api.post(me, "r", reply_to=retweet_id)
    assert reply["reply_to"] == tweet["id"]
    assert (await api.post(me, "q", quote_of=retweet_id))["quote"]["id"] == tweet["id"]
    again = (await api.call("POST", f"/api/tweet/{retweet_id}/retweet", other)).shaped(RetweetedView)
    assert (again["retweets_count"], again["retweet_id"] != retweet_id) == (2, True)


async def test_an_undone_retweet_is_gone_and_may_be_made_anew(api: Api) -> None:
    me, other = await api.users(2)
    tweet = await api.post(other)
    path = f"/api/tweet/{tweet['id']}/retweet"
    first = (await api.call("POST", path, me)).json
    for _ in range(2):
        undone = (await api.call("DELETE", path, me)).shaped(RetweetedView)
        assert (undone["retweeted"], undone["retweets_count"]) == (False, 0)
    (await api.tweet(first["retweet_id"], me)).problem("tweet-not-found")
    assert await api.profile(me) == []
    second = (await api.call("POST", path, me)).shaped(RetweetedView)
    assert (second["retweets_count"], second["retweet_id"] != first["retweet_id"]) == (1, True)
    assert await api.profile(me) == [second["retweet_id"]]


async def test_a_retweet_is_undone_by_its_id_by_the_retweeter_alone(api: Api) -> None:
    me, other = await api.users(2)
    tweet = await api.post(other)
    retweet_id = (await api.call("POST", f"/api/tweet/{tweet['id']}/retweet", me)).json["retweet_id"]
    (await api.call("DELETE", f"/api/tweet/{retweet_id}", other)).problem("not-yours")
    assert (await api.call("DELETE", f"/api/tweet/{retweet_id}", me)).status == 204
    assert (await api.tweet(tweet["id"], me)).json["viewer"]["retweeted"] is False


async def test_undoing_a_retweet_once_more_does_not_undo_a_newer_one(api: Api) -> None:
    """A client may repeat a request late: what was decided since stands."""
    me, other = await api.users(2)
    tweet = await api.post(other)
    path = f"/api/tweet/{tweet['id']}/retweet"
    first = (await api.call("POST", path, me)).json["retweet_id"]
    assert (await api.call("DELETE", f"/api/tweet/{first}", me)).status == 204
    second = (await api.call("POST", path, me)).json["retweet_id"]
    assert (await api.call("DELETE", f"/api/tweet/{first}", me)).status == 204
    assert await api.profile(me) == [second]
    assert (await api.tweet(tweet["id"], me)).json["viewer"]["retweeted"] is True


async def test_a_retweet_goes_when_its_source_does(api: Api) -> None:
    me, other = await api.users(2)
    tweet = await api.post(other)
    retweet_id = (await api.call("POST", f"/api/tweet/{tweet['id']}/retweet", me)).json["retweet_id"]
    assert await api.profile(me) == [retweet_id]
    await api.call("DELETE", f"/api/tweet/{tweet['id']}", other)
    assert await api.profile(me) == []
    (await api.tweet(retweet_id, me)).problem("tweet-not-found")
