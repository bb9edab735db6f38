"""Who is asking, by token, through a real process."""

from __future__ import annotations

from tests.integration.api.client import Api
from tests.integration.api.stack import run
from timeline.api.answers import UserView


def credentials(env: dict[str, str], user_id: int, *options: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {run('token', str(user_id), *options, env=env).strip()}"}


async def test_the_token_of_the_command_line_is_its_users(api: Api, token_api: Api, env: dict[str, str]) -> None:
    me, other = await api.users(2)
    headers = credentials(env, me)
    tweet = await token_api.call("POST", "/api/tweet", json={"text": "a"}, headers=headers)
    assert (tweet.status, tweet.json["author"]["id"]) == (201, str(me))
    (await token_api.call("DELETE", f"/api/tweet/{tweet.json['id']}", headers=credentials(env, other))).problem(
        "not-yours"
    )
    body = {"handle": f"x{me}", "name": "X"}
    (await token_api.call("PUT", f"/api/user/{other}", headers=headers, json=body)).problem("forbidden")


async def test_an_admin_may_change_any_user(api: Api, token_api: Api, env: dict[str, str]) -> None:
    me, other = await api.users(2)
    body = {"handle": f"y{other}", "name": "Y"}
    answer = await token_api.call(
        "PUT", f"/api/user/{other}", json=body, headers=credentials(env, me, "--scope", "admin")
    )
    assert answer.shaped(UserView)["handle"] == f"y{other}"


async def test_a_user_header_says_nothing_where_tokens_are_asked_for(api: Api, token_api: Api) -> None:
    me = await api.user()
    answer = await token_api.call("GET", "/api/timeline/home", me)
    answer.problem("unauthenticated")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer ")


async def test_a_bad_token_is_refused_even_where_none_is_needed(api: Api, token_api: Api) -> None:
    me = await api.user()
    for path in (f"/api/user/{me}", f"/api/timeline/user/{me}", "/api/timeline/home"):
        answer = await token_api.call("GET", path, headers={"Authorization": "Bearer nonsense"})
        answer.problem("bad-credentials")
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
    assert (await token_api.call("GET", f"/api/timeline/user/{me}")).status == 200
