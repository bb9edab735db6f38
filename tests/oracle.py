"""The oracle: what home and profile must hold, recomputed from everything that happened, by the sentences of the contract.

Plain Python over plain lists. It knows nothing of caches, stores or pages, and shares no code with the service: not even how an id
tells its time. Where the service and the oracle differ, one of them has misread docs/api.md.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

EPOCH_MS = 1_262_304_000_000
SIX_HOURS_MS = 6 * 60 * 60 * 1000


@dataclass
class Row:
    """A tweet, reply or retweet that was acknowledged. `source` is the retweeted tweet's id."""

    id: int
    author: int
    source: int | None = None
    reply_to_user: int | None = None
    followers_only: bool = False
    deleted: bool = False
    quote_of: int | None = None

    @property
    def time_ms(self) -> int:
        return self.id // 4_194_304 + EPOCH_MS

    @property
    def shown(self) -> int:
        return self.id if self.source is None else self.source


class Oracle:
    """Everything that happened. Change the sets as things happen."""

    def __init__(self, retweet_window_ms: int = SIX_HOURS_MS) -> None:
        self.window_ms = retweet_window_ms
        self.rows: dict[int, Row] = {}
        self.by_author: defaultdict[int, list[Row]] = defaultdict(list)
        self.follows: defaultdict[int, set[int]] = defaultdict(set)
        self.blocks: defaultdict[int, set[int]] = defaultdict(set)
        self.mutes: defaultdict[int, set[int]] = defaultdict(set)

    def add(self, row: Row) -> None:
        if row.id not in self.rows:
            self.rows[row.id] = row
            self.by_author[row.author].append(row)

    def undo(self, user: int, source: int) -> None:
        """The user's retweets of that tweet are gone."""
        for row in self.by_author[user]:
            if row.source == source:
                row.deleted = True

    def block(self, one: int, other: int) -> None:
        """A block ends follows both ways."""
        self.blocks[one].add(other)
        self.follows[one].discard(other)
        self.follows[other].discard(one)

    def home(self, reader: int) -> list[int]:
        """Positions, newest first."""
        places = self._places(reader)
        return [row.id for row in places if not self._is_hidden(row, places)]

    def places(self, reader: int) -> list[int]:
        """As home, with the retweets that are hidden because the same tweet has a place in the six hours before."""
        return [row.id for row in self._places(reader)]

    def shows_quote(self, shown: int, reader: int) -> bool:
        """Whether what this tweet quotes is shown in a home: not of a muted user, nor what may not be seen."""
        quoted = self.rows.get(self.rows[shown].quote_of or 0)
        return quoted is not None and quoted.author not in self.mutes[reader] and self._may_be_seen(quoted, reader)

    def profile(self, author: int, reader: int | None) -> list[int]:
        """Positions, newest first: own tweets, replies and retweets."""
        rows = [row for row in self.by_author[author] if self._may_be_seen(row, reader)]
        return sorted((row.id for row in rows), reverse=True)

    def _places(self, reader: int) -> list[Row]:
        """What has a place in this home, newest first: what the retweet rule hides included."""
        authors = {reader} | (self.follows[reader] - self.mutes[reader])
        found = [
            row
            for author in authors
            for row in self.by_author[author]
            if self._is_for(row, reader) and self._may_be_seen(row, reader)
        ]
        return sorted(found, key=lambda row: row.id, reverse=True)

    def _is_for(self, row: Row, reader: int) -> bool:
        """A reply is there for its author, for the user replied to, and for those who follow both. A retweet stands by itself, but not
        one of a muted user's tweet."""
        if row.source is not None:
            return self.rows[row.source].author not in self.mutes[reader]
        if row.reply_to_user is None:
            return True
        # its author is followed, or the reader, by the time this is asked; whoever follows the author follows both, if they are one
        return reader in (row.author, row.reply_to_user) or row.reply_to_user in self.follows[reader] | {row.author}

    def _may_be_seen(self, row: Row, reader: int | None) -> bool:
        if row.source is not None:
            source = self.rows.get(row.source)
            if source is None or not self._may_be_seen(source, reader):
                return False
        if row.deleted or (reader is not None and self.is_barred(reader, row.author)):
            return False
        if not row.followers_only or reader == row.author:
            return True
        return reader is not None and row.author in self.follows[reader]

    def is_barred(self, one: int, other: int) -> bool:
        return other in self.blocks[one] or one in self.blocks[other]

    def _is_hidden(self, row: Row, places: list[Row]) -> bool:
        """A retweet is hidden when the same tweet has a place in this home in the six hours before it, hidden places included."""
        if row.source is None:
            return False
        return any(
            place.shown == row.source and place.id < row.id and row.time_ms - place.time_ms <= self.window_ms
            for place in places
        )
