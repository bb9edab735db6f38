"""The doctor names every kind of damage that is done to a cached timeline, on real engines, and finds nothing in a sound one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import free_base_port
from tests.integration.holes import Home, environment_of, move_in, old_entry, open_homes
from tests.integration.world import World
from timeline.assembly.compare import Cause, Distrust, Why
from timeline.domain.entries import RETWEET_BIT, Entry
from timeline.domain.ids import UserId
from timeline.domain.model import TweetKey
from timeline.domain.records import ListKind, State
from timeline.fanout.ports import Away
from timeline.local import Control
from timeline.store.session import Cql, Kind
from timeline.writing.drafts import Draft

_FORGET_BUCKETS = Cql("test_forget_buckets", "DELETE FROM tweet_buckets WHERE user_id = ?", Kind.write)


@pytest.fixture(scope="module")
async def engine_world(engines: Control) -> AsyncIterator[World]:
    async with open_homes(engines.env) as world:
        yield world


@pytest.fixture
async def home(engine_world: World) -> Home:
    return await move_in(engine_world)


async def test_a_sound_timeline_has_no_differences(home: Home) -> None:
    world = home.world
    mine = await home.post(home.me, "mine")
    await home.post(home.ann, "a reply to a stranger", reply_to=mine.id)
    gone = await home.post(home.ann, "soon deleted")
    await world.retweet(home.bob, mine.id)
    await world.deliver(world.log.events[-1])
    await world.delete(home.ann, gone.id)
    await world.mute(home.me, home.bob)
    await world.follow(home.me, home.stranger)
    await home.post(home.stranger, "whom I follow now")
    await home.read()
    found = await home.found()
    assert found.differences == ()
    assert found.distrust is None
    assert {pull.author_id: pull.why for pull in found.look.pulled} == {
        home.star: Why.stands,
        home.stranger: Why.follow,
    }
    assert found.compared >= 9
    assert found.look.context is not None


async def test_lists_that_were_trimmed_and_cut_are_sound(home: Home) -> None:
    for number in range(25):
        await home.post((home.ann, home.bob, home.star)[number % 3], f"number {number}")
    found = await home.found()
    assert found.differences == ()
    assert found.look.home is not None
    assert found.look.home.header.floor > 0, "it was trimmed"
    assert found.look.profiles[UserId(home.star)].header.floor > 0, "so was the pulled author's"


async def test_nothing_is_found_while_deliveries_are_under_way(home: Home) -> None:
    stop = asyncio.Event()

    async def deliver_slowly() -> None:
        while not stop.is_set():
            posted = await home.world.writer.post(UserId(home.ann), Draft(text="under way"))
            await asyncio.sleep(0.1)  # under way for so long
            await home.deliver(posted.tweet)

    posting = asyncio.create_task(deliver_slowly())
    try:
        for _ in range(5):
            assert await home.causes() == []
    finally:
        stop.set()
        await posting


async def test_a_delivery_that_was_lost_is_a_push(home: Home) -> None:
    lost = await home.post(home.ann, "lost")
    await home.remove("timeline", home.me, lost.entry)
    assert await home.causes() == [("missing", "push", lost.id)]


async def test_an_entry_from_before_the_list_that_is_gone_is_a_rebuild(home: Home) -> None:
    (before, _) = await _tweets_of(home, home.bob)
    await home.remove("timeline", home.me, before)
    assert await home.causes() == [("missing", "rebuild", before.tweet_id)]


async def test_a_pulled_authors_list_that_was_cut_is_a_profile(home: Home) -> None:
    lost = await home.post(home.star, "lost")
    await home.remove("profile", home.star, lost.entry)
    assert await home.causes() == [("missing", "profile", lost.id)]
    await home.world.evict(home.star, "profile")
    assert await home.causes() == [], "without the list, the store is read"


async def test_an_author_who_was_pulled_before_the_list_was_built_is_an_interval(home: Home) -> None:
    limits = home.world.settings.limits
    await home.world.store.notices.begin_pull(UserId(home.ann))
    missed = await home.world.writer.post(UserId(home.ann), Draft(text="to nobody's list"))
    await home.world.cache.lists.push_profiles([(missed.tweet.entry, False)])
    assert await home.causes() == [], "while the interval stands, she is pulled"
    await home.world.store.notices.end_pull(UserId(home.ann))
    assert await home.causes() == [], "after its end too, since the list is from before"
    at_ms = (await home.found()).look.at_ms
    await home.change_header(built_ms=at_ms + limits.notices_margin_ms + 1)
    assert ("missing", "interval", missed.tweet.id) in await home.causes()


async def test_a_context_that_is_not_what_is_stored_is_told_for_every_user_in_it(home: Home) -> None:
    stored = await home.world.store.graph.reader(UserId(home.me))
    without_ann = stored.followees != home.ann
    await home.cache_context(
        replace(
            stored,
            followees=stored.followees[without_ann],
            since_ms=stored.since_ms[without_ann],
            muted=np.array([home.bob], np.int64),
        )
    )
    found = await home.found()
    assert {(each.what.value, each.column, int(each.user_id)) for each in found.differences} == {
        ("lacks", "followees", home.ann),
        ("keeps", "muted", home.bob),
    }
    assert {each.cause for each in found.differences} == {Cause.context}
    assert (found.hides, found.shows) == (4, 0)


async def test_an_entry_without_a_tweet_is_a_phantom(home: Home) -> None:
    phantom = old_entry(home.ann, 0.5)
    await home.append(phantom)
    assert await home.causes() == [("extra", "phantom", phantom.tweet_id)]


async def test_an_entry_of_somebody_who_is_not_followed_is_left_out_by_reads(home: Home) -> None:
    await home.append(old_entry(home.stranger, 0.5))
    found = await home.found()
    assert (found.differences, found.left_out) == ((), 1)


async def test_an_entry_that_says_something_else_than_its_row_is_altered(home: Home) -> None:
    tweet = await home.post(home.bob)
    await home.remove("timeline", home.me, tweet.entry)
    await home.append(replace(tweet.entry, reference=99 | RETWEET_BIT))
    assert await home.causes() == [("altered", "altered", tweet.id)]


async def test_a_state_that_revives_or_buries_a_tweet_is_a_deletion(home: Home) -> None:
    deleted, alive = await home.post(home.ann), await home.post(home.bob)
    await home.world.delete(home.ann, deleted.id)
    assert await home.causes() == []
    await home.cache_state(deleted.id, State(1, False, False))
    await home.cache_state(alive.id, State(1, True, False))
    assert sorted(await home.causes()) == [("hidden", "deletion", alive.id), ("shown", "deletion", deleted.id)]


async def test_a_late_entry_that_was_not_marked_is_late(home: Home) -> None:
    # one with a row: it is as old as it says since its delivery was
    late = (await _tweets_of(home, home.ann))[0]
    await home.remove("timeline", home.me, late)
    await asyncio.sleep((home.world.settings.limits.late_after_ms + 100) / 1000)  # W has to pass
    await home.post(home.bob, "meanwhile")
    await home.append(late)
    assert await home.causes() == [("unmarked", "late", late.tweet_id)]


async def test_a_row_of_history_that_the_store_has_lost_is_unlisted(home: Home) -> None:
    tweet = await home.post(home.ann)
    await home.world.store.session.prepare([_FORGET_BUCKETS])
    await home.world.store.session.run(_FORGET_BUCKETS, (home.ann,))
    causes = await home.causes()
    assert ("extra", "unlisted", tweet.id) in causes
    assert {cause for _, cause, _ in causes} == {"unlisted"}


async def test_a_list_from_another_primary_is_not_believed_and_its_holes_are_none(home: Home) -> None:
    lost = await home.post(home.ann)
    await home.remove("timeline", home.me, lost.entry)
    await home.change_header(replication=b"another primary's id")
    found = await home.found()
    assert found.distrust is Distrust.primary
    assert [each.cause for each in found.differences] == [Cause.untrusted]
    assert found.holes == ()
    await home.read()
    after = await home.found()
    assert (after.distrust, after.differences) == (None, ()), "the next read has replaced it, as was said"


async def test_a_list_from_before_a_recorded_hole_is_not_believed(home: Home) -> None:
    slot = (await home.found()).look.home.slot  # type: ignore[union-attr]
    await home.world.store.notices.record_hole(Away("one of three", 6_000, ((slot, slot),)))
    found = await home.found()
    assert (found.distrust, found.differences) == (Distrust.hole, ())
    await home.world.store.notices.end_hole("one of three")


async def test_looking_renews_no_expiry(home: Home) -> None:
    keys = [("timeline", home.me), ("profile", home.star), ("reader", home.me)]
    for kind, user in keys:
        await home.redis(b"PEXPIRE", home.key(kind, user), 20_000)
    await home.found()
    for kind, user in keys:
        assert 0 < await home.expiry_ms(kind, user) <= 20_000
    await home.read()
    assert await home.expiry_ms("timeline", home.me) > 20_000, "which a read does"


async def test_nothing_is_built_or_filled_by_looking(home: Home) -> None:
    for kind, user in (("timeline", home.me), ("profile", home.star), ("reader", home.me)):
        await home.world.evict(user, kind)
    found = await home.found()
    assert (found.differences, found.look.home, found.look.context) == ((), None, None)
    for kind, user in (("timeline", home.me), ("profile", home.star), ("reader", home.me)):
        assert await home.redis(b"EXISTS", home.key(kind, user)) == 0


async def test_a_list_of_another_release_is_left_to_reads(home: Home) -> None:
    key = home.key("timeline", home.me)
    await home.redis(b"LSET", key, 0, b"a header of another release")
    found = await home.found()
    assert (found.differences, found.look.home) == ((), None)
    assert await home.redis(b"LINDEX", key, 0) == b"a header of another release"


async def test_a_list_that_is_being_built_is_not_judged(home: Home) -> None:
    await home.world.evict(home.me)
    building = await home.world.cache.lists.begin_build(ListKind.home, UserId(home.me))
    assert building is not None
    found = await home.found()
    assert found.differences == ()
    assert found.look.home is not None
    assert found.look.home.header.building
    await home.world.cache.lists.abandon(ListKind.home, UserId(home.me), building)


async def _run(home: Home, engines: Control, *arguments: str, **settings: str) -> tuple[int, str, str]:
    environment = environment_of(home.world, engines.env) | settings
    command = [sys.executable, "-m", "timeline", "doctor", "timeline", *arguments]
    done = await asyncio.to_thread(
        subprocess.run, command, env={"PATH": ""} | environment, capture_output=True, text=True, timeout=90, check=False
    )
    return done.returncode, done.stdout, done.stderr


async def test_the_command_explains_and_its_exit_code_tells(home: Home, engines: Control) -> None:
    code, out, error = await _run(home, engines, str(home.me))
    assert (code, error) == (0, ""), error
    assert out.splitlines()[-1] == "No differences."
    lost = await home.post(home.ann)
    await home.remove("timeline", home.me, lost.entry)
    code, out, error = await _run(home, engines, str(home.me))
    assert (code, error) == (1, ""), error
    assert (
        f"[push] 1 tweet by user {home.ann} is missing from the cached timeline, while the store has it: {lost.id}"
        in out
    )
    assert f"{home.star}: too many followers to push to" in out
    assert f"DEL '{home.key('timeline', home.me).decode()}'" in out
    code, _, error = await _run(home, engines, "ann")
    assert code == 2
    assert "Traceback" not in error


async def test_an_engine_that_is_away_is_no_difference(home: Home, engines: Control) -> None:
    nowhere = f"127.0.0.1:{free_base_port()}"
    limits = environment_of(home.world, {})["TIMELINE_LIMITS"].replace("{", '{"redis_open_ms":500,', 1)
    code, out, error = await _run(home, engines, str(home.me), TIMELINE_REDIS_NODES=nowhere, TIMELINE_LIMITS=limits)
    assert (code, out) == (3, "")
    assert nowhere in error
    assert "Nothing is known" in error
    assert "Traceback" not in error


async def _tweets_of(home: Home, author: int) -> list[Entry]:
    """Entries, oldest first."""
    stretch = await home.world.store.history.stretch(np.array([author], np.int64), 2**63 - 1, 50)
    keys = [TweetKey(UserId(author), tweet_id) for tweet_id in stretch.entries["tweet"][::-1].tolist()]
    rows = await home.world.store.tweets.get_many(keys)
    return [rows[key.tweet_id].entry for key in keys]
