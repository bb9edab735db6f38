"""Home lists made and read by the hundred thousand, as the service makes them: a header, entries, an expiry."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from loadtest.bench.wire import Wire
from timeline.cache.connection import pack
from timeline.cache.keys import Keys
from timeline.cache.replication import INFO, primary_in
from timeline.domain.entries import Entry, UserIds
from timeline.domain.ids import EPOCH_MS, TweetId, UserId, first_id_at
from timeline.domain.limits import LIMITS
from timeline.domain.records import Header, ListKind

_AT_ONCE: Final = 10_000
_HELD_SINCE_MS: Final = EPOCH_MS + 86_400_000  # entries that a list begins with are older than any that come

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Of each list, in the order asked for: how many entries it holds, how many have ever arrived (-1: there is no list), the arrival
    number of the newest late one."""

    entries: Numbers
    arrived: Numbers
    late: Numbers


class Homes:
    """The home lists of users, under one deployment's prefix."""

    def __init__(self, wire: Wire, prefix: str) -> None:
        self._wire, self._keys = wire, Keys(prefix)
        self.parts = self._keys.list_parts(ListKind.home)

    def make(self, users: UserIds, held: Numbers | None = None) -> None:
        """Each anew, beginning with so many entries (none if not said)."""
        held = np.zeros(len(users), np.int64) if held is None else held
        headers = [_header(primary_in(self._wire.ask(node, *INFO))) for node in range(len(self._wire.primaries))]
        tails = {count: _tail(count) for count in np.unique(held).tolist()}
        expiry = b"%d" % (LIMITS.timeline_seconds * 1000)
        for part in _parts(len(users)):
            whom, nodes = users[part], self._wire.node_of(users[part])
            packed = []
            for user, node, count in zip(whom.tolist(), nodes.tolist(), held[part].tolist(), strict=True):
                key = self._keys.list_of(ListKind.home, user)
                made = b"*%d\r\n$5\r\nRPUSH\r\n$%d\r\n%s\r\n" % (count + 3, len(key), key)
                packed.append(pack((b"DEL", key)) + made + _bulk(headers[node]) + tails[count])
                packed[-1] += pack((b"PEXPIRE", key, expiry))
            self._wire.by_user(whom, packed, 3)

    def read(self, users: UserIds) -> Found:
        columns: list[tuple[int, int, int]] = []
        for first, length in self._each(users, ((b"LINDEX", b"0"), (b"LLEN",))):
            header = None if first is None else Header.unpack(first)
            columns.append((0, -1, 0) if header is None else (length - 1, header.base + length - 1, header.late))
        return Found(*np.array(columns, np.int64).reshape(-1, 3).T)

    def sizes(self, users: UserIds) -> Numbers:
        """What Redis says that each takes, all of it looked at."""
        found = self._each(users, ((b"MEMORY USAGE", b"SAMPLES", b"0"),))
        return np.array([taken for (taken,) in found], np.int64)

    def drop(self, users: UserIds) -> None:
        for _ in self._each(users, ((b"DEL",),)):
            pass

    def _each(self, users: UserIds, commands: Sequence[tuple[bytes, ...]]) -> Iterator[list]:  # type: ignore[type-arg]
        """The replies of each user's list to these commands, each of which is given the key after its first word or words."""
        for part in _parts(len(users)):
            packed = []
            for user in users[part].tolist():
                key = self._keys.list_of(ListKind.home, user)
                packed.append(b"".join([pack((*name.split(), key, *rest)) for name, *rest in commands]))
            yield from self._wire.by_user(users[part], packed, len(commands))


def _header(primary: bytes) -> bytes:
    """Of a list that was built just now on that primary, of nothing."""
    epoch, now_ms = secrets.randbits(63) | 1, time.time_ns() // 1_000_000
    return Header(floor=0, epoch=epoch, base=0, built_ms=now_ms, late=0, replication=primary).pack()


def _tail(count: int) -> bytes:
    first = first_id_at(_HELD_SINCE_MS)
    return b"".join([_bulk(Entry(TweetId(first + at), UserId(1)).pack()) for at in range(count)])


def _bulk(value: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(value), value)


def _parts(count: int) -> Iterator[slice]:
    for start in range(0, count, _AT_ONCE):
        yield slice(start, start + _AT_ONCE)
