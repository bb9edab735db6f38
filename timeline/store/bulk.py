"""Bulk load: many rows of one partition in one unlogged batch, which the one replica set that owns it takes as one write.

For an empty graph, or for the same data again: a load that broke off is simply repeated. Everything carries `at_us` as timestamp,
so what has been changed since by a decision (follow, unfollow, a new profile) stays as it is.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from timeline.domain.entries import UserIds
from timeline.domain.limits import Limits
from timeline.domain.model import User
from timeline.store.parallel import chunks, each
from timeline.store.session import Cql, Kind, Params, Session

BATCH_ROWS = 100  # 10 KB: measured 36,000 rows/s, against 5,200 one by one
_BATCHES_AT_ONCE = 24

Progress = Callable[[int], None]
_Batch = tuple[str, list[tuple[Cql, Params]], int]

_FOLLOWEE = Cql(
    "bulk_followee",
    "INSERT INTO followees (user_id, followee_id, shard, since, version) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?",
    Kind.write,
)
_FOLLOWER = Cql(
    "bulk_follower",
    "INSERT INTO followers (user_id, shard, follower_id) VALUES (?, ?, ?) USING TIMESTAMP ?",
    Kind.write,
)
_SHARDS = Cql(
    "bulk_shards", "INSERT INTO follower_shards (user_id, shards) VALUES (?, ?) USING TIMESTAMP ?", Kind.write
)
_HANDLE = Cql(
    "bulk_handle", "INSERT INTO users_by_handle (handle, user_id, claim) VALUES (?, ?, ?) USING TIMESTAMP ?", Kind.write
)
_USER = Cql(
    "bulk_user",
    "INSERT INTO users (user_id, handle, name, avatar_url, created_ms, version, revision) VALUES (?, ?, ?, ?, ?, ?, ?) "
    "USING TIMESTAMP ?",
    Kind.write,
)


class Bulk:
    """Loads users and follows."""

    def __init__(self, session: Session, limits: Limits) -> None:
        self._session = session
        self._shard_size = limits.follower_shard_size

    async def load_users(self, users: Sequence[User], progress: Progress = lambda rows: None) -> None:
        """Users with handles that are unique among them and free, or their own already: nothing is checked. Each carries its own
        version as timestamp. `progress` is told of each batch's users."""
        at_once = chunks(users, BATCH_ROWS)
        async for count in each(at_once, self._load_users, 2):
            progress(count)

    async def _load_users(self, users: Sequence[User]) -> int:
        # the claim first: a user without one would hold a handle that another may claim
        for statement in (_handle_of, _row_of):
            async for _ in each(users, lambda user, of=statement: self._session.run(*of(user)), _BATCHES_AT_ONCE):  # type: ignore[misc]
                pass
        return len(users)

    async def load_follows(
        self, follower: UserIds, followee: UserIds, at_us: int, progress: Progress = lambda rows: None
    ) -> None:
        """Follows as two arrays side by side; a pair that comes twice counts once. `progress` is told of rows written: two a follow.

        Followers get shards of follower_shard_size in order of id, so the same edges get the same shards again. Shard counts are
        written first, then mirrors, then the follows.
        """
        pairs = np.unique(np.stack([np.asarray(followee, np.int64), np.asarray(follower, np.int64)], axis=1), axis=0)
        followee, follower = pairs[:, 0], pairs[:, 1]
        starts = _starts(followee)
        rank = np.arange(len(followee)) - np.repeat(starts, np.diff(starts, append=len(followee)))
        shard = rank // self._shard_size
        last = np.append(starts[1:], len(followee)) - 1
        large = last[shard[last] > 0]
        counts = [(_SHARDS, (int(followee[at]), int(shard[at]) + 1, at_us)) for at in large]
        async for _ in each(counts, lambda part: self._session.run(*part), _BATCHES_AT_ONCE):
            pass
        await self._write(_follower_batches(followee, follower, shard, at_us), progress)
        by_follower = np.lexsort((followee, follower))
        columns = (follower[by_follower], followee[by_follower], shard[by_follower])
        await self._write(_followee_batches(*columns, at_us), progress)

    async def _write(self, batches: Iterator[_Batch], progress: Progress) -> None:
        async for count in each(batches, self._write_one, _BATCHES_AT_ONCE):
            progress(count)

    async def _write_one(self, batch: _Batch) -> int:
        name, parts, rows = batch
        await self._session.batch(name, parts, logged=False)
        return rows


def _starts(column: UserIds) -> npt.NDArray[np.intp]:
    """Where each run of equal values begins."""
    return np.flatnonzero(np.diff(column, prepend=column[:1] - 1)) if len(column) else np.empty(0, np.intp)


def _cuts(*columns: UserIds) -> Iterator[slice]:
    """Slices of at most BATCH_ROWS within runs of rows that are equal in all columns."""
    starts = np.unique(np.concatenate([_starts(column) for column in columns]))
    ends = np.append(starts[1:], len(columns[0]))
    for start, end in zip(starts.tolist(), ends.tolist() if len(starts) else [], strict=True):
        for at in range(start, end, BATCH_ROWS):
            yield slice(at, min(at + BATCH_ROWS, end))


def _follower_batches(followee: UserIds, follower: UserIds, shard: UserIds, at_us: int) -> Iterator[_Batch]:
    for cut in _cuts(followee, shard):
        user, part = int(followee[cut.start]), int(shard[cut.start])
        ids = follower[cut].tolist()
        yield "bulk_followers", [(_FOLLOWER, (user, part, other, at_us)) for other in ids], len(ids)


def _followee_batches(follower: UserIds, followee: UserIds, shard: UserIds, at_us: int) -> Iterator[_Batch]:
    since = at_us // 1000
    for cut in _cuts(follower):
        user = int(follower[cut.start])
        pairs = zip(followee[cut].tolist(), shard[cut].tolist(), strict=True)
        parts: list[tuple[Cql, Params]] = [
            (_FOLLOWEE, (user, other, part, since, at_us, at_us)) for other, part in pairs
        ]
        yield "bulk_followees", parts, len(parts)


def _handle_of(user: User) -> tuple[Cql, Params]:
    return _HANDLE, (user.handle.lower(), user.id, random.getrandbits(62) + 1, user.version)


def _row_of(user: User) -> tuple[Cql, Params]:
    values = (user.id, user.handle, user.name, user.avatar_url, user.created_ms, user.version, user.version)
    return _USER, (*values, user.version)
