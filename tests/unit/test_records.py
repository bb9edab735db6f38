"""Packed records: what is packed unpacks to the same, and what another release packed is a miss."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import timeline.cache
from timeline.domain import records
from timeline.domain.entries import (
    ENTRY_BYTES,
    RETWEET_BIT,
    Entry,
    Stretch,
    join,
    merge,
    newest_first,
    of,
    reference_to,
    to_list,
    unpack,
)
from timeline.domain.ids import TweetId, UserId
from timeline.domain.model import Counts, Reader
from timeline.domain.records import (
    Author,
    Header,
    Marks,
    Post,
    State,
    pack_marks,
    pack_reader,
    unpack_marks,
    unpack_reader,
)

U64 = st.integers(0, 2**64 - 1)
ID = st.integers(1, 2**63 - 1)
U32 = st.integers(0, 2**32 - 1)
HEADERS = st.builds(Header, U64, U64, U64, U64, U64, U64, U64, st.binary(min_size=20, max_size=20))
POSTS = st.builds(
    Post,
    U64,
    ID.map(TweetId),
    ID.map(UserId),
    st.binary(max_size=300),
    st.booleans(),
    st.none() | ID.map(TweetId),
    st.none() | ID.map(UserId),
    st.none() | ID.map(UserId),
    st.none() | ID.map(TweetId),
    st.none() | ID.map(UserId),
)
STATES = st.builds(State, ID, st.booleans(), st.booleans(), st.builds(Counts, U32, U32, U32))
AUTHORS = st.builds(
    Author,
    U64,
    ID.map(UserId),
    st.text(max_size=15).filter(lambda name: len(name.encode()) < 256),
    st.binary(),
    st.booleans(),
)
COLUMN = st.lists(ID, max_size=20).map(lambda ids: np.array(sorted(ids), np.int64))
ENTRIES = st.builds(Entry, ID.map(TweetId), ID.map(UserId), U64)


@given(HEADERS)
def test_a_header_unpacks_to_itself(header: Header) -> None:
    assert Header.unpack(header.pack()) == header


@given(POSTS)
def test_a_post_unpacks_to_itself(post: Post) -> None:
    assert Post.unpack(post.pack()) == post


@given(STATES)
def test_a_state_unpacks_to_itself(state: State) -> None:
    assert State.unpack(state.pack()) == state


@given(AUTHORS)
def test_an_author_unpacks_to_itself(author: Author) -> None:
    assert Author.unpack(author.pack()) == author


@given(ID, COLUMN, COLUMN, COLUMN, COLUMN, U64)
def test_a_reader_unpacks_to_itself(
    user: int, followees: np.ndarray, blocked: np.ndarray, blocked_by: np.ndarray, muted: np.ndarray, version: int
) -> None:
    reader = Reader(UserId(user), followees, followees[::-1].copy(), blocked, blocked_by, muted, version)
    found = unpack_reader(pack_reader(reader))
    assert found is not None
    assert (found.user_id, found.version) == (user, version)
    for name in ("followees", "since_ms", "blocked", "blocked_by", "muted"):
        assert getattr(found, name).tolist() == getattr(reader, name).tolist()


@given(COLUMN, COLUMN, U64, U64, U64)
def test_marks_unpack_to_themselves(
    likes: np.ndarray, retweets: np.ndarray, likes_floor: int, retweets_floor: int, version: int
) -> None:
    found = unpack_marks(pack_marks(Marks(likes, likes_floor, retweets, retweets_floor, version)))
    assert found is not None
    assert (found.likes.tolist(), found.retweets.tolist()) == (likes.tolist(), retweets.tolist())
    assert (found.likes_floor, found.retweets_floor, found.version) == (likes_floor, retweets_floor, version)


UNPACKERS = (Header.unpack, Post.unpack, State.unpack, Author.unpack, unpack_reader, unpack_marks)


@given(st.binary(max_size=120), st.sampled_from(UNPACKERS))
def test_no_bytes_make_an_unpacker_raise(data: bytes, unpacker) -> None:
    unpacker(data)


@given(st.integers(0, 7), st.binary(max_size=120), st.sampled_from(UNPACKERS))
def test_no_bytes_behind_a_known_layout_make_an_unpacker_raise(layout: int, rest: bytes, unpacker) -> None:
    unpacker(bytes((layout,)) + rest)


@given(
    st.sampled_from(
        [pack_reader(Reader.nobody(UserId(7))), State(1, False, False).pack(), Header(1, 2, 3, 4, 5).pack()]
    )
)
def test_a_cut_or_unknown_value_is_a_miss(packed: bytes) -> None:
    for unpacker in UNPACKERS:
        assert unpacker(packed[:-1]) is None
        assert unpacker(b"\x63" + packed[1:]) is None
        assert unpacker(b"") is None


@given(U64)
def test_versions_stand_where_the_functions_compare_them(version: int) -> None:
    packed = struct.pack(">Q", version)
    assert Post(version, TweetId(1), UserId(2), b"").pack()[2:10] == packed
    assert State(version, False, False).pack()[2:10] == packed
    assert Author(version, UserId(1), "a", b"").pack()[2:10] == packed


@given(ID, ID)
def test_a_deletion_is_newer_than_any_edit_where_the_functions_compare(deleted: int, edited: int) -> None:
    gone, changed = State(deleted, True, False), State(edited, False, False)
    assert gone.pack()[2:10] > changed.pack()[2:10]
    assert gone.order > changed.order


PLACES = {"floor": 23, "epoch": 31, "base": 39, "late": 55, "token": 63, "late_ms": 71}


@given(HEADERS)
def test_header_fields_stand_where_the_functions_look(header: Header) -> None:
    packed = header.pack()
    for name, first in PLACES.items():
        assert packed[first - 1 : first + 7] == struct.pack(">Q", getattr(header, name))
    code = (Path(timeline.cache.__file__).parent / "functions.lua").read_text()
    assert f"local {', '.join(map(str.upper, PLACES))} = {', '.join(map(str, PLACES.values()))} --" in code
    assert f"HEADER_BYTES, HEADER_LAYOUT = {records.HEADER_BYTES}, {records.HEADER_LAYOUT}" in code


@given(ENTRIES)
def test_an_entry_unpacks_to_itself(entry: Entry) -> None:
    assert len(entry.pack()) == ENTRY_BYTES
    assert unpack(entry.pack()) == entry
    assert to_list(of([entry])) == [entry]


@given(ID, ID)
def test_a_reference_says_what_it_is(retweeted: int, user: int) -> None:
    retweet = Entry(TweetId(1), UserId(2), reference_to(retweet_of=retweeted, reply_to_user=user))
    assert (retweet.retweet_of, retweet.reply_to_user, retweet.shown_id) == (retweeted, None, retweeted)
    reply = Entry(TweetId(1), UserId(2), reference_to(reply_to_user=user))
    assert (reply.retweet_of, reply.reply_to_user, reply.shown_id) == (None, user, 1)
    assert Entry(TweetId(1), UserId(2)).retweet_of is None
    assert retweet.reference & RETWEET_BIT


@given(st.lists(ENTRIES, max_size=30))
def test_newest_first_sorts_and_keeps_each_once(entries: list[Entry]) -> None:
    ids = newest_first(join(entry.pack() for entry in entries))["tweet"].tolist()
    assert ids == sorted({entry.tweet_id for entry in entries}, reverse=True)


@given(st.lists(st.tuples(st.lists(ENTRIES, max_size=10), ID), max_size=4))
def test_merged_stretches_are_complete_only_where_each_is(parts: list[tuple[list[Entry], int]]) -> None:
    stretches = [
        Stretch(newest_first(of([one for one in entries if one.tweet_id >= line])), line) for entries, line in parts
    ]
    merged = merge(stretches)
    line = max((line for _, line in parts), default=0)
    assert merged.complete_from == line
    expected = {one.tweet_id for entries, _ in parts for one in entries if one.tweet_id >= line}
    assert merged.entries["tweet"].tolist() == sorted(expected, reverse=True)
