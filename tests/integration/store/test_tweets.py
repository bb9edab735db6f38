"""Tweets and their outbox rows on a real Cassandra."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.integration.store.conftest import tweet
from timeline.domain.errors import OutcomeUnknown
from timeline.domain.ids import TweetId, UserId, bucket, first_id_at, time_ms
from timeline.domain.limits import Limits
from timeline.domain.model import Counts, Tweet, TweetKey, Visibility
from timeline.store import Store
from timeline.store.outbox import decode, encode, insert_of, place_of
from timeline.store.session import Cql, Kind, Params
from timeline.store.tweets import Tweets

NOW = 1_790_000_000_000
_ROWS = Cql("t", "SELECT user_id FROM tweets WHERE user_id = ? AND bucket = ?")
_REPLIES = Cql("t", "SELECT tweet_id, user_id FROM replies WHERE conversation_id = ? AND bucket = ?")
_COUNT = Cql(
    "t",
    "UPDATE tweet_counts USING TIMESTAMP ? SET likes = ?, retweets = ?, replies = ?, counted_offset = ? WHERE tweet_id = ?",
    Kind.write,
)


def key_of(item: Tweet) -> TweetKey:
    return TweetKey(item.author_id, item.id)


def whole(author: int, number: int) -> Tweet:
    """A tweet with every member set that can stand beside the others."""
    return tweet(
        author,
        NOW,
        number,
        text="наïve 🏳️‍🌈",
        visibility=Visibility.followers,
        conversation_id=TweetId(11),
        reply_to=TweetId(12),
        reply_to_user=UserId(13),
        quote_of=TweetId(14),
        quote_author=UserId(15),
        media_ids=("image:a", "video:b"),
    )


async def pending(store: Store, item: Tweet) -> list[Tweet]:
    shard, ten_seconds = place_of(item.id, item.author_id, store.outbox._limits)
    return [found for found in await store.outbox.page(shard, ten_seconds) if found.id == item.id]


async def test_a_tweet_comes_back_with_every_member(store: Store, users: Iterator[UserId]) -> None:
    author = next(users)
    retweet = tweet(author, NOW, 2, text="", retweet_of=TweetId(7), retweet_author=UserId(0))
    items = [whole(author, 0), tweet(author, NOW, 1), retweet]
    for item in items:
        await store.tweets.add(item)
    assert await store.tweets.get_many([key_of(item) for item in items]) == {item.id: item for item in items}
    ids = [item.id for item in items]
    for tweets in (store.tweets, Tweets(store.session, Limits())):
        assert await tweets.authors_of(ids) == dict.fromkeys(ids, author), "written or not by the same process"


async def test_what_does_not_exist_is_absent(store: Store, users: Iterator[UserId]) -> None:
    key = TweetKey(next(users), first_id_at(NOW))
    assert await store.tweets.get_many([key]) == {}
    assert await store.tweets.authors_of([TweetId(5)]) == {}
    assert await store.tweets.get_many([]) == {}


async def test_many_keys_over_many_partitions_come_back(store: Store, users: Iterator[UserId]) -> None:
    items = [tweet(next(users), NOW - 86_400_000 * 30 * month, number) for month in range(3) for number in range(60)]
    items += [tweet(items[0].author_id, NOW, number) for number in range(100, 250)]
    for item in items:
        await store.tweets.rewrite(item)
    found = await store.tweets.get_many([key_of(item) for item in items] * 2)
    assert found == {item.id: item for item in items}
    ids = [item.id for item in items]
    few = Tweets(store.session, Limits(authors_remembered_max=50))
    for asked in (ids, ids[:10], ids[5:90]):
        assert await few.authors_of(asked) == {item.id: item.author_id for item in items if item.id in asked}
        assert len(few._authors) <= 50, "more than it may remember"


async def test_an_author_is_asked_for_once(
    store: Store, users: Iterator[UserId], monkeypatch: pytest.MonkeyPatch
) -> None:
    item = tweet(next(users), NOW, 900)
    tweets = Tweets(store.session, Limits())
    assert await tweets.authors_of([item.id]) == {}
    await store.tweets.add(item)
    assert await tweets.authors_of([item.id]) == {item.id: item.author_id}, "what was not there is asked for again"
    with monkeypatch.context() as patch:
        patch.setattr(tweets, "_session", None)
        assert await tweets.authors_of([item.id]) == {item.id: item.author_id}


async def test_a_reply_is_found_by_its_conversation(store: Store, users: Iterator[UserId]) -> None:
    author = next(users)
    item = tweet(author, NOW, 3, conversation_id=TweetId(900), reply_to=TweetId(901), reply_to_user=UserId(4))
    other = tweet(author, NOW, 4, conversation_id=TweetId(900))
    await store.session.prepare([_REPLIES])
    for each in (item, other):
        await store.tweets.add(each)
    assert await store.session.rows(_REPLIES, (900, bucket(item.id))) == [(item.id, author)]


async def test_a_deletion_holds_whatever_is_written_again(store: Store, users: Iterator[UserId]) -> None:
    item = whole(next(users), 0)
    await store.tweets.add(item)
    await store.tweets.delete(key_of(item), item.version + 5)
    for again in (store.tweets.add, store.tweets.rewrite):
        await again(item)
    found = (await store.tweets.get_many([key_of(item)]))[item.id]
    assert found == replace(item, deleted=True, version=item.version + 5)
    await store.tweets.delete(key_of(item), item.version + 5)
    assert (await store.tweets.get_many([key_of(item)]))[item.id] == found


async def test_a_deletion_that_ran_ahead_of_its_tweet_holds(store: Store, users: Iterator[UserId]) -> None:
    item = whole(next(users), 0)
    await store.tweets.delete(key_of(item), item.version - 5)
    assert await store.tweets.get_many([key_of(item)]) == {}
    await store.tweets.add(item)
    assert (await store.tweets.get_many([key_of(item)]))[item.id].deleted


async def test_an_edit_without_its_tweet_makes_no_zombie(store: Store, users: Iterator[UserId]) -> None:
    item = tweet(next(users), NOW)
    await store.tweets.edit(key_of(item), "edited", Visibility.followers, NOW + 1, item.version + 1000)
    await store.session.prepare([_ROWS])
    assert await store.session.rows(_ROWS, (item.author_id, bucket(item.id)))
    assert await store.tweets.get_many([key_of(item)]) == {}
    await store.tweets.add(item)
    found = (await store.tweets.get_many([key_of(item)]))[item.id]
    assert (found.text, found.visibility, found.edited_ms) == ("edited", Visibility.followers, NOW + 1)
    assert (found.version, found.conversation_id) == (item.version + 1000, item.conversation_id)


async def test_counts_are_zero_where_nothing_was_counted(store: Store) -> None:
    await store.session.prepare([_COUNT])
    await store.session.run(_COUNT, (5, 1, 2, 3, 5, 77))
    await store.session.run(_COUNT, (4, 9, 9, 9, 4, 77))  # an older offset, delivered again
    assert await store.tweets.counts_of([TweetId(77), TweetId(78)]) == {77: Counts(1, 2, 3), 78: Counts()}


async def test_a_new_tweet_is_pending_until_cleared(store: Store, users: Iterator[UserId]) -> None:
    item = whole(next(users), 9)
    await store.tweets.add(item)
    assert await pending(store, item) == [item]
    await store.outbox.clear(item)
    assert await pending(store, item) == []
    await store.outbox.clear(item)


async def test_a_batch_that_is_delivered_late_does_not_bring_a_cleared_row_back(
    store: Store, users: Iterator[UserId]
) -> None:
    item = whole(next(users), 10)
    await store.tweets.add(item)
    await store.outbox.clear(item)
    await store.tweets.add(item)
    await store.session.batch("t", [insert_of(item, store.outbox._limits)])
    assert await pending(store, item) == []


async def test_a_clearing_that_overtakes_its_insert_wins(store: Store, users: Iterator[UserId]) -> None:
    item = whole(next(users), 11)
    await store.outbox.clear(item)
    await store.tweets.add(item)
    assert await pending(store, item) == []


async def test_a_rewrite_leaves_the_outbox_alone(store: Store, users: Iterator[UserId]) -> None:
    item = whole(next(users), 12)
    await store.tweets.rewrite(item)
    assert await pending(store, item) == []
    assert await store.tweets.get_many([key_of(item)]) == {item.id: item}


async def test_a_slot_is_everything_pending_in_its_ten_seconds(store: Store, users: Iterator[UserId]) -> None:
    start = NOW + 50_000
    items = [tweet(next(users), start + number * 40) for number in range(200)]
    late = tweet(next(users), start + 10_000)
    for item in (*items, late):
        await store.tweets.add(item)
    await store.outbox.clear_many(items[:50])
    found = [item async for page in store.outbox.slot(start // 10_000) for item in page]
    assert sorted(item.id for item in found) == [item.id for item in items[50:]]
    assert all(time_ms(item.id) // 10_000 == start // 10_000 for item in found)


async def test_a_partition_of_the_outbox_is_walked_by_id(store: Store, users: Iterator[UserId]) -> None:
    author = next(users)
    items = [tweet(author, NOW + 90_000 + number) for number in range(7)]
    for item in items:
        await store.tweets.add(item)
    place = place_of(items[0].id, author, store.outbox._limits)
    first = await store.outbox.page(*place, limit=4)
    rest = await store.outbox.page(*place, after=first[-1].id, limit=4)
    assert first + rest == items


async def test_the_relays_progress_never_goes_back(store: Store) -> None:
    assert await store.outbox.relay_progress() == 0
    for swept in (NOW, NOW - 5, NOW + 5):
        await store.outbox.save_relay_progress(swept)
    assert await store.outbox.relay_progress() == NOW + 5


class NoBatchLog:
    """A session of a cluster whose batch log waits for a dead node. Writes are noted, and may end after some."""

    def __init__(self, store: Store, nodes: int, dies_after: int = 100) -> None:
        self._session, self.nodes, self._left = store.session, nodes, dies_after
        self.written: list[str] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._session, name)

    async def batch(self, *_: object, **__: object) -> None:
        raise OutcomeUnknown("timed out")

    async def run(self, cql: Cql, params: Params) -> None:
        if len(self.written) == self._left:
            raise OutcomeUnknown("killed")
        await self._session.run(cql, params)
        self.written.append(cql.name)


async def test_a_tweet_is_written_by_way_of_the_outbox_when_the_batch_log_is_stuck(
    store: Store, users: Iterator[UserId]
) -> None:
    item = whole(next(users), 20)
    stuck = NoBatchLog(store, nodes=3)
    await Tweets(stuck, store.outbox._limits).add(item)  # type: ignore[arg-type]
    assert stuck.written[0] == "outbox_insert"
    assert len(stuck.written) == 5
    assert await store.tweets.get_many([key_of(item)]) == {item.id: item}
    assert await store.tweets.authors_of([item.id]) == {item.id: item.author_id}
    assert await pending(store, item) == [item]


async def test_what_such_a_write_left_half_done_the_outbox_holds_whole(store: Store, users: Iterator[UserId]) -> None:
    item = whole(next(users), 21)
    with pytest.raises(OutcomeUnknown):
        await Tweets(NoBatchLog(store, 3, dies_after=1), store.outbox._limits).add(item)  # type: ignore[arg-type]
    assert await pending(store, item) == [item]
    await store.tweets.rewrite((await pending(store, item))[0])
    assert await store.tweets.get_many([key_of(item)]) == {item.id: item}


async def test_on_one_node_an_unknown_outcome_stays_one(store: Store, users: Iterator[UserId]) -> None:
    with pytest.raises(OutcomeUnknown):
        await Tweets(NoBatchLog(store, 1), store.outbox._limits).add(whole(next(users), 22))  # type: ignore[arg-type]


@pytest.mark.parametrize("item", [whole(1, 1), tweet(2, NOW)])
def test_a_payload_decodes_to_the_tweet_it_was_made_of(item: Tweet) -> None:
    assert decode(encode(item)) == item
