"""Cassandra 5.0: one node, or three on three loopback addresses that share the port numbers, as Cassandra wants it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from timeline.local.fleet import Fleet, Node
from timeline.local.places import Places, cassandra_host
from timeline.local.wire import cassandra_serves

DATACENTER = "datacenter1"  # SimpleSnitch knows no other
HEAP_MB = 1024
HEAP_MB_OF_THREE = 512

# The ring in equal parts. One token a node: with so few nodes, more make no node's share fairer and every range read slower.
_TOKENS = {1: ("0",), 3: ("-9223372036854775808", "-3074457345618258603", "3074457345618258602")}

# Durable within ten seconds of a power cut and at once after a kill, as production is; small caches, since the data is small.
_YAML = """\
cluster_name: timeline-local
num_tokens: 1
initial_token: "{token}"
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
endpoint_snitch: SimpleSnitch
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters: [{{seeds: "127.0.0.1:{storage_port}"}}]
listen_address: {host}
rpc_address: {host}
native_transport_port: {native_port}
storage_port: {storage_port}
auto_bootstrap: false
auto_snapshot: false
storage_compatibility_mode: NONE
commitlog_sync: periodic
commitlog_sync_period: 10000ms
commitlog_segment_size: 16MiB
commitlog_total_space: 128MiB
concurrent_reads: 16
concurrent_writes: 16
memtable_heap_space: {memtable_mb}MiB
memtable_offheap_space: 64MiB
key_cache_size: 8MiB
file_cache_size: 64MiB
networking_cache_size: 32MiB
"""

_LOGBACK = """\
<configuration>
  <appender name="C" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%d %-5level %logger{0} %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="C"/></root>
</configuration>
"""

# From the jvm17-server.options of Cassandra's own distribution: what it reaches into the JDK for.
_EXPORTS = (
    "java.base/jdk.internal.misc", "java.management.rmi/com.sun.jmx.remote.internal.rmi",
    "java.management/com.sun.jmx.remote.security", "java.rmi/sun.rmi.registry", "java.rmi/sun.rmi.server",
    "java.sql/java.sql", "java.base/java.lang.ref", "jdk.unsupported/sun.misc",
)  # fmt: skip
_OPENS = (
    "java.base/java.lang.module", "java.base/jdk.internal.loader", "java.base/jdk.internal.ref",
    "java.base/jdk.internal.reflect", "java.base/jdk.internal.math", "java.base/jdk.internal.module",
    "java.base/jdk.internal.util.jar", "jdk.management/com.sun.management.internal", "java.base/sun.nio.ch",
    "java.base/java.io", "java.base/java.lang.reflect", "java.base/java.lang", "java.base/java.util",
    "java.base/java.nio",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cassandra:
    """`count` is 1 or 3."""

    folder: Path
    places: Places
    java: Path
    jars: tuple[Path, ...]
    count: int
    heap_mb: int
    kind: str = "cassandra"

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(self._node(number) for number in range(1, self.count + 1))

    @property
    def ports(self) -> tuple[tuple[str, int], ...]:
        return tuple(
            address
            for number in range(1, self.count + 1)
            for address in (
                (cassandra_host(number), self.places.cassandra),
                (cassandra_host(number), self.places.cassandra_storage),
                (cassandra_host(1), self.places.cassandra_jmx(number)),
            )
        )

    @property
    def env(self) -> dict[str, str]:
        hosts = (f"{cassandra_host(number)}:{self.places.cassandra}" for number in range(1, self.count + 1))
        return {
            "TIMELINE_CASSANDRA_HOSTS": ",".join(hosts),
            "TIMELINE_CASSANDRA_DATACENTER": DATACENTER,
            "TIMELINE_CASSANDRA_REPLICATION": f"{DATACENTER}:{self.count}",
        }

    def prepare(self) -> None:
        for number in range(1, self.count + 1):
            home = self._home(number)
            (home / "tmp").mkdir(parents=True, exist_ok=True)
            (home / "logback.xml").write_text(_LOGBACK)
            (home / "jvm.args").write_text("\n".join(self._arguments(number)) + "\n")
            (home / "cassandra.yaml").write_text(
                _YAML.format(
                    token=_TOKENS[self.count][number - 1],
                    host=cassandra_host(number),
                    native_port=self.places.cassandra,
                    storage_port=self.places.cassandra_storage,
                    memtable_mb=min(128, self.heap_mb // 6),
                )
            )

    def form(self, fleet: Fleet) -> None:
        """Nothing: the seed does it."""

    def _home(self, number: int) -> Path:
        return self.folder / f"cassandra-{number}"

    def _node(self, number: int) -> Node:
        host, port = cassandra_host(number), self.places.cassandra

        def is_ready(output: Callable[[], str]) -> bool:
            return cassandra_serves(host, port) and self._sees_all(number, output())

        return Node(
            name=f"cassandra-{number}",
            argv=(
                str(self.java), f"@{self._home(number) / 'jvm.args'}", "org.apache.cassandra.service.CassandraDaemon"
            ),
            addresses=(f"{host}:{port}",),
            is_ready=is_ready,
            start_seconds=180,  # 7 s on two idle cores, 15 s for three nodes; far more on a busy machine
            stop_seconds=20,  # it flushes what it holds in memory
        )  # fmt: skip

    def _sees_all(self, number: int, output: str) -> bool:
        """Whether gossip has found as many peers as there ought to be: a quorum needs them, not only their ports."""
        others = (other for other in range(1, self.count + 1) if other != number)
        return all(f"{cassandra_host(other)}:{self.places.cassandra_storage} is now UP" in output for other in others)

    def _arguments(self, number: int) -> list[str]:
        home = self._home(number)
        (agent,) = (jar for jar in self.jars if jar.name.startswith("jamm-"))
        return [
            f"-Xms{self.heap_mb // 2}m",
            f"-Xmx{self.heap_mb}m",
            "-Xss256k",
            "-XX:+UseSerialGC",  # two cores and a small heap
            "-XX:+ExitOnOutOfMemoryError",
            "-XX:-UsePerfData",
            *(f"--add-exports={name}=ALL-UNNAMED" for name in _EXPORTS),
            *(f"--add-opens={name}=ALL-UNNAMED" for name in _OPENS),
            "-Djdk.attach.allowAttachSelf=true",
            "-Dio.netty.tryReflectionSetAccessible=true",
            "-Dio.netty.allocator.useCacheForAllThreads=true",
            "-Dio.netty.allocator.maxOrder=11",
            "-Dchronicle.analytics.disable=true",  # a library of its that would phone home
            "-Djava.net.preferIPv4Stack=true",
            "-Dcassandra.available_processors=2",
            "-Dcassandra-foreground=yes",
            "-Dcassandra.skip_wait_for_gossip_to_settle=0",
            "-Dcassandra.ring_delay_ms=5000",
            "-Dcassandra.superuser_setup_delay_ms=0",
            f"-Dcassandra.jmx.local.port={self.places.cassandra_jmx(number)}",
            _quoted("-Djava.io.tmpdir=", home / "tmp"),  # native libraries are unpacked there
            _quoted("-Dcassandra.config=file://", home / "cassandra.yaml"),
            _quoted("-Dcassandra.storagedir=", home / "data"),
            _quoted("-Dcassandra.logdir=", home / "logs"),
            _quoted("-Dlogback.configurationFile=", home / "logback.xml"),
            _quoted("-javaagent:", agent),
            "-cp",
            _quoted("", ":".join(map(str, self.jars))),
        ]


def _quoted(option: str, value: Path | str) -> str:
    """As java's @argfiles want it: a folder's name may have spaces."""
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{option}{escaped}"'
