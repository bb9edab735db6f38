"""Raw sockets to the primaries of a Redis Cluster: bytes out, replies parsed by hiredis, nothing in between. It is the limit that a
client may be compared with, and the quickest way to make, and to read, lists by the hundred thousand."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import hiredis
import numpy as np
import numpy.typing as npt
from redis.cluster import ClusterNode, RedisCluster

from timeline.cache.appends import slots_of
from timeline.cache.connection import pack
from timeline.cache.keys import SLOTS
from timeline.domain.entries import UserIds

TRIPS_AHEAD = 4  # sent and not yet answered: so that no node waits for us
_ROOM = {b"maxmemory": b"0", b"maxmemory-policy": b"noeviction"}


@dataclass(frozen=True, slots=True)
class Share:
    """What one node gets, by its number: packed commands, and how many replies they have."""

    node: int
    data: bytes
    replies: int


Trip = Sequence[Share]  # one a node at most


def cluster_client(nodes: str) -> RedisCluster:
    """redis-py's own."""
    pairs = [node.rsplit(":", 1) for node in nodes.split(",")]
    return RedisCluster(startup_nodes=[ClusterNode(host, int(port)) for host, port in pairs])  # type: ignore[no-untyped-call]


class Wire:
    """One connection to each primary. The map of slots is that of its beginning."""

    def __init__(self, nodes: str) -> None:
        cluster = cluster_client(nodes)
        owners = [cluster.nodes_manager.slots_cache[slot][0] for slot in range(SLOTS)]
        cluster.close()
        self.primaries = sorted({(owner.host, owner.port) for owner in owners})
        numbers = [self.primaries.index((owner.host, owner.port)) for owner in owners]
        self.number_of_slot: npt.NDArray[np.int16] = np.array(numbers, np.int16)
        self._sockets = [_connected(*address) for address in self.primaries]
        self._readers = [hiredis.Reader() for _ in self.primaries]

    def close(self) -> None:
        for each in self._sockets:
            each.close()

    def node_of(self, users: UserIds) -> npt.NDArray[np.int16]:
        """The number of the node that holds each of these users' lists."""
        return self.number_of_slot[slots_of(users)]

    def exchange(self, trips: Iterable[Trip]) -> Iterator[list[list[Any]]]:
        """The replies to each share of each trip, in the order given. Raises hiredis.ReplyError for the first that is an error."""
        under_way: deque[Trip] = deque()
        for trip in trips:
            for share in trip:
                self._sockets[share.node].sendall(share.data)
            under_way.append(trip)
            if len(under_way) == TRIPS_AHEAD:
                yield self._received(under_way.popleft())
        while under_way:
            yield self._received(under_way.popleft())

    def ask(self, node: int, *command: bytes) -> Any:
        """One command to this very node."""
        ((replies,),) = self.exchange([[Share(node, pack(command), 1)]])
        return replies[0]

    def by_user(self, users: UserIds, packed: Sequence[bytes], replies_each: int) -> list[list[Any]]:
        """Commands of each user, packed, to the node of that user: the replies of each, in the order of the users."""
        nodes = self.node_of(users)
        places = [np.flatnonzero(nodes == number).tolist() for number in range(len(self.primaries))]
        trip = [
            Share(number, b"".join([packed[place] for place in mine]), len(mine) * replies_each)
            for number, mine in enumerate(places)
            if mine
        ]
        found: list[list[Any]] = [[]] * len(users)
        (answers,) = self.exchange([trip])
        for share, answer in zip(trip, answers, strict=True):
            for at, place in enumerate(places[share.node]):
                found[place] = answer[at * replies_each : (at + 1) * replies_each]
        return found

    @contextmanager
    def room(self) -> Iterator[None]:
        """While it lasts, nodes take as much memory as they want, and evict nothing."""
        before = [
            {name: self.ask(node, b"CONFIG", b"GET", name)[1] for name in _ROOM} for node in range(len(self.primaries))
        ]
        self._configure([_ROOM] * len(self.primaries))
        try:
            yield
        finally:
            self._configure(before)

    def _configure(self, of_nodes: Sequence[dict[bytes, bytes]]) -> None:
        for node, options in enumerate(of_nodes):
            for name, value in options.items():
                self.ask(node, b"CONFIG", b"SET", name, value)

    def _received(self, trip: Trip) -> list[list[Any]]:
        return [self._receive(share.node, share.replies) for share in trip]

    def _receive(self, node: int, count: int) -> list[Any]:
        source, reader = self._sockets[node], self._readers[node]
        replies: list[Any] = []
        while len(replies) < count:
            reply = reader.gets()
            if reply is False:
                data = source.recv(1 << 20)
                if not data:
                    raise ConnectionError(f"{self.primaries[node]} closed the connection")
                reader.feed(data)
                continue
            if reply.__class__ is hiredis.ReplyError:
                raise reply
            replies.append(reply)
        return replies


def _connected(host: str, port: int) -> socket.socket:
    made = socket.create_connection((host, port), timeout=60)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made
