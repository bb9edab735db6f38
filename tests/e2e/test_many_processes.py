"""A hundred processes mint ids at once, under few worker numbers and short leases."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.stack import Stack
from timeline.local import Control

PROCESSES = int(os.environ.get("TIMELINE_MINTERS", "16"))
AT_ONCE = int(os.environ.get("TIMELINE_MINTERS_AT_ONCE", "8"))  # each costs a second of one core to start
MINTER = """
import asyncio, json, sys
from timeline.domain.errors import Unavailable
from timeline.settings import read_settings
from timeline.store import open_store

async def main():
    print("ready", flush=True)
    minted, refused = [], 0
    async with open_store(read_settings()) as store:
        for _ in range(int(sys.argv[1])):
            for _ in range(200):
                try:
                    minted.append(await store.ids.mint())
                except Unavailable:
                    refused += 1
            # a stall as of a paused machine: the lease runs out while nobody renews it
            __import__("time").sleep(0.7)
    print(json.dumps([minted, refused]))

asyncio.run(main())
"""


def test_no_id_is_minted_twice_by_a_hundred_processes(engines: Control, tmp_path: Path) -> None:
    """Leases of half a second expire among them, numbers go from hand to hand; each process's ids ascend."""
    stack = Stack(
        engines.env,
        tmp_path,
        TIMELINE_WORKER_MAX=str(2 * PROCESSES),
        TIMELINE_LIMITS=json.dumps({"worker_lease_ms": 500}),
    )
    stack.prepare()
    everything: list[int] = []
    refused = 0
    for first in range(0, PROCESSES, AT_ONCE):
        count = min(AT_ONCE, PROCESSES - first)
        minters = [
            subprocess.Popen([sys.executable, "-c", MINTER, "3"], env=stack.env, stdout=subprocess.PIPE, text=True)
            for _ in range(count)
        ]
        for minter in minters:
            output, _ = minter.communicate(timeout=240)
            assert minter.returncode == 0
            minted, not_minted = json.loads(output.splitlines()[-1])
            assert minted == sorted(set(minted)), "ids of one process ascend"
            everything += minted
            refused += not_minted
    print(f"{len(everything)} ids, {refused} refusals, {len({one >> 10 & 4095 for one in everything})} worker numbers")
    assert len(everything) > PROCESSES * 100
    assert len(everything) == len(set(everything))
