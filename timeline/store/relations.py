"""Blocks and mutes, read: both ends of a block, and who is muted. Their changing belongs to a later release of the write path."""

from __future__ import annotations

import asyncio
from enum import StrEnum

import numpy as np

from timeline.domain.entries import UserIds
from timeline.domain.ids import UserId
from timeline.store.columns import ints, standing
from timeline.store.session import Cql, Session


class Relation(StrEnum):
    """The kinds of rows in `relations`; blocked_by is the mirror of block."""

    block = "block"
    blocked_by = "blocked_by"
    mute = "mute"


_OF = Cql("relations_of", "SELECT target_id, version, ended FROM relations WHERE user_id = ? AND kind = ?")
_ONE = Cql("relation_get", "SELECT ended FROM relations WHERE user_id = ? AND kind = ? AND target_id = ?")


async def targets(session: Session, user_id: UserId, kind: Relation) -> tuple[UserIds, int]:
    """Whom the relation stands to, ascending, and the newest version among all rows (0: none)."""
    parts, newest = [np.empty(0, np.int64)], 0
    async for page in session.all_columns(_OF, (user_id, kind.value)):
        parts.append(ints(page["target_id"])[standing(page["ended"])])
        newest = max(newest, int(ints(page["version"]).max(initial=0)))
    return np.concatenate(parts), newest


async def is_blocked(session: Session, one: UserId, other: UserId) -> bool:
    """Whether either blocks the other, by the rows that are the truth and not by mirrors."""
    ways = [(one, Relation.block.value, other), (other, Relation.block.value, one)]
    rows = await asyncio.gather(*(session.one(_ONE, way) for way in ways))
    return any(row is not None and row[0] is None for row in rows)
