"""Between the poll thread and the loop: messages consumed and not yet taken, bounded."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from confluent_kafka import Message

from timeline.eventlog.bridge import Bridge

Claimed = TypeVar("Claimed")


class Buffer:
    """`put`, `wait_room` and `drop` are the thread's, `take` the loop's, `fail` anybody's. One taker at a time is woken."""

    def __init__(self, messages_max: int, loop: asyncio.AbstractEventLoop) -> None:
        self._messages_max = messages_max
        self._bridge = Bridge(loop)
        self._changed = threading.Condition()
        self._messages: deque[Message] = deque()
        self._error: BaseException | None = None
        self._filled = asyncio.Event()

    @property
    def room(self) -> int:
        """How many messages may be put."""
        return max(0, self._messages_max - len(self._messages))

    def wait_room(self, room: int, seconds: float) -> bool:
        """Block until there is that much room; False if that takes longer than `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: self.room >= room, seconds)

    def put(self, messages: Sequence[Message]) -> None:
        with self._changed:
            was_empty = not self._messages
            self._messages.extend(messages)
        if was_empty and messages:
            self._bridge.post(self._filled.set)

    def drop(self, unwanted: Callable[[Message], bool]) -> None:
        """Forget messages of partitions that are no longer ours."""
        with self._changed:
            self._messages = deque(message for message in self._messages if not unwanted(message))
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Every `take` from now on raises it."""
        self._error = error
        self._bridge.post(self._filled.set)

    @property
    def error(self) -> BaseException | None:
        return self._error

    async def take(
        self, messages_max: int, claim: Callable[[Sequence[Message]], Claimed]
    ) -> tuple[list[Message], Claimed]:
        """At least one message, in the order put, and what `claim` made of them in the same step: no `drop` comes between.
        Cancelled, it has taken nothing."""
        while True:
            if self._error is not None:
                raise self._error
            with self._changed:
                taken = [self._messages.popleft() for _ in range(min(messages_max, len(self._messages)))]
                if not self._messages:
                    self._filled.clear()
                self._changed.notify_all()
                if taken:
                    return taken, claim(taken)
            await self._filled.wait()
