"""Breaks: the code, broken on purpose, in ten places. A suite that stays green under one of them proves nothing.

`python -m tests.breaks` applies each to a copy of the tree, one at a time, runs the suites that must fail, and says which did; with
names, only those. It ends with 1 if a break was caught by none, or if the text that it replaces is not there any more: then the break
has to follow the code. It needs a running `timeline local engines` (TIMELINE_TEST_ENGINES_DIR), or starts engines for each suite.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

TREE = Path(__file__).parent.parent
SUITE_SECONDS = 600
DISTURBED = ("OperationTimedOut", "Unavailable", "not acknowledged within", "Failed: Timeout")
LEFT_BEHIND = (
    ".venv",
    ".git",
    ".hypothesis",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".timeline",
    "__pycache__",
)

INTERLEAVINGS = "tests/integration/test_interleavings.py"
MACHINE = "tests/integration/test_machine.py"
WALKS = "tests/integration/test_walks.py"


@dataclass(frozen=True)
class Edit:
    """In a file: text that stands there once, and what is put in its place."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Break:
    """What is broken, in words; and the suites, each of which must notice."""

    name: str
    what: str
    edits: Sequence[Edit]
    suites: Sequence[str]


BREAKS = (
    Break(
        "skip-the-marker",
        "a rebuild puts no building header, so what is pushed while it pulls is lost",
        (
            Edit(
                "timeline/cache/functions.lua",
                "    redis.call('RPUSH', keys[1], args[1])\n    redis.call('PEXPIRE', keys[1], args[2])\n    return 1\n",
                "    return 1\n",
            ),
            Edit(
                "timeline/cache/functions.lua",
                "    if not building or field(building, TOKEN) ~= args[1] then\n        return 0\n    end\n    local",
                "    building = building or args[2]\n    local",
            ),
        ),
        (INTERLEAVINGS,),
    ),
    Break(
        "trim-without-the-floor",
        "a trim forgets to say below which id the list lacks something",
        (Edit("timeline/cache/pushing.py", "floor = int.from_bytes(max(self.oldest)[:8]) + 1", "floor = 0"),),
        (INTERLEAVINGS, MACHINE, WALKS),
    ),
    Break(
        "stale-context",
        "a change of the graph tells no cache of its reader's context",
        (
            Edit("timeline/writing/contexts.py", "await self._readers.mark(user_id)", "pass"),
            Edit("timeline/writing/contexts.py", "await self._readers.drop(user_id)", "pass"),
        ),
        (INTERLEAVINGS, MACHINE, WALKS),
    ),
    Break(
        "id-instead-of-arrival",
        "new is what has a higher id than what was seen, and not what arrived later",
        (
            Edit(
                "timeline/assembly/newer.py",
                "    seen = (arrivals <= cursor.seen) | ((arrivals <= cursor.until) & (ids <= cursor.boundary))\n    again",
                "    seen = ids <= cursor.boundary\n    again",
            ),
        ),
        (INTERLEAVINGS, MACHINE, WALKS),
    ),
    Break(
        "drop-the-repair",
        "a list is trusted on another primary than it was built on",
        (Edit("timeline/assembly/trust.py", "if not view.is_at_home:", "if False:"),),
        (INTERLEAVINGS, MACHINE),
    ),
    Break(
        "cache-absence",
        "a tweet that was not found in the store is remembered as one that is not there",
        (
            Edit(
                "timeline/assembly/hydrate.py",
                "        states = {tweet_id: State.of(tweet, counts[tweet_id]) for tweet_id, tweet in rows.items()}\n",
                "        states = {tweet_id: State.of(tweet, counts[tweet_id]) for tweet_id, tweet in rows.items()}\n"
                "        states |= {tweet_id: State(0, True, False) for tweet_id in lacking if tweet_id not in rows}\n",
            ),
        ),
        (INTERLEAVINGS,),
    ),
    Break(
        "ignore-M",
        "who is followed later than M before a list was built is not pulled beside it, unless it was after",
        (
            Edit(
                "timeline/assembly/whose.py",
                "self.reader.since_ms > built_ms - limits.fresh_follow_ms",
                "self.reader.since_ms > built_ms",
            ),
        ),
        (INTERLEAVINGS,),
    ),
    Break(
        "trust-a-tail-too-far",
        "a tail is believed down to its first entry, though what belongs above that may have arrived before it",
        (
            Edit(
                "timeline/assembly/sure.py",
                "    if not len(view.entries) or view.header.late >= view.first_arrival:\n        return ID_MAX\n",
                "    if not len(view.entries):\n        return ID_MAX\n",
            ),
            Edit(
                "timeline/assembly/sure.py",
                "return max(view.header.floor, first_id_at(time_ms(first) + apart_ms + 1))",
                "return max(view.header.floor, first)",
            ),
        ),
        (INTERLEAVINGS, MACHINE, WALKS),
    ),
    Break(
        "fill-without-a-token",
        "a context is put into the cache whatever has happened since it was read",
        (
            Edit(
                "timeline/cache/leased.py",
                '        done: int = await self._functions.call("fill", self._key(user_id), _dirty(token), value, self._lease_ms)\n'
                "        return done == 1\n",
                "        key = self._key(user_id)\n"
                "        value = tag_of(self._plane.primary_of(key)) + value\n"
                '        await self._plane.execute(key, b"SET", key, value, b"PX", self._lease_ms)\n'
                "        return True\n",
            ),
        ),
        (INTERLEAVINGS,),
    ),
    Break(
        "classify-by-the-setting",
        "deliveries are left out as soon as an author is above the threshold, whoever knows",
        (
            Edit(
                "timeline/fanout/reclassify.py",
                "return self._classes.may_skip(authors) - self._ending",
                "return {author for author in authors if self._classes.stands(author)} - self._ending",
            ),
        ),
        (INTERLEAVINGS,),
    ),
)


class Rotten(Exception):
    """A break whose text is not in the code any more."""


def check(broken: Break, tree: Path = TREE) -> None:
    """Raises Rotten unless every text is there, once."""
    for edit in broken.edits:
        count = (tree / edit.file).read_text().count(edit.old)
        if count != 1:
            raise Rotten(f"{broken.name}: this stands {count} times in {edit.file}, and should once:\n{edit.old}")


def apply(broken: Break, tree: Path) -> None:
    check(broken, tree)
    for edit in broken.edits:
        path = tree / edit.file
        path.write_text(path.read_text().replace(edit.old, edit.new))


def catching(broken: Break, tree: Path) -> Iterator[tuple[str, str, float]]:
    """Of each suite: its name, what it ended with ("caught it" and why, "missed", or what went wrong), and the seconds it took."""
    for suite in broken.suites:
        if not (tree / suite.split("::")[0]).exists():
            yield suite, "is not there", 0.0
            continue
        began = time.monotonic()
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", suite]
        done = subprocess.run(command, cwd=tree, capture_output=True, timeout=SUITE_SECONDS, check=False)
        output = done.stdout.decode(errors="replace")
        verdict = {0: "missed", 1: _failure(output)}.get(
            done.returncode, f"ended with {done.returncode}: {output[-400:]}"
        )
        yield suite, verdict, time.monotonic() - began


def _failure(output: str) -> str:
    """Which test failed, and why. An engine that was too slow to answer has noticed nothing."""
    failed = (line for line in output.splitlines() if line.startswith(("FAILED", "ERROR")))
    test = next(failed, "").split(" - ")[0].split("::")[-1]
    reasons = [line.removeprefix("E").strip() for line in output.splitlines() if line.startswith("E  ")]
    reason = next((line for line in reasons if "Error" in line or "Failed" in line), reasons[0] if reasons else "")
    is_disturbed = any(word in line for line in reasons for word in DISTURBED)
    return f"{'was disturbed' if is_disturbed else 'caught it'}: {test}: {reason[:300]}"


def play(broken: Break) -> bool:
    """Whether some suite caught it, each of them having been run."""
    print(f"{broken.name}: {broken.what}", flush=True)
    with tempfile.TemporaryDirectory(prefix="timeline-break-") as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(TREE, tree, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_BEHIND))
        apply(broken, tree)
        caught = False
        for suite, verdict, seconds in catching(broken, tree):
            print(f"  {suite} ({seconds:.0f} s) {verdict}", flush=True)
            caught |= verdict.startswith("caught it")
    return caught


def main(names: Sequence[str]) -> int:
    unknown = set(names) - {broken.name for broken in BREAKS}
    if unknown:
        print(f"there is no break {', '.join(sorted(unknown))}; there are {', '.join(each.name for each in BREAKS)}")
        return 2
    chosen = [broken for broken in BREAKS if not names or broken.name in names]
    for broken in chosen:
        check(broken)
    missed = [broken.name for broken in chosen if not play(broken)]
    print(
        f"{len(chosen) - len(missed)} of {len(chosen)} caught" + (f"; by nobody: {', '.join(missed)}" if missed else "")
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
