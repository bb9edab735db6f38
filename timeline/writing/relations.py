"""Blocks and mutes. They hold from the next read of anyone: rules ask the reader's context, and what was fanned out stays put."""

from __future__ import annotations

from timeline.domain.errors import BadRequest, after_effect
from timeline.domain.ids import UserId
from timeline.domain.limits import Limits
from timeline.writing.contexts import Contexts
from timeline.writing.ports import GraphStore, Ids, Lease, RelationStore, UserStore
from timeline.writing.sight import must_exist


class Relations:
    """A block stands in the contexts of both: both are marked before it is written, and forgotten after.

    It ends follows after it stands: a follow asks for blocks again once it stands, so of the two at least one sees the other. An
    unblock ends them before: what a crash left standing under a block is not revived by its end. Until then the block hides them.
    """

    def __init__(
        self, *, users: UserStore, graph: GraphStore, relations: RelationStore, ids: Ids, readers: Lease, limits: Limits
    ) -> None:
        self._users, self._graph, self._relations, self._ids = users, graph, relations, ids
        self._contexts = Contexts(readers, limits)

    async def block(self, me: UserId, other: UserId) -> None:
        """Ends follows both ways. Raises BadRequest: self-block, user-not-found, too-many-blocks; Stored."""
        if me == other:
            raise BadRequest("self-block", "Nobody blocks themselves.")
        await must_exist(self._users, me, other)
        await self._contexts.mark(me, other)
        await self._relations.block(me, other, self._ids.now_us())
        with after_effect():
            await self._graph.end_across(me, other, self._ids.now_us())
        await self._contexts.forget(me, other)

    async def unblock(self, me: UserId, other: UserId) -> None:
        """Brings no follow back. Raises BadRequest: self-block, user-not-found; Stored."""
        if me == other:
            raise BadRequest("self-block", "Nobody blocks themselves.")
        await must_exist(self._users, me, other)
        await self._contexts.mark(me, other)
        await self._graph.end_across(me, other, self._ids.now_us())
        with after_effect():  # follows may have been ended
            await self._relations.unblock(me, other, self._ids.now_us())
        await self._contexts.forget(me, other)

    async def mute(self, me: UserId, other: UserId) -> None:
        """Raises BadRequest: self-mute, user-not-found, too-many-mutes; Stored."""
        if me == other:
            raise BadRequest("self-mute", "Nobody mutes themselves.")
        await must_exist(self._users, me, other)
        await self._contexts.mark(me)
        await self._relations.mute(me, other, self._ids.now_us())
        await self._contexts.forget(me)

    async def unmute(self, me: UserId, other: UserId) -> None:
        """Raises BadRequest: self-mute, user-not-found; Stored."""
        if me == other:
            raise BadRequest("self-mute", "Nobody mutes themselves.")
        await must_exist(self._users, me, other)
        await self._contexts.mark(me)
        await self._relations.unmute(me, other, self._ids.now_us())
        await self._contexts.forget(me)
