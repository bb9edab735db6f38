"""Which port everything on this machine listens on: 40 in a row, the API's first, so that two instances need only two numbers.

| port | who |
| --- | --- |
| N | the API |
| N+1 to N+9 | admin ports: api, fanout, relay, and those to come |
| N+10, N+11 | Cassandra: native protocol, and between nodes (on 127.0.0.1, .2, .3: one address a node) |
| N+12 to N+14 | Cassandra: JMX, a port a node |
| N+15 to N+17, N+18 to N+20 | Kafka: brokers, controllers |
| N+21 to N+26, N+27 to N+32 | Redis: primaries then replicas, and their cluster bus |
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from timeline.local.failure import LocalFailure

LOOPBACK = "127.0.0.1"
PORTS_PER_INSTANCE = 40

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Places:
    """The ports of the instance whose API listens on `port`. Numbers of nodes begin at 1."""

    port: int

    def __post_init__(self) -> None:
        if not 1024 <= self.port <= 65_535 - PORTS_PER_INSTANCE:
            raise LocalFailure(
                f"port {self.port} leaves no room for the {PORTS_PER_INSTANCE} ports from it on",
                f"choose one from 1024 to {65_535 - PORTS_PER_INSTANCE}",
            )

    def admin(self, number: int) -> int:
        return self.port + number

    @property
    def cassandra(self) -> int:
        return self.port + 10

    @property
    def cassandra_storage(self) -> int:
        return self.port + 11

    def cassandra_jmx(self, node: int) -> int:
        return self.port + 11 + node

    def kafka(self, node: int) -> int:
        return self.port + 14 + node

    def kafka_controller(self, node: int) -> int:
        return self.port + 17 + node

    def redis(self, node: int) -> int:
        return self.port + 20 + node

    def redis_bus(self, node: int) -> int:
        return self.port + 26 + node


def cassandra_host(node: int) -> str:
    return f"127.0.0.{node}"


def check_free(addresses: Iterable[Address], remedy: str = "stop it, or choose other ports with --port") -> None:
    """Raises LocalFailure naming the first port that is taken, and by whom if that can be told."""
    for host, port in addresses:
        with socket.socket() as probe:
            probe.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # as servers do: what lingers in TIME_WAIT is free
            try:
                probe.bind((host, port))
            except OSError as error:
                raise LocalFailure(f"{host}:{port} is taken{_holder(port)} ({error.strerror})", remedy) from error


def _holder(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                process = psutil.Process(connection.pid)
                return f" by process {process.pid}, {' '.join(process.cmdline())[:120]}"
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        pass  # another user's, or gone in this moment: then the message does without
    return ""
