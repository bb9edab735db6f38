"""From a client's thread to the event loop: calls collected, and one wake-up for all that came in between."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable


class Bridge:
    """`post` from any thread; the calls run on the loop, in order. One call_soon_threadsafe costs a write to a pipe, so a
    thousand acknowledgements that come together share one. Bounded by what is in flight: each call ends something begun."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._calls: list[Callable[[], None]] = []

    def post(self, call: Callable[[], None]) -> None:
        with self._lock:
            self._calls.append(call)
            is_first = len(self._calls) == 1
        if is_first:
            self._loop.call_soon_threadsafe(self._run)

    def _run(self) -> None:
        with self._lock:
            calls, self._calls = self._calls, []
        for call in calls:
            call()
