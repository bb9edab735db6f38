"""How far the group is behind, asked for every few seconds on a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from timeline import metrics
from timeline.eventlog import client
from timeline.eventlog.ledger import Ledger, Partition
from timeline.settings import Settings

_CALL_SECONDS = 2.0
_log = logging.getLogger(__name__)


class LagWatch:
    """Sets CONSUMER_LAG_MESSAGES for the partitions that are ours, and takes away what is no longer.

    Asks the broker, not the client: what a paused client knows of the end stands still.
    """

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._group, self._seconds, self._ledger = settings.kafka_group, settings.limits.consumer_lag_seconds, ledger
        self._admin = AdminClient(client.connection(settings, "lag"))
        self._shown: set[Partition] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kafka-lag", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Blocks until the thread has ended: at most three calls to a broker that does not answer."""
        self._stopping.set()
        self._thread.join()
        self._show({})

    def _run(self) -> None:
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
        [group] = self._admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(self._group, ours)], request_timeout=_CALL_SECONDS
        ).values()
        committed = {_name(each): each.offset for each in group.result().topic_partitions}
        ends = self._offsets(ours, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        never = [each for each in ours if committed.get(_name(each), -1) < 0]
        begins = self._offsets(never, OffsetSpec.earliest()) if never else {}  # type: ignore[no-untyped-call]
        return {each: max(0, end - (begins[each] if each in begins else committed[each])) for each, end in ends.items()}

    def _offsets(self, partitions: list[TopicPartition], spec: OffsetSpec) -> dict[Partition, int]:
        asked = self._admin.list_offsets(dict.fromkeys(partitions, spec), request_timeout=_CALL_SECONDS)
        return {_name(each): future.result().offset for each, future in asked.items()}

    def _show(self, lags: dict[Partition, int]) -> None:
        for topic, number in self._shown - set(lags):
            metrics.CONSUMER_LAG_MESSAGES.remove(topic, str(number))
        for (topic, number), lag in lags.items():
            metrics.CONSUMER_LAG_MESSAGES.labels(topic, str(number)).set(lag)
        self._shown = set(lags)


def _name(partition: TopicPartition) -> Partition:
    return partition.topic, partition.partition
