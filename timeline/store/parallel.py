"""Many small queries at once, bounded: a task each, but never more tasks than a few times what may be in flight."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")

TASKS_MAX = 64  # twice cassandra_requests_in_flight: enough to keep the driver busy


def chunks(items: Sequence[In], size: int) -> list[Sequence[In]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


async def each(
    items: Iterable[In], call: Callable[[In], Awaitable[Out]], at_once: int = TASKS_MAX
) -> AsyncIterator[Out]:
    """call(item) of each, in no order, with at most `at_once` under way. The first error ends the others and comes through."""
    if isinstance(items, Sequence) and len(items) == 1:
        yield await call(items[0])  # no task for what is most often one
        return
    waiting = iter(items)
    running: set[asyncio.Task[Out]] = set()

    async def run(item: In) -> Out:
        return await call(item)

    try:
        while True:
            while len(running) < at_once and (item := next(waiting, _END)) is not _END:
                running.add(asyncio.create_task(run(item)))  # type: ignore[arg-type]
            if not running:
                return
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield task.result()
    finally:
        for task in running:
            task.cancel()


_END = object()
