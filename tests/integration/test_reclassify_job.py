"""`timeline job reclassify` on a real store: who comes to be pulled and to be pushed, and that nothing is missing to any reader when
it ends an interval that workers still believe."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict, replace

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.integration import test_classes
from tests.integration.scene import Stage
from tests.integration.test_classes import SHRUNK, THRESHOLD, come_to_hold, have_lists, in_list, reading, tweet
from timeline.domain.ids import UserId
from timeline.domain.limits import Limits
from timeline.local import Control
from timeline.ops.reclassify import Reclassification
from timeline.settings import Settings
from timeline.store import Store, open_store
from timeline.store.intervals import SHARDS
from timeline.store.migrations import apply
from timeline.store.session import Cql, Kind
from timeline.wiring import job

LIMITS = Limits(follower_shard_size=10, cassandra_timeout_ms=10_000, reclassify_authors_per_second=1_000)
# of 10 a shard: 1, 2, 3, 4 and 8 shards
SMALL, FEW, SOME, MANY, STAR = 1, 2, 3, 4, 5
FOLLOWERS = {SMALL: 9, FEW: 12, SOME: 25, MANY: 40, STAR: 80}
_EMPTY = Cql("t", "TRUNCATE pull_intervals", Kind.write)
_ENDING = Cql("t", "INSERT INTO pull_intervals (shard, user_id, since, until) VALUES (?, ?, ?, 0)", Kind.write)


@pytest.fixture(scope="module")
def settings(engines: Control) -> Settings:
    """A keyspace with five authors."""
    env = engines.env
    settings = Settings(
        cassandra_hosts=tuple(env["TIMELINE_CASSANDRA_HOSTS"].split(",")),
        cassandra_datacenter=env["TIMELINE_CASSANDRA_DATACENTER"],
        cassandra_replication=tuple(env["TIMELINE_CASSANDRA_REPLICATION"].split(",")),
        cassandra_keyspace=f"j{uuid.uuid4().hex[:12]}",
        limits=LIMITS,
    )
    apply(settings)

    async def load(store: Store) -> None:
        follower = np.concatenate([np.arange(100, 100 + number, dtype=np.int64) for number in FOLLOWERS.values()])
        await store.bulk.load_follows(follower, np.repeat(list(FOLLOWERS), list(FOLLOWERS.values())), 1)

    with_store(settings, load)
    return settings


@pytest.fixture(autouse=True)
def _nobody_is_pulled(request: pytest.FixtureRequest) -> None:
    if "settings" in request.fixturenames:

        async def empty(store: Store) -> None:
            await store.session.prepare([_EMPTY, _ENDING])
            await store.session.run(_EMPTY, ())

        with_store(request.getfixturevalue("settings"), empty)


def with_store(settings: Settings, do: Callable[[Store], Awaitable[object]]) -> object:
    async def opened() -> object:
        async with open_store(settings) as store:
            return await do(store)

    return asyncio.run(opened())


def env_of(settings: Settings, threshold: int) -> Mapping[str, str]:
    return {
        "TIMELINE_CASSANDRA_HOSTS": ",".join(settings.cassandra_hosts),
        "TIMELINE_CASSANDRA_DATACENTER": settings.cassandra_datacenter,
        "TIMELINE_CASSANDRA_KEYSPACE": settings.cassandra_keyspace,
        "TIMELINE_LIMITS": json.dumps(asdict(settings.limits)),
        "TIMELINE_PUSH_FOLLOWERS_MAX": str(threshold),
    }


def run(settings: Settings, threshold: int, *arguments: str) -> Result:
    """The command, with this threshold."""
    done = CliRunner().invoke(job, ["reclassify", *arguments], env=env_of(settings, threshold))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def changes(done: Result) -> list[str]:
    assert done.exit_code == 0, done.output
    return sorted(line for line in done.stdout.splitlines() if line.startswith("author "))


def pulled(settings: Settings) -> dict[int, bool]:
    """Of whom an interval stands; True where every one is being ended."""

    async def read(store: Store) -> dict[int, bool]:
        authors = [UserId(author) for author in store.notices.read()[0].pulled.tolist()]
        return {author: store.notices.is_being_ended(author) for author in authors if store.notices.stands(author)}

    found = with_store(settings, read)
    assert isinstance(found, dict)
    return found


def begin(settings: Settings, *authors: int) -> None:
    async def write(store: Store) -> None:
        for author in authors:
            await store.notices.begin_pull(UserId(author))

    with_store(settings, write)


def die_ending(settings: Settings, author: int) -> None:
    """As a worker does that dies after the first step."""

    async def write(store: Store) -> None:
        await store.session.prepare([_ENDING])
        await store.session.run(_ENDING, (author % SHARDS, author, 1_790_000_000_000))

    with_store(settings, write)


def test_a_lower_threshold_pulls_whoever_is_above_it_and_a_second_run_changes_nothing(settings: Settings) -> None:
    lines = ["author 4: 31 followers or more: {} from now on", "author 5: 31 followers or more: {} from now on"]
    dry = run(settings, 30, "--dry-run")
    assert changes(dry) == [line.format("would be pulled") for line in lines]
    assert "2 would be pulled" in dry.stdout
    assert pulled(settings) == {}
    done = run(settings, 30)
    assert changes(done) == [line.format("pulled") for line in lines]
    assert done.stdout.splitlines()[-1] == (
        "threshold 30: 3 authors counted, 2 pulled from now on, 0 pushed; 2 are pulled in all"
    )
    assert pulled(settings) == {MANY: False, STAR: False}
    assert changes(run(settings, 30)) == []
    assert pulled(settings) == {MANY: False, STAR: False}


def test_a_higher_threshold_pushes_those_below_four_fifths_of_it_and_leaves_those_between(settings: Settings) -> None:
    begin(settings, SMALL, SOME, MANY, STAR)
    done = run(settings, 50)
    assert changes(done) == [
        "author 1: 9 followers: pushed from now on",
        "author 3: 25 followers: pushed from now on",
    ]
    assert pulled(settings) == {MANY: False, STAR: False}  # 40 is four fifths, and not below
    assert changes(run(settings, 50)) == []


def test_an_end_that_somebody_began_is_written_and_begun_anew_only_above_the_threshold(settings: Settings) -> None:
    for author in (SMALL, MANY, STAR):
        die_ending(settings, author)
    assert pulled(settings) == {SMALL: True, MANY: True, STAR: True}
    assert changes(run(settings, 45)) == [
        "author 1: 9 followers: pushed from now on",
        "author 4: 40 followers: pushed from now on",
        "author 5: 46 followers or more: pulled from now on",
        "author 5: 46 followers or more: pushed from now on",
    ]
    assert pulled(settings) == {STAR: False}
    assert changes(run(settings, 45)) == []


def test_who_has_one_shard_is_left_to_the_next_tweet_and_it_says_so(settings: Settings) -> None:
    done = run(settings, 8)
    assert [line.split()[1] for line in changes(done)] == ["2:", "3:", "4:", "5:"]
    assert "authors of one follower shard (about 10 followers)" in done.stdout
    assert "one follower shard" not in run(settings, 30).stdout


def test_what_nobody_would_read_is_not_written_and_it_says_so(settings: Settings) -> None:
    begin(settings, MANY, SOME)
    few = settings.model_copy(update={"limits": replace(LIMITS, notices_max=1)})
    done = run(few, 20)
    assert done.exit_code == 1
    assert "notices_max (1)" in done.stderr
    assert pulled(settings) == {SOME: False, MANY: False}


def test_without_cassandra_the_command_says_what_to_do(settings: Settings) -> None:
    away = settings.model_copy(
        update={"cassandra_hosts": ("127.0.0.1:1",), "limits": replace(LIMITS, cassandra_connect_ms=500)}
    )
    done = run(away, 30)
    assert done.exit_code == 1
    assert "no Cassandra answers at 127.0.0.1:1" in done.stderr
    assert "what to do: " in done.stderr


def test_every_author_of_many_shards_is_found_once_wherever_its_token_lies(settings: Settings) -> None:
    insert = Cql("t", "INSERT INTO follower_shards (user_id, shards) VALUES (?, ?)", Kind.write)
    others = {1_000_000 + number * 7_919: 50 + number % 3 for number in range(6_000)}

    async def find(store: Store) -> None:
        await store.session.prepare([insert])
        rows = list(others.items())
        for at in range(0, len(rows), 500):
            await asyncio.gather(*(store.session.run(insert, row) for row in rows[at : at + 500]))
        for least in (50, 52):
            found = Counter([author async for some in store.followers.large(least) for author in some.tolist()])
            assert found == Counter(author for author, shards in others.items() if shards >= least)

    with_store(settings, find)


# --- beside workers

# what the worker believes must last while a busy machine ends an interval, builds a list and posts three tweets
BELIEVING = replace(SHRUNK, notices_lease_ms=15_000)


@pytest.fixture(scope="module")
async def stage(engines: Control) -> AsyncIterator[Stage]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(test_classes, "SHRUNK", BELIEVING)
        async with test_classes.opened(engines.env) as made:
            yield made


async def test_an_end_that_workers_do_not_know_yet_takes_nothing_from_any_reader(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is a process of its own; the worker believes what it read, counts nobody, and leaves out deliveries after the end."""
    scene = await stage.scene()
    author, worker = UserId(scene.author), stage.three
    believed = worker.store.notices

    async def reclassify() -> list[str]:
        told: list[str] = []
        two = stage.two.store
        job = Reclassification(two.notices, two.followers, BELIEVING, THRESHOLD, dry_run=False, tell=told.append)
        await job.run()
        return [line for line in told if line.startswith(f"author {author}:")]

    async def skipped() -> bool:
        return author in believed.may_skip([author])

    await have_lists(scene)
    monkeypatch.setattr(worker.fanout._reclassify, "_pause_seconds", 1e9)
    await scene.follow(stage.two, scene.stranger, scene.author)
    async with reading(scene):
        # its table of shards has nobody of one shard: it is told of this one
        monkeypatch.setattr(type(stage.two.store.followers), "large", _all_of(author))
        assert await reclassify() == [f"author {author}: 3 followers or more: pulled from now on"]
        assert await reclassify() == []
        await come_to_hold(skipped, "the worker skips the author")
        worker.fanout._reclassify._note(author, worker.fanout._reclassify._clock())
        only_pulled = await tweet(scene, scene.author)
        assert only_pulled.id not in await in_list(stage.one, scene.me)
        for follower in (scene.second, scene.stranger):
            await scene.unfollow(stage.two, follower, scene.author)
        refresh = believed.refresh

        async def late() -> None:
            """The worker's readings stay away for a while: what it believes is as old as may be."""

        monkeypatch.setattr(believed, "refresh", late)
        assert await reclassify() == [f"author {author}: 1 follower: pushed from now on"]
        await evict(stage, scene.me)  # the next read builds a list that is younger than the end
        await have_lists(scene)
        left_out = [await tweet(scene, scene.author) for _ in range(3)]
        assert not {each.id for each in left_out} & await in_list(stage.one, scene.me), "they were pushed"
        monkeypatch.setattr(believed, "refresh", refresh)
        await come_to_hold(lambda: _not(skipped()), "the worker knows the end")
        pushed = await tweet(scene, scene.author)
        assert pushed.id in await in_list(stage.one, scene.me)
    await scene.check()


def _all_of(author: int) -> Callable[..., AsyncIterator[np.ndarray]]:
    async def large(self: object, shards_min: int) -> AsyncIterator[np.ndarray]:
        yield np.array([author], np.int64)

    return large


async def evict(stage: Stage, reader: int) -> None:
    key = f"{stage.one.settings.redis_key_prefix}timeline:{{{reader}}}".encode()
    await stage.one.cache.plane.execute(key, b"DEL", key)


async def _not(asked: Awaitable[bool]) -> bool:
    return not await asked
