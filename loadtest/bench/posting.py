"""Posts through the API as they come in life: each when its time has come, whatever became of those before (an open loop). One that
refers to another is sent when that one's answer has told its id."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic, perf_counter
from typing import Any

import aiohttp
import orjson

from timeline.ops.files import Kind, PostRow
from timeline.ops.texts import text_of

IN_FLIGHT_MAX = (
    2_000  # ten seconds of posts without an answer: then the service is not measured any more, but its collapse
)
TIMEOUT_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Posted:
    """A row that was answered: its id in timelines, and when it was sent (of perf_counter)."""

    row: PostRow
    tweet_id: int
    sent: float


@dataclass
class Told:
    """What became of all of them."""

    answered_ms: list[float] = field(default_factory=list)
    behind_ms: list[float] = field(default_factory=list)  # of those that wait for nobody: sent so long after their time
    waited: int = 0  # for the answer to the one that they refer to
    failed: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def client(base: str) -> aiohttp.ClientSession:
    """Connections are made as they are needed, and kept."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    return aiohttp.ClientSession(base, connector=aiohttp.TCPConnector(limit=0), timeout=timeout)


class Posting:
    """Rows, so many a second. `on_posted` is called with each that was answered."""

    def __init__(self, session: aiohttp.ClientSession, rate: float, on_posted: Callable[[Posted], None]) -> None:
        self._session, self._rate, self._on_posted = session, rate, on_posted
        self._ids: dict[int, asyncio.Future[int | None]] = {}  # by row: the tweet's id; None where it failed
        self._under_way: set[asyncio.Task[None]] = set()
        self.told = Told()

    async def run(self, rows: Sequence[PostRow]) -> Told:
        """Returns when all have been answered, or given up."""
        loop = asyncio.get_running_loop()
        began = monotonic()
        for number, row in enumerate(rows):
            due = began + number / self._rate
            if (pause := due - monotonic()) > 0:
                await asyncio.sleep(pause)
            self._ids[row.post_id] = loop.create_future()
            if len(self._under_way) >= IN_FLIGHT_MAX:
                self._fail(row, "never sent: too many without an answer")
                continue
            task = loop.create_task(self._post(row, due))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        self.told.seconds = monotonic() - began + 1 / self._rate
        while self._under_way:
            await asyncio.wait(self._under_way)
        return self.told

    async def _post(self, row: PostRow, due: float) -> None:
        source = None
        if row.ref_post and row.kind in (Kind.retweet, Kind.reply):
            source = await self._source(row.ref_post)
            if source is None:
                self._fail(row, "what it refers to has failed")
                return
        else:
            self.told.behind_ms.append((monotonic() - due) * 1000)
        sent = perf_counter()
        try:
            status, answer = await self._send(row, source)
        except (aiohttp.ClientError, TimeoutError) as error:
            self._fail(row, type(error).__name__)
            return
        answered_ms = (perf_counter() - sent) * 1000
        if status not in (200, 201):
            self._fail(row, f"{status} {answer.get('type')}")
            return
        tweet_id = int(answer["retweet_id"] if row.kind is Kind.retweet else answer["id"])
        self.told.answered_ms.append(answered_ms)
        self._ids[row.post_id].set_result(tweet_id)
        self._on_posted(Posted(row, tweet_id, sent))

    async def _source(self, ref_post: int) -> int | None:
        known = self._ids[ref_post]
        self.told.waited += not known.done()
        return await known

    async def _send(self, row: PostRow, source: int | None) -> tuple[int, dict[str, Any]]:
        headers = {"X-User-Id": str(row.author), "Content-Type": "application/json"}
        if row.kind is Kind.retweet:
            path, body = f"/api/tweet/{source}/retweet", None
        else:
            mentioned = row.ref_user if row.kind is Kind.mention and row.ref_user else None
            members = {"text": text_of(row.post_id, row.author, mentioned)}
            path, body = "/api/tweet", orjson.dumps(members if source is None else members | {"reply_to": str(source)})
        async with self._session.post(path, data=body, headers=headers) as answer:
            return answer.status, orjson.loads(await answer.read())

    def _fail(self, row: PostRow, reason: str) -> None:
        self.told.failed[reason] += 1
        self._ids[row.post_id].set_result(None)
