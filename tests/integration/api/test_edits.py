"""Edits of tweets."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.api.client import Api
from timeline.api.answers import TweetView


async def test_an_edit_is_answered_and_shown_to_everybody_at_once(api: Api, token_api: Api) -> None:
    me, other = await api.users(2)
    tweet = await api.post(me, "old", media_ids=["image:x"])
    for reader in (me, other, None):
        await api.tweet(tweet["id"], reader)
    path = f"/api/tweet/{tweet['id']}"
    edited = (await api.call("PATCH", path, me, json={"text": "ne\u0301w"})).shaped(TweetView)
    assert edited["edited_at"] >= tweet["created_at"]
    assert edited == tweet | {"text": "n\u00e9w", "edited_at": edited["edited_at"]}
    assert (await api.tweet(tweet["id"], other)).json == edited
    for process in (api, token_api):
        assert (await process.tweet(tweet["id"])).json == edited | {"viewer": None}
    again = (await api.call("PATCH", path, me, json={"text": "n\u00e9w", "visibility": "public"})).shaped(TweetView)
    assert again == edited, "what changes nothing is no edit"
    assert (await api.call("PATCH", path, me, json={"text": ""})).shaped(TweetView)["text"] == "", "there are media"


async def test_a_tweet_made_for_followers_hides_from_others_and_comes_back(api: Api) -> None:
    me, follower, stranger = await api.users(3)
    await api.follow(follower, me)
    tweet = await api.post(me, "t")
    path = f"/api/tweet/{tweet['id']}"
    for visibility in ("followers", "public", "followers"):
        answer = (await api.call("PATCH", path, me, json={"visibility": visibility})).shaped(TweetView)
        assert (answer["visibility"], answer["text"]) == (visibility, "t")
        assert await api.home(follower) == [tweet["id"]]
        for reader in (stranger, None):
            assert (await api.tweet(tweet["id"], reader)).status == (200 if visibility == "public" else 404)
            assert await api.profile(me, reader) == ([tweet["id"]] if visibility == "public" else [])


async def test_only_its_author_edits_a_tweet(api: Api, rows: Callable[[], dict[str, int]]) -> None:
    """By a retweet's id too, which means the retweeted tweet; what one may not see is not there."""
    me, other = await api.users(2)
    tweet, hidden, gone = await api.post(me, "t"), await api.post(me, "h", visibility="followers"), await api.post(me)
    retweet = (await api.call("POST", f"/api/tweet/{tweet['id']}/retweet", other)).json["retweet_id"]
    await api.call("DELETE", f"/api/tweet/{gone['id']}", me)
    before = rows()
    for tweet_id in (tweet["id"], retweet):
        (await api.call("PATCH", f"/api/tweet/{tweet_id}", other, json={"text": "x"})).problem("not-yours")
    (await api.call("PATCH", f"/api/tweet/{hidden['id']}", other, json={"text": "x"})).problem("tweet-not-found")
    (await api.call("PATCH", f"/api/tweet/{gone['id']}", me, json={"text": "x"})).problem("tweet-not-found")
    (await api.call("PATCH", "/api/tweet/1", me, json={"text": "x"})).problem("tweet-not-found")
    assert rows() == before
    answer = (await api.call("PATCH", f"/api/tweet/{retweet}", me, json={"text": "x"})).shaped(TweetView)
    assert (answer["id"], answer["text"]) == (tweet["id"], "x")


@pytest.mark.parametrize(
    ("members", "kind", "pointer"),
    [
        ({}, "invalid-body", ""),
        ([], "invalid-body", ""),
        ({"text": None}, "invalid-body", "/text"),
        ({"visibility": "friends"}, "invalid-body", "/visibility"),
        ({"media_ids": []}, "invalid-body", "/media_ids"),
        ({"text": ""}, "invalid-tweet", "/text"),
        ({"text": "a" * 281}, "invalid-tweet", "/text"),
    ],
)
async def test_a_bad_edit_is_refused_as_a_bad_tweet_is(api: Api, members: object, kind: str, pointer: str) -> None:
    me = await api.user()
    tweet = await api.post(me, "t")
    answer = await api.call("PATCH", f"/api/tweet/{tweet['id']}", me, json=members)
    assert [error["pointer"] for error in answer.problem(kind)["errors"]] == [pointer]
    assert (await api.tweet(tweet["id"], me)).json == tweet
