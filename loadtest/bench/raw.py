"""The raw limit: what one home page reads from Redis, and nothing else: commands packed before, one write a node, replies parsed by
hiredis and thrown away."""

from __future__ import annotations

import socket
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import hiredis
from redis.cluster import ClusterNode, RedisCluster

from timeline.cache.keys import Keys, slot_of
from timeline.domain.limits import LIMITS
from timeline.domain.records import ListKind

Command = tuple[Any, ...]  # bytes and numbers


class RawReads:
    """Sockets of its own to every primary."""

    def __init__(self, nodes: str, prefix: str) -> None:
        pairs = [node.rsplit(":", 1) for node in nodes.split(",")]
        startup = [ClusterNode(host, int(port)) for host, port in pairs]  # type: ignore[no-untyped-call]
        self._cluster = RedisCluster(startup_nodes=startup)
        self._keys = Keys(prefix)
        self._sockets: dict[str, socket.socket] = {}

    def pages(self, reader: int, pulled: Sequence[int], tweets: Iterable[int]) -> list[dict[str, tuple[bytes, int]]]:
        """Both round trips of a page, ready to be sent: bytes and the number of replies, by node. The first reads the reader's
        list and context, and the tails of those who are pulled; the second one record an item."""
        keys = self._keys
        first = [
            *_list(keys.list_of(ListKind.home, reader), LIMITS.tail_entries),
            (keys.leased("reader", reader), (b"GET", keys.leased("reader", reader))),
        ]
        for author in pulled:
            first += _list(keys.list_of(ListKind.profile, author), LIMITS.pull_rows_per_author)
        second = [(keys.state(tweet), (b"GET", keys.state(tweet))) for tweet in tweets]
        return [self._packed(first), self._packed(second)]

    def time_ms(self, trips: Sequence[dict[str, tuple[bytes, int]]]) -> float:
        """How long these take, one after the other."""
        began = time.perf_counter()
        for trip in trips:
            for node, (data, _) in trip.items():
                self._sockets[node].sendall(data)
            for node, (_, replies) in trip.items():
                self._receive(self._sockets[node], replies)
        return (time.perf_counter() - began) * 1000

    def close(self) -> None:
        for each in self._sockets.values():
            each.close()
        self._cluster.close()

    def _packed(self, commands: Iterable[tuple[bytes, Command]]) -> dict[str, tuple[bytes, int]]:
        by_node: defaultdict[str, list[bytes]] = defaultdict(list)
        for key, command in commands:
            by_node[self._node_of(key)].append(hiredis.pack_command(command))
        return {node: (b"".join(packed), len(packed)) for node, packed in by_node.items()}

    def _node_of(self, key: bytes) -> str:
        node = self._cluster.nodes_manager.slots_cache[slot_of(key)][0]
        if node.name not in self._sockets:
            self._sockets[node.name] = made = socket.create_connection((node.host, node.port))
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return str(node.name)

    @staticmethod
    def _receive(source: socket.socket, replies: int) -> None:
        reader = hiredis.Reader()
        while replies:
            reader.feed(source.recv(1 << 20))
            while (reply := reader.gets()) is not False:
                if isinstance(reply, hiredis.ReplyError):
                    raise reply
                replies -= 1


def _list(key: bytes, newest: int) -> list[tuple[bytes, Command]]:
    """As the service reads one: header and tail of one moment."""
    commands: list[Command] = [
        (b"MULTI",),
        (b"LINDEX", key, 0),
        (b"LRANGE", key, -newest, -1),
        (b"LLEN", key),
        (b"PTTL", key),
        (b"EXEC",),
    ]
    return [(key, command) for command in commands]
