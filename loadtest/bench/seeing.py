"""Readers who wait for one tweet: their home is asked for, through the API, until it shows it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import aiohttp
import numpy as np
import orjson

from loadtest.bench.posting import Posted
from timeline.domain.entries import UserIds

FOLLOWERS_MAX = 10  # asked of one tweet: at four tweets a second some 40 pages, so that posts are not crowded out
AT_ONCE = 4  # of one tweet, once the first has it
REQUESTS_AT_ONCE = 16  # of all of them: readers must not crowd out the posts
PAUSE_SECONDS = 0.01  # between two questions of one reader
LIMIT, LIMIT_LATER, LATER_SECONDS = 20, 100, 1.0  # by then so much else may have come that it left the first page
GIVE_UP_SECONDS = 30


def spread(followers: UserIds) -> list[int]:
    """At most FOLLOWERS_MAX of them, spread evenly over the ids, the last among them. Fan-out reads and pushes a list in order of id,
    so these are its beginning, its middle and its end."""
    places = np.unique(np.linspace(len(followers) - 1, 0, min(FOLLOWERS_MAX, len(followers))).astype(np.int64))
    found: list[int] = followers[places].tolist()
    return found


@dataclass
class Seen:
    """From a tweet's sending on, in milliseconds: until its last follower by id had it, and until all who are asked had."""

    last_ms: list[float] = field(default_factory=list)
    all_ms: list[float] = field(default_factory=list)
    pages: int = 0
    page_ms: list[float] = field(default_factory=list)
    via: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)  # pages that were no whole 200
    unseen: int = 0  # tweets that somebody was not shown within GIVE_UP_SECONDS


class Watching:
    """Tasks that wait for tweets."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._room = asyncio.Semaphore(REQUESTS_AT_ONCE)
        self._under_way: set[asyncio.Task[None]] = set()
        self.seen = Seen()

    def watch(self, posted: Posted, followers: Sequence[int]) -> None:
        """The last of the followers is asked until it has the tweet, then the others: each answer that lacks it costs one more, so
        those who have it already cost one page each."""
        task = asyncio.get_running_loop().create_task(self._watch(posted, followers))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def end(self) -> Seen:
        """When all have seen theirs, or gave up."""
        while self._under_way:
            done, _ = await asyncio.wait(self._under_way)
            for task in done:
                task.result()
        return self.seen

    async def read_once(self, reader: int) -> str:
        """Where the reader's page came from."""
        async with self._room:
            page = await self._page(reader, LIMIT)
        return "none" if page is None else str(page["source"])

    async def _watch(self, posted: Posted, followers: Sequence[int]) -> None:
        last = await self._until_shown(posted, followers[-1])
        room = asyncio.Semaphore(AT_ONCE)

        async def other(reader: int) -> float | None:
            async with room:
                return await self._until_shown(posted, reader)

        times = [last, *await asyncio.gather(*(other(reader) for reader in followers[:-1]))]
        shown = [each for each in times if each is not None]
        if last is None or len(shown) < len(times):
            self.seen.unseen += 1
            return
        self.seen.last_ms.append((last - posted.sent) * 1000)
        self.seen.all_ms.append((max(shown) - posted.sent) * 1000)

    async def _until_shown(self, posted: Posted, reader: int) -> float | None:
        """When an answer with the tweet in it was there; None if none came."""
        position = str(posted.tweet_id)
        while (waited := perf_counter() - posted.sent) < GIVE_UP_SECONDS:
            async with self._room:
                page = await self._page(reader, LIMIT if waited < LATER_SECONDS else LIMIT_LATER)
            now = perf_counter()
            for tweet in () if page is None else page["tweets"]:
                if tweet["position"] == position:
                    self.seen.via[tweet["why"]["via"]] += 1
                    return now
            await asyncio.sleep(PAUSE_SECONDS)
        return None

    async def _page(self, reader: int, limit: int) -> dict[str, Any] | None:
        began = perf_counter()
        path = f"/api/timeline/home?order=recent&explain=true&limit={limit}"
        try:
            async with self._session.get(path, headers={"X-User-Id": str(reader)}) as answer:
                status, body = answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            self.seen.wrong[type(error).__name__] += 1
            return None
        self.seen.pages += 1
        self.seen.page_ms.append((perf_counter() - began) * 1000)
        if status != 200:
            self.seen.wrong[str(status)] += 1
            return None
        page: dict[str, Any] = orjson.loads(body)
        if page["degraded"]:
            self.seen.wrong["degraded"] += 1
        return page
