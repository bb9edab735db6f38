"""A world for one page: a reader of thousands, one of a few hundred, and one of a few hundred some of whom are pulled.

All of them share the authors of the newest rows, so that each first page is full, and is younger by more than W than what stands
below it: then tails of lists are enough, as they are where tweets come over hours and not over a minute.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.oracle import Oracle, Row

MANY, FEW, FEW_PULLED = 1, 2, 3
NAMES = {MANY: "many", FEW: "few", FEW_PULLED: "few, some pulled"}
FIRST_FAN, FIRST_PULLED, FIRST_PUSHED = 1_000, 10_000, 20_000


@dataclass(frozen=True, kw_only=True)
class Size:
    """`many` accounts are followed by one reader, `pulled` of them by more than `threshold` others; `few` by the other two, of whom
    one follows the same share of pulled ones."""

    many: int = 5_000
    pulled: int = 300
    few: int = 200
    threshold: int = 20
    rows_of_pulled: int = 25  # more than the tail that is pulled of each
    newest_rows: int = 60
    rounds: int = 9
    requests: int = 30
    limits: dict[str, int] = field(default_factory=lambda: {"follower_cache_ms": 1_000, "fresh_follow_ms": 41_000})

    @property
    def few_pulled(self) -> int:
        return max(1, round(self.few * self.pulled / self.many))

    @property
    def rows(self) -> int:
        return self.pulled * self.rows_of_pulled + self.many - self.pulled


@dataclass
class World:
    """Its files in a folder, and the oracle that is told what they became."""

    folder: Path
    size: Size
    oracle: Oracle = field(default_factory=Oracle)

    def write(self) -> None:
        size, by_chance = self.size, random.Random(1)
        pulled = range(FIRST_PULLED, FIRST_PULLED + size.pulled)
        pushed = range(FIRST_PUSHED, FIRST_PUSHED + size.many - size.pulled)
        followees = {
            MANY: [*pulled, *pushed],
            FEW: [*pushed[: size.few]],
            FEW_PULLED: [*pulled[: size.few_pulled], *pushed[: size.few - size.few_pulled]],
        }
        fans = range(FIRST_FAN, FIRST_FAN + size.threshold + 1)
        pairs = [(reader, author) for reader, authors in followees.items() for author in authors]
        for one, other in pairs:
            self.oracle.follows[one].add(other)
        pairs += [(fan, author) for fan in fans for author in pulled]
        (self.folder / "follows").write_text("".join(f"{one} {other}\n" for one, other in pairs))
        authors = [*pulled] * size.rows_of_pulled + [*pushed]
        by_chance.shuffle(authors)
        # the newest: by those whom all three follow, and a few by those who are pulled for two of them
        authors += by_chance.choices([*followees[FEW_PULLED], *pushed[:20]], k=size.newest_rows)
        rows: list[str] = []
        tweets: list[int] = []
        for row, author in enumerate(authors, 1):
            tweets = (
                tweets[-100:] if row != size.rows + 1 else []
            )  # the newest rows retweet each other: what lists reach down to
            source = by_chance.choice(tweets) if tweets and by_chance.random() < 0.05 else 0
            tweets += [] if source else [row]
            rows.append(f"{row} {row} {author} {'RT' if source else 'P'} {source} 0\n")
        (self.folder / "posts").write_text("".join(rows))

    def load_arguments(self, rows: int) -> Iterator[str]:
        yield "load"
        for name in ("follows", "posts", "journal"):
            yield f"--{name}={self.folder / name}"
        yield f"--limit={rows}"

    def tell_oracle(self) -> None:
        noted = (line.split() for line in (self.folder / "journal").read_text().splitlines()[1:] if line != "graph")
        ids = {int(row): int(tweet) for row, tweet in noted}
        for line in (self.folder / "posts").read_text().splitlines():
            row, _, author, _, source, _ = line.split()
            if int(row) in ids:
                self.oracle.add(Row(ids[int(row)], int(author), ids[int(source)] if source != "0" else None))
