"""Replication ids: whose writes a node holds. A promotion, and a start, always make a new one.

Redis acknowledges a write before a replica has it, so a failover loses some that were acknowledged. What was written under another id
than its node's present one may therefore be a list that lacks pushes, a record that a change has removed, a content that was deleted:
it is not trusted. An id may also change without a failover (a primary without replicas makes a new one when its backlog expires):
then what was sound is built anew, which costs only that.
"""

from __future__ import annotations

from typing import Any, Final

from timeline.domain.records import UNKNOWN_REPLICATION

INFO: Final = (b"INFO", b"replication")
TAG_BYTES: Final = 8
UNKNOWN_TAG: Final = UNKNOWN_REPLICATION[:TAG_BYTES]


# A reply, or the error in its place, and the id of the primary that gave it, as known before it was asked. That of a redirected
# command is unknown: somebody else has answered. A plain tuple: a page has sixty of them.
Told = tuple[Any, bytes]


def primary_in(told: object) -> bytes:
    """The replication id in what INFO answered, 20 bytes; UNKNOWN_REPLICATION when it is no primary's."""
    if not isinstance(told, bytes):
        return UNKNOWN_REPLICATION
    facts = dict(line.split(b":", 1) for line in told.split() if b":" in line)
    if facts.get(b"role") != b"master":
        return UNKNOWN_REPLICATION
    try:
        found = bytes.fromhex(facts.get(b"master_replid", b"").decode())
    except ValueError:
        return UNKNOWN_REPLICATION
    return found if len(found) == len(UNKNOWN_REPLICATION) else UNKNOWN_REPLICATION


def tag_of(primary: bytes) -> bytes:
    """What stands before a value that was written while its primary had this id. 64 random bits: no two are equal."""
    return primary[:TAG_BYTES]


def untagged(value: object, primary: bytes) -> bytes | None:
    """The value without its tag, if it was written on the primary that gave it; None otherwise."""
    if primary == UNKNOWN_REPLICATION or not isinstance(value, bytes) or value[:TAG_BYTES] != primary[:TAG_BYTES]:
        return None
    return value[TAG_BYTES:]
