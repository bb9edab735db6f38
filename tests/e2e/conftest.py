"""Stacks of real processes on the run's engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import free_base_port
from tests.stack import Stack, running
from timeline.local import Control, Topology, open_engines


@pytest.fixture
def stack(engines: Control, tmp_path: Path) -> Iterator[Stack]:
    """api, fanout and relay."""
    with running(engines.env, tmp_path, "api", "fanout", "relay") as started:
        yield started


@pytest.fixture(scope="module")
def own_engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Control]:
    """Engines of this module's own, to be stopped and started at will."""
    topology = Topology(free_base_port(), cassandra_heap_mb=768)
    with open_engines(tmp_path_factory.mktemp("own-engines"), topology) as fleet:
        yield fleet
