"""Examining one reader: taking a look at caches and store, and comparing the two. Nothing is changed, and no expiry renewed.

Caches are read first and the store after them: what is stored is cached a moment later, so what a look lacks in a cache may be under
way. So what is young is not judged, and a difference counts only if a second look, a while later, shows it again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from timeline.assembly.compare import (
    Comparison,
    Look,
    Pull,
    cached_side,
    compare,
    everybody,
    not_in,
    pulled_beside,
    usable,
)
from timeline.assembly.ports import ListView, NoticeBoard
from timeline.domain.entries import NO_ENTRIES, Entries, Stretch, UserIds, concatenated, to_list
from timeline.domain.errors import Unavailable
from timeline.domain.ids import ID_MAX, TweetId, UserId
from timeline.domain.limits import Limits
from timeline.domain.model import Reader, Tweet, TweetKey
from timeline.domain.notices import Notices
from timeline.domain.records import ListKind, State


class Lists(Protocol):
    """cache/timelines.py: as ListCache, but that nothing is renewed or removed."""

    async def read(self, kind: ListKind, user_id: UserId, newest: int | None, *, renew: bool) -> ListView | None: ...

    async def read_many(
        self, kind: ListKind, user_ids: UserIds, newest: int | None, *, renew: bool
    ) -> dict[UserId, ListView]: ...


class Contexts(Protocol):
    """cache/leased.py"""

    async def get(self, user_id: UserId) -> Reader | None: ...


class States(Protocol):
    """cache/contents.py"""

    async def states(self, tweet_ids: Sequence[TweetId]) -> dict[TweetId, State]: ...


class Graph(Protocol):
    """store/graph.py"""

    async def reader(self, user_id: UserId) -> Reader: ...


class Downwards(Protocol):
    """store/history.py"""

    async def stretch(self, authors: UserIds, below: int, per_author: int) -> Stretch: ...


class Rows(Protocol):
    """store/tweets.py"""

    async def get_many(self, keys: Sequence[TweetKey]) -> dict[TweetId, Tweet]: ...


class Examiner:
    """Examines readers one at a time; costs about as much as building each one's list."""

    def __init__(
        self,
        *,
        lists: Lists,
        contexts: Contexts,
        states: States,
        graph: Graph,
        history: Downwards,
        rows: Rows,
        board: NoticeBoard,
        limits: Limits,
        clock_ms: Callable[[], int],
    ) -> None:
        self._lists, self._contexts, self._states = lists, contexts, states
        self._graph, self._history, self._rows = graph, history, rows
        self._board, self._limits, self._clock_ms = board, limits, clock_ms

    async def examine(self, user_id: UserId) -> Comparison:
        """What differs now. Raises Unavailable: an engine did not answer, or has not told for too long who is pulled; then nothing is
        known."""
        return compare(await self._look(user_id), self._limits)

    async def _look(self, user_id: UserId) -> Look:
        at_ms = self._clock_ms()
        notices, believed = self._board.read()
        if not believed:
            raise Unavailable("cassandra: who is pulled, and which slots have holes, could not be read for too long")
        # the context before the store's: a change marks it, is stored, and then takes the mark away
        context = await self._contexts.get(user_id)
        home = await self._lists.read(ListKind.home, user_id, None, renew=False)
        reader = await self._graph.reader(user_id)
        if home is None or home.header.building:
            nothing = Stretch(NO_ENTRIES, int(ID_MAX))
            return Look(user_id, at_ms, notices, home, context, reader, (), {}, nothing, {}, {})
        pulled = pulled_beside(home, reader, notices, self._limits)
        authors = np.array([each.author_id for each in pulled], np.int64)
        profiles = await self._lists.read_many(ListKind.profile, authors, None, renew=False)
        truth = await self._down_to(home.header.floor, everybody(reader))
        rows, states = await self._contents(home, reader, notices, pulled, profiles, truth, at_ms)
        return Look(user_id, at_ms, notices, home, context, reader, pulled, profiles, truth, rows, states)

    async def _down_to(self, floor: int, authors: UserIds) -> Stretch:
        """The store's entries from the top down to the floor, or as far as audit_stretches_max stretches reach."""
        parts: list[Entries] = []
        line = int(ID_MAX)
        for _ in range(self._limits.audit_stretches_max):
            if line <= floor:
                break
            stretch = await self._history.stretch(authors, line, self._limits.pull_rows_per_author)
            parts.append(stretch.entries)
            line = stretch.complete_from
        return Stretch(concatenated(parts), line)

    async def _contents(
        self,
        home: ListView,
        reader: Reader,
        notices: Notices,
        pulled: Sequence[Pull],
        profiles: dict[UserId, ListView],
        truth: Stretch,
        at_ms: int,
    ) -> tuple[dict[TweetId, Tweet], dict[TweetId, State]]:
        """The rows of cached entries that history lacks, and what the caches say of the state of each entry."""
        used = usable(profiles, notices, self._limits, at_ms)
        cached = cached_side(home, reader, pulled, used, truth)
        more = to_list(not_in(cached, truth.entries))
        rows = await self._rows.get_many([TweetKey(entry.author_id, entry.tweet_id) for entry in more]) if more else {}
        every = np.union1d(cached["tweet"].astype(np.uint64), truth.entries["tweet"].astype(np.uint64)).tolist()
        states = await self._states.states([TweetId(tweet_id) for tweet_id in every]) if every else {}
        return rows, states
