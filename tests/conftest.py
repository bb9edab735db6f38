"""Real engines, once for a whole test run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from timeline.local import Attached, Control, LocalFailure, Topology, open_engines
from timeline.local.places import LOOPBACK, PORTS_PER_INSTANCE, check_free

FIRST_PORT = 23_000
LAST_PORT = 32_000  # above, the kernel gives ports to outgoing connections


def pytest_configure() -> None:
    """A shell that starts a command in the background has it ignore Ctrl-C, and so would everything that it starts: tests of Ctrl-C
    would wait for what never comes."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def free_base_port() -> int:
    """The first of 40 ports in a row that are free now. Runs that begin at the same moment have neighbouring process ids, and begin to
    look far from each other: two that chose the same ports would take each other's processes for their own."""
    bases = list(range(FIRST_PORT, LAST_PORT, PORTS_PER_INSTANCE))
    start = os.getpid() * 97 % len(bases)
    for base in bases[start:] + bases[:start]:
        try:
            check_free((LOOPBACK, base + offset) for offset in range(PORTS_PER_INSTANCE))
        except LocalFailure:
            continue
        return base
    raise RuntimeError(f"no {PORTS_PER_INSTANCE} free ports in a row between {FIRST_PORT} and {LAST_PORT}")


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Control]:
    """Cassandra, Kafka and a Redis Cluster of three primaries. `engines.env` holds the settings that name them.

    `TIMELINE_TEST_ENGINES_DIR` names the folder of a running `timeline local engines`, to save the start while developing.
    Engines that cannot be had fail the tests that want them.
    """
    running = os.environ.get("TIMELINE_TEST_ENGINES_DIR")
    if running:
        yield Attached(Path(running))
        return
    topology = Topology(free_base_port(), cassandra_heap_mb=768)
    with open_engines(tmp_path_factory.mktemp("engines"), topology) as fleet:
        yield fleet
