"""Profiles, and handles that are unique without regard to case.

Two tables cannot change at one moment, so: **a claim on a handle (`users_by_handle`) holds only if its user's row has that handle.**
To change a handle is, in this order: read the row (and the claim on the old handle), claim the new one, write the row, free the
old one. Every step is a compare-and-set. What may die or race between them:

- A process dies after claiming: the claim agrees with no row. Whoever wants the handle takes the claim over, but first *fences* its
  user: changes the `revision` of that user's row (making an empty row if there is none). The slow process's write of the row
  demands the revision it had read, so it fails, and begins again, and finds the handle taken. No clock decides; CLAIM_PATIENCE_S
  only keeps contenders from fencing each other in turn.
- A process dies before freeing the old handle: that claim agrees with no row either.
- The old handle is freed while the same user claims it again: each claim has a number of its own, freeing demands the number seen
  before the row was written, and claiming one's own handle again renews it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from timeline.domain.errors import BadRequest, OutcomeUnknown, Unavailable, after_effect
from timeline.domain.ids import UserId
from timeline.domain.limits import Limits
from timeline.domain.model import User, UserCounts
from timeline.store.columns import standing
from timeline.store.parallel import chunks, each
from timeline.store.session import Cql, Kind, Params, Row, Session
from timeline.store.shards import Shards

CLAIM_PATIENCE_S = 2.0  # a claim that no row agrees with is that of a process under way; after this, of a dead one
_POLL_S = 0.05
_TRIES_MAX = 16  # each lost race is another change of the same user, or a fence

_COLUMNS = "user_id, handle, name, avatar_url, created_ms, version, deleted_us, revision"
_GET = Cql("user_get", f"SELECT {_COLUMNS} FROM users WHERE user_id = ?")
_GET_MANY = Cql("users_get", f"SELECT {_COLUMNS} FROM users WHERE user_id IN ?")
_MAKE = Cql(
    "user_make",
    "INSERT INTO users (user_id, handle, name, avatar_url, created_ms, version, revision) VALUES (?, ?, ?, ?, ?, ?, ?) "
    "IF NOT EXISTS",
    Kind.cas,
)
_CHANGE = Cql(
    "user_change",
    "UPDATE users SET handle = ?, name = ?, avatar_url = ?, created_ms = ?, version = ?, revision = ? WHERE user_id = ? "
    "IF revision = ?",
    Kind.cas,
)
_FENCE_NEW = Cql("user_fence_new", "INSERT INTO users (user_id, revision) VALUES (?, ?) IF NOT EXISTS", Kind.cas)
_FENCE = Cql("user_fence", "UPDATE users SET revision = ? WHERE user_id = ? IF revision = ?", Kind.cas)
_CLAIM_GET = Cql("claim_get", "SELECT user_id, claim FROM users_by_handle WHERE handle = ?")
_CLAIM = Cql("claim", "INSERT INTO users_by_handle (handle, user_id, claim) VALUES (?, ?, ?) IF NOT EXISTS", Kind.cas)
_CLAIM_TAKE = Cql(
    "claim_take", "UPDATE users_by_handle SET user_id = ?, claim = ? WHERE handle = ? IF claim = ?", Kind.cas
)
_CLAIM_FREE = Cql("claim_free", "DELETE FROM users_by_handle WHERE handle = ? IF claim = ?", Kind.cas)
_USER_COUNTS = Cql("user_counts", "SELECT followers, followees, tweets FROM user_counts WHERE user_id = ?")
# Rows and not their COUNT: that of several partitions is a warning in the server's log each time, and a LIMIT does not bound it
_FOLLOWEES = Cql("user_followees", "SELECT ended FROM followees WHERE user_id = ? LIMIT ?")
_BUCKETS = Cql("user_buckets", "SELECT bucket FROM tweet_buckets WHERE user_id = ?")
_TWEETS = Cql("user_tweets", "SELECT created_us, deleted_us FROM tweets WHERE user_id = ? AND bucket IN ? LIMIT ?")


@dataclass(frozen=True, slots=True)
class _Stored:
    """A row of users: `user` is None where it only fences."""

    user: User | None
    revision: int


class Users:
    """UserStore and UserReader."""

    def __init__(self, session: Session, limits: Limits, rng: random.Random | None = None) -> None:
        self._session = session
        self._limits = limits
        self._shards = Shards(session, limits)
        self._rng = rng or random.SystemRandom()

    async def get_many(self, user_ids: Sequence[UserId]) -> dict[UserId, User]:
        """Those that exist, deleted ones included (with `deleted` set)."""
        parts = [(list(part),) for part in chunks(list(dict.fromkeys(user_ids)), self._limits.pull_authors_per_query)]
        found = {}
        async for rows in each(parts, lambda part: self._session.rows(_GET_MANY, part)):
            for row in rows:
                if user := _user(row):
                    found[user.id] = user
        return found

    async def by_handle(self, handle: str) -> User | None:
        """Whoever has this handle, without regard to case; deleted ones do not."""
        claim = await self._session.one(_CLAIM_GET, (handle.lower(),))
        user = _user(await self._session.one(_GET, (claim[0],))) if claim else None
        return user if _holds(user, handle) else None

    async def put(self, user: User) -> User:
        """Make or change; answers the user as stored: created_ms of the first, version above the last one's, `deleted` as it was.
        Nothing to change writes nothing. Raises BadRequest("handle-taken")."""
        for _ in range(_TRIES_MAX):
            row = await self._session.one(_GET, (user.id,), serial=True)
            stands = _Stored(_user(row), row[7] or 0) if row else None
            old = stands.user if stands else None
            if old and (old.handle, old.name, old.avatar_url) == (user.handle, user.name, user.avatar_url):
                return old
            moves = old is None or old.handle.lower() != user.handle.lower()
            # what freeing will demand is read before the row is written: a claim made after that is a newer one
            former = await self._claim_of(old.handle) if old and moves else None
            if moves:
                await self._claim(user.handle, user.id)
            wanted = user if old is None else _changed(old, user)
            if await self._write(stands, wanted):
                if old and former and former[0] == user.id:
                    await self._free(old.handle, former[1])
                return wanted
        raise OutcomeUnknown(f"changes of user {user.id} keep overtaking each other")

    async def _write(self, stands: _Stored | None, wanted: User) -> bool:
        revision = self._number()
        values: Params = (wanted.handle, wanted.name, wanted.avatar_url, wanted.created_ms, wanted.version, revision)
        if stands is None:
            applied = await self._applied(_MAKE, (wanted.id, *values))
        else:
            applied = await self._applied(_CHANGE, (*values, wanted.id, stands.revision))
        if applied is not None:
            return applied
        with after_effect():
            row = await self._session.one(_GET, (wanted.id,), serial=True)
        return row is not None and row[7] == revision

    async def _claim(self, handle: str, user_id: UserId) -> None:
        """Make the claim on this handle ours. Raises BadRequest("handle-taken"), and Unavailable when contended for too long."""
        key, mine = handle.lower(), self._number()
        deadline = asyncio.get_running_loop().time() + CLAIM_PATIENCE_S
        while True:
            claim = await self._claim_of(handle)
            if claim is not None and claim[1] == mine:
                return
            if claim is None:
                await self._applied(_CLAIM, (key, user_id, mine))
            elif claim[0] == user_id or await self._is_stale(handle, claim, deadline):
                await self._applied(_CLAIM_TAKE, (user_id, mine, key, claim[1]))
            elif asyncio.get_running_loop().time() > deadline + CLAIM_PATIENCE_S:
                raise Unavailable("too many contend for this handle just now")
            else:
                await asyncio.sleep(_POLL_S * (0.5 + self._rng.random()))

    async def _is_stale(self, handle: str, claim: tuple[UserId, int], deadline: float) -> bool:
        """Whether the claim may be taken over: its user's row does not have the handle, has not for CLAIM_PATIENCE_S, and is fenced
        so that it will not get it by a write under way. Raises BadRequest("handle-taken") if it has it."""
        holder = claim[0]
        row = await self._session.one(_GET, (holder,), serial=True)
        user = _user(row)
        if _holds(user, handle):
            raise BadRequest("handle-taken", f"the handle {handle} is somebody else's")
        abandoned = user is not None and user.deleted
        if not abandoned and asyncio.get_running_loop().time() < deadline:
            return False
        fence = self._number()
        if row is None:
            return bool(await self._applied(_FENCE_NEW, (holder, fence)))
        return bool(await self._applied(_FENCE, (fence, holder, row[7] or 0)))

    async def _claim_of(self, handle: str) -> tuple[UserId, int] | None:
        row = await self._session.one(_CLAIM_GET, (handle.lower(),), serial=True)
        return (UserId(row[0]), row[1]) if row else None

    async def _free(self, handle: str, claim: int) -> None:
        # not done, or not known to be: the claim then agrees with no row, and whoever wants it takes it
        with suppress(Unavailable):
            await self._session.compare_and_set(_CLAIM_FREE, (handle.lower(), claim))

    async def _applied(self, statement: Cql, values: Params) -> bool | None:
        """Whether a compare-and-set was applied; None: unknown."""
        try:
            return await self._session.compare_and_set(statement, values)
        except OutcomeUnknown:
            return None

    def _number(self) -> int:
        return self._rng.getrandbits(62) + 1

    async def counts(self, user_id: UserId) -> UserCounts:
        """Followers, followees and tweets (replies and retweets among them), at 0.5 ms and up.

        A row in user_counts is believed. Without one they are counted from the tables themselves, at the cost of reading those
        partitions: some 1 ms for every thousand rows, up to counts_max rows for each number. Above that, followees and tweets are as
        many as stand among the rows read; of followers, full shards are taken for follower_shard_size each and only the last
        is counted: off by a few per cent, and by what was unfollowed since.
        """
        row = await self._session.one(_USER_COUNTS, (user_id,))
        if row:
            return UserCounts(*(number or 0 for number in row))
        followers, followees, tweets = await asyncio.gather(
            self._followers(user_id), self._followees(user_id), self._tweets(user_id)
        )
        return UserCounts(followers, followees, tweets)

    async def _followers(self, user_id: UserId) -> int:
        shards = await self._shards.count(user_id)
        full = (shards - 1) * self._limits.follower_shard_size
        if full >= self._limits.counts_max:
            return full + await self._shards.size(user_id, shards - 1)
        sizes = [size async for size in each(range(shards), lambda shard: self._shards.size(user_id, shard))]
        return sum(sizes)

    async def _followees(self, user_id: UserId) -> int:
        pages = self._session.all_columns(_FOLLOWEES, (user_id, self._limits.counts_max))
        return sum([int(standing(page["ended"]).sum()) async for page in pages])

    async def _tweets(self, user_id: UserId) -> int:
        buckets = [row[0] for row in await self._session.rows(_BUCKETS, (user_id,))]  # the newest first
        total, left = 0, self._limits.counts_max
        for part in chunks(buckets, self._limits.pull_authors_per_query):
            if left <= 0:
                break
            async for page in self._session.all_columns(_TWEETS, (user_id, list(part), left)):
                is_tweet, stands = ~standing(page["created_us"]), standing(page["deleted_us"])
                total += int((is_tweet & stands).sum())
                left -= len(is_tweet)
        return total


def _user(row: Row | None) -> User | None:
    if row is None or row[4] is None:  # without created_ms it is nobody
        return None
    return User(
        id=row[0],
        handle=row[1],
        name=row[2],
        avatar_url=row[3],
        created_ms=row[4],
        version=row[5],
        deleted=row[6] is not None,
    )


def _changed(old: User, new: User) -> User:
    version = max(new.version, old.version + 1)
    return replace(old, handle=new.handle, name=new.name, avatar_url=new.avatar_url, version=version)


def _holds(user: User | None, handle: str) -> bool:
    return user is not None and not user.deleted and user.handle.lower() == handle.lower()
