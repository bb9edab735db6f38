"""The only place where a key is spelled. What belongs to one reader shares a hash tag, and so a node: `timeline:{42}`,
`reader:{42}`.
"""

from __future__ import annotations

from binascii import crc_hqx
from typing import Final

from timeline.domain.records import ListKind

SLOTS: Final = 16_384


def slot_of(key: bytes) -> int:
    """The hash slot of a key: of what stands between its first braces, if anything does."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) & (SLOTS - 1)


class Keys:
    """Keys of one deployment: `prefix` keeps two on one cluster apart. Raises ValueError on a prefix with a brace in it."""

    def __init__(self, prefix: str) -> None:
        if "{" in prefix or "}" in prefix:
            raise ValueError("a brace in the key prefix would move every key to one node")
        self._prefix = prefix.encode()
        self._lists = {kind: self._prefix + kind.value.encode() + b":{" for kind in ListKind}
        self._post, self._state, self._author = (self._prefix + name for name in (b"post:", b"state:", b"author:"))

    def list_parts(self, kind: ListKind) -> tuple[bytes, bytes]:
        """What stands before and after the user's decimal id in a list's key: the hash slot is that of the id."""
        return self._lists[kind], b"}"

    def list_of(self, kind: ListKind, user_id: int) -> bytes:
        return b"%s%d}" % (self._lists[kind], user_id)

    def leased(self, record: str, user_id: int) -> bytes:
        """`record`: "reader" or "marks"."""
        return b"%s%s:{%d}" % (self._prefix, record.encode(), user_id)

    def of_reader(self, user_id: int) -> tuple[bytes, ...]:
        """All that is cached of a user as a reader."""
        return self.list_of(ListKind.home, user_id), self.leased("reader", user_id), self.leased("marks", user_id)

    def post(self, tweet_id: int) -> bytes:
        return b"%s%d" % (self._post, tweet_id)

    def state(self, tweet_id: int) -> bytes:
        return b"%s%d" % (self._state, tweet_id)

    def author(self, user_id: int) -> bytes:
        return b"%s%d" % (self._author, user_id)
