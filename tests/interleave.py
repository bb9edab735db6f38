"""Every order of two or three actors: a scheduler that holds them at their named points (domain/pauses.py) and lets one go on at a
time.

An actor is a coroutine in a task of its own. Before it begins, at each point that counts, and wherever it says `step(…)`, it is
held until it is chosen; what it starts beside itself (a fill, a trim) is held at its own points, under the same actor's name. Between
two choices everybody else stands still. So an order is a list of names, such as `reader@start, reader@install, worker@start`, and
the same list plays the same order again.

An actor that waits for another one neither ends nor reaches a point. It is given `patience_seconds`, and then cannot be chosen until
it does. On a machine that is slow just then this may happen to one that does not wait: the order is then another one, but still one
that can happen, so a failure is one all the same.

Orders are tried from the fewest changes of actor to the most, those of equally many in a seeded shuffle: all of them, or as many as
the bound allows.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

from timeline.domain import pauses
from timeline.domain.pauses import Point

DIES, IS_CANCELLED = " dies", " is cancelled"
PATIENCE_SECONDS = (
    2.0  # a request to an engine takes 1 to 30 ms, on a crowded machine much more; those who wait are mostly seen to
)
STUCK_SECONDS = 20.0  # nobody can be chosen, and somebody does not end
POLL_SECONDS = 0.0005
STEPS_MAX = 200

Body = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Play:
    """One time that actors meet: who they are, at which points they are held, and what must be so afterwards, whatever the order was.

    `points`: beside each, the users or tweets about which it counts; None: any. `mortal`: actors who may end at these points, and do
    so in one order by dying (their process is killed: they are held there for ever, until `check` is over) and in another by being
    cancelled (their process stops: they clean up).
    """

    actors: Mapping[str, Body]
    check: Callable[[], Awaitable[None]]
    points: Mapping[Point, Collection[int] | None]
    mortal: Mapping[str, Collection[Point]] = field(default_factory=dict)

    def counts(self, point: Point, number: int) -> bool:
        """Whether anybody is held there."""
        about = self.points.get(point, ())
        return about is None or number in about


@dataclass
class Trace:
    """What was chosen at each step, and among what."""

    chosen: list[str] = field(default_factory=list)
    options: list[list[str]] = field(default_factory=list)
    waits: int = 0  # steps at which somebody was given up on for that moment
    strayed: bool = False  # a name of the prefix could not be chosen when its turn came

    def switches(self, upto: int | None = None) -> int:
        """How often another actor was chosen though the one before could have gone on."""
        return sum(self._is_switch(at) for at in range(1, len(self.chosen) if upto is None else upto))

    def _is_switch(self, at: int) -> bool:
        return is_switch(self.chosen[at - 1], self.chosen[at], self.options[at])


@dataclass
class Report:
    """Of one exploration."""

    orders: int = 0
    is_complete: bool = False
    switches: Counter[int] = field(default_factory=Counter)
    waits: int = 0
    strayed: int = 0
    names: Counter[str] = field(default_factory=Counter)

    def add(self, trace: Trace) -> None:
        self.orders += 1
        self.switches[trace.switches()] += 1
        self.waits += trace.waits
        self.strayed += trace.strayed
        self.names.update(trace.chosen)

    def __str__(self) -> str:
        whole = "all" if self.is_complete else "the first"
        by = ", ".join(f"{count} with {number}" for number, count in sorted(self.switches.items()))
        return f"{whole} {self.orders} orders ({by} switches; waits {self.waits}, strayed {self.strayed})"


def actor_of(name: str) -> str:
    return name.split("@")[0]


def is_switch(before: str, chosen: str, options: Collection[str]) -> bool:
    """Whether another actor was chosen than the one before, who could have gone on."""
    actor = actor_of(before)
    return actor_of(chosen) != actor and any(actor_of(option) == actor for option in options)


def is_held_up(future: asyncio.Future[object], held: Collection[asyncio.Task[object]]) -> bool:
    """Whether this task or future waits for one of those that are held, as far as that can be seen: by awaiting it, by a gather of
    which nothing else is under way, or through a shield or a wait."""
    if isinstance(future, asyncio.Task):
        if future in held:
            return True
        waits_for = future._fut_waiter  # type: ignore[attr-defined]
        return waits_for is not None and is_held_up(waits_for, held)
    alive = [child for child in getattr(future, "_children", ()) if not child.done()]  # of a gather
    if alive:
        return all(is_held_up(child, held) for child in alive)
    return any(_tells(task, future) for task in held)


def _tells(task: asyncio.Task[object], future: asyncio.Future[object]) -> bool:
    """Whether a callback of the task closes over the future: as those of shield and wait do."""
    callbacks = task._callbacks or ()
    cells = [cell for callback, _ in callbacks for cell in getattr(callback, "__closure__", None) or ()]
    return any(cell.cell_contents is future for cell in cells)


class _Actor:
    def __init__(self, name: str, play: Play) -> None:
        self.name, self.play, self.mortal = name, play, play.mortal.get(name, ())
        self.task: asyncio.Task[object]
        self.held: dict[str, _Held] = {}
        self.is_dead = self.is_cancelled = False
        self._arrivals: Counter[str] = Counter()

    async def run(self, body: Body) -> object:
        _current.set(self)
        await self.arrive("start", may_die=False)
        return await body()

    async def arrive(self, point: str, *, may_die: bool) -> None:
        """Be held here until chosen."""
        self._arrivals[point] += 1
        count = self._arrivals[point]
        name = f"{self.name}@{point}" + (f"#{count}" if count > 1 else "")
        task = asyncio.current_task()
        assert task is not None
        mine = _Held(name, task, asyncio.get_running_loop().create_future(), may_die)
        self.held[name] = mine
        try:
            await mine.released
        finally:
            self.held.pop(name, None)

    def options(self) -> Iterator[str]:
        """What may be chosen of this actor now."""
        if not self.is_dead:
            for name, held in self.held.items():
                if not held.released.done():
                    yield name
                    if held.may_die:
                        yield name + DIES
                        yield name + IS_CANCELLED

    def choose(self, name: str) -> None:
        if name.endswith(DIES):
            self.is_dead = True
        elif name.endswith(IS_CANCELLED):
            self.is_cancelled = True
            self.held[name.removesuffix(IS_CANCELLED)].released.cancel()
        else:
            self.held[name].released.set_result(None)

    def result(self) -> None:
        """Raises what it raised, but for what was done to it."""
        if not self.is_dead and not (self.is_cancelled and self.task.cancelled()):
            self.task.result()


@dataclass(frozen=True)
class _Held:
    name: str
    task: asyncio.Task[object]
    released: asyncio.Future[None]
    may_die: bool


_current: ContextVar[_Actor | None] = ContextVar("actor", default=None)


async def step(name: str) -> None:
    """Be held here, if this is an actor; a point of the test's own."""
    actor = _current.get()
    if actor is not None:
        await actor.arrive(name, may_die=False)


async def _hold(point: Point, number: int) -> None:
    actor = _current.get()
    if actor is not None and actor.play.counts(point, number):
        await actor.arrive(point.value, may_die=point in actor.mortal)


class Meeting:
    """One order of one play."""

    def __init__(self, play: Play, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._play, self._patience_seconds = play, patience_seconds
        self._actors = {name: _Actor(name, play) for name in play.actors}
        self.trace = Trace()

    async def run(self, prefix: Sequence[str] = ()) -> None:
        """Play the names of the prefix, then go on with whoever goes, until everybody has ended or died. Raises what an actor raised;
        AssertionError if nobody can go on."""
        assert pauses.hold is None, "another meeting is under way"
        pauses.hold = _hold
        try:
            for name, body in self._play.actors.items():
                actor = self._actors[name]
                actor.task = asyncio.create_task(actor.run(body), name=f"actor {name}")
            while options := await self._settled():
                assert len(self.trace.chosen) < STEPS_MAX, "an order that does not end"
                self._go_on(options, prefix)
        finally:
            pauses.hold = None
            if self._moving():
                await self.bury()
        for actor in self._actors.values():
            actor.result()

    async def bury(self) -> None:
        """End those that are held for ever, or failed to end."""
        for actor in self._actors.values():
            for held in list(actor.held.values()):
                held.task.cancel()
            actor.task.cancel()
        await asyncio.wait([actor.task for actor in self._actors.values()])

    def _go_on(self, options: list[str], prefix: Sequence[str]) -> None:
        at, trace = len(self.trace.chosen), self.trace
        wanted = prefix[at] if at < len(prefix) else None
        if wanted not in options:
            trace.strayed |= wanted is not None
            before = actor_of(trace.chosen[-1]) if trace.chosen else None
            wanted = next((option for option in options if actor_of(option) == before), options[0])
        trace.options.append(options)
        trace.chosen.append(wanted)
        self._actors[actor_of(wanted)].choose(wanted)

    async def _settled(self) -> list[str]:
        """When everybody stands still, or is given up on until the next choice: what may be chosen. Empty when all have ended."""
        began = time.monotonic()
        while True:
            await asyncio.sleep(POLL_SECONDS)
            waited = time.monotonic() - began
            if not self._moving():
                return self._options()
            if waited > self._patience_seconds and (options := self._options()):
                self.trace.waits += 1
                return options
            assert waited < STUCK_SECONDS, f"nobody can go on: {self._moving()} wait for ever"

    def _options(self) -> list[str]:
        return [option for actor in self._actors.values() for option in actor.options()]

    def _moving(self) -> list[str]:
        """Those who have not ended, and do not stand still either, as far as can be seen."""
        strands = [held for actor in self._actors.values() for held in actor.held.values()]
        held = {strand.task for strand in strands if not strand.released.done()}
        return [
            name
            for name, actor in self._actors.items()
            if not (actor.is_dead or actor.task.done() or is_held_up(actor.task, held))
        ]


class OrderFailed(AssertionError):
    """In this order; its message is how to play it again."""

    def __init__(self, title: str, trace: Trace, why: BaseException) -> None:
        self.order = trace.chosen
        names = ", ".join(trace.chosen)
        super().__init__(f'{title}: {why}\nTo play it again: TIMELINE_ORDER="{names}" pytest -k "{title}"')


async def explore(
    title: str,
    make: Callable[[], Awaitable[Play]],
    *,
    orders_max: int,
    seed: int = 0,
    only: Sequence[str] = (),
    once: Collection[Sequence[str]] = (),
    patience_seconds: float = PATIENCE_SECONDS,
) -> Report:
    """Play every order, or the first `orders_max` of them; `only`: just this one; `once`: orders that failed once, which come first.
    `make` sets up a fresh play each time. Raises OrderFailed."""
    shuffled, report = random.Random(seed), Report()
    waiting: list[tuple[int, float, tuple[str, ...]]] = [(0, 0.0, tuple(only))]
    waiting += [] if only else [(-1, 0.0, tuple(order)) for order in once]
    heapq.heapify(waiting)
    while waiting and report.orders < orders_max:
        _, _, prefix = heapq.heappop(waiting)
        trace = await _play(title, await make(), prefix, patience_seconds)
        report.add(trace)
        if only:
            assert not trace.strayed, f"{title}: not the order that was asked for, but {trace.chosen}"
            return report
        for found in _others(trace, len(prefix)):
            heapq.heappush(waiting, (found[0], shuffled.random(), found[1]))
    report.is_complete = not waiting
    return report


async def _play(title: str, play: Play, prefix: Sequence[str], patience_seconds: float) -> Trace:
    meeting = Meeting(play, patience_seconds)
    try:
        await meeting.run(prefix)
        await play.check()
    except Exception as why:
        raise OrderFailed(title, meeting.trace, why) from why
    finally:
        await meeting.bury()
    return meeting.trace


def _others(trace: Trace, begin: int) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Prefixes of orders that leave this one at or after `begin`, each once, with the switches that they make."""
    for at in range(begin, len(trace.chosen)):
        before = tuple(trace.chosen[:at])
        for option in trace.options[at]:
            if option != trace.chosen[at]:
                switch = bool(before) and is_switch(before[-1], option, trace.options[at])
                yield trace.switches(at) + switch, (*before, option)
