"""People: users as JSON, one or a page of them, as one reader may see them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal

import numpy as np
import orjson

from timeline.assembly.fragments import rfc3339
from timeline.assembly.ports import GraphReader, UserReader
from timeline.assembly.readers import Leased
from timeline.domain.cursors import Cursor, Signer
from timeline.domain.errors import BadRequest
from timeline.domain.ids import UserId
from timeline.domain.limits import Limits
from timeline.domain.model import Reader, User, UserCounts, contains


class People:
    """Shared by all requests."""

    def __init__(
        self, *, users: UserReader, graph: GraphReader, readers: Leased[Reader], signer: Signer, limits: Limits
    ) -> None:
        self._users, self._graph, self._readers = users, graph, readers
        self._signer, self._limits = signer, limits

    async def user(self, me: UserId | None, user_id: UserId) -> bytes:
        """Raises BadRequest("user-not-found"), also across a block; Unavailable."""
        users = await self._users.get_many([user_id])
        return await self._one(me, users.get(user_id), str(user_id))

    async def user_by_handle(self, me: UserId | None, handle: str) -> bytes:
        """Raises BadRequest("user-not-found"), also across a block; Unavailable."""
        return await self._one(me, await self._users.by_handle(handle), handle)

    async def page(
        self,
        me: UserId | None,
        user_id: UserId,
        side: Literal["followers", "followees"],
        cursor: str | None,
        limit: int,
    ) -> tuple[list[bytes], str | None]:
        """Users, and the next cursor. Erased ones and those across a block are left out, so a page may be short. Raises
        BadRequest: bad-cursor, user-not-found; Unavailable."""
        scope = f"{side}:{user_id}:{me or 0}"
        at = self._signer.read(cursor, scope) if cursor is not None else Cursor("older", 0)
        users = await self._users.get_many([user_id])
        reader = await self._reader(me)
        _visible(reader, users.get(user_id), str(user_id))
        onward: Cursor | None = None
        if side == "followees":
            ids, after = await self._graph.followees_page(user_id, at.boundary, limit)
            onward = Cursor("older", after) if after is not None else None
        else:
            ids, rest = await self._graph.followers_page(user_id, (at.epoch, at.boundary), limit)
            onward = Cursor("older", rest[1], rest[0]) if rest is not None else None
        shown = await self._many(reader, ids)
        return shown, None if onward is None else self._signer.write(onward, scope)

    async def barred(
        self, me: UserId, side: Literal["blocked", "muted"], cursor: str | None, limit: int
    ) -> tuple[list[bytes], str | None]:
        """Whom the reader blocks, or mutes, ascending by id, and the next cursor: those across a block are shown here, or nobody could
        find them to unblock. Erased ones are left out, so a page may be short. Raises BadRequest("bad-cursor"); Unavailable."""
        scope = f"{side}:{me}:{me}"
        at = self._signer.read(cursor, scope) if cursor is not None else Cursor("older", 0)
        reader = await self._readers.get(me)
        users = reader.blocked if side == "blocked" else reader.muted
        start = int(np.searchsorted(users, at.boundary, side="right"))
        ids = [UserId(user_id) for user_id in users[start : start + limit].tolist()]
        onward = Cursor("older", ids[-1]) if start + limit < len(users) else None
        shown = await self._many(reader, ids, across_blocks=True)
        return shown, None if onward is None else self._signer.write(onward, scope)

    async def some(self, me: UserId | None, user_ids: Sequence[UserId]) -> list[bytes]:
        """These, in order; erased ones and those across a block are left out. Raises Unavailable."""
        return await self._many(await self._reader(me), user_ids)

    async def _one(self, me: UserId | None, user: User | None, asked: str) -> bytes:
        reader = await self._reader(me)
        user = _visible(reader, user, asked)
        shown = await self._many(reader, [user.id], {user.id: user})
        return shown[0]

    async def _reader(self, me: UserId | None) -> Reader | None:
        return None if me is None else await self._readers.get(me)

    async def _many(
        self,
        reader: Reader | None,
        user_ids: Sequence[UserId],
        known: dict[UserId, User] | None = None,
        *,
        across_blocks: bool = False,
    ) -> list[bytes]:
        users = known or await self._users.get_many(user_ids)
        seen = [
            users[user_id]
            for user_id in user_ids
            if user_id in users
            and not users[user_id].deleted
            and (across_blocks or not (reader and reader.bars(user_id)))
        ]
        followers = await self._graph.followed_by(reader.user_id, [user.id for user in seen]) if reader else set()
        counts = await asyncio.gather(
            *(self._users.counts(user.id) for user in seen)
        )  # at most a page; the store bounds it
        return [_json(user, count, reader, user.id in followers) for user, count in zip(seen, counts, strict=True)]


def _visible(reader: Reader | None, user: User | None, asked: str) -> User:
    if user is None or user.deleted or (reader is not None and reader.bars(user.id)):
        raise BadRequest("user-not-found", f"There is no user {asked}.")
    return user


def _json(user: User, counts: UserCounts, reader: Reader | None, follows_reader: bool) -> bytes:
    viewer = reader and {
        "following": reader.follows(user.id),
        "followed_by": follows_reader,
        "blocking": contains(reader.blocked, user.id),
        "muting": reader.mutes(user.id),
    }
    return orjson.dumps(
        {
            "id": str(user.id),
            "handle": user.handle,
            "name": user.name,
            "avatar_url": user.avatar_url,
            "created_at": rfc3339(user.created_ms),
            "followers_count": counts.followers,
            "followees_count": counts.followees,
            "tweets_count": counts.tweets,
            "viewer": viewer,
        }
    )
