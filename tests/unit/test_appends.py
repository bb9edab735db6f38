"""Appends as a byte matrix: the same bytes, slots and order as if packed one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hiredis import pack_command
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from timeline.cache.appends import Appends, Frame, blocks
from timeline.cache.keys import SLOTS, Keys, slot_of
from timeline.cache.pushing import remaining, to_appends
from timeline.domain.entries import Entry
from timeline.domain.ids import TweetId, UserId
from timeline.domain.records import ListKind
from timeline.fanout.ports import Delivery

IDS = st.integers(0, 2**63 - 1) | st.integers(0, 1000) | st.sampled_from([9, 10, 10**18 - 1, 10**18, 2**63 - 1])
ROWS = st.lists(st.tuples(IDS, st.binary(min_size=24, max_size=24)), max_size=30)
KEYS = Keys("p:")


def appends_of(rows: list[tuple[int, bytes]]) -> Appends:
    users = np.array([user for user, _ in rows], np.int64)
    return Appends(users, np.frombuffer(b"".join(entry for _, entry in rows), np.uint8).reshape(-1, 24))


@given(ROWS, st.sampled_from([(b"RPUSHX",), (b"FCALL", b"some_name", b"1")]), st.sampled_from(list(ListKind)))
def test_every_node_gets_its_commands_as_hiredis_would_pack_them(
    rows: list[tuple[int, bytes]], words: tuple[bytes, ...], kind: ListKind
) -> None:
    node_of_slot = (np.arange(SLOTS) % 3).astype(np.int16)
    made = blocks(appends_of(rows), Frame(words, *KEYS.list_parts(kind)), node_of_slot)
    assert sorted(place for block in made for place in block.places.tolist()) == list(range(len(rows)))
    assert len({block.node for block in made}) == len(made)
    for block in made:
        expected = b""
        for place in block.places.tolist():
            user, entry = rows[place]
            key = KEYS.list_of(kind, user)
            assert node_of_slot[key_slot(key)] == block.node
            expected += pack_command((*words, key, entry))
        assert block.data == expected


@given(st.lists(IDS, min_size=1, max_size=5), st.integers(1, 20))
def test_entries_of_one_user_keep_their_order(users: list[int], count: int) -> None:
    pairs = [(Entry(TweetId(at + 1), UserId(7)), np.array(users, np.int64)) for at in range(count)]
    appends = to_appends(pairs)
    for block in blocks(appends, Frame((b"RPUSHX",), *KEYS.list_parts(ListKind.home)), np.zeros(SLOTS, np.int16)):
        for user in set(users):
            mine = [place for place in block.places.tolist() if appends.users[place] == user]
            assert mine == sorted(mine)


def test_slots_that_nobody_serves_are_a_block_of_their_own() -> None:
    node_of_slot = np.zeros(SLOTS, np.int16)
    node_of_slot[key_slot(KEYS.list_of(ListKind.home, 42))] = -1
    made = blocks(appends_of([(42, bytes(24)), (43, bytes(24))]), Frame((b"RPUSHX",), b"", b""), node_of_slot)
    assert {block.node: block.places.tolist() for block in made} == {-1: [0], 0: [1]}


def test_no_deliveries_are_no_blocks() -> None:
    assert blocks(to_appends([]), Frame((b"RPUSHX",), b"", b""), np.zeros(SLOTS, np.int16)) == []


@given(st.lists(st.tuples(st.lists(IDS, max_size=6), st.booleans()), max_size=6), st.data())
def test_rows_that_remain_are_the_deliveries_they_were_made_of(
    parts: list[tuple[list[int], bool]], data: st.DataObject
) -> None:
    deliveries = [
        Delivery(Entry(TweetId(at + 1), UserId(7)), np.array(users, np.int64), late)
        for at, (users, late) in enumerate(parts)
    ]
    appends = to_appends([(each.entry, each.followers) for each in deliveries])
    rows = data.draw(st.permutations(range(len(appends)))) if len(appends) else []
    rows = rows[: data.draw(st.integers(0, len(rows)))]
    left = remaining(deliveries, np.array(rows, np.intp))
    again = to_appends([(each.entry, each.followers) for each in left])
    assert again.users.tolist() == appends.users[sorted(rows)].tolist()
    assert again.entries.tolist() == appends.entries[sorted(rows)].tolist()
    lates = {each.entry: each.late for each in deliveries}
    assert all(len(each.followers) and each.late == lates[each.entry] for each in left)


@given(st.binary(max_size=40) | st.text("{}ab", max_size=8).map(str.encode))
def test_slots_are_those_of_redis_py(key: bytes) -> None:
    assert slot_of(key) == key_slot(key)


def test_what_belongs_to_one_reader_shares_a_slot() -> None:
    keys = [KEYS.list_of(kind, 42) for kind in ListKind] + [KEYS.leased("reader", 42), KEYS.leased("marks", 42)]
    assert keys == [b"p:timeline:{42}", b"p:profile:{42}", b"p:reader:{42}", b"p:marks:{42}"]
    assert len({slot_of(key) for key in keys}) == 1


def test_a_prefix_with_a_brace_is_refused() -> None:
    with pytest.raises(ValueError, match="brace"):
        Keys("a{b}")
