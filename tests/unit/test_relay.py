"""The relay: what did not reach Kafka beside the answer is found and told of, whatever is away meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable

import pytest

from tests.unit.fake_clock import FakeClock, settle
from timeline import metrics
from timeline.domain.errors import Unavailable
from timeline.domain.ids import TweetId, UserId, first_id_at, time_ms
from timeline.domain.limits import Limits
from timeline.domain.model import Tweet
from timeline.fanout.relay import run_relay

NOW_MS = 1_780_000_000_000
WINDOW_SECONDS = 120
LIMITS = Limits(
    relay_resweep_seconds=WINDOW_SECONDS, outbox_seconds=3600, relay_rows_in_flight=4, retry_pause_max_ms=1000
)
SLOT_MS = LIMITS.outbox_bucket_ms


class World:
    """Outbox, store and Kafka as the relay sees them, and time."""

    def __init__(self) -> None:
        self.clock = FakeClock(NOW_MS)
        self.rows: dict[int, dict[int, Tweet]] = defaultdict(dict)
        self.done: list[tuple[str, int]] = []
        self.looks: Counter[int] = Counter()
        self.progress_ms = NOW_MS - WINDOW_SECONDS * 1000
        self.saved: list[int] = []
        self.kafka_error: Exception | None = None
        self.kafka_seconds: Callable[[Tweet], float] = lambda tweet: 0.0
        self.producing = self.producing_max = 0

    def add(self, age_seconds: float, number: int = 0) -> Tweet:
        """A row of a tweet that is now this old."""
        tweet_id = TweetId(first_id_at(int(self.clock.now_ms() - age_seconds * 1000)) + number)
        tweet = Tweet(id=tweet_id, author_id=UserId(1), text="", version=1, conversation_id=tweet_id)
        self.rows[time_ms(tweet_id) // SLOT_MS][tweet_id] = tweet
        return tweet

    async def slot(self, ten_seconds: int) -> AsyncIterator[list[Tweet]]:
        self.looks[ten_seconds] += 1
        rows = list(self.rows[ten_seconds].values())
        for first in range(0, len(rows), 3):
            yield rows[first : first + 3]

    async def clear(self, tweet: Tweet) -> None:
        self.done.append(("clear", tweet.id))
        self.rows[time_ms(tweet.id) // SLOT_MS].pop(tweet.id, None)

    async def relay_progress(self) -> int:
        return self.progress_ms

    async def save_relay_progress(self, swept_ms: int) -> None:
        self.saved.append(swept_ms)

    async def rewrite(self, tweet: Tweet) -> None:
        self.done.append(("rewrite", tweet.id))

    async def produce_created(self, tweet: Tweet) -> None:
        self.producing += 1
        self.producing_max = max(self.producing, self.producing_max)
        try:
            if seconds := self.kafka_seconds(tweet):
                await self.clock.sleep(seconds)
            if self.kafka_error is not None:
                raise self.kafka_error
        finally:
            self.producing -= 1
        self.done.append(("produce", tweet.id))

    @property
    def produced(self) -> list[int]:
        return [tweet_id for what, tweet_id in self.done if what == "produce"]

    @property
    def pending(self) -> int:
        return sum(map(len, self.rows.values()))


class Running:
    def __init__(self, world: World, limits: Limits = LIMITS) -> None:
        self._stopping = asyncio.Event()
        self._task = asyncio.create_task(
            run_relay(world, world, world, limits, self._stopping, clock_ms=world.clock.now_ms, sleep=world.clock.sleep)
        )

    async def __aenter__(self) -> None:
        await settle()

    async def __aexit__(self, *raised: object) -> None:
        self._stopping.set()
        await asyncio.wait_for(self._task, 10)


async def test_a_row_is_rewritten_produced_and_cleared_in_this_order() -> None:
    world = World()
    tweet = world.add(age_seconds=3)
    async with Running(world):
        await world.clock.advance(1)
    assert world.done == [(what, tweet.id) for what in ("rewrite", "produce", "clear")]


async def test_a_row_that_its_producer_may_still_clear_is_left_alone_until_it_is_old_enough() -> None:
    world = World()
    tweet = world.add(age_seconds=0)
    async with Running(world):
        await world.clock.advance(1.9)
        assert world.done == []
        await world.clock.advance(2.2)
        assert world.produced == [tweet.id]


async def test_a_row_that_comes_late_is_found_by_the_time_it_is_twice_as_old() -> None:
    world = World()
    async with Running(world):
        await world.clock.advance(5)
        for age in (25, 40, 75):
            before = world.add(age_seconds=age)
            await world.clock.advance(age + 15)
            assert before.id in world.produced, f"{age} s late"


async def test_it_goes_back_to_where_the_last_relay_left_off() -> None:
    world = World()
    world.progress_ms = NOW_MS - 600_000
    within = world.add(age_seconds=590)
    before = world.add(age_seconds=700)
    async with Running(world):
        await world.clock.advance(30)
    assert world.produced == [within.id]
    assert world.rows[time_ms(before.id) // SLOT_MS], "the progress says that this stretch is swept"
    assert world.saved[-1] <= world.clock.now_ms() - WINDOW_SECONDS * 1000
    assert world.saved[-1] > NOW_MS - WINDOW_SECONDS * 1000 - SLOT_MS


async def test_without_a_progress_it_goes_back_as_far_as_rows_live() -> None:
    world = World()
    world.progress_ms = 0
    tweet = world.add(age_seconds=LIMITS.outbox_seconds - 20)
    async with Running(world):
        await world.clock.advance(5)
        assert world.produced == [tweet.id]
        await world.clock.advance(60)
    oldest = min(slot for slot, looks in world.looks.items() if looks)
    assert oldest == (NOW_MS - LIMITS.outbox_seconds * 1000) // SLOT_MS


async def test_the_progress_never_passes_a_row_that_is_still_to_be_told_of() -> None:
    world = World()
    world.progress_ms = NOW_MS - 600_000
    tweet = world.add(age_seconds=400)
    world.kafka_error = Unavailable("kafka is away")
    async with Running(world):
        await world.clock.advance(120)
    assert world.saved
    assert max(world.saved) <= time_ms(tweet.id)


async def test_a_large_backlog_does_not_delay_what_is_new() -> None:
    world = World()
    world.progress_ms = NOW_MS - 3_000_000
    backlog = [world.add(age, number) for age in (60, 1000) for number in range(400)]
    world.kafka_seconds = lambda tweet: 1.0 if tweet.created_ms < NOW_MS - 30_000 else 0.0
    async with Running(world):
        for _ in range(5):
            tweet = world.add(age_seconds=0)
            await world.clock.advance(4.2)
            assert tweet.id in world.produced
        assert not set(world.produced) >= {each.id for each in backlog}, "the backlog was large enough to delay"
        await world.clock.advance(400)
    assert set(world.produced) >= {each.id for each in backlog}
    assert world.pending == 0
    assert world.producing_max <= 3 * LIMITS.relay_rows_in_flight


async def test_kafka_may_be_away_for_long_and_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.kafka_error = Unavailable("kafka is away")
    tweets = []
    with caplog.at_level(logging.INFO, "timeline.fanout"):
        async with Running(world):
            for number in range(20):
                tweets.append(world.add(age_seconds=0, number=number))
                await world.clock.advance(20)
            assert world.produced == []
            assert metrics.OUTBOX_AGE_SECONDS.collect()[0].samples[0].value > 300
            assert metrics.PAUSED.labels("relay")._value.get() == 1
            world.kafka_error = None
            await world.clock.advance(30)
            assert metrics.OUTBOX_AGE_SECONDS.collect()[0].samples[0].value == 0
    assert sorted(world.produced) == [tweet.id for tweet in tweets]
    assert [record.message for record in caplog.records] == [
        "relay waits for an engine that is away: kafka is away",
        "relay goes on",
    ]


async def test_looking_at_an_empty_outbox_costs_a_few_slots_a_second() -> None:
    world = World()
    async with Running(world):
        await world.clock.advance(60)  # the first look at the whole window
        before = world.looks.total()
        await world.clock.advance(100)
    assert (world.looks.total() - before) / 100 < 3


async def test_a_bug_stops_it() -> None:
    world = World()
    world.add(age_seconds=3)
    world.kafka_error = ZeroDivisionError("a bug")
    task = asyncio.create_task(
        run_relay(world, world, world, LIMITS, asyncio.Event(), clock_ms=world.clock.now_ms, sleep=world.clock.sleep)
    )
    await world.clock.advance(1)
    with pytest.raises(ExceptionGroup) as raised:
        await task
    assert raised.group_contains(ZeroDivisionError)
