"""A Redis Cluster of three primaries, with a replica each if asked for.

What it holds is rebuilt from the store, so it writes nothing to disk, and each start of the whole makes the cluster anew. One node
that is started again alone finds its place by its nodes.conf.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from timeline.local.failure import LocalFailure
from timeline.local.fleet import Fleet, Node
from timeline.local.places import LOOPBACK, Places
from timeline.local.wire import redis_ask, redis_facts

PRIMARIES = 3
SLOTS = 16_384
MEMORY_MB = 256
FORM_SECONDS = 60

# maxmemory-policy: every key is a copy of something in the store. Evicting any one of them costs a rebuild, while refusing
# writes, as volatile-lru does once what is left carries no expiry, costs deliveries.
# cluster-require-full-coverage no: one node that is down must not stop the others.
# cluster-node-timeout: how soon a replica takes over; below this, a machine busy with tests would look like a dead node.
_CONF = """\
bind 127.0.0.1
protected-mode yes
port {port}
cluster-port {bus}
cluster-enabled yes
cluster-config-file nodes.conf
cluster-node-timeout 5000
cluster-require-full-coverage no
dir "{home}"
daemonize no
save ""
appendonly no
repl-diskless-sync-delay 0
maxmemory {memory_mb}mb
maxmemory-policy allkeys-lru
tcp-backlog 128
"""


@dataclass(frozen=True, slots=True)
class Redis:
    """`replicas` is the number a primary has: 0 or 1. Nodes 1 to 3 are primaries, 4 to 6 their replicas, in that order."""

    folder: Path
    places: Places
    server: Path
    replicas: int
    kind: str = "redis"

    @property
    def count(self) -> int:
        return PRIMARIES * (1 + self.replicas)

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(self._node(number) for number in range(1, self.count + 1))

    @property
    def ports(self) -> tuple[tuple[str, int], ...]:
        numbers = range(1, self.count + 1)
        return tuple((LOOPBACK, port) for n in numbers for port in (self.places.redis(n), self.places.redis_bus(n)))

    @property
    def env(self) -> dict[str, str]:
        nodes = (f"{LOOPBACK}:{self.places.redis(number)}" for number in range(1, self.count + 1))
        return {"TIMELINE_REDIS_NODES": ",".join(nodes)}

    def prepare(self) -> None:
        for number in range(1, self.count + 1):
            home = self._home(number)
            home.mkdir(parents=True, exist_ok=True)
            (home / "nodes.conf").unlink(missing_ok=True)
            (home / "redis.conf").write_text(
                _CONF.format(
                    port=self.places.redis(number),
                    bus=self.places.redis_bus(number),
                    home=str(home).replace("\\", "\\\\").replace('"', '\\"'),
                    memory_mb=MEMORY_MB,
                )
            )

    def form(self, fleet: Fleet) -> None:
        """Slots in equal parts to the primaries, everybody introduced, replicas told whom to follow; then until all agree."""
        for number in range(1, PRIMARIES + 1):
            first, end = ((number - 1) * SLOTS // PRIMARIES, number * SLOTS // PRIMARIES)
            self._ask(number, "CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        for number in range(1, self.count + 1):
            self._ask(number, "CLUSTER", "SET-CONFIG-EPOCH", number)
            if number > 1:
                self._ask(1, "CLUSTER", "MEET", LOOPBACK, self.places.redis(number), self.places.redis_bus(number))
        self._await(fleet, self._knows_all, "the nodes did not all meet")
        for number in range(PRIMARIES + 1, self.count + 1):
            self._ask(number, "CLUSTER", "REPLICATE", self._ask(number - PRIMARIES, "CLUSTER", "MYID"))
        self._await(fleet, self._serves, "the cluster does not become ok")

    def _await(self, fleet: Fleet, condition: Callable[[int], bool], problem: str) -> None:
        def holds() -> bool:
            try:
                return all(condition(number) for number in range(1, self.count + 1))
            except OSError:
                return False

        remedy = f"see {fleet.folder / 'log'}/redis-*.log"
        fleet.wait_until(holds, FORM_SECONDS, lambda: LocalFailure(f"Redis Cluster: {problem}", remedy))

    def _knows_all(self, number: int) -> bool:
        return self._facts(number, "CLUSTER", "INFO").get("cluster_known_nodes") == str(self.count)

    def _serves(self, number: int) -> bool:
        """A replica also has a copy of its primary."""
        if self._facts(number, "CLUSTER", "INFO").get("cluster_state") != "ok":
            return False
        return number <= PRIMARIES or self._facts(number, "INFO", "replication").get("master_link_status") == "up"

    def _ask(self, number: int, *words: object) -> object:
        return redis_ask(LOOPBACK, self.places.redis(number), *words)

    def _facts(self, number: int, *words: object) -> dict[str, str]:
        return redis_facts(LOOPBACK, self.places.redis(number), *words)

    def _home(self, number: int) -> Path:
        return self.folder / f"redis-{number}"

    def _node(self, number: int) -> Node:
        port = self.places.redis(number)

        def is_ready(_: Callable[[], str]) -> bool:
            """Alone (the cluster is not yet made), or back among the others."""
            known = self._facts(number, "CLUSTER", "INFO")
            return known.get("cluster_known_nodes") == "1" or known.get("cluster_state") == "ok"

        return Node(
            name=f"redis-{number}",
            argv=(str(self.server), str(self._home(number) / "redis.conf")),
            addresses=(f"{LOOPBACK}:{port}",),
            is_ready=is_ready,
            start_seconds=30,
            stop_seconds=5,
        )
