"""Blocks and mutes, changed by compare-and-set: truth and mirror agree, and what a crash leaves is on the safe side."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.integration.store.test_decisions import Unsure
from tests.integration.world import every_follower
from timeline.domain.errors import BadRequest, OutcomeUnknown, Unavailable
from timeline.domain.ids import UserId
from timeline.domain.limits import Limits
from timeline.store import Store
from timeline.store.relations import Relations
from timeline.store.session import Cql, Kind, Params

AT = 1_790_000_000_000_000


class Dies:
    """A session whose process dies at the nth statement that changes something: that one, and all after it, are not sent."""

    def __init__(self, store: Store, at: int) -> None:
        self._session, self._left = store.session, at

    def __getattr__(self, name: str) -> object:
        return getattr(self._session, name)

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise Unavailable("killed")

    async def compare_and_set(self, cql: Cql, params: Params) -> bool:
        self._count()
        return await self._session.compare_and_set(cql, params)

    async def run(self, cql: Cql, params: Params) -> None:
        if cql.kind is Kind.write:
            self._count()
        await self._session.run(cql, params)


async def sides(store: Store, one: UserId, other: UserId) -> tuple[bool, bool]:
    """Whether one's context says that one blocks, and the other's that it is blocked by one."""
    mine, theirs = await store.graph.reader(one), await store.graph.reader(other)
    return other in mine.blocked.tolist(), one in theirs.blocked_by.tolist()


async def test_a_block_stands_in_both_contexts_and_ends_in_both(store: Store, users: Iterator[UserId]) -> None:
    one, other = next(users), next(users)
    assert not await store.relations.unblock(one, other, AT)
    assert await store.relations.block(one, other, AT)
    assert not await store.relations.block(one, other, AT + 1)
    assert await sides(store, one, other) == (True, True)
    assert await sides(store, other, one) == (False, False)
    assert await store.graph.is_barred(one, other)
    assert await store.graph.is_barred(other, one)
    assert await store.relations.unblock(one, other, AT - 100), "whatever the clock says"
    assert not await store.relations.unblock(one, other, AT + 5)
    assert await sides(store, one, other) == (False, False)
    assert not await store.graph.is_barred(other, one)
    assert await store.relations.block(one, other, AT - 100)
    assert await sides(store, one, other) == (True, True)


async def test_blocks_of_both_stand_and_end_each_by_itself(store: Store, users: Iterator[UserId]) -> None:
    one, other = next(users), next(users)
    await store.relations.block(one, other, AT)
    await store.relations.block(other, one, AT)
    await store.relations.unblock(one, other, AT + 1)
    assert await sides(store, one, other) == (False, False)
    assert await sides(store, other, one) == (True, True)
    assert await store.graph.is_barred(one, other)


async def test_a_mute_stands_with_the_one_who_mutes_alone(store: Store, users: Iterator[UserId]) -> None:
    one, other = next(users), next(users)
    assert await store.relations.mute(one, other, AT)
    assert not await store.relations.mute(one, other, AT + 1)
    mine, theirs = await store.graph.reader(one), await store.graph.reader(other)
    assert (mine.muted.tolist(), theirs.muted.tolist(), theirs.blocked_by.tolist()) == ([other], [], [])
    assert not await store.graph.is_barred(one, other)
    assert await store.relations.unmute(one, other, AT + 2)
    assert not await store.relations.unmute(one, other, AT + 3)
    assert (await store.graph.reader(one)).muted.tolist() == []


async def test_decisions_at_once_end_with_truth_and_mirror_equal(store: Store, users: Iterator[UserId]) -> None:
    rng = random.Random(1)
    pairs = [(next(users), next(users)) for _ in range(4)]

    async def decide(one: UserId, other: UserId) -> None:
        with suppress(OutcomeUnknown):  # overtaken too often: whoever was last has written the mirror
            if rng.random() < 0.5:
                await store.relations.block(one, other, AT)
            else:
                await store.relations.unblock(one, other, AT)

    await asyncio.gather(*(decide(*pair) for pair in pairs for _ in range(10)))
    for one, other in pairs:
        truth, mirror = await sides(store, one, other)
        assert truth == mirror


@pytest.mark.parametrize("applied", [True, False])
async def test_an_unknown_outcome_of_a_block_is_settled_by_reading(
    store: Store, users: Iterator[UserId], applied: bool
) -> None:
    one, other = next(users), next(users)
    relations = Relations(Unsure(store, applied), Limits())  # type: ignore[arg-type]
    assert await relations.block(one, other, AT)
    assert await sides(store, one, other) == (True, True)
    relations = Relations(Unsure(store, applied), Limits())  # type: ignore[arg-type]
    assert await relations.unblock(one, other, AT + 1)
    assert await sides(store, one, other) == (False, False)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("at", range(3))
async def test_a_block_that_dies_half_way_never_hides_one_side_only(
    store: Store, users: Iterator[UserId], at: int, first: bool
) -> None:
    """The mirror may stand without the truth, never the other way round; and either call, repeated, puts it right."""
    for repeated, expected in (("block", (True, True)), ("unblock", (False, False))):
        one, other = next(users), next(users)
        if not first:
            await store.relations.block(one, other, AT - 10)
            await store.relations.unblock(one, other, AT - 5)
        dying = Relations(Dies(store, at), Limits())  # type: ignore[arg-type]
        with pytest.raises(Unavailable):
            await dying.block(one, other, AT)
        truth, mirror = await sides(store, one, other)
        assert mirror or not truth
        await getattr(store.relations, repeated)(one, other, AT + 1)
        assert await sides(store, one, other) == expected


@pytest.mark.parametrize("at", range(2))
async def test_an_unblock_that_dies_half_way_never_hides_one_side_only(
    store: Store, users: Iterator[UserId], at: int
) -> None:
    for repeated, expected in (("block", (True, True)), ("unblock", (False, False))):
        one, other = next(users), next(users)
        await store.relations.block(one, other, AT)
        dying = Relations(Dies(store, at), Limits())  # type: ignore[arg-type]
        with pytest.raises(Unavailable):
            await dying.unblock(one, other, AT + 1)
        truth, mirror = await sides(store, one, other)
        assert mirror or not truth
        await getattr(store.relations, repeated)(one, other, AT + 2)
        assert await sides(store, one, other) == expected


async def test_nobody_blocks_or_mutes_more_than_the_limit(store: Store, users: Iterator[UserId]) -> None:
    one, *others = (next(users) for _ in range(4))
    relations = Relations(store.session, Limits(relations_max=2))
    for other in others[:2]:
        await relations.block(one, other, AT)
        await relations.mute(one, other, AT)
    with pytest.raises(BadRequest) as caught:
        await relations.block(one, others[2], AT)
    assert caught.value.kind == "too-many-blocks"
    with pytest.raises(BadRequest) as caught:
        await relations.mute(one, others[2], AT)
    assert caught.value.kind == "too-many-mutes"
    assert not await relations.block(one, others[0], AT), "one that stands is no new one"
    await relations.unblock(one, others[0], AT + 1)
    assert await relations.block(one, others[2], AT + 1)


async def test_a_block_ends_the_follows_that_stand_under_it_and_no_later_ones(
    store: Store, users: Iterator[UserId]
) -> None:
    one, other = next(users), next(users)
    for pair in ((one, other), (other, one)):
        await store.graph.follow(*pair, AT)
    await store.graph.end_across(one, other, AT + 1)
    assert await store.graph.follows(one, other), "no block, no end"
    await store.relations.block(one, other, AT + 2)
    await store.graph.end_across(one, other, AT - 100)
    assert not await store.graph.follows(one, other)
    assert not await store.graph.follows(other, one)
    for followee in (one, other):
        assert not len(await every_follower(store, followee))
    await store.relations.unblock(one, other, AT + 3)
    await store.graph.follow(one, other, AT + 4)
    await store.graph.end_across(one, other, AT + 5)
    assert await store.graph.follows(one, other)
