"""Whether the small wait for the large: the delivery lag of authors with fewer than 100 followers, in a quiet system and while one
tweet is pushed to a million lists, by turns.

Events go straight into Kafka with ids minted that moment, so that what the API costs is not in the figures. A lag is from the id's
minting until the entry was found in the list of each of the author's followers, by asking Redis for that entry every millisecond:
first in that of the last follower by id, which fan-out reaches last, then in all others'. All lists exist, nobody is pulled.
The rows of hybrid81k go on in order, so authors come again as they do in life: some whose followers fan-out knows, some not.

`asked_every_p99_ms` tells whether to believe it: where a lag is not well above it, this process itself had to wait for a core.
"""

from __future__ import annotations

import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
from confluent_kafka import KafkaError, Message, Producer

from loadtest.bench.mix import Graph
from loadtest.bench.wire import Share, Wire
from tests.stack import Stack, until
from timeline.cache.connection import pack
from timeline.cache.keys import Keys
from timeline.domain.entries import Entry, UserIds
from timeline.domain.events import TweetCreated
from timeline.domain.ids import Snowflakes, UserId
from timeline.domain.records import ListKind
from timeline.eventlog import codec
from timeline.ops.files import PostRow

SMALL_BELOW = 100  # followers
CELEBRITY = UserId(2_000_000_000)
FIRST_FAN = 1_000_000_001
SHARD_SIZE = 5_000  # limits.follower_shard_size
Question = tuple[int, bytes]  # a node by its number, and a packed command
WORKER = 4_095  # of ids: none that a process leases here

_POLL_SECONDS = 0.001
_LOOK_SECONDS = 0.05  # between two looks at how far the large push is
_GIVE_UP_SECONDS = 120
_KNOWN = r'timeline_cache_reads_total{{record="followers",result="{}"}} (\S+)'
_LOOKED_AT = b"200"  # newest entries of a list: far more than arrive while one is waited for


@dataclass(frozen=True, kw_only=True)
class FairSize:
    """`rate`: small tweets a second; `fans` of the one who is large."""

    rounds: int = 5
    rate: int = 100
    quiet_seconds: float = 8.0
    fans: int = 1_000_000


def fans(size: FairSize) -> UserIds:
    return np.arange(FIRST_FAN, FIRST_FAN + size.fans)


@dataclass
class Phase:
    """Lags in milliseconds, in order of posting. `pauses_ms`: between two questions while a tweet was waited for, which is how
    much too long a lag may be told. `beside`: what else there is to say."""

    lags_ms: list[float] = field(default_factory=list)
    pauses_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0
    beside: dict[str, float] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        return {
            **_percentiles(self.lags_ms),
            "max_ms": round(max(self.lags_ms), 1),
            "seconds": round(self.seconds, 2),
            "asked_every_p99_ms": round(float(np.percentile(self.pauses_ms, 99)), 1),
            **self.beside,
        }


def measure_fairness(stack: Stack, wire: Wire, graph: Graph, rows: Sequence[PostRow], size: FairSize) -> dict[str, Any]:
    """Of a stack with fan-out, whose store knows the graph and the fans, and whose lists exist. Raises AssertionError where
    anything is not delivered in time."""
    small = [row.author for row in rows if 0 < len(graph.followers(row.author)) < SMALL_BELOW]
    bench = _Bench(stack, wire, graph, cycle(small), size)
    try:
        warm_up = [bench.quiet(), bench.push()]
        rounds = [(bench.quiet(), bench.push()) for _ in range(size.rounds)]
    finally:
        bench.close()
    quiet, push = (list(each) for each in zip(*rounds, strict=True))
    quiet_ms, push_ms = (median(_percentiles(phase.lags_ms)["p99_ms"] for phase in phases) for phases in (quiet, push))
    return {
        "what": f"delivery lag of authors with under {SMALL_BELOW} followers, {size.rate} tweets a second, quiet and "
        f"while one tweet goes to {size.fans:,} lists",
        "quiet_p99_ms": quiet_ms,
        "push_p99_ms": push_ms,
        "small_author_lag_ratio": round(push_ms / quiet_ms, 2),
        "of_all_rounds": {"quiet": _whole(quiet), "push": _whole(push)},
        "quiet": [phase.told() for phase in quiet],
        "push": [phase.told() for phase in push],
        "warm_up": [phase.told() for phase in warm_up],
        "cores": {
            "fanout": psutil.Process(stack.pid("fanout")).cpu_affinity(),
            "bench": sorted(os.sched_getaffinity(0)),
        },
    }


def _whole(phases: Iterable[Phase]) -> dict[str, float]:
    """As if they were one."""
    return _percentiles([lag for phase in phases for lag in phase.lags_ms])


def _percentiles(lags_ms: Sequence[float]) -> dict[str, float]:
    p50, p99 = np.percentile(lags_ms, [50, 99]).tolist()
    return {"posts": len(lags_ms), "p50_ms": round(p50, 1), "p99_ms": round(p99, 1)}


class _Bench:
    def __init__(self, stack: Stack, wire: Wire, graph: Graph, authors: Iterator[UserId], size: FairSize) -> None:
        self._stack, self._graph, self._authors, self._size = stack, graph, authors, size
        self._lists, self._log = _Lists(wire, stack.settings["TIMELINE_REDIS_KEY_PREFIX"]), _Log(stack)
        self._fanout = psutil.Process(stack.pid("fanout"))
        everybody = fans(size)
        pages = [everybody[start : start + SHARD_SIZE] for start in range(0, len(everybody), SHARD_SIZE)]
        nodes = [wire.node_of(page) for page in pages]
        self._ends = np.array(
            [page[of == node][-1] for page, of in zip(pages, nodes, strict=True) for node in np.unique(of)]
        )

    def close(self) -> None:
        self._log.close()

    def quiet(self) -> Phase:
        end = time.monotonic() + self._size.quiet_seconds
        return self._phase(lambda: time.monotonic() >= end)

    def push(self) -> Phase:
        before = self._deliveries()
        large = _Large(self._lists, self._lists.have(self._ends, self._log.send(CELEBRITY)))
        phase = self._phase(large.is_done)
        until(lambda: self._deliveries() >= before + self._size.fans, 10, "all of the large push counted by fan-out")
        phase.beside["deliveries"] = self._deliveries() - before
        return phase

    def _deliveries(self) -> int:
        """To lists that exist."""
        return int(self._stack.metric("fanout", "timeline_deliveries_total"))

    def _phase(self, is_over: Callable[[], bool]) -> Phase:
        before, began = self._used(), time.monotonic()
        phase = self._run(is_over)
        seconds, used = time.monotonic() - began, self._used() - before
        fanout, own, hits, misses = used.tolist()
        phase.beside = {
            "fanout_cores": round(fanout / seconds, 2),
            "bench_cores": round(own / seconds, 2),
            "followers_known": round(hits / max(hits + misses, 1), 2),
        }
        return phase

    def _used(self) -> npt.NDArray[np.float64]:
        """Seconds of cores by fan-out and here; how often fan-out knew an author's followers, and did not."""
        cores = [sum(each.cpu_times()[:2]) for each in (self._fanout, psutil.Process())]
        metrics = self._stack.metrics("fanout")
        known = [
            sum(float(found) for found in re.findall(_KNOWN.format(result), metrics)) for result in ("hit", "miss")
        ]
        return np.array([*cores, *known])

    def _run(self, is_over: Callable[[], bool]) -> Phase:
        """Small tweets on time until it is over; then until all of them are delivered."""
        phase, waiting = Phase(), list[_Small]()
        began = due = time.monotonic()
        asked: float | None = None  # when those who wait were last asked for
        over = False
        while waiting or not over:
            now = time.monotonic()
            assert now - began < _GIVE_UP_SECONDS, f"{len(waiting)} tweets not delivered"
            if not over and is_over():
                over, phase.seconds = True, now - began
            while not over and due <= now:
                waiting.append(self._post())
                due += 1 / self._size.rate
            if waiting:
                waiting = self._ask(waiting, phase)
                before, asked = asked, time.monotonic()
                phase.pauses_ms.append((asked - (now if before is None else before)) * 1000)
            asked = asked if waiting else None
            wake = now + (_POLL_SECONDS if waiting else _LOOK_SECONDS)
            if (pause := (wake if over else min(wake, due)) - time.monotonic()) > 0:
                time.sleep(pause)
        return phase

    def _post(self) -> _Small:
        author = next(self._authors)
        began = time.time()
        entry = self._log.send(author)
        return _Small(began, self._lists.have(self._graph.followers(author), entry))

    def _ask(self, waiting: list[_Small], phase: Phase) -> list[_Small]:
        """Those who wait still."""
        questions = [question for small in waiting for question in small.questions]
        answers = iter(self._lists.ask(questions))
        now, left = time.time(), list[_Small]()
        for small in waiting:
            small.take([next(answers) for _ in small.questions])
            if small.questions:
                left.append(small)
            else:
                phase.lags_ms.append((now - small.began) * 1000)
        return left


class _Small:
    """A tweet, and in whose lists it has to be found yet: at first only the last follower's is asked for."""

    def __init__(self, began: float, every: list[Question]) -> None:
        self.began, self.questions, self._others = began, every[-1:], every[:-1]

    def take(self, found: Sequence[bool]) -> None:
        self.questions = [question for question, is_there in zip(self.questions, found, strict=True) if not is_there]
        if not self.questions:
            self.questions, self._others = self._others, []


class _Large:
    """A push under way. It is done when of each page of followers, and of each node, the last one has it."""

    def __init__(self, lists: _Lists, ends: list[Question]) -> None:
        self._lists, self._left = lists, ends
        self._looked = time.monotonic()

    def is_done(self) -> bool:
        if self._left and time.monotonic() - self._looked >= _LOOK_SECONDS:
            found = self._lists.ask(self._left)
            self._left = [question for question, is_there in zip(self._left, found, strict=True) if not is_there]
            self._looked = time.monotonic()
        return not self._left


class _Lists:
    """Home lists, asked whether an entry has arrived."""

    def __init__(self, wire: Wire, prefix: str) -> None:
        self._wire, self._keys = wire, Keys(prefix)

    def have(self, users: UserIds, entry: Entry) -> list[Question]:
        """Whether it is among the newest of each user's list."""
        packed, found = entry.pack(), list[Question]()
        for user, node in zip(users.tolist(), self._wire.node_of(users).tolist(), strict=True):
            key = self._keys.list_of(ListKind.home, user)
            found.append((node, pack((b"LPOS", key, packed, b"RANK", b"-1", b"MAXLEN", _LOOKED_AT))))
        return found

    def ask(self, questions: Sequence[Question]) -> list[bool]:
        """In their order; one write a node."""
        places: defaultdict[int, list[int]] = defaultdict(list)
        for place, (node, _) in enumerate(questions):
            places[node].append(place)
        trip = [
            Share(node, b"".join([questions[place][1] for place in mine]), len(mine)) for node, mine in places.items()
        ]
        found = [False] * len(questions)
        for answers, mine in zip(*self._wire.exchange([trip]), places.values(), strict=True):
            for place, answer in zip(mine, answers, strict=True):
                found[place] = answer is not None
        return found


class _Log:
    """Events into Kafka, as the service's own producer sends them."""

    def __init__(self, stack: Stack) -> None:
        self._topic = stack.settings["TIMELINE_KAFKA_TOPIC_PREFIX"] + "tweet.created"
        self._producer = Producer(
            {
                "bootstrap.servers": stack.settings["TIMELINE_KAFKA_BOOTSTRAP"],
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 0,
                "partitioner": "murmur2_random",
            }
        )
        self._ids = Snowflakes(WORKER, lambda: int(time.time() * 1000))

    def send(self, author: UserId) -> Entry:
        event = TweetCreated(self._ids.mint(), author, 0)
        self._producer.produce(self._topic, codec.encode(event), codec.key(event), on_delivery=_delivered)
        self._producer.poll(0)
        return event.entry

    def close(self) -> None:
        self._producer.flush(10)


def _delivered(error: KafkaError | None, _message: Message) -> None:
    assert error is None, error
