"""The rules of who sees what, and where. Pure: values in, values out. What API.md says of home is here, and nowhere else.

Two kinds: rules that an entry alone decides (`of_home`), and rules that need the content (`may_see`, `is_repeat` …).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from timeline.domain.entries import RETWEET_BIT, Entries, Entry
from timeline.domain.ids import first_id_at, time_ms
from timeline.domain.model import Reader, contains_each


def of_home(entries: Entries, reader: Reader) -> Entries:
    """Those whose author belongs in the reader's home and, of replies, those that do. Order is kept.

    A reply is there for its author, for the user replied to (who follows the author, as the entry got this far), and for those who
    follow both. A retweet stands by itself.
    """
    if not len(entries):
        return entries
    authors = entries["author"].astype(np.int64)
    references = entries["ref"].astype(np.uint64)
    is_reply = (references != 0) & (references < RETWEET_BIT)
    replied_to = np.where(is_reply, references, 0).astype(np.int64)
    me = reader.user_id
    shown_reply = (
        (authors == me) | (replied_to == me) | (replied_to == authors) | contains_each(reader.followees, replied_to)
    )
    kept: Entries = entries[contains_each(reader.authors, authors) & (~is_reply | shown_reply)]
    return kept


def has_place_of_its_own(entry: Entry, reader: Reader) -> bool:
    """`of_home` for one."""
    if not reader.sees_author(entry.author_id):
        return False
    to = entry.reply_to_user
    return (
        to is None or to in (reader.user_id, entry.author_id) or entry.author_id == reader.user_id or reader.follows(to)
    )


def may_see(author_id: int, *, followers_only: bool, reader: Reader | None) -> bool:
    """Whether content of this author may be seen by this reader (None: anybody). Deleted content is not asked about here."""
    if reader is None:
        return not followers_only
    if author_id == reader.user_id:
        return True
    return not reader.bars(author_id) and (not followers_only or reader.follows(author_id))


def window_start(retweet_id: int, window_ms: int) -> int:
    """The smallest id that a place may have to hide this retweet: `window_ms` before it."""
    return first_id_at(time_ms(retweet_id) - window_ms)


def is_repeat(retweet_id: int, places: Iterable[int], window_ms: int) -> bool:
    """Whether a retweet is hidden: some place of the same tweet stands in the window before it.

    Places that this very rule hides count too, so no chain has to be followed; and what comes later never changes what was shown.
    """
    start = window_start(retweet_id, window_ms)
    return any(start <= place < retweet_id for place in places)
