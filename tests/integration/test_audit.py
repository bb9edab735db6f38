"""The audit's process finds a hole that was made on purpose, and none before, none while deliveries are under way, none that heals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import free_base_port
from tests.integration.holes import Home, environment_of, move_in, open_homes
from tests.integration.world import World
from timeline.cache.keys import Keys
from timeline.cache.sampling import HomeLists
from timeline.domain.errors import Unavailable
from timeline.domain.records import ListKind
from timeline.local import Control
from timeline.writing.drafts import Draft

_SECONDS = 60


@pytest.fixture(scope="module")
async def engine_world(engines: Control) -> AsyncIterator[World]:
    async with open_homes(engines.env) as world:
        yield world


@pytest.fixture
async def home(engine_world: World) -> Home:
    """The only readers with a list: those of the tests before have none any more."""
    for number in range(1, engine_world.first_user + 10):
        await engine_world.evict(number)
    return await move_in(engine_world)


class Auditing:
    """A process of the audit."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process, self._port, self._log = process, port, log

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=10) as answer:
            return str(answer.read().decode())

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self._log.read_text()
        try:
            self.get("/readyz")
        except (urllib.error.URLError, OSError):
            return False
        return True

    def counts(self) -> Counter[str]:
        """Of results and causes by name, and the gauges."""
        found: Counter[str] = Counter()
        for line in self.get("/metrics").splitlines():
            name, _, value = line.rpartition(" ")
            if name.startswith(("timeline_audited_total{", "timeline_holes_found_total{")):
                found[name.split('"')[1]] = int(float(value))
            elif name.startswith("timeline_audit_pass"):
                found[name] = int(float(value))
        return found

    def logged(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]


@contextmanager
def auditing(world: World, engines: Control, folder: Path) -> Iterator[Auditing]:
    port = free_base_port()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TIMELINE_")}
    environment = inherited | environment_of(world, engines.env) | {"TIMELINE_ADMIN_PORT": str(port)}
    log = folder / "audit.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "timeline", "audit", "--per-second", "20"], env=environment, stderr=output
        )
    try:
        yield Auditing(process, port, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)


async def until(holds: Callable[[], bool], what: str, meanwhile: Callable[[], Awaitable[None]] | None = None) -> None:
    deadline = time.monotonic() + _SECONDS
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline, what
        if meanwhile is not None:
            await meanwhile()
        await asyncio.sleep(0.05)


async def test_the_process_proves_a_sound_timeline_and_finds_the_hole_that_is_made(
    home: Home, engines: Control, tmp_path: Path
) -> None:
    world = home.world

    async def post_slowly() -> None:
        posted = await world.writer.post(home.ann, Draft(text="under way"))  # type: ignore[arg-type]
        await asyncio.sleep(0.1)
        await home.deliver(posted.tweet)

    with auditing(world, engines, tmp_path) as audit:
        await until(audit.is_ready, "not ready")
        await home.redis(b"PEXPIRE", home.key("timeline", home.me), 300_000)
        await until(lambda: audit.counts()["clean"] >= 5, "nothing was audited", post_slowly)
        counts = audit.counts()
        assert sum(counts[cause] for cause in ("push", "rebuild", "profile", "context", "late", "phantom")) == 0, counts
        assert counts["holes"] == 0
        assert counts["timeline_audit_pass_timestamp_seconds"] > time.time() - _SECONDS
        assert 0 < await home.expiry_ms("timeline", home.me) <= 300_000, "an audit is no read"

        lost = await home.post(home.bob, "lost")
        await home.remove("timeline", home.me, lost.entry)
        await until(lambda: audit.counts()["push"] >= 1, f"the hole was not found: {audit.counts()}")
        counts = audit.counts()
        assert counts["holes"] >= 1
        assert sum(counts[cause] for cause in ("rebuild", "profile", "context", "late", "phantom")) == 0, counts
        told = [line for line in audit.logged() if line["message"] == "hole_found"]
        assert told[0]["user"] == str(home.me)
        assert told[0]["tweets"] == [str(lost.id)]
        assert told[0]["what_to_do"] == f"timeline doctor timeline {home.me}"

        await home.append(lost.entry, late=True)
        clean = audit.counts()["clean"]
        await until(lambda: audit.counts()["clean"] > clean + 2, "it is sound again, and that is not seen")
        audit.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(audit.process.wait, 30) == 0
        assert [line for line in audit.logged() if line["level"] == "ERROR" and line["message"] != "hole_found"] == []


def test_a_rate_above_the_limit_is_refused(engines: Control) -> None:
    command = [sys.executable, "-m", "timeline", "audit", "--per-second", "51"]
    environment = {"PATH": "", **engines.env}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "at most 50" in done.stderr


async def test_every_home_list_is_found_and_nothing_else(home: Home) -> None:
    assert await _all(HomeLists(home.world.cache.plane, home.world.cache.keys)) == {home.me}
    await home.redis(b"SET", home.key("timeline", 0).replace(b"{0}", b"{no number}"), b"1")
    await home.redis(b"SET", home.key("timeline", 0).replace(b"{0}", b"{99999999999999999999}"), b"1")
    assert await _all(HomeLists(home.world.cache.plane, home.world.cache.keys)) == {home.me}


async def test_a_prefix_is_itself_and_no_pattern(home: Home) -> None:
    tricky = home.world.settings.redis_key_prefix + r"a[x]?*\:"
    own = Keys(tricky)
    others = (
        tricky.replace("[x]", "x"),
        tricky.replace("?", "q"),
        tricky.replace("*", "many"),
        tricky.replace("\\", ""),
    )
    for key in (own.list_of(ListKind.home, 7), *(f"{other}timeline:{{8}}".encode() for other in others)):
        await home.redis(b"SET", key, b"1", b"PX", 60_000)
    assert await _all(HomeLists(home.world.cache.plane, own)) == {7}


async def test_a_node_that_is_no_primary_any_more_is_unavailable(home: Home) -> None:
    lists = HomeLists(home.world.cache.plane, home.world.cache.keys)
    assert len(lists.parts()) == 3
    with pytest.raises(Unavailable, match="no primary any more"):
        await lists.page("127.0.0.1:1", 0, 100)


async def _all(lists: HomeLists) -> set[int]:
    found: set[int] = set()
    for part in lists.parts():
        at = 0
        while True:
            owners, at = await lists.page(part, at, 500)
            found |= set(owners)
            if at == 0:
                break
    return found
