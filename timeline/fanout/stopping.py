"""Stopping when told, within a bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

Answer = TypeVar("Answer")
Page = TypeVar("Page")


@asynccontextmanager
async def closing(pages: AsyncIterator[Page]) -> AsyncIterator[AsyncIterator[Page]]:
    """Leaving early closes the iterator now, with the queries it has in flight, and not when it is collected."""
    try:
        yield pages
    finally:
        if isinstance(pages, AsyncGenerator):
            await pages.aclose()


async def unless(stopping: asyncio.Event, work: Coroutine[Any, Any, Answer]) -> Answer | None:
    """What the work answers, or None when `stopping` was set first: then the work is cancelled."""
    working = asyncio.create_task(work)
    stopped = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait((working, stopped), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, stopped):
            task.cancel()
        await asyncio.wait((working, stopped))


async def drain(tasks: set[asyncio.Task[None]], seconds: float) -> int:
    """Wait for them up to `seconds`, cancel the rest, and say how many those were. Their errors stay with them."""
    if not tasks:
        return 0
    _, slow = await asyncio.wait(tasks, timeout=seconds)
    for task in slow:
        task.cancel()
    return len(slow)
