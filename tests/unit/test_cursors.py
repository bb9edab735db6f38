"""Cursors are opaque, signed, and good for one call, order and reader."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeline.domain.cursors import Cursor, Signer, parse_keys
from timeline.domain.errors import BadRequest
from timeline.domain.ids import ID_MAX

SIGNER = Signer({1: b"a secret of sixteen bytes"})
NUMBERS = st.integers(0, ID_MAX)
CURSORS = st.builds(
    Cursor,
    st.sampled_from(["older", "newer"]),
    NUMBERS,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    st.lists(NUMBERS, max_size=70).map(tuple),
)


@given(CURSORS, st.text())
def test_a_cursor_reads_back_as_it_was_written(cursor: Cursor, scope: str) -> None:
    assert SIGNER.read(SIGNER.write(cursor, scope), scope) == cursor


@given(CURSORS, st.data())
def test_a_cursor_with_any_byte_changed_is_refused(cursor: Cursor, data: st.DataObject) -> None:
    raw = bytearray(base64.urlsafe_b64decode(SIGNER.write(cursor, "home") + "=="))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadRequest) as refused:
        SIGNER.read(base64.urlsafe_b64encode(bytes(raw)).decode().rstrip("="), "home")
    assert refused.value.kind == "bad-cursor"


@given(st.text(max_size=200))
def test_text_that_was_never_a_cursor_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        SIGNER.read(text, "home")


def test_a_cursor_of_one_reader_is_refused_for_another() -> None:
    text = SIGNER.write(Cursor("older", 7), "home:recent:1:1")
    with pytest.raises(BadRequest):
        SIGNER.read(text, "home:recent:2:2")


def test_only_one_spelling_of_a_cursor_is_accepted() -> None:
    text = SIGNER.write(Cursor("older", 7), "home")
    spellings = {text[:-1] + last for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"}
    accepted = []
    for spelling in spellings:
        try:
            SIGNER.read(spelling, "home")
        except BadRequest:
            continue
        accepted.append(spelling)
    assert accepted == [text]


def test_a_cursor_under_an_older_key_is_good_until_the_key_is_gone() -> None:
    text = SIGNER.write(Cursor("older", 7), "home")
    rotated = Signer(parse_keys("2:another secret of bytes,1:a secret of sixteen bytes"))
    assert rotated.read(text, "home") == Cursor("older", 7)
    with pytest.raises(BadRequest):
        Signer({2: b"another secret of bytes"}).read(text, "home")


@pytest.mark.parametrize("text", ["", "no-number", "x:secret of sixteen bytes", "1"])
def test_cursor_keys_that_are_not_number_and_secret_are_refused_without_showing_them(text: str) -> None:
    with pytest.raises(ValueError, match="cursor key") as refused:
        Signer(parse_keys(text))
    assert "secret of sixteen" not in str(refused.value)
