"""The library of Redis Functions (functions.lua), and calls to it.

Its name ends in a hash of its text, and so do its functions': releases side by side never run each other's code. It is loaded
into every primary on opening, and again into a node that says it does not have it (a node that came back empty).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from hashlib import sha256
from importlib.resources import files
from typing import Final

from timeline.cache.connection import Command, Node, Reply
from timeline.cache.dataplane import DataPlane
from timeline.cache.errors import ReplyError
from timeline.cache.keys import slot_of
from timeline.domain.errors import Unavailable

log = logging.getLogger(__name__)

_TEXT: Final = files("timeline.cache").joinpath("functions.lua").read_text()
VERSION: Final = sha256(_TEXT.encode()).hexdigest()[:8]
CODE: Final = _TEXT.replace("@VERSION@", VERSION).encode()

Keyed = tuple[bytes, tuple[bytes | int, ...]]


def full_name(function: str) -> bytes:
    """What FCALL calls it."""
    return f"timeline_{VERSION}_{function}".encode()


def is_missing(error: object) -> bool:
    """Whether an error says that the node lacks the library."""
    return isinstance(error, ReplyError) and "Function not found" in str(error)


class Functions:
    """Calls by key."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._loads: dict[Node, asyncio.Task[None]] = {}  # one flight a node

    async def load_everywhere(self) -> None:
        """Into every primary that is up; one that is not asks for it later."""
        for node in self._plane.topology.primaries:
            try:
                await self._load(node)
            except Unavailable as error:
                log.warning("redis_functions_not_loaded", extra={"node": str(node), "reason": str(error)})

    async def call(self, function: str, key: bytes, *arguments: bytes | int) -> Reply:
        """One function on one key. Raises as the data plane does."""
        (reply,) = await self.call_many(function, [(key, arguments)])
        return reply

    async def call_many(self, function: str, calls: Sequence[Keyed]) -> list[Reply]:
        """(key, arguments) each. Raises the first error, after all were answered."""
        replies = await self.try_many(function, calls)
        for reply in replies:
            if isinstance(reply, Unavailable | ReplyError):
                raise reply
        return replies

    async def try_many(self, function: str, calls: Sequence[Keyed]) -> list[Reply]:
        """As call_many, with the error of a call in its reply's place."""
        name = full_name(function)
        commands = [(key, (b"FCALL", name, 1, key, *arguments)) for key, arguments in calls]
        replies = await self._plane.try_many(commands)
        lacking = [place for place, reply in enumerate(replies) if is_missing(reply)]
        if lacking:
            again = await self._try_with_library([commands[place] for place in lacking])
            for place, reply in zip(lacking, again, strict=True):
                replies[place] = reply
        return replies

    async def _try_with_library(self, commands: Sequence[tuple[bytes, Command]]) -> Sequence[Reply]:
        """Once more, where it has been loaded; otherwise why it could not be, for each."""
        try:
            await self._load_for([key for key, _ in commands])
        except Unavailable as error:
            return [error] * len(commands)
        return await self._plane.try_many(commands)

    async def _load_for(self, keys: Sequence[bytes]) -> None:
        """Into the nodes of these keys."""
        for node in dict.fromkeys(self._plane.topology.owners[slot_of(key)] for key in keys):
            if node is not None:
                await self._load_once(node)

    async def _load_once(self, node: Node) -> None:
        """Join the load that is under way, if one is. Raises Unavailable."""
        task = self._loads.get(node)
        if task is None:
            task = self._loads[node] = asyncio.create_task(self._load(node), name=f"load functions {node}")
            task.add_done_callback(lambda _: self._loads.pop(node, None))
        await asyncio.shield(task)

    async def _load(self, node: Node) -> None:
        try:
            await self._plane.ask(node, b"FUNCTION", b"LOAD", CODE)
        except ReplyError as error:
            if "already exists" not in str(error):
                raise
        else:
            log.info("redis_functions_loaded", extra={"node": str(node), "version": VERSION})
