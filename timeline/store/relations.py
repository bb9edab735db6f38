"""Blocks and mutes. The truth is one row a pair, changed by compare-and-set; `blocked_by` is the mirror of a block, in the partition
of the one who is blocked, written with the decision's version as timestamp.

Each reader's context is read from the reader's own partitions, so a block that stands without its mirror would hide one side only.
Hence the mirror may hold more than the truth, never less: a block writes it before it decides (just above the last decision, so
that any later one ends it) and again after; an unblock ends it after. What a process that dies in between leaves is a mirror too
many: somebody who does not see a user that blocks nobody, until that user's call is repeated, either way. The other order
would leave somebody who sees what they are barred from.
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

import numpy as np

from timeline.domain.entries import UserIds
from timeline.domain.errors import BadRequest, OutcomeUnknown, after_effect
from timeline.domain.ids import UserId
from timeline.domain.limits import Limits
from timeline.store.columns import ints, standing
from timeline.store.session import Cql, Kind, Session
from timeline.store.settle import settle

_TRIES_MAX = 8  # each lost race is another decision about the same pair


class Relation(StrEnum):
    """The kinds of rows in `relations`; blocked_by is the mirror of block."""

    block = "block"
    blocked_by = "blocked_by"
    mute = "mute"


_OF = Cql("relations_of", "SELECT target_id, version, ended FROM relations WHERE user_id = ? AND kind = ?")
_ONE = Cql(
    "relation_get", "SELECT since, version, ended FROM relations WHERE user_id = ? AND kind = ? AND target_id = ?"
)
_BETWEEN = Cql("relations_between", "SELECT ended FROM relations WHERE user_id IN ? AND kind = ? AND target_id IN ?")
_COUNT = Cql("relations_count", "SELECT COUNT(*), COUNT(ended) FROM relations WHERE user_id = ? AND kind = ?")
_FIRST = Cql(
    "relation_first",
    "INSERT INTO relations (user_id, kind, target_id, since, version, ended) VALUES (?, ?, ?, ?, ?, ?) IF NOT EXISTS",
    Kind.cas,
)
_AGAIN = Cql(
    "relation_again",
    "UPDATE relations SET since = ?, version = ?, ended = ? WHERE user_id = ? AND kind = ? AND target_id = ? IF version = ?",
    Kind.cas,
)
_MIRROR = Cql(
    "relation_mirror",
    "INSERT INTO relations (user_id, kind, target_id, since, version, ended) VALUES (?, ?, ?, ?, ?, ?) USING TIMESTAMP ?",
    Kind.write,
)


@dataclass(frozen=True, slots=True)
class Decision:
    """A row. `since_ms` is of the relation that stands, or stood last."""

    since_ms: int
    version: int
    active: bool

    @property
    def ended(self) -> int | None:
        return None if self.active else self.version


class Relations:
    """RelationStore."""

    def __init__(self, session: Session, limits: Limits) -> None:
        self._session, self._limits = session, limits

    async def block(self, user_id: UserId, target: UserId, at_us: int) -> bool:
        """By compare-and-set, mirror included; False if it stood already (the mirror is written again all the same).
        Raises BadRequest("too-many-blocks") at relations_max."""
        return await self._begin(user_id, Relation.block, target, at_us)

    async def unblock(self, user_id: UserId, target: UserId, at_us: int) -> bool:
        """By compare-and-set, mirror included; False if there was nothing to end. A mirror that stands without its block is ended by a
        decision of its own, above whatever wrote it."""
        return await self._end(user_id, Relation.block, target, at_us)

    async def mute(self, user_id: UserId, target: UserId, at_us: int) -> bool:
        """By compare-and-set; False if it stood already. Raises BadRequest("too-many-mutes") at relations_max."""
        return await self._begin(user_id, Relation.mute, target, at_us)

    async def unmute(self, user_id: UserId, target: UserId, at_us: int) -> bool:
        """By compare-and-set; False if there was nothing to end."""
        return await self._end(user_id, Relation.mute, target, at_us)

    async def _begin(self, user_id: UserId, kind: Relation, target: UserId, at_us: int) -> bool:
        stands = await self._get(user_id, kind, target)
        changed = False
        if stands is None or not stands.active:
            await self._check_room(user_id, kind)
        for _ in range(_TRIES_MAX):
            if stands is not None and stands.active:
                break
            wanted = Decision(at_us // 1000, at_us if stands is None else max(at_us, stands.version + 1), True)
            await self._mirror(user_id, kind, target, wanted, 1 if stands is None else stands.version + 1)
            with after_effect() if kind is Relation.block else nullcontext():  # a mute has no mirror
                stands = await self._decide(user_id, kind, target, stands, wanted)
            changed = stands == wanted
        else:
            raise OutcomeUnknown("decisions about one relation keep overtaking each other")
        with after_effect():
            await self._mirror(user_id, kind, target, stands, stands.version)
        return changed

    async def _end(self, user_id: UserId, kind: Relation, target: UserId, at_us: int) -> bool:
        stands, mirror = await asyncio.gather(self._get(user_id, kind, target), self._get_mirror(user_id, kind, target))
        changed = False
        for _ in range(_TRIES_MAX):
            left_behind = mirror is not None and mirror.active and (stands is None or stands.version <= mirror.version)
            if stands is not None and not stands.active and not left_behind:
                break
            if stands is None and not left_behind:
                return False
            above = [one.version + 1 for one in (stands, mirror) if one is not None]
            wanted = Decision(0 if stands is None else stands.since_ms, max(at_us, *above, 0), False)
            was_active = stands is not None and stands.active
            stands = await self._decide(user_id, kind, target, stands, wanted)
            changed, mirror = was_active and stands == wanted, mirror if stands is None else None
        else:
            raise OutcomeUnknown("decisions about one relation keep overtaking each other")
        with after_effect():
            await self._mirror(user_id, kind, target, stands, stands.version)
        return changed

    async def _decide(
        self, user_id: UserId, kind: Relation, target: UserId, stood: Decision | None, wanted: Decision
    ) -> Decision | None:
        """`wanted`, or what stands instead."""
        key = (user_id, kind.value, target)
        values: tuple[object, ...]
        if stood is None:
            statement, values = _FIRST, (*key, wanted.since_ms, wanted.version, wanted.ended)
        else:
            statement, values = _AGAIN, (wanted.since_ms, wanted.version, wanted.ended, *key, stood.version)
        return await settle(self._session, statement, values, wanted, partial(self._get, *key, serial=True))

    async def _mirror(self, user_id: UserId, kind: Relation, target: UserId, row: Decision, timestamp: int) -> None:
        if kind is Relation.block:
            values = (row.since_ms, row.version, row.ended)
            await self._session.run(_MIRROR, (target, Relation.blocked_by.value, user_id, *values, timestamp))

    async def _get_mirror(self, user_id: UserId, kind: Relation, target: UserId) -> Decision | None:
        return await self._get(target, Relation.blocked_by, user_id) if kind is Relation.block else None

    async def _get(self, user_id: int, kind: str, target: int, *, serial: bool = False) -> Decision | None:
        row = await self._session.one(_ONE, (user_id, str(kind), target), serial=serial)
        return Decision(row[0], row[1], row[2] is None) if row else None

    async def _check_room(self, user_id: UserId, kind: Relation) -> None:
        row = await self._session.one(_COUNT, (user_id, kind.value))
        most = self._limits.relations_max
        if row and row[0] - row[1] >= most and kind is Relation.block:
            raise BadRequest("too-many-blocks", f"Nobody blocks more than {most:,} accounts.")
        if row and row[0] - row[1] >= most:
            raise BadRequest("too-many-mutes", f"Nobody mutes more than {most:,} accounts.")


async def targets(session: Session, user_id: UserId, kind: Relation) -> tuple[UserIds, int]:
    """Whom the relation stands to, ascending, and the newest version among all rows (0: none)."""
    parts, newest = [np.empty(0, np.int64)], 0
    async for page in session.all_columns(_OF, (user_id, kind.value)):
        parts.append(ints(page["target_id"])[standing(page["ended"])])
        newest = max(newest, int(ints(page["version"]).max(initial=0)))
    return np.concatenate(parts), newest


async def is_blocked(session: Session, one: UserId, other: UserId) -> bool:
    """Whether either blocks the other, by the rows that are the truth and not by mirrors."""
    both = [one, other]  # two partitions in one request; of either, itself as a target is never a row
    return any(ended is None for (ended,) in await session.rows(_BETWEEN, (both, Relation.block.value, both)))
