"""A crowd: clients who post, retweet, delete, follow, unfollow, block and read at once, over the API alone, each asking again until it
is answered; what they were acknowledged, and what they were shown that they must not see.

Whoever is told that something is done may rely on it: every page that is asked for after that answer is judged by it.
"""

from __future__ import annotations

import http.client
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.e2e.readers import HOME
from tests.oracle import Oracle, Row
from tests.stack import Stack

ACKNOWLEDGED_SECONDS = 90
PAUSE_SECONDS = 0.2
EXAMPLES_MAX = 12
NEVER = float("inf")


class Acknowledged:
    """What is sure to have happened, and since when. Shared by all threads."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.oracle = Oracle()
        self.deleted_at: dict[int, float] = {}  # tweets, and retweets that were undone
        self.barred_at: dict[frozenset[int], float] = {}
        self.left_at: dict[tuple[int, int], float] = {}  # whoever unfollowed whom, and does not follow them again
        self.anomalies: Counter[str] = Counter()
        self.examples: list[str] = []
        self.counts: Counter[str] = Counter()

    def report(self, anomaly: str, what: str) -> None:
        with self.lock:
            self.anomalies[anomaly] += 1
            if len(self.examples) < EXAMPLES_MAX:
                self.examples.append(f"{anomaly}: {what}")

    def judge(self, reader: int, page: dict[str, Any], asked_at: float) -> None:
        """Of a page, degraded or not: nothing that was gone before it was asked for."""
        with self.lock:
            found = [int(tweet["position"]) for tweet in page["tweets"]]
            if found != sorted(set(found), reverse=True):
                self.report("duplicated", f"{found} to {reader}")
            for tweet in page["tweets"]:
                self._judge_item(reader, tweet, asked_at)

    def _judge_item(self, reader: int, tweet: dict[str, Any], asked_at: float) -> None:
        position, shown, author = int(tweet["position"]), int(tweet["id"]), int(tweet["author"]["id"])
        again = tweet["retweeted_by"]
        poster = author if again is None else int(again["user"]["id"])
        via = tweet.get("why")
        for one in {position, shown}:
            if self.deleted_at.get(one, NEVER) < asked_at:
                self.report("resurrected", f"{one} at {position} to {reader}, {via}")
        for one in {author, poster}:
            if self.barred_at.get(frozenset((reader, one)), NEVER) < asked_at:
                self.report("leaked", f"{position} of {one}, blocked, to {reader}, {via}")
        if self.left_at.get((reader, poster), NEVER) < asked_at:
            self.report("leaked", f"{position} of {poster}, unfollowed, to {reader}, {via}")


class Client:
    """One of the crowd. Every change is repeated until it is answered: then it has happened, once."""

    def __init__(self, stack: Stack, known: Acknowledged) -> None:
        self.stack, self.known = stack, known

    def ask(self, method: str, path: str, user: int, body: Any = None, **headers: str) -> tuple[int, Any]:
        """An answer other than 503. What fails without one is asked again as well."""
        deadline = time.monotonic() + ACKNOWLEDGED_SECONDS
        while True:
            try:
                status, answer = self.stack.call(method, path, user, body, **headers)
            except (OSError, http.client.HTTPException) as error:
                status, answer = 503, str(error)
            if status != 503:
                assert status < 500, answer
                return status, answer
            with self.known.lock:
                self.known.counts["503"] += 1
            assert time.monotonic() < deadline, f"{method} {path} of {user}: {answer}"
            time.sleep(PAUSE_SECONDS)

    def sign_up(self, user: int) -> None:
        status, answer = self.ask("PUT", f"/api/user/{user}", user, {"handle": f"user_{user}", "name": f"User {user}"})
        assert status == 200, answer

    def post(self, author: int, *, followers_only: bool = False) -> int:
        body = {"text": f"of {author}", "visibility": "followers" if followers_only else "public"}
        status, answer = self.ask("POST", "/api/tweet", author, body, Idempotency_Key=uuid.uuid4().hex)
        assert status == 201, answer
        return self._add(Row(int(answer["id"]), author, followers_only=followers_only), "posts")

    def retweet(self, author: int, source: int) -> int | None:
        """None when it is gone already."""
        status, answer = self.ask("POST", f"/api/tweet/{source}/retweet", author)
        if status == 404:
            return None
        assert status == 200, answer
        return self._add(Row(int(answer["retweet_id"]), author, source=source), "retweets")

    def _add(self, row: Row, count: str) -> int:
        with self.known.lock:
            self.known.oracle.add(row)
            self.known.counts[count] += 1
        return row.id

    def delete(self, tweet: int, author: int) -> None:
        """A tweet, or the author's retweet by its own id."""
        status, answer = self.ask("DELETE", f"/api/tweet/{tweet}", author)
        assert status == 204, answer
        with self.known.lock:
            self.known.oracle.rows[tweet].deleted = True
            self.known.deleted_at[tweet] = time.monotonic()
            self.known.counts["deletions"] += 1

    def follow(self, reader: int, author: int) -> None:
        with self.known.lock:
            self.known.left_at.pop((reader, author), None)
        status, answer = self.ask("POST", f"/api/follow/{author}", reader)
        assert status == 200, answer
        with self.known.lock:
            self.known.oracle.follows[reader].add(author)
            self.known.counts["follows"] += 1

    def unfollow(self, reader: int, author: int) -> None:
        status, answer = self.ask("DELETE", f"/api/follow/{author}", reader)
        assert status == 200, answer
        with self.known.lock:
            self.known.oracle.follows[reader].discard(author)
            self.known.left_at[reader, author] = time.monotonic()
            self.known.counts["unfollows"] += 1

    def block(self, one: int, other: int) -> None:
        status, answer = self.ask("POST", f"/api/block/{other}", one)
        assert status == 200, answer
        with self.known.lock:
            self.known.oracle.block(one, other)
            self.known.barred_at[frozenset((one, other))] = time.monotonic()
            self.known.counts["blocks"] += 1

    def read(self, reader: int, limit: int = 20, cursor: str | None = None) -> dict[str, Any] | None:
        """A page of home, judged. None: it was a 503, counted."""
        asked_at = time.monotonic()
        more = "" if cursor is None else f"&cursor={cursor}"
        try:
            status, page = self.stack.call("GET", f"{HOME}?order=recent&explain=true&limit={limit}{more}", reader)
        except (OSError, http.client.HTTPException) as error:
            status, page = 503, {"detail": str(error)}
        assert status in (200, 503), page
        with self.known.lock:
            self.known.counts["pages"] += status == 200
            self.known.counts["pages refused"] += status == 503
            self.known.counts["pages degraded"] += status == 200 and page["degraded"]
        if status == 503:
            return None
        assert isinstance(page, dict)
        self.known.judge(reader, page, asked_at)
        return page

    def own_is_there(self, reader: int) -> None:
        """One's own tweet is on the next page that one reads, or that page says that it may lack something."""
        posted = self.post(reader)
        page = self.read(reader, 100)
        if page is not None and not page["degraded"] and posted not in [int(one["position"]) for one in page["tweets"]]:
            self.known.report("lost", f"{reader}'s own {posted}, on the next read, of {page['source']}")


class Load:
    """Threads of clients, until they are stopped. `authors` write, `readers` change their graph and read; no two threads act for
    one user, nor change what lies between the same two."""

    def __init__(
        self, client: Client, authors: Sequence[int], readers: Sequence[int], seed: int, writers: int = 2
    ) -> None:
        self._client, self._stopping = client, threading.Event()
        self._failures: list[BaseException] = []
        works = [
            *((self._write, [*authors[at::writers]], [*readers[at::writers]]) for at in range(writers)),
            *((self._read, [], list(readers)) for _ in range(2)),
        ]
        self._threads = [
            threading.Thread(target=self._run, args=(work, mine, theirs, random.Random(seed * 100 + number)))
            for number, (work, mine, theirs) in enumerate(works)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(2 * ACKNOWLEDGED_SECONDS)
        if self._failures:
            raise self._failures[0]

    def _run(self, work: Any, mine: list[int], theirs: list[int], chance: random.Random) -> None:
        try:
            work(mine, theirs, chance)
        except BaseException as error:  # noqa: BLE001 - it is raised where the threads are joined
            self._failures.append(error)

    def _read(self, _: list[int], readers: list[int], chance: random.Random) -> None:
        while not self._stopping.wait(0.01):
            reader = chance.choice(readers)
            page = self._client.read(reader)
            if page is not None and page["next_cursor"] is not None and chance.random() < 0.5:
                self._client.read(reader, 20, page["next_cursor"])

    def _write(self, authors: list[int], readers: list[int], chance: random.Random) -> None:
        client, known = self._client, self._client.known
        tweets: list[tuple[int, int]] = []  # of these authors, and not yet deleted
        while not self._stopping.wait(0.02):
            author, reader = chance.choice(authors), chance.choice(readers)
            act = chance.random()
            if act < 0.5 or not tweets:
                tweets.append((client.post(author, followers_only=chance.random() < 0.1), author))
            elif act < 0.65:
                source, _ = chance.choice(tweets)
                if not known.oracle.rows[source].followers_only:
                    client.retweet(author, source)
            elif act < 0.82:
                client.delete(*tweets.pop(chance.randrange(len(tweets))))
            elif act < 0.9:
                client.own_is_there(reader)
            else:
                self._change_graph(reader, chance)

    def _change_graph(self, reader: int, chance: random.Random) -> None:
        client, known = self._client, self._client.known
        with known.lock:
            followed = sorted(known.oracle.follows[reader])
            left = sorted(
                author for one, author in known.left_at if one == reader and not known.oracle.is_barred(one, author)
            )
        if left and chance.random() < 0.5:
            client.follow(reader, chance.choice(left))
        elif len(followed) > 3 and chance.random() < 0.7:
            client.unfollow(reader, chance.choice(followed))
        elif len(followed) > 3:
            client.block(reader, chance.choice(followed))
