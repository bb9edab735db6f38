"""Readers as clients are: they walk down by `next_cursor` and up by `newer_cursor` as docs/api.md says, and note all that they were
shown."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.oracle import EPOCH_MS, Oracle
from tests.stack import Stack

HOME = "/api/timeline/home"
PAGES_MAX = 10_000
WHOLE_SECONDS = 30
RETRY_SECONDS = 0.2
ASKED_AGAIN: Counter[str] = Counter()  # by all readers of this run
APART_MS = (
    15_000  # what comes later than this after its id's time is marked as late: W and the clocks' skew, in production
)


def positions(page: dict[str, Any]) -> list[int]:
    return [int(tweet["position"]) for tweet in page["tweets"]]


def read_page(stack: Stack, path: str, user: int, limit: int, cursor: str | None = None) -> dict[str, Any]:
    """A page, with `why` on its items. One that says that it may lack something, and a 503, are asked for again, for a while, and
    counted: on a machine that does too much an engine may not answer in time, once."""
    more = "" if cursor is None else f"&cursor={cursor}"
    deadline = time.monotonic() + WHOLE_SECONDS
    while True:
        status, page = stack.call("GET", f"{path}?order=recent&explain=true&limit={limit}{more}", user)
        assert status in (200, 503), page
        if status == 200 and not page["degraded"]:
            assert isinstance(page, dict)
            return page
        ASKED_AGAIN["503" if status == 503 else "degraded"] += 1
        assert time.monotonic() < deadline, f"for {WHOLE_SECONDS} s: {status}, {degraded_pages(stack)}"
        time.sleep(RETRY_SECONDS)


def degraded_pages(stack: Stack) -> list[str]:
    """How many pages the api has degraded so far, by cause."""
    return [line for line in stack.metrics("api").splitlines() if line.startswith("timeline_degraded_pages_total{")]


@dataclass
class Walk:
    """From the newest to the beginning of history."""

    positions: list[int]
    newer_cursor: str  # of the first page
    bottom: list[int]  # the last page that had any items
    bottom_newer_cursor: str
    unsure: set[int]  # on later pages, and so young that they may have come after the first one was read
    via: Counter[str] = field(default_factory=Counter)


def walk_down(stack: Stack, user: int, limit: int, path: str = HOME) -> Walk:
    began_ms = time.time() * 1000
    page = first = lowest = read_page(stack, path, user, limit)
    found, via, later = positions(first), Counter[str](), set[int]()
    for _ in range(PAGES_MAX):
        via.update(tweet["why"]["via"] for tweet in page["tweets"] if path == HOME)
        if page["next_cursor"] is None:
            break
        page = read_page(stack, path, user, limit, page["next_cursor"])
        found += positions(page)
        later.update(positions(page))
        lowest = page if page["tweets"] else lowest
    else:
        raise AssertionError(f"a walk of {user} that does not end")
    unsure = {one for one in later if one // 4_194_304 + EPOCH_MS > began_ms - APART_MS}
    return Walk(found, first["newer_cursor"], positions(lowest), lowest["newer_cursor"], unsure, via)


class Follower:
    """Goes up from a page, again and again. `reset` is answered by reading the first page again, and all below it."""

    def __init__(self, stack: Stack, user: int, limit: int, cursor: str, seen: list[int]) -> None:
        self._stack, self.user, self._limit = stack, user, limit
        self._cursor, self.seen = cursor, set(seen)
        self._unsure: set[int] = set()
        self.pages = self.items = self.resets = self.both_ways = 0
        self.wrong: list[str] = []

    def poll(self) -> None:
        """All that is new."""
        for _ in range(PAGES_MAX):
            page = read_page(self._stack, HOME, self.user, self._limit, self._cursor)
            self.pages += 1
            if page["reset"]:
                self.resets += 1
                self._read_again()
                return
            self._take(positions(page))
            self._cursor = page["newer_cursor"]
            if not page["gap"]:
                return
        self.wrong.append("a gap that never closes")

    def check(self, oracle: Oracle, home: list[int]) -> str:
        """What is wrong when all that there is was polled; empty if nothing is. What was shown before an earlier retweet of the same
        tweet arrived may be hidden by now."""
        missing = sorted(set(home) - self.seen)
        extra = sorted(one for one in self.seen - set(home) if not is_hidden_by_now(one, oracle, home))
        said = [f"missing {missing[:5]} ({len(missing)})"] if missing else []
        said += [f"extra {extra[:5]} ({len(extra)})"] if extra else []
        return "; ".join(said + self.wrong)

    def _take(self, found: list[int]) -> None:
        self.items += len(found)
        if found != sorted(set(found), reverse=True):
            self.wrong.append(f"not newest first, or twice on one page: {found[:20]}")
        twice = self.seen & set(found)
        self.both_ways += len(twice & self._unsure)
        if again := sorted(twice - self._unsure):
            self.wrong.append(f"seen twice: {again[:5]} ({len(again)})")
        self._unsure -= twice
        self.seen.update(found)

    def _read_again(self) -> None:
        walk = walk_down(self._stack, self.user, 100)
        if walk.positions != sorted(set(walk.positions), reverse=True):
            self.wrong.append("walked down after a reset: not newest first, or something twice")
        self._cursor, self._unsure = walk.newer_cursor, walk.unsure
        self.seen.update(walk.positions)


def is_hidden_by_now(position: int, oracle: Oracle, home: list[int]) -> bool:
    """Whether it is a retweet of what stands further down in this home."""
    row = oracle.rows.get(position)
    if row is None or row.source is None:
        return False
    return any(one < position and oracle.rows[one].shown == row.source for one in home)
