"""Followers for fan-out, and the bulk load of a graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from timeline.domain.ids import UserId
from timeline.domain.limits import Limits
from timeline.domain.model import User
from timeline.store import Store
from timeline.store.bulk import Bulk
from timeline.store.followers import Followers
from timeline.store.session import Cql, Params, Row, Session
from timeline.store.users import Users

AT = 1_790_000_000_000_000


async def walked(store: Store, authors: list[UserId], **limits: int) -> tuple[dict[int, list[int]], list[int]]:
    """Followers by author, sorted, as fan-out reads them; and the sizes of pages and shards."""
    followers = Followers(store.session, Limits(**limits))
    found: dict[int, list[int]] = {author: [] for author in authors}
    shards = await followers.shards(authors)
    parts = [(page.author_id, page.followers) async for page in followers.pages([a for a in authors if shards[a] == 1])]
    for author in authors:
        if shards[author] > 1:
            parts += [(author, await followers.shard(author, shard)) for shard in range(shards[author])]
    for author, some in parts:
        assert some.dtype == np.int64
        found[author] += some.tolist()
    return {author: sorted(ids) for author, ids in found.items()}, [len(some) for _, some in parts]


async def test_every_follower_of_small_and_large_authors_comes_once(store: Store, users: Iterator[UserId]) -> None:
    rng = np.random.default_rng(5)
    authors = [next(users) for _ in range(80)]
    sizes = [0, 1, 7, 4_800, 12_000, *rng.integers(0, 40, 75).tolist()]
    edges = [
        (fan, author) for author, size in zip(authors, sizes, strict=True) for fan in range(7_000_000, 7_000_000 + size)
    ]
    follower, followee = np.array(edges, np.int64).T
    told = Counter[str]()
    await store.bulk.load_follows(follower, followee, AT, lambda rows: told.update(rows=rows))
    assert told["rows"] == 2 * len(edges)
    expected = {author: list(range(7_000_000, 7_000_000 + size)) for author, size in zip(authors, sizes, strict=True)}
    found, pages = await walked(store, authors)
    assert found == expected
    assert max(pages) <= Limits().fanout_followers_page
    found, pages = await walked(store, authors[:4], fanout_followers_page=1000)
    assert found == {author: expected[author] for author in authors[:4]}
    assert max(pages) == 1000


async def test_no_authors_have_no_followers(store: Store) -> None:
    assert await walked(store, []) == ({}, [])


async def test_a_repeated_load_changes_nothing(store: Store, users: Iterator[UserId]) -> None:
    author, fans = next(users), np.arange(8_000_000, 8_000_100, dtype=np.int64)
    bulk = Bulk(store.session, Limits(follower_shard_size=30))
    for order in (fans, fans[::-1], np.concatenate([fans, fans])):
        await bulk.load_follows(order, np.full(len(order), author), AT)
        found, pages = await walked(store, [author])
        assert (found, sorted(pages)) == ({author: fans.tolist()}, [10, 30, 30, 30])
    assert (await Users(store.session, Limits(follower_shard_size=30)).counts(author)).followers == 100


async def test_a_load_does_not_undo_what_was_decided_since(store: Store, users: Iterator[UserId]) -> None:
    author, one, two = next(users), next(users), next(users)
    edges = np.array([one, two]), np.array([author, author])
    await store.bulk.load_follows(*edges, AT)
    assert await store.graph.unfollow(one, author, AT + 10)
    await store.bulk.load_follows(*edges, AT)
    assert not await store.graph.follows(one, author)
    assert await store.graph.follows(two, author)
    assert await walked(store, [author]) == ({author: [two]}, [1])


async def test_loaded_users_can_be_found_and_changed(store: Store, users: Iterator[UserId]) -> None:
    made = [
        User(id=number, handle=f"Loaded_{number}", name="Ünï", avatar_url=None, created_ms=AT // 1000, version=AT)
        for number in (next(users) for _ in range(230))
    ]
    for _ in range(2):
        await store.bulk.load_users(made)
    assert await store.users.get_many([user.id for user in made]) == {user.id: user for user in made}
    assert await store.users.by_handle(made[7].handle.upper()) == made[7]


async def test_followers_are_counted_shard_by_shard_and_no_further_than_asked(
    store: Store, users: Iterator[UserId]
) -> None:
    star, nobody = next(users), next(users)
    small = Limits(follower_shard_size=30)
    fans = np.arange(9_000_000, 9_000_100, dtype=np.int64)
    await Bulk(store.session, small).load_follows(fans, np.full(len(fans), star), AT)
    counted = Counting(store.session)
    followers = Followers(counted, small)  # type: ignore[arg-type]
    assert (await followers.count(star, 1000), await followers.count(nobody, 1000)) == (100, 0)
    counted.shards.clear()
    assert await followers.count(star, 45) == 45
    assert counted.shards == [0, 1]
    assert [await followers.count(star, most) for most in (1, 30, 99, 100, 101)] == [1, 30, 99, 100, 100]


class Counting:
    """A session that notes which shards are counted."""

    def __init__(self, session: Session) -> None:
        self._session, self.shards = session, list[int]()

    def __getattr__(self, name: str) -> object:
        return getattr(self._session, name)

    async def one(self, cql: Cql, params: Params) -> Row | None:
        self.shards.append(params[1])
        return await self._session.one(cql, params)
