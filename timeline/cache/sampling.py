"""Which home lists there are: the keys of every primary, some at a time, by SCAN. Reading a key's name renews nothing.

SCAN goes through a node's keys in the order of their hashes, whosever they are; so what a page holds of lists is a fair sample.
"""

from __future__ import annotations

import re

from timeline.cache.dataplane import DataPlane
from timeline.cache.keys import Keys
from timeline.domain.errors import Unavailable
from timeline.domain.ids import ID_MAX, UserId
from timeline.domain.records import ListKind

_SPECIAL = re.compile(rb"[\\*?\[\]]")  # of Redis's glob patterns


class HomeLists:
    """ops's HomeLists."""

    def __init__(self, plane: DataPlane, keys: Keys) -> None:
        self._plane = plane
        self._before, self._after = keys.list_parts(ListKind.home)
        self._pattern = _SPECIAL.sub(rb"\\\g<0>", self._before) + b"*" + self._after

    def parts(self) -> list[str]:
        """The primaries by name, as they are known now."""
        return [_name(node.host, node.port) for node in self._plane.topology.primaries]

    async def page(self, part: str, at: int, keys: int) -> tuple[list[UserId], int]:
        """The owners of home lists among about `keys` more keys of a primary, and where to go on; 0 at the end. Begin with 0. Whose
        list stands there all the while is told once at least. Raises Unavailable, also when it is no primary any more."""
        node = next((node for node in self._plane.topology.primaries if _name(node.host, node.port) == part), None)
        if node is None:
            raise Unavailable(f"redis: {part} is no primary any more")
        onward, found = await self._plane.ask(node, b"SCAN", at, b"MATCH", self._pattern, b"COUNT", keys)
        owners = (self._owner(key) for key in found)
        return [owner for owner in owners if owner is not None], int(onward)

    def _owner(self, key: bytes) -> UserId | None:
        """None of a key that is spelled like a list's, and is none."""
        digits = key[len(self._before) : len(key) - len(self._after)]
        return UserId(int(digits)) if digits.isdigit() and len(digits) <= 19 and int(digits) <= ID_MAX else None


def _name(host: str, port: int) -> str:
    return f"{host}:{port}"
