"""`timeline load` as a process: killed and run again, told of bad files, and without an engine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

from tests.oracle import Oracle, Row
from tests.stack import Stack, running, until
from timeline.local import Control
from timeline.ops import demo
from timeline.ops.files import Kind, read_posts

ROWS = 700
BUSIEST = 25


def test_a_load_that_is_killed_goes_on_without_a_duplicate_or_a_gap(engines: Control, tmp_path: Path) -> None:
    """SIGKILL twice in the middle; then the profiles of the busiest hold each row of the file once, in the order of the file."""
    journal = tmp_path / "journal"
    arguments = ("load", "--demo", "--limit", str(ROWS), "--journal", str(journal))

    def rows_noted() -> int:
        return len(journal.read_text().splitlines()) if journal.exists() else 0

    with running(engines.env, tmp_path, "api") as stack:
        assert stack.walk("/api/timeline/home", demo.DEMO_READER) == []
        for enough in (100, 400):
            process = subprocess.Popen(
                [sys.executable, "-m", "timeline", *arguments],
                env=stack.env,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                until(lambda enough=enough: rows_noted() >= enough, 120, "rows noted")  # type: ignore[misc]
            finally:
                process.kill()
                process.wait(30)
        assert rows_noted() < ROWS
        told = stack.run(*arguments)
        assert "were done before" in told
        _check_profiles(stack, journal)
        assert stack.walk("/api/timeline/home", demo.DEMO_READER), "who read before the load is told of its follows"


def _check_profiles(stack: Stack, journal: Path) -> None:
    noted = (line.split() for line in journal.read_text().splitlines()[1:] if line != "graph")
    ids = {int(row): int(tweet) for row, tweet in noted}
    oracle, rows = Oracle(), list(islice(read_posts(demo.POSTS), ROWS))
    for row in rows:
        oracle.add(Row(ids[row.post_id], row.author, ids[row.ref_post] if row.kind is Kind.retweet else None))
    for author, _ in Counter(row.author for row in rows).most_common(BUSIEST):
        mine = dict.fromkeys(ids[row.post_id] for row in rows if row.author == author)
        profile = stack.walk(f"/api/timeline/user/{author}", author)
        assert profile == list(mine)[::-1] == oracle.profile(author, author)


def _load(tmp_path: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("TIMELINE_")} | settings
    command = [sys.executable, "-m", "timeline", "load", *arguments]
    return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)


def test_a_bad_line_is_named_and_is_no_traceback(engines: Control, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("1 2\n2\n")
    (tmp_path / "p").write_text("")
    with running(engines.env, tmp_path) as stack:
        done = _load(tmp_path, "--follows", "f", "--posts", "p", **stack.settings)
    assert done.returncode == 1
    assert "f, line 2: not `follower followee`" in done.stderr
    assert "Traceback" not in done.stderr


def test_options_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    for arguments in ((), ("--demo", "--follows", "f"), ("--follows", "f"), ("--demo", "--rate", "5", "--as-recorded")):
        done = _load(tmp_path, *arguments)
        assert done.returncode == 2, arguments
        assert "Usage" in done.stderr


def test_engines_that_are_away_are_said_to_be(tmp_path: Path) -> None:
    away = {"TIMELINE_CASSANDRA_HOSTS": "127.0.0.1:1", "TIMELINE_LIMITS": '{"cassandra_connect_ms": 500}'}
    done = _load(tmp_path, "--demo", **away)
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
