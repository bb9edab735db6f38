"""How far the group is behind, asked for every few seconds on a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

from confluent_kafka import Consumer as Client
from confluent_kafka import KafkaException, TopicPartition

from timeline import metrics
from timeline.eventlog import client
from timeline.eventlog.ledger import Ledger, Partition
from timeline.settings import Settings

_CALL_SECONDS = 2.0
_EARLIEST, _LATEST = -2, -1  # as timestamps, in the protocol's own ListOffsets
_log = logging.getLogger(__name__)


class LagWatch:
    """Sets CONSUMER_LAG_MESSAGES for the partitions that are ours, and takes away what is no longer.

    Asks the broker: what a paused client knows of the end stands still. With a client of its own that joins nothing, and not with the
    admin client: asked for offsets while its broker stops, that of librdkafka 2.16 aborts the process (an assertion in
    rd_kafka_enq_once_del_source_return, its issues 3663 and 4605).
    """

    def __init__(self, settings: Settings, group: str, ledger: Ledger) -> None:
        self._seconds, self._ledger = settings.limits.consumer_lag_seconds, ledger
        self._client = Client(client.connection(settings, "lag") | {"group.id": group, "enable.auto.commit": False})
        self._shown: set[Partition] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kafka-lag", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Blocks until the thread has ended, or so many seconds: a broker that does not answer is not waited for, nothing is lost."""
        self._stopping.set()
        self._thread.join(seconds)

    def close(self) -> None:
        self._client.close()

    def _run(self) -> None:
        try:
            self._watch()
        finally:
            self._show({})
            self.close()

    def _watch(self) -> None:
        while not self._stopping.wait(self._seconds):
            try:
                self._show(self.ask(self._ledger.partitions))
            except KafkaException as error:
                _log.debug(
                    "consumer lag unknown: %s", error
                )  # the gauge keeps its last value; the outage is told elsewhere

    def ask(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Messages between what the group committed and the end, by partition. Blocks. Raises KafkaException."""
        ours = [TopicPartition(*each) for each in partitions]
        if not ours:
            return {}
        committed = {_name(each): each.offset for each in self._client.committed(ours, timeout=_CALL_SECONDS)}
        ends = self._offsets(committed, _LATEST)
        begins = self._offsets([each for each, offset in committed.items() if offset < 0], _EARLIEST)
        return {
            each: max(0, end - (begins[each] if each in begins else committed[each]))
            for each, end in ends.items()
            if each in begins or committed[each] >= 0
        }

    def _offsets(self, partitions: Iterable[Partition], which: int) -> dict[Partition, int]:
        asked = [TopicPartition(*each, which) for each in partitions]
        found = self._client.offsets_for_times(asked, timeout=_CALL_SECONDS) if asked else []
        return {_name(each): each.offset for each in found if each.error is None}

    def _show(self, lags: dict[Partition, int]) -> None:
        for topic, number in self._shown - set(lags):
            metrics.CONSUMER_LAG_MESSAGES.remove(topic, str(number))
        for (topic, number), lag in lags.items():
            metrics.CONSUMER_LAG_MESSAGES.labels(topic, str(number)).set(lag)
        self._shown = set(lags)


def _name(partition: TopicPartition) -> Partition:
    return partition.topic, partition.partition
