"""Which partitions are ours, what of them is under way, and what may be committed. Used by the poll thread and the loop.

Each time a partition is assigned, a new account is opened for it. A batch remembers the accounts that it was taken from: when it ends
after its partition went away, and perhaps came back, its completion concerns a closed account and moves nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic

from timeline.fanout.watermark import Run, Watermark

Partition = tuple[str, int]


@dataclass(slots=True, eq=False)
class _Account:
    watermark: Watermark = field(default_factory=Watermark)
    committed: int | None = None  # by us, acknowledged


Runs = Sequence[tuple[_Account, Run]]


class Ledger:
    """Thread-safe; every call is short but `wait_idle`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._accounts: dict[Partition, _Account] = {}

    def open(self, partitions: Iterable[Partition]) -> None:
        with self._changed:
            for partition in partitions:
                self._accounts[partition] = _Account()

    def close(self, partitions: Iterable[Partition]) -> None:
        """Forget them: completions still to come move nothing."""
        with self._changed:
            for partition in partitions:
                self._accounts.pop(partition, None)
            self._changed.notify_all()

    @property
    def partitions(self) -> set[Partition]:
        with self._changed:
            return set(self._accounts)

    def take(self, offsets: Mapping[Partition, tuple[int, int]]) -> Runs:
        """Note the offsets (first, last) as under way. Of partitions that are not ours nothing is noted.

        Offsets at or below those taken before mean that the broker began again (its log was cut): a new account then, so
        that what was taken from the old one cannot carry the commit over messages not yet delivered again.
        """
        with self._changed:
            runs = []
            for partition, (first, last) in offsets.items():
                account = self._accounts.get(partition)
                if account is None:
                    continue
                if not account.watermark.follows(first):
                    account = self._accounts[partition] = _Account()
                runs.append((account, account.watermark.take(first, last)))
            return runs

    def finish(self, runs: Runs) -> None:
        with self._changed:
            for account, run in runs:
                account.watermark.finish(run)
            self._changed.notify_all()

    def wait_idle(self, partitions: Iterable[Partition], seconds: float) -> bool:
        """Block until nothing of these is under way; False if that takes longer than `seconds`."""
        names = list(partitions)
        deadline = monotonic() + seconds
        with self._changed:
            while not all(self._accounts[each].watermark.is_idle for each in names if each in self._accounts):
                left = deadline - monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
            return True

    def to_commit(self, partitions: Iterable[Partition] | None = None) -> dict[Partition, int]:
        """The offsets that have moved since they were last committed, of these partitions or of all."""
        with self._changed:
            names = self._accounts if partitions is None else partitions
            found = {}
            for partition in names:
                account = self._accounts.get(partition)
                if account is None or account.watermark.position in (None, account.committed):
                    continue
                assert account.watermark.position is not None
                found[partition] = account.watermark.position
            return found

    def committed(self, partition: Partition, offset: int) -> None:
        """The broker has taken it."""
        with self._changed:
            if partition in self._accounts:
                self._accounts[partition].committed = offset
