"""Blocks, mutes and edits among other things that happen at the same moment, or are cut short: what holds from the next read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest

from tests.integration.world import World, open_world, positions
from timeline.assembly.fragments import post_of
from timeline.domain.errors import BadRequest, Stored, Unavailable
from timeline.domain.ids import TweetId, UserId
from timeline.domain.model import Counts, Tweet, TweetKey, Visibility
from timeline.domain.records import State
from timeline.local import Control
from timeline.writing.ports import Edited


@pytest.fixture(scope="module")
async def engine_world(engines: Control) -> AsyncIterator[World]:
    async with open_world(engines.env) as made:
        yield made


@pytest.fixture
def world(engine_world: World) -> World:
    """The same engines for all, nobody and nothing of the test before."""
    engine_world.begin()
    return engine_world


@pytest.fixture
async def pair(world: World) -> tuple[UserId, UserId]:
    one, other = UserId(world.user(1)), UserId(world.user(2))
    await world.sign_up(one, other)
    return one, other


def around(
    patch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    *,
    before: Callable[[], Awaitable[object]] | None = None,
    after: Callable[[], Awaitable[object]] | None = None,
) -> None:
    """Do something else just before, or just after, the next call of a method; those that follow are left alone."""
    method = getattr(owner, name)

    async def call(*arguments: Any, **named: Any) -> Any:
        patch.setattr(owner, name, method)
        if before is not None:
            await before()
        answer = await method(*arguments, **named)
        if after is not None:
            await after()
        return answer

    patch.setattr(owner, name, call)


async def fail(*_: object, **__: object) -> None:
    raise Unavailable("redis")


async def shown(world: World, me: int, tweet_id: int) -> Any:
    tweets = await world.reading.tweets(UserId(me), [TweetId(tweet_id)])
    return orjson.loads(tweets[0]) if tweets else None


# --- a follow and a block at once


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("blocker", [0, 1])
async def test_a_follow_that_races_a_block_does_not_outlive_it(
    world: World, pair: tuple[UserId, UserId], monkeypatch: pytest.MonkeyPatch, when: str, blocker: int
) -> None:
    """The block comes between the follow's first look and its decision, or between that and its second look."""
    one, other = pair
    ways = pair if blocker == 0 else pair[::-1]
    around(monkeypatch, world.store.graph, "follow", **{when: lambda: world.relations.block(*ways)})  # type: ignore[arg-type]
    with pytest.raises(BadRequest) as caught:
        await world.writer.follow(one, other)
    assert caught.value.kind == "blocked"
    await world.relations.unblock(*ways)
    assert not (await world.reading.reader(one)).follows(other)  # type: ignore[union-attr]
    assert not await world.store.graph.follows(one, other)


async def test_a_follow_that_died_under_a_block_is_not_revived_by_its_end(
    world: World, pair: tuple[UserId, UserId], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = pair

    async def block_and_die() -> None:
        await world.relations.block(other, one)
        monkeypatch.setattr(world.store.graph, "is_barred", fail)

    with monkeypatch.context() as patch:
        around(patch, world.store.graph, "follow", before=block_and_die)
        patch.setattr(world.store.graph, "is_barred", world.store.graph.is_barred)
        with pytest.raises(Unavailable):
            await world.writer.follow(one, other)
    monkeypatch.undo()
    assert await world.store.graph.follows(one, other), "it stands, and the block hides it"
    tweet = await world.post(other)
    assert await shown(world, one, tweet.id) is None
    await world.relations.unblock(other, one)
    assert not await world.store.graph.follows(one, other)


async def test_an_unblock_that_is_late_ends_no_follow_made_since(
    world: World, pair: tuple[UserId, UserId], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = pair
    await world.block(one, other)

    async def meanwhile() -> None:
        await world.unblock(one, other)
        await world.follow(one, other)

    around(monkeypatch, world.store.graph, "end_across", before=meanwhile)
    await world.relations.unblock(one, other)
    assert await world.store.graph.follows(one, other)


# --- a block and who reads


@pytest.mark.parametrize("blocker", [0, 1])
async def test_a_block_holds_from_the_next_read_of_both_whoever_made_it(
    world: World, pair: tuple[UserId, UserId], blocker: int
) -> None:
    one, other = pair
    await world.follow(one, other)
    await world.follow(other, one)
    theirs = {user: await world.post(user) for user in pair}
    await world.deliver_all()
    for user in pair:
        assert len(await world.walk(user)) == 2
    ways = pair if blocker == 0 else pair[::-1]
    await world.block(*ways)
    for me, author in (pair, pair[::-1]):
        assert positions(await world.home(me)) == [theirs[me].id]
        assert await shown(world, me, theirs[author].id) is None
        with pytest.raises(BadRequest):
            await world.reading.profile(me, author, None, 3)
    await world.unblock(*ways)
    for me, author in (pair, pair[::-1]):
        assert positions(await world.home(me)) == [theirs[me].id], "no follow comes back"
        assert (await shown(world, me, theirs[author].id))["id"] == str(theirs[author].id)


@pytest.mark.parametrize("call", ["mute", "unmute"])
async def test_a_mute_that_cannot_be_promised_is_stored_and_says_so(
    world: World, pair: tuple[UserId, UserId], monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    if call == "unmute":
        await world.mute(*pair)
    with monkeypatch.context() as patch:
        patch.setattr(world.cache.readers, "drop", fail)
        with pytest.raises(Stored):
            await getattr(world.relations, call)(*pair)
    assert (await world.store.graph.reader(pair[0])).mutes(pair[1]) is (call == "mute")


@pytest.mark.parametrize("whose", [0, 1])
@pytest.mark.parametrize("call", ["block", "unblock"])
async def test_a_block_that_cannot_be_promised_to_either_is_stored_and_says_so(
    world: World, pair: tuple[UserId, UserId], monkeypatch: pytest.MonkeyPatch, call: str, whose: int
) -> None:
    """The one whose cache can be reached is told all the same."""
    if call == "unblock":
        await world.block(*pair)
    for user in pair:
        await world.reading.reader(user)
    drop, dropped = world.cache.readers.drop, []

    async def drop_or_fail(user_id: UserId) -> None:
        if user_id == pair[whose]:
            raise Unavailable("redis")
        dropped.append(user_id)
        await drop(user_id)

    monkeypatch.setattr(world.cache.readers, "drop", drop_or_fail)
    with pytest.raises(Stored):
        await getattr(world.relations, call)(*pair)
    assert dropped == [pair[1 - whose]]
    assert await world.store.graph.is_barred(*pair) is (call == "block")


async def test_both_contexts_are_marked_before_a_block_is_stored(
    world: World, pair: tuple[UserId, UserId], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read that comes between fills neither with what was there before."""

    async def read_both() -> None:
        for user in pair:
            assert await world.cache.readers.begin_fill(user) is None

    around(monkeypatch, world.store.relations, "block", before=read_both)
    await world.relations.block(*pair)


async def test_a_mute_and_its_end_hold_from_the_next_read_of_the_one_list(
    world: World, pair: tuple[UserId, UserId]
) -> None:
    """What arrives while they are muted is there when they no longer are: the list is not rebuilt for it."""
    me, other = pair
    third = UserId(world.user(3))
    await world.sign_up(third)
    for followed in (other, third):
        await world.follow(me, followed)
    await world.walk(me)
    before = await world.post(other)
    retweeted = await world.retweet(third, before.id)
    await world.deliver_all()
    await world.mute(me, other)
    assert positions(await world.home(me)) == [] == world.oracle.home(me)
    during, reply = await world.post(other), await world.post(third, reply_to=before.id)
    quote = await world.post(third, quote_of=before.id)
    await world.deliver_all()
    page = await world.home(me)
    assert positions(page) == [quote.id, reply.id] == world.oracle.home(me)
    assert orjson.loads(page.tweets[0])["quote"] == {"id": str(before.id), "unavailable": True}
    assert (await shown(world, me, quote.id))["quote"]["id"] == str(before.id), "elsewhere they are not hidden"
    await world.unmute(me, other)
    page = await world.home(me, limit=7)
    assert positions(page) == [quote.id, reply.id, during.id, before.id] == world.oracle.home(me)
    assert (page.source, retweeted in positions(page)) == ("cache", False)


# --- edits


@pytest.mark.parametrize("evicted", [(), ("state",), ("post",), ("state", "post")])
async def test_an_edit_holds_from_the_next_read_whatever_is_cached(
    world: World, pair: tuple[UserId, UserId], evicted: tuple[str, ...]
) -> None:
    me, other = pair
    tweet = await world.post(me, "old")
    assert (await shown(world, other, tweet.id))["text"] == "old"
    await world.settle()
    for text in ("new", "newer"):
        await world.edit(me, tweet.id, text)
        for kind in evicted:
            await world.evict_content(kind, tweet.id)
        for _ in range(2):
            found = await shown(world, other, tweet.id)
            assert (found["text"], found["edited_at"] is not None) == (text, True)
        await world.settle()


async def test_an_edit_keeps_the_counts_that_are_shown(
    world: World, pair: tuple[UserId, UserId], monkeypatch: pytest.MonkeyPatch
) -> None:
    me, other = pair
    tweet = await world.post(me, "old")

    async def counts_of(tweet_ids: list[TweetId]) -> dict[TweetId, Counts]:
        return dict.fromkeys(tweet_ids, Counts(7, 8, 9))

    monkeypatch.setattr(world.store.tweets, "counts_of", counts_of)
    await world.edit(me, tweet.id, "new")
    state = (await world.cache.contents.states([tweet.id]))[tweet.id]
    assert state.counts == Counts(7, 8, 9)
    found = await shown(world, other, tweet.id)
    assert (found["text"], found["likes_count"], found["retweets_count"]) == ("new", 7, 8)


async def test_a_tweet_made_for_followers_is_gone_from_others_wherever_it_was_shown(
    world: World, pair: tuple[UserId, UserId]
) -> None:
    """By itself, as the source of a retweet, as a quote; and it comes back with its visibility."""
    author, retweeter = pair
    follower, stranger = UserId(world.user(3)), UserId(world.user(4))
    await world.sign_up(follower, stranger)
    await world.follow(follower, author)
    for reader in (follower, stranger):
        await world.follow(reader, retweeter)
        await world.walk(reader)
    tweet = await world.post(author)
    quote = await world.post(retweeter, quote_of=tweet.id)
    retweet = await world.retweet(retweeter, tweet.id)
    await world.deliver_all()
    for visibility, seen in ((Visibility.public, True), (Visibility.followers, False), (Visibility.public, True)):
        await world.edit(author, tweet.id, None, visibility)
        for reader in (follower, stranger):
            sees = seen or reader == follower
            page = await world.home(reader, limit=7)
            assert positions(page) == world.oracle.home(reader)
            assert (await shown(world, reader, tweet.id) is not None) is sees
            assert (await shown(world, reader, retweet) is not None) is sees
            assert ("unavailable" not in (await shown(world, reader, quote.id))["quote"]) is sees
        assert (retweet in positions(await world.home(stranger, limit=7))) is seen


async def test_a_retweet_of_what_was_for_followers_is_seen_when_its_source_may_be(
    world: World, pair: tuple[UserId, UserId]
) -> None:
    author, stranger = pair
    tweet = await world.post(author, visibility=Visibility.followers)
    retweet = await world.retweet(author, tweet.id)
    assert await shown(world, stranger, retweet) is None
    await world.edit(author, tweet.id, None, Visibility.public)
    assert (await shown(world, stranger, retweet))["id"] == str(tweet.id)


@pytest.mark.parametrize("ahead_us", [0, 60_000_000])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_deletion_wins_over_an_edit_at_the_same_time(
    world: World, pair: tuple[UserId, UserId], monkeypatch: pytest.MonkeyPatch, when: str, ahead_us: int
) -> None:
    """Deleted just before the edit is stored, or between that and its state being put, which others may have read by then; also
    when the deletion's server is a minute behind, so that its version is the lower one."""
    me, other = pair
    tweet = await world.post(me, "old")
    await shown(world, other, tweet.id)
    edit = world.store.edits.edit

    async def delete() -> None:
        await world.evict_content("state", tweet.id)  # so that what is stored by now is read, and cached
        await shown(world, other, tweet.id)
        await world.settle()
        if not ahead_us:
            await world.writer.delete(me, tweet.id)
            return
        # as a delete does that has read the row before the edit was there
        version = world.store.ids.now_us()
        await world.store.tweets.delete(TweetKey(me, tweet.id), version)
        await world.cache.contents.put_state(tweet.id, State(version, True, False))

    async def edit_ahead(row: Tweet, text: str | None, visibility: Visibility | None, at_us: int) -> Edited:
        return await edit(row, text, visibility, at_us + ahead_us)

    monkeypatch.setattr(world.store.edits, "edit", edit_ahead)
    around(monkeypatch, world.store.edits, "edit", **{when: delete})  # type: ignore[arg-type]
    await world.edits.edit(me, tweet.id, "new", None)
    for _ in range(2):
        assert await shown(world, other, tweet.id) is None
        await world.settle()
    await world.evict_content("state", tweet.id)
    assert await shown(world, other, tweet.id) is None
    with pytest.raises(BadRequest):
        await world.edits.edit(me, tweet.id, "newer", None)


async def test_a_fill_that_saw_the_edit_and_not_the_deletion_brings_nothing_back(
    world: World, pair: tuple[UserId, UserId]
) -> None:
    me, other = pair
    tweet = await world.post(me, "old")
    await world.writer.delete(me, tweet.id)
    late = replace(tweet, text="new", version=tweet.version + 10**9)
    now = world.cache.contents.moment()
    await world.cache.contents.put_states({tweet.id: State.of(late, Counts())}, now)
    await world.cache.contents.put_posts([post_of(late, "")], now)
    assert await shown(world, other, tweet.id) is None


async def test_an_edit_that_cannot_be_promised_is_stored_says_so_and_holds_when_repeated(
    world: World, pair: tuple[UserId, UserId], monkeypatch: pytest.MonkeyPatch
) -> None:
    me, other = pair
    tweet = await world.post(me, "old")
    await shown(world, other, tweet.id)
    await world.settle()
    with monkeypatch.context() as patch:
        patch.setattr(world.cache.contents, "put_state", fail)
        with pytest.raises(Stored):
            await world.edits.edit(me, tweet.id, "new", None)
    assert (await shown(world, other, tweet.id))["text"] == "old", "the stale state is what the answer warned of"
    await world.edit(me, tweet.id, "new")
    assert (await shown(world, other, tweet.id))["text"] == "new"
