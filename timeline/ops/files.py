"""The files that `timeline load` reads, plain or gzipped.

Follows: a line `follower followee`. Posts: a line `post_id unix_ts author kind ref_post ref_user`, ascending in post_id and time;
kind is P (post), RT (retweet), MT (mention) or RE (reply); a reference of 0 is none, and ref_post names a line above. Ids are
1 to 2^63-1.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, cast

import numpy as np

from timeline.domain.entries import UserIds
from timeline.domain.ids import ID_MAX, UserId

_FOLLOWS_AT_ONCE = 100_000


class BadFile(Exception):
    """A line that is not of the format: which file, which line, what is wrong."""

    def __init__(self, path: Path, line: int, wrong: str) -> None:
        super().__init__(f"{path}, line {line}: {wrong}")


class Kind(StrEnum):
    post = "P"
    retweet = "RT"
    mention = "MT"
    reply = "RE"


_KINDS = frozenset(kind.value for kind in Kind)


@dataclass(frozen=True, slots=True)
class PostRow:
    """A line of the posts' file. A reference of 0 is none."""

    post_id: int
    unix_seconds: int
    author: UserId
    kind: Kind
    ref_post: int
    ref_user: int


@dataclass(frozen=True, slots=True)
class Follows:
    """Two columns side by side; `own` follows of oneself were left out."""

    follower: UserIds
    followee: UserIds
    own: int


def read_follows(path: Path) -> Follows:
    """All of it: 16 bytes a follow. Raises BadFile, OSError."""
    parts, at = [np.empty((0, 2), np.int64)], 0
    for lines in _batches(path):
        try:
            parts.append(np.array([line.split() for line in lines], np.int64).reshape(len(lines), 2))
        except (ValueError, OverflowError):
            _blame_follow(path, at, lines)
            raise
        if parts[-1].min(initial=1) < 1:
            _blame_follow(path, at, lines)
        at += len(lines)
    table = np.concatenate(parts)
    other = table[table[:, 0] != table[:, 1]]
    return Follows(other[:, 0].copy(), other[:, 1].copy(), len(table) - len(other))


def read_posts(path: Path) -> Iterator[PostRow]:
    """Line by line. Raises BadFile, OSError."""
    last_id, last_time = 0, 0
    for number, line in enumerate(_lines(path), 1):
        row = _post(path, number, line)
        if row.post_id <= last_id or row.unix_seconds < last_time:
            raise BadFile(path, number, "post_id and time must ascend")
        if row.ref_post >= row.post_id:
            raise BadFile(path, number, f"ref_post {row.ref_post} is not above")
        last_id, last_time = row.post_id, row.unix_seconds
        yield row


def digest(paths: Iterable[Path]) -> str:
    """Tells files apart by what is in them."""
    whole = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:32]


def _lines(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    number = 0
    with cast(IO[str], gzip.open(path, "rt", encoding="ascii") if zipped else path.open(encoding="ascii")) as lines:
        try:
            for number, line in enumerate(lines, 1):  # noqa: B007 (said when the next line cannot be read)
                yield line
        except UnicodeDecodeError as error:
            raise BadFile(path, number + 1, "is not ASCII") from error
        except (EOFError, gzip.BadGzipFile) as error:
            raise BadFile(path, number + 1, f"the gzip file is damaged: {error}") from error


def _batches(path: Path) -> Iterator[list[str]]:
    batch: list[str] = []
    for line in _lines(path):
        batch.append(line)
        if len(batch) == _FOLLOWS_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _blame_follow(path: Path, before: int, lines: list[str]) -> None:
    for number, line in enumerate(lines, before + 1):
        fields = line.split()
        if len(fields) != 2 or not all(_is_id(field) for field in fields):
            raise BadFile(path, number, f"not `follower followee`, two ids: {line.strip()[:80]!r}")


def _post(path: Path, number: int, line: str) -> PostRow:
    fields = line.split()
    if len(fields) != 6:
        raise BadFile(path, number, f"not `post_id unix_ts author kind ref_post ref_user`: {line.strip()[:80]!r}")
    post_id, at, author, kind, ref_post, ref_user = fields
    if kind not in _KINDS:
        raise BadFile(path, number, f"kind {kind[:20]!r} is none of {', '.join(_KINDS)}")
    if not all(map(_is_id, (post_id, author))):
        raise BadFile(path, number, "post_id and author are ids from 1 to 2^63-1")
    if not all(field == "0" or _is_id(field) for field in (at, ref_post, ref_user)):
        raise BadFile(path, number, "unix_ts, ref_post and ref_user are numbers from 0 to 2^63-1")
    row = PostRow(int(post_id), int(at), UserId(int(author)), Kind(kind), int(ref_post), int(ref_user))
    if row.kind in (Kind.retweet, Kind.reply) and not row.ref_post:
        raise BadFile(path, number, f"a {kind} without ref_post")
    return row


def _is_id(field: str) -> bool:
    return field.isdecimal() and field[0] != "0" and len(field) <= 19 and int(field) <= ID_MAX
