"""Home and profile, walked through the whole stack."""

from __future__ import annotations

from tests.integration.api.client import Api
from tests.integration.api.conftest import until
from timeline.api.answers import PageView


async def test_own_tweets_are_there_on_the_next_read(api: Api) -> None:
    me = await api.user()
    assert await api.home(me) == []
    posted = list[str]()
    for number in range(5):
        posted.insert(0, (await api.post(me, str(number)))["id"])
        assert await api.home(me) == posted
        assert await api.profile(me) == posted


async def test_a_tweet_reaches_every_follower_once(api: Api) -> None:
    author, *followers = await api.users(6)
    for follower in followers:
        await api.follow(follower, author)
        assert await api.home(follower) == []  # the list stands: what comes now is pushed
    ids = [(await api.post(author, str(number)))["id"] for number in range(10)]
    for follower in followers:

        async def has_all(follower: int = follower) -> bool:
            return len(await api.home(follower)) >= 10

        await until(has_all)
        assert await api.home(follower) == ids[::-1]


async def test_a_walk_in_pages_of_any_size_yields_everything_once(api: Api) -> None:
    me, *authors = await api.users(4)
    await api.follow(me, *authors)
    ids = [(await api.post(author, str(number)))["id"] for number in range(9) for author in authors]
    expected = sorted(ids, key=int, reverse=True)

    async def complete() -> bool:
        return await api.home(me, 100) == expected

    await until(complete)
    for limit in (1, 2, 7, 20, 27):
        assert await api.home(me, limit) == expected
    for author in authors:
        own = [tweet_id for tweet_id in expected if tweet_id in ids[authors.index(author) :: 3]]
        for limit in (1, 4, 100):
            assert await api.profile(author, me, limit) == own
            assert await api.profile(author, None, limit) == own


async def test_whom_one_begins_or_ends_to_follow_is_there_or_gone_on_the_next_read(api: Api) -> None:
    me, other = await api.users(2)
    mine, theirs = (await api.post(me))["id"], (await api.post(other))["id"]
    assert await api.home(me) == [mine]
    for _ in range(2):
        await api.follow(me, other)
        assert await api.home(me) == [theirs, mine]
        await api.call("DELETE", f"/api/follow/{other}", me)
        assert await api.home(me) == [mine]


async def test_a_deleted_tweet_is_gone_from_home_on_the_next_read(api: Api) -> None:
    me, other = await api.users(2)
    await api.follow(me, other)
    kept, gone = await api.post(other, "1"), await api.post(other, "2")

    async def both() -> bool:
        return await api.home(me) == [gone["id"], kept["id"]]

    await until(both)
    await api.call("DELETE", f"/api/tweet/{gone['id']}", other)
    assert await api.home(me) == [kept["id"]]


async def test_a_reply_is_there_for_those_who_follow_both_or_are_addressed(api: Api) -> None:
    addressed, author, both, one = await api.users(4)
    await api.follow(addressed, author)
    await api.follow(both, author, addressed)
    await api.follow(one, author)
    root = await api.post(addressed, "root")
    reply = await api.post(author, "reply", reply_to=root["id"])
    expected = {addressed: [reply["id"], root["id"]], both: [reply["id"], root["id"]], one: [], author: [reply["id"]]}
    for reader, ids in expected.items():

        async def holds(reader: int = reader, ids: list[str] = ids) -> bool:
            return await api.home(reader) == ids

        await until(holds)
    assert await api.profile(author, one) == [reply["id"]]


async def test_a_retweet_is_hidden_where_the_tweet_itself_stands(api: Api) -> None:
    author, retweeter, of_both, of_one = await api.users(4)
    await api.follow(of_both, author, retweeter)
    await api.follow(of_one, retweeter)
    tweet = await api.post(author)
    retweet_id = (await api.call("POST", f"/api/tweet/{tweet['id']}/retweet", retweeter)).json["retweet_id"]

    async def arrived() -> bool:
        return await api.home(of_one) == [retweet_id] and await api.home(of_both) == [tweet["id"]]

    await until(arrived)
    page = (await api.call("GET", "/api/timeline/home?explain=true", of_one)).shaped(PageView)
    assert (page["tweets"][0]["id"], page["tweets"][0]["retweeted_by"]["user"]["id"]) == (tweet["id"], str(retweeter))
    assert page["tweets"][0]["why"]["via"]


async def test_what_is_new_comes_by_the_newer_cursor_oldest_first(api: Api) -> None:
    me = await api.user()
    old = (await api.post(me, "old"))["id"]
    page = (await api.call("GET", "/api/timeline/home", me)).shaped(PageView)
    assert [tweet["position"] for tweet in page["tweets"]] == [old]
    ids = [(await api.post(me, str(number)))["id"] for number in range(5)]
    found, cursor, gaps = list[str](), page["newer_cursor"], list[bool]()
    for _ in range(4):
        params = {"cursor": cursor, "limit": "2"}
        page = (await api.call("GET", "/api/timeline/home", me, params=params)).shaped(PageView)
        found = [tweet["position"] for tweet in page["tweets"]] + found
        gaps.append(page["gap"])
        cursor = page["newer_cursor"]
    assert found == ids[::-1]
    assert gaps == [True, True, False, False]


async def test_a_page_says_what_it_is_and_is_not_sent_twice(api: Api) -> None:
    me = await api.user()
    await api.post(me)
    first = await api.call("GET", "/api/timeline/home", me)
    page = first.shaped(PageView)
    assert (page["order"], page["degraded"], page["missing"], page["reset"]) == ("recent", False, 0, False)
    assert first.headers["Cache-Control"] == "private, no-cache"
    assert first.headers["Vary"] == "Authorization, X-User-Id"
    public = await api.call("GET", f"/api/timeline/user/{me}")
    assert public.headers["Cache-Control"] == "public, max-age=30, stale-while-revalidate=30"
    again = await api.call("GET", f"/api/timeline/user/{me}", headers={"If-None-Match": public.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    await api.post(me)
    changed = await api.call("GET", f"/api/timeline/user/{me}", headers={"If-None-Match": public.headers["ETag"]})
    assert len(changed.shaped(PageView)["tweets"]) == 2
