"""Integers read off the wire: the same as hiredis reads, however the bytes are cut."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hiredis import ProtocolError
from hypothesis import given
from hypothesis import strategies as st

from timeline.cache.connection import Call, Connection
from timeline.cache.integers import REFUSED, Integers

answers = st.integers(0, 10**12) | st.sampled_from(["MOVED 7 127.0.0.1:7000", "LOADING", "", "1", ":1"])


def wire(answers: Iterable[int | str]) -> bytes:
    return b"".join(b":%d\r\n" % one if isinstance(one, int) else b"-%s\r\n" % one.encode() for one in answers)


def wanted(answers: Iterable[int | str]) -> list[int]:
    return [one if isinstance(one, int) else REFUSED for one in answers]


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges) if end > start]


@given(told=st.lists(answers, min_size=1, max_size=30), places=st.lists(st.integers(0, 1_000), max_size=8))
def test_however_the_bytes_come_the_values_are_those(told: list[int | str], places: list[int]) -> None:
    integers, rest = Integers(len(told)), b""
    for part in cut(wire(told) + b"+OK", places):
        rest += part if integers.is_whole else integers.feed(part)
    assert integers.is_whole
    assert integers.values.tolist() == wanted(told)
    assert rest == b"+OK"


@pytest.mark.parametrize(
    "bad", [b"$1\r\n", b":\r\n", b":12x4\r\n", b":-12\r\n", b":" + b"9" * 19 + b"\r\n", b"+OK\r\n"]
)
def test_anything_but_integers_and_errors_is_not_what_was_asked_for(bad: bytes) -> None:
    with pytest.raises(ProtocolError):
        Integers(2).feed(b":1\r\n" + bad)


@given(
    calls=st.lists(st.tuples(st.booleans(), st.lists(answers, min_size=1, max_size=8)), min_size=1, max_size=8),
    places=st.lists(st.integers(0, 2_000), max_size=12),
)
def test_calls_of_either_kind_in_a_row_get_each_their_own_replies(
    calls: list[tuple[bool, list[int | str]]], places: list[int]
) -> None:
    """Where the reader has swallowed the beginning of integers, it reads them on."""
    settled: list[Call] = []

    async def play() -> list[Call]:
        loop = asyncio.get_running_loop()
        connection = Connection(loop, settled.append)
        made = []
        for are_integers, told in calls:
            call = Call(b"", len(told), loop.create_future(), 0.0, writes=True)
            call.integers = Integers(len(told)) if are_integers else None
            made.append(call)
        connection.pending.extend(made)
        for part in cut(b"".join(wire(told) for _, told in calls), places):
            connection.data_received(part)
        assert not connection.lost.done()
        connection.data_received(b":1\r\n")
        assert "nobody asked" in connection.lost.result()
        return made

    made = asyncio.run(play())
    assert settled == made
    for call, (are_integers, told) in zip(made, calls, strict=True):
        if are_integers:
            assert call.integers is not None
            assert call.integers.values.tolist() == wanted(told)
            assert call.replies == []
        else:
            assert [one if isinstance(one, int) else REFUSED for one in call.replies] == wanted(told)
