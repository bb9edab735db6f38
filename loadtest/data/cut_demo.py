"""Cut the demo world out of hybrid81k: `python loadtest/data/cut_demo.py FOLDER_WITH_HYBRID81K timeline/ops/demo`.

Who is taken: from the most connected of those who do much, outwards along follows, the liveliest first. What is taken: the follows
among them, and of what they did among themselves the last rows of the week, with what those refer to. Users are numbered anew, by
how rich their homes are: 1 is the one to look at first. The same files give the same bytes.
"""

from __future__ import annotations

import gzip
import sys
from collections import Counter, defaultdict
from heapq import heappop, heappush
from pathlib import Path

USERS = 2_000
POSTS = 3_000

Row = tuple[int, int, int, str, int, int]


def main(source: Path, target: Path) -> None:
    follows = [tuple(map(int, line.split())) for line in lines_of(source / "hybrid81k.follows.gz")]
    posts = [row_of(line) for line in lines_of(source / "hybrid81k.posts.gz")]
    chosen = choose(follows, posts)
    edges = [(one, other) for one, other in follows if one in chosen and other in chosen]
    rows = close(last_ones([row for row in posts if row[2] in chosen and (not row[5] or row[5] in chosen)]))
    numbers = renumber(chosen, edges, rows)
    write(target / "follows.gz", sorted((numbers[one], numbers[other]) for one, other in edges))
    ids = {row[0]: at for at, row in enumerate(rows, 1)}
    ids[0] = numbers[0] = 0
    write(target / "posts.gz", [(ids[i], t, numbers[a], k, ids[r], numbers[u]) for i, t, a, k, r, u in rows])
    kinds = Counter(row[3] for row in rows)
    print(f"{len(chosen)} users, {len(edges)} follows, {len(rows)} rows {dict(kinds)}")


def lines_of(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="ascii") as file:
        return file.read().splitlines()


def row_of(line: str) -> Row:
    post, at, author, kind, ref_post, ref_user = line.split()
    return int(post), int(at), int(author), kind, int(ref_post), int(ref_user)


def choose(follows: list[tuple[int, ...]], posts: list[Row]) -> set[int]:
    """USERS users, from the liveliest outwards."""
    does: Counter[int] = Counter()
    for _, _, author, _, _, other in posts:
        does[author] += 1
        does[other] += other != 0
    near: defaultdict[int, set[int]] = defaultdict(set)
    for one, other in follows:
        near[one].add(other)
        near[other].add(one)
    first = max(near, key=lambda user: (min(does[user], len(near[user])), -user))
    chosen, edge = set[int](), Counter({first: 1})
    heap = [(0.0, first)]
    while len(chosen) < USERS:
        _, best = heappop(heap)
        if best in chosen:
            continue  # an older score of one that was taken since
        chosen.add(best)
        for user in near[best] - chosen:
            edge[user] += 1
            # known to many of those chosen already, and doing something
            heappush(heap, (-edge[user] * min(does[user], 30) / (10 + len(near[user])), user))
    return chosen


def last_ones(rows: list[Row]) -> list[Row]:
    """The last rows with what they refer to: POSTS of them, or one more."""
    by_id = {row[0]: row for row in rows}
    taken: set[int] = set()
    for row in reversed(rows):
        if len(taken) >= POSTS:
            break
        taken.add(row[0])
        if row[4] in by_id:
            taken.add(row[4])
    return [row for row in rows if row[0] in taken]


def close(rows: list[Row]) -> list[Row]:
    """References only to rows that are there; what refers to none any more is a plain post."""
    there = {row[0] for row in rows}
    closed = []
    for post, at, author, kind, ref_post, ref_user in rows:
        if ref_post and ref_post not in there:
            closed.append((post, at, author, "P", 0, 0))
        else:
            closed.append((post, at, author, kind, ref_post, ref_user))
    return closed


def renumber(chosen: set[int], edges: list[tuple[int, ...]], rows: list[Row]) -> dict[int, int]:
    writes = Counter(row[2] for row in rows)
    home: Counter[int] = Counter()
    followees: Counter[int] = Counter()
    for one, other in edges:
        home[one] += writes[other]
        followees[one] += 1
    # rich by what arrives from different people who write, not by one who never stops
    ranked = sorted(chosen, key=lambda user: (-min(home[user], 8 * followees[user]), user))
    return {user: number for number, user in enumerate(ranked, 1)}


def write(path: Path, rows: list[tuple[object, ...]] | list[tuple[int, int]]) -> None:
    text = "".join(" ".join(map(str, row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode("ascii"), 9, mtime=0))
    print(path, len(rows), "rows", path.stat().st_size, "bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
