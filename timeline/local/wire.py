"""Just enough of three protocols to ask an engine whether it serves, and to make a Redis Cluster, without a driver.

Every function raises OSError (a timeout is one) when the engine does not answer as it should.
"""

from __future__ import annotations

import socket
import struct
from typing import BinaryIO

TIMEOUT_SECONDS = 1.0  # engines on the same machine; whoever asks will ask again

Reply = str | int | None | list["Reply"]


def cassandra_serves(host: str, port: int) -> bool:
    """Whether a native-protocol server answers OPTIONS with SUPPORTED."""
    with socket.create_connection((host, port), TIMEOUT_SECONDS) as server:
        server.sendall(struct.pack(">BBhBi", 0x04, 0, 0, 0x05, 0))
        return _exactly(server, 9)[4] == 0x06


def kafka_brokers(host: str, port: int) -> set[int]:
    """The ids of the brokers that this one knows to be alive (a Metadata request, version 1, without topics)."""
    request = struct.pack(">hhihi", 3, 1, 7, -1, 0)
    with socket.create_connection((host, port), TIMEOUT_SECONDS) as server:
        server.sendall(struct.pack(">i", len(request)) + request)
        (length,) = struct.unpack(">i", _exactly(server, 4))
        answer = _exactly(server, length)
    (count,), at, found = struct.unpack_from(">i", answer, 4), 8, set()
    for _ in range(count):
        node, host_length = struct.unpack_from(">ih", answer, at)
        found.add(node)
        at += 6 + host_length + 4  # id, host, port
        (rack_length,) = struct.unpack_from(">h", answer, at)
        at += 2 + max(rack_length, 0)
    return found


def redis_ask(host: str, port: int, *words: object) -> Reply:
    """One command, one reply. An error reply is an OSError with its text."""
    parts = [str(word).encode() for word in words]
    with socket.create_connection((host, port), TIMEOUT_SECONDS) as server, server.makefile("rb") as replies:
        server.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
        return _redis_reply(replies)


def redis_facts(host: str, port: int, *words: object) -> dict[str, str]:
    """The `name:value` lines of INFO or CLUSTER INFO."""
    lines = str(redis_ask(host, port, *words)).splitlines()
    return {line.partition(":")[0]: line.partition(":")[2] for line in lines if ":" in line}


def _redis_reply(replies: BinaryIO) -> Reply:
    line = replies.readline()
    kind, rest = line[:1], line[1:-2].decode()
    if kind == b"-":
        raise OSError(rest)
    if kind == b"+":
        return rest
    if kind == b":":
        return int(rest)
    if kind == b"$":
        return None if int(rest) < 0 else replies.read(int(rest) + 2)[:-2].decode(errors="replace")
    if kind == b"*":
        return [_redis_reply(replies) for _ in range(int(rest))]
    raise OSError("the connection ended")


def _exactly(server: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        chunk = server.recv(size - len(received))
        if not chunk:
            raise OSError("the connection ended")
        received += chunk
    return bytes(received)
