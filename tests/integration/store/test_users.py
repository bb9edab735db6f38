"""Profiles, and handles that only one user has, whoever dies or races."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from tests.integration.store.conftest import tweet
from timeline.domain.errors import BadRequest, OutcomeUnknown, Unavailable
from timeline.domain.ids import UserId
from timeline.domain.limits import Limits
from timeline.domain.model import TweetKey, User, UserCounts
from timeline.store import Store
from timeline.store import users as users_module
from timeline.store.session import Cql, Kind, Params
from timeline.store.users import Users

AT = 1_790_000_000_000_000
_DELETE = Cql("t", "UPDATE users SET deleted_us = ?, revision = ? WHERE user_id = ?", Kind.write)
_CLAIM = Cql("t", "SELECT user_id FROM users_by_handle WHERE handle = ?")
_COUNTED = Cql("t", "INSERT INTO user_counts (user_id, followers, followees, tweets) VALUES (?, 1, 2, 3)", Kind.write)


def made(user_id: UserId, handle: str, at: int = AT, name: str = "Näme") -> User:
    return User(id=user_id, handle=handle, name=name, avatar_url=None, created_ms=at // 1000, version=at)


@pytest.fixture(autouse=True)
async def _prepared(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    await store.session.prepare([_DELETE, _CLAIM, _COUNTED])
    monkeypatch.setattr(users_module, "CLAIM_PATIENCE_S", 0.3)


class Dying:
    """A session whose process dies at the n-th compare-and-set: before it, or (after=True) before its answer."""

    def __init__(self, store: Store, at: int, after: bool) -> None:
        self._session, self._left, self._after = store.session, at, after

    def __getattr__(self, name: str) -> object:
        return getattr(self._session, name)

    async def compare_and_set(self, cql: Cql, params: Params) -> bool:
        self._left -= 1
        if self._left == 0:
            if self._after:
                await self._session.compare_and_set(cql, params)
            raise ConnectionError("killed")
        return await self._session.compare_and_set(cql, params)


async def test_a_user_comes_back_and_keeps_the_time_of_creation(store: Store, users: Iterator[UserId]) -> None:
    me = next(users)
    first = made(me, f"Me_{me}")
    assert await store.users.put(first) == first
    changed = await store.users.put(replace(first, name="Other", avatar_url="x", created_ms=1, version=AT - 5))
    assert changed == replace(first, name="Other", avatar_url="x", version=AT + 1)
    assert await store.users.get_many([me, next(users), me]) == {me: changed}
    assert await store.users.put(replace(changed, version=AT + 99)) == changed, "nothing to change writes nothing"


async def test_a_handle_is_one_users_without_regard_to_case(store: Store, users: Iterator[UserId]) -> None:
    one, two = next(users), next(users)
    await store.users.put(made(one, f"Aa{one}"))
    with pytest.raises(BadRequest) as refused:
        await store.users.put(made(two, f"aA{one}"))
    assert refused.value.kind == "handle-taken"
    assert await store.users.get_many([two]) == {}
    assert (await store.users.by_handle(f"AA{one}")) == made(one, f"Aa{one}")
    again = await store.users.put(made(one, f"AA{one}", AT + 9))
    assert again.handle == f"AA{one}"
    assert await store.users.by_handle(f"nobody{two}") is None


async def test_a_changed_handle_frees_the_old_one(store: Store, users: Iterator[UserId]) -> None:
    one, two = next(users), next(users)
    await store.users.put(made(one, f"old{one}"))
    await store.users.put(made(one, f"new{one}", AT + 1))
    assert await store.session.rows(_CLAIM, (f"old{one}",)) == []
    await store.users.put(made(two, f"old{one}"))
    await store.users.put(made(one, f"third{one}", AT + 2))
    with pytest.raises(BadRequest):
        await store.users.put(made(one, f"old{one}", AT + 3))
    assert (await store.users.get_many([one]))[one].handle == f"third{one}"


async def test_a_deleted_user_holds_no_handle(store: Store, users: Iterator[UserId]) -> None:
    one, two = next(users), next(users)
    await store.users.put(made(one, f"gone{one}"))
    await store.session.run(_DELETE, (AT + 1, 5, one))
    assert (await store.users.get_many([one]))[one].deleted
    assert await store.users.by_handle(f"gone{one}") is None
    assert (await store.users.put(made(two, f"gone{one}"))).id == two
    assert (await store.users.by_handle(f"gone{one}")) == made(two, f"gone{one}")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", [1, 2, 3])
async def test_a_process_that_dies_on_the_way_leaves_no_handle_lost(
    store: Store, users: Iterator[UserId], at: int, after: bool
) -> None:
    one, two, three = next(users), next(users), next(users)
    old, new = f"o{one}", f"n{one}"
    await store.users.put(made(one, old))
    with pytest.raises(ConnectionError):
        await Users(Dying(store, at, after), Limits()).put(made(one, new, AT + 1))  # type: ignore[arg-type]
    stands = (await store.users.get_many([one]))[one].handle
    assert await store.users.by_handle(stands) is not None
    other = new if stands == old else old
    with pytest.raises(BadRequest):
        await store.users.put(made(two, stands))
    assert (await store.users.put(made(three, other))).handle == other
    assert (await store.users.by_handle(other)) == made(three, other)
    assert (await store.users.by_handle(stands)).id == one  # type: ignore[union-attr]


async def test_a_slow_process_does_not_get_a_handle_that_was_taken_over(store: Store, users: Iterator[UserId]) -> None:
    slow, quick = next(users), next(users)
    handle = f"both{slow}"
    claimed, go = asyncio.Event(), asyncio.Event()

    class Slow:
        def __getattr__(self, name: str) -> object:
            return getattr(store.session, name)

        async def compare_and_set(self, cql: Cql, params: Params) -> bool:
            if cql.name == "user_make":  # the claim is made and seen to be
                claimed.set()
                await go.wait()
            return await store.session.compare_and_set(cql, params)

    late = asyncio.create_task(Users(Slow(), Limits()).put(made(slow, handle)))  # type: ignore[arg-type]
    await claimed.wait()
    assert (await store.users.put(made(quick, handle))).id == quick
    go.set()
    with pytest.raises(BadRequest):
        await late
    assert await store.users.get_many([slow]) == {}
    assert (await store.users.by_handle(handle)).id == quick  # type: ignore[union-attr]


async def test_of_many_who_claim_one_handle_at_once_one_gets_it(store: Store, users: Iterator[UserId]) -> None:
    claimants = [next(users) for _ in range(30)]
    handle = f"hot{claimants[0]}"
    answers = await asyncio.gather(*(store.users.put(made(user, handle)) for user in claimants), return_exceptions=True)
    winners = [answer for answer in answers if isinstance(answer, User)]
    assert len(winners) == 1
    assert all(isinstance(answer, User | BadRequest) for answer in answers)
    assert list(await store.users.get_many(claimants)) == [winners[0].id]
    assert await store.users.by_handle(handle) == winners[0]


async def test_users_who_swap_handles_at_once_never_share_one(store: Store, users: Iterator[UserId]) -> None:
    rng = random.Random(3)
    people = [next(users) for _ in range(5)]
    handles = [f"swap{people[0]}_{number}" for number in range(4)]

    async def restless(person: UserId) -> None:
        for _ in range(8):
            with suppress(BadRequest, Unavailable):  # taken, or contended for too long
                wanted = made(person, rng.choice(handles), AT + rng.randrange(1000), name=str(rng.random()))
                await store.users.put(wanted)

    await asyncio.gather(*(restless(person) for person in people for _ in range(3)))
    stands = await store.users.get_many(people)
    taken = [user.handle for user in stands.values()]
    assert len(taken) == len(set(taken))
    for user in stands.values():
        assert await store.users.by_handle(user.handle) == user


@pytest.mark.parametrize("applied", [True, False])
async def test_unknown_outcomes_are_settled_by_reading(store: Store, users: Iterator[UserId], applied: bool) -> None:
    me = next(users)
    await store.users.put(made(me, f"sure{me}"))
    asked: set[str] = set()

    class Unsure:
        def __getattr__(self, name: str) -> object:
            return getattr(store.session, name)

        async def compare_and_set(self, cql: Cql, params: Params) -> bool:
            first = cql.name not in asked
            asked.add(cql.name)
            if first and not applied:
                raise OutcomeUnknown("timed out")
            answer = await store.session.compare_and_set(cql, params)
            if first:
                raise OutcomeUnknown("timed out")
            return answer

    put = Users(Unsure(), Limits()).put  # type: ignore[arg-type]
    assert (await put(made(me, f"unsure{me}", AT + 1))) == replace(made(me, f"unsure{me}"), version=AT + 1)
    assert (await store.users.by_handle(f"unsure{me}")).id == me  # type: ignore[union-attr]
    new = next(users)
    asked.clear()
    assert (await put(made(new, f"unsure{new}"))) == made(new, f"unsure{new}")


async def test_counts_are_of_what_stands(
    store: Store, users: Iterator[UserId], caplog: pytest.LogCaptureFixture
) -> None:
    me, *others = (next(users) for _ in range(7))
    assert await store.users.counts(me) == UserCounts(0, 0, 0)
    for other in others:
        await store.graph.follow(me, other, AT)
    for other in others[:2]:
        await store.graph.follow(other, me, AT)
    await store.graph.unfollow(me, others[0], AT + 1)
    items = [tweet(me, AT // 1000 - month * (1 << 31)) for month in range(30)]
    for item in items:
        await store.tweets.rewrite(item)
    await store.tweets.delete(TweetKey(me, items[3].id), AT + 1)
    caplog.clear()
    assert await store.users.counts(me) == UserCounts(2, 5, 29)
    assert "warning" not in caplog.text.lower()  # Cassandra warns of an aggregate over several partitions, each time
    await store.session.run(_COUNTED, (me,))
    assert await store.users.counts(me) == UserCounts(1, 2, 3)


async def test_counts_of_a_large_account_take_full_shards_for_full(store: Store, users: Iterator[UserId]) -> None:
    star = next(users)
    small = Limits(follower_shard_size=10, counts_max=80)
    fans = np.arange(3_000_000, 3_000_123, dtype=np.int64)
    from timeline.store.bulk import Bulk

    await Bulk(store.session, small).load_follows(fans, np.full(len(fans), star), AT)
    assert (await Users(store.session, small).counts(star)).followers == 123


async def test_no_number_of_a_profile_reads_more_than_counts_max_rows(store: Store, users: Iterator[UserId]) -> None:
    me, *others = (next(users) for _ in range(7))
    for other in others:
        await store.graph.follow(me, other, AT)
    await store.graph.unfollow(me, others[0], AT + 1)
    items = [tweet(me, AT // 1000 - month * (1 << 31)) for month in range(30)]
    for item in items:
        await store.tweets.rewrite(item)
    await store.tweets.delete(TweetKey(me, items[1].id), AT + 1)
    assert await Users(store.session, Limits(counts_max=4)).counts(me) in (UserCounts(0, 3, 3), UserCounts(0, 3, 4))
    assert await Users(store.session, Limits(counts_max=27)).counts(me) == UserCounts(0, 5, 26)
