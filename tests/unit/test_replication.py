"""Replication ids, as INFO tells them and as tags stand before values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeline.cache.dataplane import packed_transaction
from timeline.cache.replication import TAG_BYTES, primary_in, tag_of, untagged
from timeline.cache.timelines import _reading
from timeline.domain.records import UNKNOWN_REPLICATION

ID = "8371b4fb1155b71f4a04d3e1bc3e18c4a990aeeb"
PRIMARY = bytes.fromhex(ID)
TOLD = f"# Replication\r\nrole:master\r\nconnected_slaves:0\r\nmaster_replid:{ID}\r\nmaster_replid2:{'0' * 40}\r\n".encode()


def test_a_primary_tells_its_id() -> None:
    assert primary_in(TOLD) == PRIMARY


@pytest.mark.parametrize(
    "told",
    [
        TOLD.replace(b"role:master", b"role:slave"),
        TOLD.replace(b"role:master\r\n", b""),
        TOLD.replace(ID.encode(), b"not hex"),
        TOLD.replace(ID.encode(), b"83"),
        TOLD.replace(b"master_replid:", b"master_id:"),
        b"",
        None,
        "text",
    ],
)
def test_whatever_else_is_told_is_no_primary(told: object) -> None:
    assert primary_in(told) == UNKNOWN_REPLICATION


@given(st.binary(max_size=30))
def test_a_value_is_read_under_its_own_primary_alone(value: bytes) -> None:
    other = PRIMARY[::-1]
    assert untagged(tag_of(PRIMARY) + value, PRIMARY) == value
    assert untagged(tag_of(other) + value, PRIMARY) is None
    assert untagged(tag_of(UNKNOWN_REPLICATION) + value, UNKNOWN_REPLICATION) is None
    assert untagged(value[: TAG_BYTES - 1], PRIMARY) is None
    assert untagged(None, PRIMARY) is None


@given(st.binary(min_size=1, max_size=40), st.none() | st.integers(1, 10_000))
def test_the_reading_of_a_list_is_packed_as_any_transaction(key: bytes, newest: int | None) -> None:
    commands = (
        (b"LINDEX", key, 0),
        (b"LRANGE", key, 1 if newest is None else -newest, -1),
        (b"LLEN", key),
        (b"PTTL", key),
    )
    assert _reading(key, newest) == packed_transaction(commands)
