"""Who follows whom. The truth is `followees`, one row a pair, changed by compare-and-set; `followers` is its mirror, written with the
decision's version as timestamp, so that the last decision wins there too, in whatever order mirrors arrive.

A version is always above the row's last one, whatever the servers' clocks say. The mirror may hold more than the truth, never less: a
follow writes it before it decides (just above the last decision, so that any later one removes it) and again after; an unfollow
removes it after. What is pushed too much is filtered by the reader; what is pushed too little would be a hole. A process that dies in
between leaves at most a follower too many, until the call is repeated.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from timeline.domain.errors import BadRequest, OutcomeUnknown, after_effect
from timeline.domain.ids import UserId
from timeline.domain.limits import Limits
from timeline.domain.model import Reader
from timeline.store.columns import ints, standing
from timeline.store.parallel import chunks, each
from timeline.store.relations import Relation, is_blocked, targets
from timeline.store.session import Cql, Kind, Session
from timeline.store.settle import settle
from timeline.store.shards import Shards

_TRIES_MAX = 8  # each lost race is another decision about the same pair

_GET = Cql("follow_get", "SELECT shard, since, version, ended FROM followees WHERE user_id = ? AND followee_id = ?")
_FIRST = Cql(
    "follow_first",
    "INSERT INTO followees (user_id, followee_id, shard, since, version) VALUES (?, ?, ?, ?, ?) IF NOT EXISTS",
    Kind.cas,
)
_AGAIN = Cql(
    "follow_again",
    "UPDATE followees SET since = ?, version = ?, ended = null WHERE user_id = ? AND followee_id = ? IF version = ?",
    Kind.cas,
)
_END = Cql(
    "follow_end",
    "UPDATE followees SET version = ?, ended = ? WHERE user_id = ? AND followee_id = ? IF version = ?",
    Kind.cas,
)
_MIRROR = Cql(
    "follower_put",
    "INSERT INTO followers (user_id, shard, follower_id) VALUES (?, ?, ?) USING TIMESTAMP ?",
    Kind.write,
)
_MIRROR_END = Cql(
    "follower_end",
    "DELETE FROM followers USING TIMESTAMP ? WHERE user_id = ? AND shard = ? AND follower_id = ?",
    Kind.write,
)
_FOLLOWED_BY = Cql("followed_by", "SELECT user_id, ended FROM followees WHERE user_id IN ? AND followee_id = ?")
_COUNT = Cql("followees_count", "SELECT COUNT(*), COUNT(ended) FROM followees WHERE user_id = ?")
# The version's own timestamp is the compare-and-set's, by the store's clock: `since` is the caller's, who may have stood still since
_FOLLOWEES = Cql(
    "followees_all",
    "SELECT followee_id, WRITETIME(version) AS decided_us, version, ended FROM followees WHERE user_id = ?",
)
_FOLLOWEES_PAGE = Cql(
    "followees_page", "SELECT followee_id, ended FROM followees WHERE user_id = ? AND followee_id > ? LIMIT ?"
)
_FOLLOWERS_PAGE = Cql(
    "followers_page", "SELECT follower_id FROM followers WHERE user_id = ? AND shard = ? AND follower_id > ? LIMIT ?"
)


@dataclass(frozen=True, slots=True)
class Follow:
    """A row of followees. `since_ms` is of the follow that stands, or stood last."""

    shard: int
    since_ms: int
    version: int
    active: bool


class Graph:
    """GraphStore and GraphReader, and the pages of followers and followees."""

    def __init__(self, session: Session, limits: Limits, rng: random.Random | None = None) -> None:
        self._session = session
        self._limits = limits
        self._shards = Shards(session, limits, rng)

    async def follow(self, follower: UserId, followee: UserId, at_us: int) -> bool:
        """By compare-and-set, mirror included; False if it stood already (the mirror is written again all the same).

        Raises BadRequest("too-many-followees") at followees_max. That is counted before each follow that is the pair's first
        or a new one: one partition, 0.5 ms for hundreds of rows, 10 ms for ten thousand. Follows made at the same
        moment may pass the bound by their number.
        """
        stands = await self._get(follower, followee)
        changed = False
        if stands is None or not stands.active:
            await self._check_room(follower)
        for _ in range(_TRIES_MAX):
            if stands is not None and stands.active:
                break
            if stands is None:
                shard = await self._shards.newest(followee)
                wanted = Follow(shard, at_us // 1000, at_us, True)
                statement = _FIRST
                values: tuple[int, ...] = (follower, followee, shard, wanted.since_ms, wanted.version)
            else:
                wanted = Follow(stands.shard, at_us // 1000, max(at_us, stands.version + 1), True)
                statement = _AGAIN
                values = (wanted.since_ms, wanted.version, follower, followee, stands.version)
            before = 1 if stands is None else stands.version + 1
            await self._session.run(_MIRROR, (followee, wanted.shard, follower, before))
            with after_effect():
                stands = await self._decide(statement, values, follower, followee, wanted)
            changed = stands == wanted
        else:
            raise OutcomeUnknown("decisions about one follow keep overtaking each other")
        with after_effect():
            await self._session.run(_MIRROR, (followee, stands.shard, follower, stands.version))
        if changed:
            await self._shards.maybe_open_next(followee, stands.shard)
        return changed

    async def unfollow(self, follower: UserId, followee: UserId, at_us: int) -> bool:
        """By compare-and-set, mirror included; False if there was nothing to end (a mirror left behind is removed all the same)."""
        stands = await self._get(follower, followee)
        changed = False
        for _ in range(_TRIES_MAX):
            if stands is None:
                return False
            if not stands.active:
                break
            wanted = Follow(stands.shard, stands.since_ms, max(at_us, stands.version + 1), False)
            values = (wanted.version, wanted.version, follower, followee, stands.version)
            stands = await self._decide(_END, values, follower, followee, wanted)
            changed = stands == wanted
        else:
            raise OutcomeUnknown("decisions about one follow keep overtaking each other")
        with after_effect():
            await self._session.run(_MIRROR_END, (stands.version, followee, stands.shard, follower))
        return changed

    async def end_across(self, one: UserId, other: UserId, at_us: int) -> None:
        """End the follows between the two, either way, that stand while a block stands between them, and no others: each is read
        before the block is, and ended only if it is still the one that was read. So a call that is late, and finds the block
        gone, ends no follow that was made since."""
        ways = ((one, other), (other, one))
        for _ in range(_TRIES_MAX):
            rows = await asyncio.gather(*(self._get(*way) for way in ways))
            standing_now = [(way, row) for way, row in zip(ways, rows, strict=True) if row is not None and row.active]
            if not standing_now or not await self.is_barred(one, other):
                return
            for (follower, followee), row in standing_now:
                wanted = Follow(row.shard, row.since_ms, max(at_us, row.version + 1), False)
                values = (wanted.version, wanted.version, follower, followee, row.version)
                if await self._decide(_END, values, follower, followee, wanted) == wanted:
                    with after_effect():
                        await self._session.run(_MIRROR_END, (wanted.version, followee, row.shard, follower))
        raise OutcomeUnknown("decisions about one follow keep overtaking each other")

    async def _check_room(self, follower: UserId) -> None:
        row = await self._session.one(_COUNT, (follower,))
        if row and row[0] - row[1] >= self._limits.followees_max:
            raise BadRequest("too-many-followees", f"nobody follows more than {self._limits.followees_max:,} accounts")

    async def _decide(
        self, statement: Cql, values: tuple[int, ...], follower: UserId, followee: UserId, wanted: Follow
    ) -> Follow | None:
        """`wanted`, or what stands instead."""
        stands = partial(self._get, follower, followee, serial=True)
        return await settle(self._session, statement, values, wanted, stands)

    async def _get(self, follower: UserId, followee: UserId, *, serial: bool = False) -> Follow | None:
        row = await self._session.one(_GET, (follower, followee), serial=serial)
        return Follow(row[0], row[1], row[2], row[3] is None) if row else None

    async def follows(self, follower: UserId, followee: UserId) -> bool:
        row = await self._get(follower, followee)
        return row is not None and row.active

    async def followed_by(self, user_id: UserId, others: Sequence[UserId]) -> set[UserId]:
        """Those of the others who follow the user: a row each, IN of pull_authors_per_query."""
        parts = [(list(part), user_id) for part in chunks(list(others), self._limits.pull_authors_per_query)]
        found = [row async for rows in each(parts, lambda part: self._session.rows(_FOLLOWED_BY, part)) for row in rows]
        return {UserId(follower) for follower, ended in found if ended is None}

    async def is_barred(self, one: UserId, other: UserId) -> bool:
        """Whether a block stands between them, whoever made it."""
        return await is_blocked(self._session, one, other)

    async def reader(self, user_id: UserId) -> Reader:
        """The whole context, as stored now. An unknown user is a reader who follows nobody. `since_ms` is when the store decided; of
        follows that were bulk-loaded, what their load says.

        Its version is the newest among all its rows, ended ones included.
        """
        (followees, since, followed_at), *barred = await asyncio.gather(
            self._followees(user_id), *(targets(self._session, user_id, kind) for kind in Relation)
        )
        (blocked, one), (blocked_by, two), (muted, three) = barred
        return Reader(user_id, followees, since, blocked, blocked_by, muted, max(followed_at, one, two, three))

    async def _followees(self, user_id: UserId) -> tuple[np.ndarray, np.ndarray, int]:
        ids, since, newest = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
        async for page in self._session.all_columns(_FOLLOWEES, (user_id,)):
            stands = standing(page["ended"])
            ids.append(ints(page["followee_id"])[stands])
            since.append(ints(page["decided_us"])[stands] // 1000)
            newest = max(newest, int(ints(page["version"]).max(initial=0)))
        return np.concatenate(ids), np.concatenate(since), newest

    async def followees_page(self, user_id: UserId, after: int, limit: int) -> tuple[list[UserId], int | None]:
        """Up to `limit` followees above `after` in order of id, and where the next page begins (None: there is none)."""
        found: list[UserId] = []
        while True:
            rows = await self._session.rows(_FOLLOWEES_PAGE, (user_id, after, limit + 1))
            for followee, ended in rows:
                if ended is None and len(found) == limit:
                    return found, after
                if ended is None:
                    found.append(UserId(followee))
                after = followee
            if len(rows) <= limit:
                return found, None

    async def followers_page(
        self, user_id: UserId, after: tuple[int, int], limit: int
    ) -> tuple[list[UserId], tuple[int, int] | None]:
        """Up to `limit` followers above `after` (shard, id), shard by shard and in order of id in each, and where to go on."""
        found: list[UserId] = []
        shards = await self._shards.count(user_id)
        shard, above = after
        while shard < shards:
            rows = await self._session.rows(_FOLLOWERS_PAGE, (user_id, shard, above, limit + 1 - len(found)))
            found += [UserId(row[0]) for row in rows]
            if len(found) > limit:
                last = found[limit - 1]
                # the extra one may be the first of a later shard: then the last one returned ended the shard before
                kept = len(rows) > 1
                return found[:limit], (shard, last) if kept else (shard, 0)
            shard, above = shard + 1, 0
        return found, None
