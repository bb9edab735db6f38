"""Talking to the API the way a client does, and holding every answer against the shapes that it documents."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientResponse, ClientSession
from pydantic import BaseModel

from timeline.api.answers import PageView, ProblemView, TweetView, UserView
from timeline.api.errors import KINDS

_numbers = itertools.count(1_000)


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes
    json: Any

    def shaped(self, view: type[BaseModel], status: int = 200) -> Any:
        """The JSON, when the status and the shape are as documented."""
        assert self.status == status, self.body
        view.model_validate(self.json)
        return self.json

    def problem(self, kind: str) -> Any:
        """The problem, when it is of this kind."""
        assert self.headers["Content-Type"] == "application/problem+json", self.body
        ProblemView.model_validate(self.json)
        assert (self.json["type"], self.status) == (f"/problems/{kind}", KINDS[kind].status), self.body
        return self.json


@dataclass
class Api:
    """One API process."""

    http: ClientSession
    url: str
    credentials: dict[int, dict[str, str]] = field(default_factory=dict)

    async def call(self, method: str, path: str, me: int | None = None, **options: Any) -> Answer:
        headers = dict(options.pop("headers", {}))
        if me is not None:
            headers |= self.credentials.get(me, {"X-User-Id": str(me)})
        async with self.http.request(method, self.url + path, headers=headers, **options) as answer:
            return await self._answer(answer)

    @staticmethod
    async def _answer(answer: ClientResponse) -> Answer:
        body = await answer.read()
        assert answer.headers["X-Request-Id"]
        is_json = "json" in answer.headers.get("Content-Type", "")
        return Answer(
            answer.status, answer.headers, body, await answer.json(content_type=None) if is_json and body else None
        )

    async def user(self) -> int:
        """A new user."""
        user_id = next(_numbers)
        answer = await self.call(
            "PUT", f"/api/user/{user_id}", user_id, json={"handle": f"u{user_id}", "name": f"U {user_id}"}
        )
        answer.shaped(UserView)
        return user_id

    async def users(self, count: int) -> list[int]:
        return [await self.user() for _ in range(count)]

    async def follow(self, me: int, *others: int) -> None:
        for other in others:
            assert (await self.call("POST", f"/api/follow/{other}", me)).json == {"following": True}

    async def post(self, me: int, text: str = "a", **members: Any) -> dict[str, Any]:
        """The tweet, as answered."""
        answer = await self.call("POST", "/api/tweet", me, json={"text": text} | members)
        tweet: dict[str, Any] = answer.shaped(TweetView, 201)
        assert answer.headers["Location"] == f"/api/tweet/{tweet['id']}"
        return tweet

    async def tweet(self, tweet_id: str, me: int | None = None) -> Answer:
        return await self.call("GET", f"/api/tweet/{tweet_id}", me)

    async def pages(self, path: str, me: int | None = None, limit: int = 20) -> AsyncIterator[dict[str, Any]]:
        """A timeline from its top to the beginning of history."""
        cursor = None
        for _ in range(1000):
            params = {"limit": str(limit)} | ({"cursor": cursor} if cursor else {})
            page = (await self.call("GET", path, me, params=params)).shaped(PageView)
            assert page["has_more"] is (page["next_cursor"] is not None)
            assert len(page["tweets"]) <= limit
            yield page
            cursor = page["next_cursor"]
            if cursor is None:
                return
        raise AssertionError(f"{path} does not end")

    async def positions(self, path: str, me: int | None = None, limit: int = 20) -> list[str]:
        """Everything that a timeline holds, newest first."""
        return [tweet["position"] async for page in self.pages(path, me, limit) for tweet in page["tweets"]]

    async def home(self, me: int, limit: int = 20) -> list[str]:
        return await self.positions("/api/timeline/home", me, limit)

    async def profile(self, user_id: int, me: int | None = None, limit: int = 20) -> list[str]:
        return await self.positions(f"/api/timeline/user/{user_id}", me, limit)
