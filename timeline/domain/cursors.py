"""Cursors: opaque to the client, exclusive, signed, good for one call, one order and one reader only.

A cursor is base64url of: layout (1 byte), key number (1), fields, ids, the first 10 bytes of an HMAC-SHA256. The scope (call,
order, whose list, which reader) goes into the HMAC and not into the cursor: used elsewhere, it is as wrong as a forged one.
Keys have numbers, so that a new one signs while an old one is still accepted.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from timeline.domain.errors import BadRequest
from timeline.domain.ids import ID_MAX

LAYOUT = 2
_MAC_BYTES = 10  # 80 bits: nobody guesses one through an API that answers a few thousand tries a second
_FIELDS = struct.Struct(">BQQQQQQ")
_IDS_MAX = 255
_CHARACTERS = (2 + _FIELDS.size + 8 * _IDS_MAX + _MAC_BYTES) * 4 // 3 + 3
_DIRECTIONS: tuple[Literal["older"], Literal["newer"]] = ("older", "newer")


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where to go on: strictly below `boundary` (older), or above what was seen (newer).

    A newer cursor says what was seen of the list with that `epoch` (0: there was none): every arrival up to number `seen`,
    and of those from there up to number `until` the ids up to `boundary`. So what comes late, to a place further down, is
    still new; and without that list, what lies above `boundary` is.

    Of authors who are pulled, what lies above `boundary` is new, and what has come since to a place below it: `at_ms` is when the page
    was read (0: what was seen cannot be told), and `ids` are those of theirs that stood up to `boundary` then, above the horizon: W
    and the clocks' skew before; `stored` says that all of it was from the store, none from their lists. `reader` is the fingerprint
    of the reader's context then.
    """

    direction: Literal["older", "newer"]
    boundary: int
    epoch: int = 0
    seen: int = 0
    until: int = 0
    at_ms: int = 0
    reader: int = 0
    ids: tuple[int, ...] = ()
    stored: bool = False


class Signer:
    """Makes cursors into text and back. `keys`: number → secret; the first signs."""

    def __init__(self, keys: Mapping[int, bytes]) -> None:
        if not keys:
            raise ValueError("no cursor key")
        for number, secret in keys.items():
            if not 0 <= number <= 255 or len(secret) < 16:
                raise ValueError("a cursor key is a number from 0 to 255 and a secret of at least 16 bytes")
        self._keys = dict(keys)
        self._current = next(iter(self._keys))

    def write(self, cursor: Cursor, scope: str) -> str:
        if len(cursor.ids) > _IDS_MAX:
            raise ValueError(f"{len(cursor.ids)} ids in a cursor")
        numbers = (cursor.boundary, cursor.epoch, cursor.seen, cursor.until, cursor.at_ms, cursor.reader)
        fields = _FIELDS.pack(_DIRECTIONS.index(cursor.direction) | cursor.stored << 1, *numbers)
        signed = bytes((LAYOUT, self._current)) + fields + struct.pack(f">{len(cursor.ids)}Q", *cursor.ids)
        return base64.urlsafe_b64encode(signed + self._mac(self._current, signed, scope)).decode().rstrip("=")

    def read(self, text: str, scope: str) -> Cursor:
        """The cursor that was written under this scope. Raises BadRequest("bad-cursor") on anything else."""
        data = _decode(text)
        ids_bytes = len(data) - 2 - _FIELDS.size - _MAC_BYTES
        if ids_bytes < 0 or ids_bytes % 8 or data[0] != LAYOUT or data[1] not in self._keys:
            raise _bad()
        signed, mac = data[:-_MAC_BYTES], data[-_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(data[1], signed, scope)):
            raise _bad()
        direction, boundary, *numbers = _FIELDS.unpack_from(signed, 2)
        ids = struct.unpack_from(f">{ids_bytes // 8}Q", signed, 2 + _FIELDS.size)
        epoch, seen, until, at_ms, reader = numbers
        at = _DIRECTIONS[direction & 1]
        return Cursor(at, min(boundary, ID_MAX), epoch, seen, until, at_ms, reader, ids, bool(direction & 2))

    def _mac(self, number: int, signed: bytes, scope: str) -> bytes:
        return hmac.digest(self._keys[number], scope.encode() + b"\0" + signed, hashlib.sha256)[:_MAC_BYTES]


def parse_keys(text: str) -> dict[int, bytes]:
    """{2: b"new", 1: b"old"} of "2:new,1:old". Raises ValueError, without the secret in it."""
    keys: dict[int, bytes] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        number, colon, secret = part.partition(":")
        if not (colon and number.isdigit()):
            raise ValueError("cursor keys are written number:secret,number:secret")
        keys[int(number)] = secret.encode()
    return keys


def _decode(text: str) -> bytes:
    if len(text) > _CHARACTERS or not text.isascii():
        raise _bad()
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise _bad() from None
    # base64 ignores a few last bits: accept one spelling only
    if base64.urlsafe_b64encode(data).decode().rstrip("=") != text:
        raise _bad()
    return data


def _bad() -> BadRequest:
    return BadRequest("bad-cursor", "This is not a cursor of this list, order and reader. Read the first page again.")
