"""What a load has done so far: a file that only grows, from which the next run goes on.

The first line says which files it is about and since when the graph stands; `graph` follows when the graph is loaded; then a line
`post_id tweet_id` for every row that was acknowledged, in the order of acknowledgements. A crash loses at most what was not
synced: those rows are written again, under the same idempotency keys, and get the same ids.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

_MAGIC = "timeline-load-1"
SYNC_ROWS = 200  # acknowledged rows that a crash may lose from the journal; a sync takes a few ms on a slow disk


class JournalError(Exception):
    """The journal cannot be used for this load."""


@dataclass(slots=True)
class Done:
    """What a journal tells: when the load began, whether the graph is in, and the tweet ids by row."""

    at_us: int
    graph: bool = False
    tweets: dict[int, int] = field(default_factory=dict)


class Journal:
    """One load's journal, open for writing."""

    def __init__(self, file: IO[str], done: Done) -> None:
        self._file, self.done = file, done
        self._unsynced = 0

    @staticmethod
    def open(path: Path, about: str, now_us: int) -> Journal:
        """The journal at this path, made if there is none. `about` names the files. Raises JournalError, OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size:
            done, kept = _read(path, about)
        else:
            done, kept = Done(now_us), 0
        file = path.open("r+" if kept else "w", encoding="ascii", newline="\n")
        file.seek(kept)
        file.truncate()  # half a line, of a crash
        journal = Journal(file, done)
        if not kept:
            journal._line(f"{_MAGIC} {about} {now_us}")
            journal.sync()
        return journal

    def graph_loaded(self) -> None:
        self.done.graph = True
        self._line("graph")
        self.sync()

    def add(self, post_id: int, tweet_id: int) -> None:
        self.done.tweets[post_id] = tweet_id
        self._line(f"{post_id} {tweet_id}")
        if self._unsynced >= SYNC_ROWS:
            self.sync()

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._unsynced = 0

    def _line(self, text: str) -> None:
        self._file.write(text + "\n")
        self._unsynced += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sync()
        self._file.close()


def _read(path: Path, about: str) -> tuple[Done, int]:
    """What stands in it, and how many of its bytes are whole lines."""
    text = path.read_text("ascii", errors="replace")
    whole = text[: text.rfind("\n") + 1]
    lines = whole.splitlines()
    head = lines[0].split() if lines else []
    if len(head) != 3 or head[0] != _MAGIC or not head[2].isdecimal():
        raise JournalError(f"{path} is not a journal of a load. Name another with --journal.")
    if head[1] != about:
        raise JournalError(f"{path} is the journal of other files. Name another with --journal, or remove it.")
    done = Done(int(head[2]))
    for number, line in enumerate(lines[1:], 2):
        if line == "graph":
            done.graph = True
            continue
        post_id, _, tweet_id = line.partition(" ")
        if not (post_id.isdecimal() and tweet_id.isdecimal()):
            raise JournalError(
                f"{path}, line {number} is damaged: {line[:60]!r}. Cut the file off there, and load again."
            )
        done.tweets[int(post_id)] = int(tweet_id)
    return done, len(whole)
