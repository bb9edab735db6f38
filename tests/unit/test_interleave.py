"""The scheduler of interleavings: it plays every order once, and holds whom it says it holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from itertools import permutations
from math import comb

import pytest

from tests.interleave import Body, Meeting, OrderFailed, Play, explore, step
from timeline.domain import pauses
from timeline.domain.pauses import Point

EVERY = dict.fromkeys(Point)


async def nothing() -> None:
    pass


async def pause(point: Point) -> None:
    if pauses.hold is not None:
        await pauses.hold(point, 0)


def says(log: list[str], *words: str) -> Body:
    """An actor that says one word after another, with a step between two."""

    async def run() -> None:
        for at, word in enumerate(words):
            if at:
                await step("next")
            log.append(word)

    return run


async def seen(actors: Callable[[list[str]], Mapping[str, Body]], **bounds: int) -> tuple[list[tuple[str, ...]], str]:
    """What was said in each order, and the report."""
    logs: list[list[str]] = []

    async def make() -> Play:
        logs.append([])
        return Play(actors(logs[-1]), nothing, EVERY)

    report = await explore("words", make, orders_max=bounds.get("orders_max", 1_000), seed=bounds.get("seed", 0))
    return [tuple(log) for log in logs], str(report)


async def test_every_order_is_played_once() -> None:
    orders, report = await seen(lambda log: {"one": says(log, "a", "b", "c"), "two": says(log, "x", "y")})
    assert len(set(orders)) == len(orders) == comb(5, 2)
    assert report.startswith("all 10 orders")


async def test_three_actors_meet_in_every_order() -> None:
    orders, _ = await seen(lambda log: {name: says(log, name) for name in "abc"})
    assert sorted(orders) == sorted(permutations("abc"))


async def test_orders_with_few_switches_come_first_and_others_by_the_seed() -> None:
    def actors(log: list[str]) -> Mapping[str, Body]:
        return {"one": says(log, *"abc"), "two": says(log, *"xyz")}

    some, report = await seen(actors, orders_max=8)
    assert {"".join(order) for order in some[:2]} == {"abcxyz", "xyzabc"}
    assert report.startswith("the first 8 orders")
    assert some == (await seen(actors, orders_max=8))[0]
    assert some != (await seen(actors, orders_max=8, seed=1))[0]


async def test_actors_are_held_at_the_points_that_count_and_others_never() -> None:
    log: list[str] = []

    async def actor() -> None:
        await pause(Point.build)
        log.append("built")
        await pause(Point.trim)
        log.append("trimmed")

    await pause(Point.trim)
    meeting = Meeting(Play({"a": actor}, nothing, {Point.trim: None}))
    await meeting.run()
    assert meeting.trace.chosen == ["a@start", "a@trim"]
    assert log == ["built", "trimmed"]
    assert pauses.hold is None


async def test_what_an_actor_starts_beside_itself_is_held_under_its_name() -> None:
    log: list[str] = []

    async def fill(word: str) -> None:
        await pause(Point.fill)
        log.append(word)

    async def actor() -> None:
        await asyncio.gather(fill("first"), fill("second"))
        log.append("end")

    meeting = Meeting(Play({"a": actor}, nothing, EVERY))
    await meeting.run(["a@start", "a@fill#2"])
    assert meeting.trace.chosen == ["a@start", "a@fill#2", "a@fill"]
    assert log == ["second", "first", "end"]
    assert not meeting.trace.waits


async def test_an_actor_that_waits_for_what_it_started_stands_still_with_it() -> None:
    """Through a shield, a wait, or a task of a task: nobody is given up on."""

    async def inner() -> None:
        await pause(Point.install)

    async def outer() -> None:
        await asyncio.create_task(inner())

    async def actor() -> None:
        await asyncio.shield(asyncio.create_task(inner()))
        await asyncio.wait([asyncio.create_task(inner())])
        await asyncio.create_task(outer())

    meeting = Meeting(Play({"a": actor, "b": nothing}, nothing, EVERY))
    await meeting.run()
    assert meeting.trace.chosen == ["a@start", "a@install", "a@install#2", "a@install#3", "b@start"]
    assert not meeting.trace.waits


async def test_points_about_others_hold_nobody() -> None:
    async def actor() -> None:
        assert pauses.hold is not None
        for number in (1, 2, 3):
            await pauses.hold(Point.fill, number)

    meeting = Meeting(Play({"a": actor}, nothing, {Point.fill: [2]}))
    await meeting.run()
    assert meeting.trace.chosen == ["a@start", "a@fill"]


async def test_an_actor_that_waits_for_another_is_not_chosen_until_it_need_not() -> None:
    lock, log = asyncio.Lock(), []

    def worker(name: str) -> Body:
        async def run() -> None:
            async with lock:
                log.append(name)
                await step("inside")

        return run

    meeting = Meeting(Play({"a": worker("a"), "b": worker("b")}, nothing, EVERY), patience_seconds=0.02)
    await meeting.run(["a@start", "b@start"])
    assert meeting.trace.chosen == ["a@start", "b@start", "a@inside", "b@inside"]
    assert meeting.trace.options[2] == ["a@inside"]
    assert meeting.trace.waits == 1


async def test_actors_that_wait_for_each_other_fail_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.interleave.STUCK_SECONDS", 0.05)
    never = asyncio.get_running_loop().create_future()

    async def wait() -> None:
        await never

    with pytest.raises(AssertionError, match="nobody can go on"):
        await Meeting(Play({"a": wait}, nothing, EVERY), patience_seconds=0.01).run()
    assert pauses.hold is None


async def test_a_mortal_actor_is_also_killed_and_cancelled_where_it_may_be() -> None:
    """Killed, it does not clean up before the check; cancelled, it does."""
    log: list[str] = []

    async def make() -> Play:
        log.append("begin")

        async def builder() -> None:
            try:
                await pause(Point.build)
                await pause(Point.install)
                log.append("installed")
            except asyncio.CancelledError:
                log.append("cleaned up")
                raise

        async def check() -> None:
            log.append("check")

        return Play({"b": builder}, check, EVERY, mortal={"b": [Point.install]})

    report = await explore("death", make, orders_max=10)
    assert report.is_complete
    assert [report.names[f"b@install{how}"] for how in ("", " dies", " is cancelled")] == [1, 1, 1]
    stories = " ".join(log).split("begin ")[1:]
    assert sorted(story.strip() for story in stories) == ["check cleaned up", "cleaned up check", "installed check"]


async def test_a_failing_order_is_named_and_plays_again() -> None:
    log: list[str] = []

    async def make() -> Play:
        log.clear()

        async def check() -> None:
            assert log != ["a", "x", "b", "y"], "these must not meet like that"

        return Play({"one": says(log, "a", "b"), "two": says(log, "x", "y")}, check, EVERY)

    with pytest.raises(OrderFailed, match="these must not meet like that") as failed:
        await explore("words", make, orders_max=100)
    order = failed.value.order
    assert order == ["one@start", "two@start", "one@next", "two@next"]
    assert ", ".join(order) in str(failed.value)
    with pytest.raises(OrderFailed, match="these must not meet"):
        await explore("words", make, orders_max=1, only=order)
    await explore("words", make, orders_max=1, only=["two@start", "two@next", "one@start", "one@next"])


async def test_an_order_that_failed_once_is_played_first() -> None:
    logs: list[list[str]] = []

    async def make() -> Play:
        logs.append([])
        return Play({"one": says(logs[-1], "a", "b"), "two": says(logs[-1], "x", "y")}, nothing, EVERY)

    once = ["one@start", "two@start", "one@next", "two@next"]
    report = await explore("words", make, orders_max=3, once=[once])
    assert ["".join(log) for log in logs[:1]] == ["axby"]
    assert sorted("".join(log) for log in logs[1:]) == ["abxy", "xyab"]
    assert (report.orders, report.strayed) == (3, 0)


async def test_what_an_actor_raises_fails_the_order() -> None:
    async def fails() -> None:
        await step("there")
        raise ValueError("of the actor")

    async def make() -> Play:
        return Play({"a": fails}, nothing, EVERY)

    with pytest.raises(OrderFailed, match="of the actor"):
        await explore("failure", make, orders_max=1)


async def test_an_order_that_cannot_be_played_again_says_so() -> None:
    async def make() -> Play:
        return Play({"a": says([], "a")}, nothing, EVERY)

    with pytest.raises(AssertionError, match="not the order that was asked for"):
        await explore("words", make, orders_max=1, only=["b@start"])
