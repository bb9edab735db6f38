"""Edits and markers, changed by compare-and-set."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator

import pytest

from tests.integration.store.conftest import tweet
from tests.integration.store.test_decisions import Unsure
from tests.integration.store.test_relations import Dies
from timeline.domain.errors import Unavailable
from timeline.domain.ids import TweetId, UserId
from timeline.domain.model import Tweet, TweetKey, Visibility
from timeline.store import Store
from timeline.store.edits import Edits
from timeline.store.markers import Markers
from timeline.store.tweets import Tweets
from timeline.writing.ports import Edited, Marker

NOW = time.time_ns() // 1_000_000
AT = NOW * 1000
_numbers = itertools.count()


async def read(store: Store, item: Tweet) -> Tweet:
    return (await store.tweets.get_many([TweetKey(item.author_id, item.id)]))[item.id]


async def posted(store: Store, author: UserId) -> Tweet:
    item = tweet(author, NOW, next(_numbers))
    await store.tweets.add(item)
    return item


async def test_an_edit_changes_what_it_names_and_leaves_the_rest(store: Store, users: Iterator[UserId]) -> None:
    item = await posted(store, next(users))
    edited = await store.edits.edit(item, "new", None, AT + 5_000)
    assert edited == Edited("new", Visibility.public, NOW + 5, AT + 5_000)
    row = await read(store, item)
    assert (row.text, row.visibility, row.edited_ms, row.version) == ("new", Visibility.public, NOW + 5, AT + 5_000)
    await store.edits.edit(row, None, Visibility.followers, AT + 1)
    row = await read(store, item)
    assert (row.text, row.visibility, row.version) == ("new", Visibility.followers, AT + 5_001), "above the last one"


async def test_an_edit_that_changes_nothing_is_none(store: Store, users: Iterator[UserId]) -> None:
    item = await posted(store, next(users))
    assert await store.edits.edit(item, item.text, Visibility.public, AT + 9) == Edited(
        item.text, Visibility.public, None, item.version
    )
    assert (await read(store, item)).edited_ms is None


async def test_of_edits_at_once_none_is_lost(store: Store, users: Iterator[UserId]) -> None:
    """All begin with the same row; one changes the visibility, the others the text."""
    item = await posted(store, next(users))
    changes: list[tuple[str | None, Visibility | None]] = [(f"text {number}", None) for number in range(4)]
    edits = await asyncio.gather(
        *(store.edits.edit(item, *change, AT) for change in [*changes, (None, Visibility.followers)])
    )
    row = await read(store, item)
    assert (row.visibility, row.text in {text for text, _ in changes}) == (Visibility.followers, True)
    assert len({edited.version for edited in edits}) == len(edits), "a version means one content"
    last = max(edits, key=lambda edited: edited.version)
    assert (row.text, row.version) == (last.text, last.version)


@pytest.mark.parametrize("applied", [True, False])
async def test_an_unknown_outcome_of_an_edit_is_settled_by_reading(
    store: Store, users: Iterator[UserId], applied: bool
) -> None:
    item = await posted(store, next(users))
    edits = Edits(Unsure(store, applied), store.tweets)  # type: ignore[arg-type]
    assert (await edits.edit(item, "new", None, AT + 5)).version == AT + 5
    assert (await read(store, item)).text == "new"


@pytest.mark.parametrize("repeated", ["new", "newer"])
async def test_the_next_edit_goes_on_from_one_that_died_half_way(
    store: Store, users: Iterator[UserId], repeated: str
) -> None:
    item = await posted(store, next(users))
    dying = Dies(store, 1)
    edits = Edits(dying, Tweets(dying, store.tweets._limits))  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        await edits.edit(item, "new", Visibility.followers, AT + 5)
    assert (await read(store, item)).text == item.text
    await store.edits.edit(item, repeated, None, AT + 6)
    row = await read(store, item)
    assert (row.text, row.visibility) == (repeated, Visibility.followers)


async def test_an_edit_after_a_delete_makes_no_zombie(store: Store, users: Iterator[UserId]) -> None:
    author = next(users)
    item, erased = await posted(store, author), tweet(author, NOW, next(_numbers))
    await store.tweets.delete(TweetKey(author, item.id), AT + 5)
    await store.edits.edit(item, "new", None, AT + 9)
    assert (await read(store, item)).deleted
    await store.edits.edit(erased, "new", None, AT + 9)
    assert await store.tweets.get_many([TweetKey(author, erased.id)]) == {}


async def test_a_marker_moves_forward_and_back_only_when_asked(store: Store, users: Iterator[UserId]) -> None:
    me, markers = next(users), store.markers
    assert await markers.get(me) is None
    assert await markers.move(me, Marker(TweetId(5), AT), rewind=False) == Marker(TweetId(5), AT)
    assert await markers.move(me, Marker(TweetId(3), AT + 1), rewind=False) == Marker(TweetId(5), AT)
    assert await markers.move(me, Marker(TweetId(5), AT + 1), rewind=True) == Marker(TweetId(5), AT)
    assert await markers.move(me, Marker(TweetId(7), AT - 9), rewind=False) == Marker(TweetId(7), AT + 1)
    assert await markers.move(me, Marker(TweetId(3), AT + 5), rewind=True) == Marker(TweetId(3), AT + 5)
    assert await markers.get(me) == Marker(TweetId(3), AT + 5)


async def test_of_many_devices_the_one_furthest_up_wins(store: Store, users: Iterator[UserId]) -> None:
    me = next(users)
    places = [TweetId(number) for number in (4, 9, 2, 7, 5)]
    answers = await asyncio.gather(*(store.markers.move(me, Marker(place, AT), rewind=False) for place in places))
    assert all(answer.tweet_id >= place for answer, place in zip(answers, places, strict=True))
    found = await store.markers.get(me)
    assert found is not None
    assert found.tweet_id == 9


@pytest.mark.parametrize("applied", [True, False])
async def test_an_unknown_outcome_of_a_marker_is_settled_by_reading(
    store: Store, users: Iterator[UserId], applied: bool
) -> None:
    me = next(users)
    markers = Markers(Unsure(store, applied))  # type: ignore[arg-type]
    assert await markers.move(me, Marker(TweetId(5), AT), rewind=False) == Marker(TweetId(5), AT)
