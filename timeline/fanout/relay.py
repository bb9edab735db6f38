"""The relay: finds tweets whose event did not reach Kafka beside the answer, and tells of them.

The outbox is swept slot by slot (outbox_bucket_ms of tweets' times), by three sweeps that do not wait for each other:

- *live*: the newest slots, every relay_after_ms. What a producer left behind is told of within some four seconds.
- *late*: hints and batch logs deliver a row long after its time. A slot found empty is looked at again when it is twice as old, up to
  relay_resweep_seconds: a row that comes x late is found at most x later, and the cost grows with the logarithm of the window.
- *old*: from where the last relay left off up to that window, oldest first, each slot once. How far it has come is the saved progress.

When nothing is pending, live looks at 1.5 slots a second, late at about one, old at a tenth. A look at a slot is outbox_shards / 25
queries: with 64 shards that makes some 8 small queries a second.

An event may be told of twice (by the api and here, or by two relays): consumers take that without harm. It never runs ahead of its
tweet: the tweet is written once more, with its own timestamp, before its event is produced.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from itertools import count
from time import time
from typing import Any

from timeline import metrics
from timeline.domain.errors import Unavailable
from timeline.domain.limits import Limits
from timeline.domain.model import Tweet
from timeline.fanout.patience import Patience, Sleep
from timeline.fanout.ports import EventProducer, OutboxStore, TweetRewriter
from timeline.fanout.stopping import closing

_LIVE_SLOTS = 3  # the running one, the one before, and one whose youngest rows have just become old enough
_IDLE_SECONDS = 1.0
_SAVE_EVERY_SLOTS = 30
_log = logging.getLogger(__name__)


def _now_ms() -> int:
    return int(time() * 1000)


async def run_relay(
    outbox: OutboxStore,
    tweets: TweetRewriter,
    log: EventProducer,
    limits: Limits,
    stopping: asyncio.Event,
    *,
    clock_ms: Callable[[], int] = _now_ms,
    sleep: Sleep = asyncio.sleep,
) -> None:
    """Sweep until `stopping` is set. What is under way then is dropped: it stands in the outbox, and the next relay finds it.

    Kafka or the store away: waits for them, for ever. Raises an ExceptionGroup with whatever else was raised.
    """
    patience = Patience("relay", limits, sleep)
    sweeper = Sweeper(outbox, tweets, log, limits, patience, clock_ms)
    relay = Relay(outbox, sweeper, limits, patience, clock_ms, sleep)
    async with asyncio.TaskGroup() as group:
        sweeps = [group.create_task(work(), name=f"relay-{name}") for name, work in relay.sweeps.items()]
        await stopping.wait()
        for task in sweeps:
            task.cancel()
    await relay.save()


class Sweeper:
    """Looks at one slot, and relays what it finds."""

    def __init__(
        self,
        outbox: OutboxStore,
        tweets: TweetRewriter,
        log: EventProducer,
        limits: Limits,
        patience: Patience,
        clock_ms: Callable[[], int],
    ) -> None:
        self._outbox, self._tweets, self._log = outbox, tweets, log
        self._limits, self._patience, self._clock_ms = limits, patience, clock_ms
        self._under_way: set[int] = set()
        self._pending: dict[int, int] = {}  # slot → creation of its oldest row, while it is being relayed
        metrics.OUTBOX_AGE_SECONDS.set_function(self._age_seconds)

    async def sweep(self, slot: int) -> bool:
        """Relay every row of the slot that is older than relay_after_ms; whether there were any. Waits for what is away."""
        self._under_way.add(slot)
        try:
            return await self._patience.until_available(partial(self._sweep, slot))
        finally:
            self._under_way.discard(slot)

    def is_under_way(self, slot: int) -> bool:
        return slot in self._under_way

    async def _sweep(self, slot: int) -> bool:
        found = False
        async with closing(self._outbox.slot(slot)) as pages:
            async for page in pages:
                newest_ms = self._clock_ms() - self._limits.relay_after_ms
                if due := [tweet for tweet in page if tweet.created_ms <= newest_ms]:
                    found = True
                    await self._relay_all(slot, due)
        self._pending.pop(slot, None)
        return found

    async def _relay_all(self, slot: int, tweets: Sequence[Tweet]) -> None:
        oldest_ms = min(tweet.created_ms for tweet in tweets)
        self._pending[slot] = min(oldest_ms, self._pending.get(slot, oldest_ms))
        at_once = self._limits.relay_rows_in_flight
        for first in range(0, len(tweets), at_once):
            async with asyncio.TaskGroup() as group:
                for tweet in tweets[first : first + at_once]:
                    group.create_task(self._patience.until_available(partial(self._relay, tweet)))

    async def _relay(self, tweet: Tweet) -> None:
        await self._tweets.rewrite(tweet)
        await self._log.produce_created(tweet)
        metrics.RELAYED.inc()
        await self._outbox.clear(tweet)

    def _age_seconds(self) -> float:
        oldest_ms = min(list(self._pending.values()), default=None)
        return 0.0 if oldest_ms is None else max(0, self._clock_ms() - oldest_ms) / 1000


class Relay:
    """Decides which slot is looked at when."""

    def __init__(
        self,
        outbox: OutboxStore,
        sweeper: Sweeper,
        limits: Limits,
        patience: Patience,
        clock_ms: Callable[[], int],
        sleep: Sleep,
    ) -> None:
        self._outbox, self._sweeper, self._limits = outbox, sweeper, limits
        self._patience, self._clock_ms, self._sleep = patience, clock_ms, sleep
        self._slot_ms = limits.outbox_bucket_ms
        self._pause_seconds = 1 / limits.relay_slots_per_second
        newest = clock_ms() // self._slot_ms
        self._live_from = newest - _LIVE_SLOTS + 1
        # slot → when to look again; at most the window's number of slots
        self._late = dict.fromkeys(range(self._window_from(), self._live_from), 0)
        self._swept_below: int | None = None  # a slot: all before it are swept; None until the progress is loaded
        self._saved_below: int | None = None

    @property
    def sweeps(self) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        """Endless each."""
        return {"live": self._sweep_live, "late": self._sweep_late, "old": self._sweep_old}

    async def save(self) -> None:
        """Save how far back all is swept; if that fails the next relay does some of it again."""
        if self._swept_below == self._saved_below or self._swept_below is None:
            return
        try:
            await self._outbox.save_relay_progress(self._swept_below * self._slot_ms)
            self._saved_below = self._swept_below
        except Unavailable as error:
            _log.warning("relay progress not saved: %s", error)

    def _window_from(self) -> int:
        """The oldest slot of those looked at again and again."""
        return (self._clock_ms() - self._limits.relay_resweep_seconds * 1000) // self._slot_ms

    async def _sweep_live(self) -> None:
        while True:
            newest = self._clock_ms() // self._slot_ms
            live_from = newest - _LIVE_SLOTS + 1
            # after an outage these are many, and were not looked at: so they are due at once
            self._late.update(dict.fromkeys(range(self._live_from, live_from), 0))
            self._live_from = live_from
            for slot in range(newest, live_from - 1, -1):
                await self._sweeper.sweep(slot)
            await self._sleep(self._limits.relay_after_ms / 1000)

    async def _sweep_late(self) -> None:
        while True:
            slot = self._next_late()
            if slot is None:
                await self._sleep(_IDLE_SECONDS)
                continue
            found = await self._sweeper.sweep(slot)
            now_ms = self._clock_ms()
            age_ms = now_ms - (slot + 1) * self._slot_ms
            # where one came late, more may follow soon
            self._late[slot] = now_ms + (self._slot_ms if found else max(age_ms, self._slot_ms))
            await self._sleep(self._pause_seconds)

    def _next_late(self) -> int | None:
        """The newest slot that is due: followers miss what is new the most."""
        window_from, now_ms = self._window_from(), self._clock_ms()
        for slot in [slot for slot in self._late if slot < window_from]:
            del self._late[slot]  # the old sweep's
        return max((slot for slot, due_ms in self._late.items() if due_ms <= now_ms), default=None)

    async def _sweep_old(self) -> None:
        progress_ms = await self._patience.until_available(self._outbox.relay_progress)
        # what is older than a row's time to live has expired
        expired_ms = self._clock_ms() - self._limits.outbox_seconds * 1000
        self._saved_below = progress_ms // self._slot_ms
        self._swept_below = max(progress_ms, expired_ms) // self._slot_ms
        for slot in count(self._swept_below):
            while slot >= self._window_from():
                await self.save()
                await self._sleep(self._slot_ms / 1000)
            while self._sweeper.is_under_way(slot):  # since an outage: both would tell of the same tweets
                await self._sleep(_IDLE_SECONDS)
            await self._sweeper.sweep(slot)
            self._swept_below = slot + 1
            if self._swept_below % _SAVE_EVERY_SLOTS == 0:
                await self.save()
            await self._sleep(self._pause_seconds)
