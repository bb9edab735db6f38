"""Kafka 4.3 in KRaft mode: one node that is broker and controller, or three."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from timeline.local.failure import LocalFailure
from timeline.local.fleet import Fleet, Node
from timeline.local.places import LOOPBACK, Places
from timeline.local.wire import kafka_brokers

HEAP_MB = 384
_CLUSTER_ID = (
    "dGltZWxpbmUtbG9jYWwtMQ"  # any 16 bytes in base64; a constant, so that a node that lost its folder can come back
)

# Voters stand in this file rather than in the quorum's own log, so that the same data starts on other ports.
# Sessions are short: what a killed consumer held is taken over, and a killed broker is let in again, while a test watches.
_PROPERTIES = """\
process.roles=broker,controller
node.id={number}
controller.quorum.voters={voters}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
num.partitions=12
default.replication.factor={copies}
min.insync.replicas={quorum}
offsets.topic.replication.factor={copies}
offsets.topic.num.partitions=5
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={quorum}
transaction.state.log.num.partitions=5
share.coordinator.state.topic.replication.factor={copies}
share.coordinator.state.topic.min.isr={quorum}
group.initial.rebalance.delay.ms=0
group.consumer.min.session.timeout.ms=6000
group.consumer.session.timeout.ms=10000
group.consumer.min.heartbeat.interval.ms=1000
group.consumer.heartbeat.interval.ms=2000
log.segment.bytes=67108864
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=1000
num.network.threads=2
num.io.threads=4
"""

_LOG4J = """\
status=error
appender.c.type=Console
appender.c.name=C
appender.c.layout.type=PatternLayout
appender.c.layout.pattern=%d %p %c{1} %m%n
rootLogger.level=WARN
rootLogger.appenderRef.c.ref=C
"""


@dataclass(frozen=True, slots=True)
class Kafka:
    """`count` is 1 or 3."""

    folder: Path
    places: Places
    java: Path
    jars: tuple[Path, ...]
    count: int
    kind: str = "kafka"

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(self._node(number) for number in range(1, self.count + 1))

    @property
    def ports(self) -> tuple[tuple[str, int], ...]:
        numbers = range(1, self.count + 1)
        return tuple(
            (LOOPBACK, port) for n in numbers for port in (self.places.kafka(n), self.places.kafka_controller(n))
        )

    @property
    def env(self) -> dict[str, str]:
        brokers = (f"{LOOPBACK}:{self.places.kafka(number)}" for number in range(1, self.count + 1))
        return {"TIMELINE_KAFKA_BOOTSTRAP": ",".join(brokers), "TIMELINE_KAFKA_REPLICATION": str(self.count)}

    def prepare(self) -> None:
        for number in range(1, self.count + 1):
            home = self._home(number)
            (home / "tmp").mkdir(parents=True, exist_ok=True)
            (home / "log4j2.properties").write_text(_LOG4J)
            (home / "server.properties").write_text(self._properties(number))
            if not (home / "data" / "meta.properties").exists():
                self._format(number)

    def form(self, fleet: Fleet) -> None:
        """Nothing: the voters are in the configuration."""

    def _home(self, number: int) -> Path:
        return self.folder / f"kafka-{number}"

    def _properties(self, number: int) -> str:
        voters = (f"{n}@{LOOPBACK}:{self.places.kafka_controller(n)}" for n in range(1, self.count + 1))
        return _PROPERTIES.format(
            number=number,
            voters=",".join(voters),
            host=LOOPBACK,
            port=self.places.kafka(number),
            controller_port=self.places.kafka_controller(number),
            data=str(self._home(number) / "data").replace("\\", "\\\\"),
            copies=self.count,
            quorum=self.count // 2 + 1,
        )

    def _format(self, number: int) -> None:
        home = self._home(number)
        shutil.rmtree(home / "data", ignore_errors=True)  # a format that was cut short; nothing was ever served from it
        done = subprocess.run(
            [*self._java(number, 128), "kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c",
             str(home / "server.properties")],
            capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode:
            raise LocalFailure(
                f"Kafka could not make its folder {home / 'data'}:\n{done.stdout}{done.stderr}",
                "check that the disk has room and the folder may be written",
            )

    def _java(self, number: int, heap_mb: int) -> list[str]:
        home = self._home(number)
        return [
            str(self.java),
            f"-Xmx{heap_mb}m",
            "-XX:+UseSerialGC",
            "-XX:-UsePerfData",
            "-XX:+ExitOnOutOfMemoryError",
            "-Djava.net.preferIPv4Stack=true",
            f"-Djava.io.tmpdir={home / 'tmp'}",
            f"-Dlog4j2.configurationFile={home / 'log4j2.properties'}",
            "-cp",
            ":".join(map(str, self.jars)),
        ]

    def _node(self, number: int) -> Node:
        port = self.places.kafka(number)

        def is_ready(_: Callable[[], str]) -> bool:
            return number in kafka_brokers(LOOPBACK, port)

        return Node(
            name=f"kafka-{number}",
            argv=(*self._java(number, HEAP_MB), "kafka.Kafka", str(self._home(number) / "server.properties")),
            addresses=(f"{LOOPBACK}:{port}",),
            is_ready=is_ready,
            start_seconds=120,
            stop_seconds=15,
        )
