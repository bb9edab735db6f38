"""A retried POST makes one tweet: one after the other, all at once, across a restart, by two processes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

from aiohttp import ClientError, ClientSession

from tests.integration.api.client import Api
from tests.integration.api.stack import Service, running
from timeline.api.answers import TweetView

BODY = {"text": "once", "media_ids": ["image:x"]}


def key(name: str) -> dict[str, str]:
    return {"Idempotency-Key": name}


async def test_a_retry_returns_the_first_tweet(api: Api) -> None:
    me = await api.user()
    first = await api.call("POST", "/api/tweet", me, json=BODY, headers=key("k"))
    again = await api.call("POST", "/api/tweet", me, json=BODY, headers=key("k"))
    assert first.shaped(TweetView, 201) == again.shaped(TweetView, 201)
    assert first.headers["Location"] == again.headers["Location"]
    assert await api.profile(me) == [first.json["id"]]


async def test_another_body_under_the_same_key_is_a_conflict(api: Api, rows: Callable[[], dict[str, int]]) -> None:
    me = await api.user()
    await api.call("POST", "/api/tweet", me, json=BODY, headers=key("k"))
    before = rows()
    for change in ({"text": "twice"}, {"media_ids": []}, {"visibility": "followers"}):
        (await api.call("POST", "/api/tweet", me, json=BODY | change, headers=key("k"))).problem("idempotency-conflict")
    assert rows() == before


async def test_a_key_is_its_users_own(api: Api) -> None:
    me, other = await api.users(2)
    mine = await api.call("POST", "/api/tweet", me, json=BODY, headers=key("k"))
    theirs = await api.call("POST", "/api/tweet", other, json={"text": "other"}, headers=key("k"))
    assert (mine.status, theirs.status) == (201, 201)
    assert mine.json["id"] != theirs.json["id"]


async def test_retries_all_at_once_through_two_processes_make_one_tweet(api: Api, token_api: Api) -> None:
    me = await api.user()
    token_api.credentials[me] = token_for(me)
    both = [api, token_api] * 8
    answers = await asyncio.gather(*(one.call("POST", "/api/tweet", me, json=BODY, headers=key("k!~")) for one in both))
    assert {answer.status for answer in answers} == {201}, [answer.body for answer in answers]
    assert len({answer.json["id"] for answer in answers}) == 1
    assert len(await api.profile(me)) == 1


def token_for(user_id: int) -> dict[str, str]:
    from tests.integration.api.conftest import SECRET
    from timeline.api.auth import make_token
    from timeline.domain.ids import UserId
    from timeline.settings import Settings

    token = make_token(Settings(jwt_secret=SECRET), UserId(user_id), scope=None, expires_in_seconds=600)
    return {"Authorization": f"Bearer {token}"}


async def test_a_retry_after_the_process_was_killed_makes_one_tweet(
    api: Api, http: ClientSession, env: dict[str, str], folder: Path
) -> None:
    """Killed in the middle of posting: each key has one tweet in the end, the acknowledged ones the same as before."""
    me = await api.user()
    service = Service("api", env, folder)
    acknowledged: dict[str, str] = {}

    async def post(name: str, through: Api) -> None:
        answer = await through.call("POST", "/api/tweet", me, json={"text": name}, headers=key(name))
        assert answer.status == 201, answer.body
        assert acknowledged.setdefault(name, answer.json["id"]) == answer.json["id"]

    names = [f"k{number}" for number in range(60)]
    with running(service):
        dying = Api(http, service.url)

        async def until_it_dies(name: str) -> None:
            try:
                await post(name, dying)
            except ClientError:
                return
            if len(acknowledged) == 20:
                service.stop(signal.SIGKILL)

        await asyncio.gather(*map(until_it_dies, names))
        assert 20 <= len(acknowledged) < 60
        service.start()
        for name in names:
            await post(name, dying)
    profile = await api.profile(me, limit=100)
    assert sorted(profile) == sorted(acknowledged.values())
    assert len(set(profile)) == 60
