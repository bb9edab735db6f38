"""Dead letters: numbers as runs, marks, and what a message says."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
from click.testing import CliRunner
from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st

from timeline.eventlog import letters_command
from timeline.eventlog.letters import Letter, Survey, letter_of
from timeline.eventlog.letters_command import _as_json, _line, dead_letters
from timeline.eventlog.marks import DEALT_WITH, How, Numbers, mark_of, parsed

small = st.sets(st.integers(0, 40))
DEAD = [
    ("dead-topic", b"tweet.created"),
    ("dead-partition", b"3"),
    ("dead-offset", b"4711"),
    ("dead-reason", b"not JSON"),
    ("dead-at-ms", b"1780000000000"),
    ("dead-stack", b"Traceback"),
]


@given(runs=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)), max_size=12))
def test_numbers_are_a_set_held_as_runs_that_neither_overlap_nor_touch(runs: list[tuple[int, int]]) -> None:
    numbers, expected = Numbers(), set[int]()
    for first, more in runs:
        numbers.add(first, first + more)
        expected |= set(range(first, first + more + 1))
    assert (list(numbers), len(numbers)) == (sorted(expected), len(expected))
    assert all(last + 1 < first for (_, last), (first, _) in zip(numbers.runs, numbers.runs[1:], strict=False))
    assert {number for number in range(50) if number in numbers} == expected


@given(one=small, other=small, most=st.integers(0, 50))
def test_numbers_are_taken_away_and_counted_off_like_those_of_a_set(one: set[int], other: set[int], most: int) -> None:
    assert set(Numbers(one) - Numbers(other)) == one - other
    assert list(Numbers(one).first(most)) == sorted(one)[:most]


@given(numbers=small.filter(bool))
def test_a_mark_is_read_as_it_was_written(numbers: set[int]) -> None:
    found = mark_of({DEALT_WITH: b"retried"}, str(Numbers(numbers)).encode(), 41)
    assert found is not None
    assert (found[0], set(found[1])) == (How.retried, numbers)


def test_a_mark_says_nothing_of_itself_and_of_what_comes_after_it() -> None:
    found = mark_of({DEALT_WITH: b"dropped"}, b"3-17", 9)
    assert found is not None
    assert str(found[1]) == "3-8"


@pytest.mark.parametrize(
    ("how", "value"),
    [
        (b"retried", None),
        (b"retried", b""),
        (b"retried", b"5-3"),
        (b"retried", b"1,,2"),
        (b"retried", b"-1"),
        (b"retried", "٣".encode()),
        (b"retried", b"\xff"),
        (b"retried", b"1" * 20),
        (b"eaten", b"1"),
        (b"\xff", b"1"),
        (b"", b"1"),
    ],
)
def test_what_only_looks_like_a_mark_is_none(how: bytes, value: bytes | None) -> None:
    assert mark_of({DEALT_WITH: how}, value, 41) is None
    assert mark_of({}, b"1", 41) is None


def test_a_buried_event_that_carries_a_marks_header_is_a_letter_and_does_not_take_it_back_to_the_events() -> None:
    own: list[tuple[str, bytes | None]] = [(DEALT_WITH, b"retried"), ("trace", b"a")]
    assert mark_of(dict(own), b"3-9", 12) is not None
    assert mark_of({each: value or b"" for each, value in [*own, *DEAD]}, b"3-9", 12) is None
    letter = letter_of(message([*own, *DEAD], None, b"3-9"))
    assert letter.headers == (("trace", b"a"),)
    assert letter.headers_to_retry == [("trace", b"a"), ("dead-retries", b"1")]


@given(text=st.text(alphabet="0123456789,-", max_size=12))
def test_no_text_makes_the_parser_raise(text: str) -> None:
    numbers = parsed(text)
    assert numbers is None or len(numbers) > 0


def message(headers: list[tuple[str, bytes | None]] | None, key: bytes | None, value: bytes | None) -> Message:
    return Message(
        topic="tweet.created.dead", partition=0, offset=12, headers=headers, key=key, value=value, timestamp=(1, 1_000)
    )


def test_a_letter_says_what_was_told_when_it_was_last_buried_and_keeps_the_events_own_headers() -> None:
    own = [("trace", b"a"), ("trace", b"b"), ("none", None), ("dead-end", b"not ours")]
    first = [("dead-topic", b"older"), ("dead-reason", b"older"), ("dead-retries", b"2")]
    letter = letter_of(message([*first, *own, *DEAD], b"7", b"not json"))
    assert (letter.number, letter.at_ms, letter.came_from) == (12, 1_780_000_000_000, "tweet.created[3]@4711")
    assert (letter.reason, letter.stack, letter.key, letter.value) == ("not JSON", "Traceback", b"7", b"not json")
    assert letter.headers == tuple(own)
    assert letter.headers_to_retry == [*own, ("dead-retries", b"3")]


def test_what_somebody_else_put_there_is_a_letter_that_says_less() -> None:
    letter = letter_of(message(None, None, None))
    assert (letter.number, letter.at_ms, letter.came_from, letter.reason, letter.retries) == (12, 1_000, None, "", 0)
    odd = letter_of(message([("dead-at-ms", b"\xff"), ("dead-retries", b"-1"), ("dead-reason", None)], None, None))
    assert (odd.at_ms, odd.retries, odd.reason) == (1_000, 0, "")


class Topic:
    topic = "tweet.created"


@given(
    key=st.none() | st.binary(max_size=9),
    value=st.none() | st.binary(max_size=700) | st.text(max_size=300).map(str.encode),
    reason=st.binary(max_size=40) | st.just(b"\x1b[31m\n\xe2\x80\xae"),
    at_ms=st.binary(max_size=20) | st.integers(0, 10**18).map(lambda number: str(number).encode()),
)
def test_a_line_holds_nothing_that_a_terminal_would_act_on(
    key: bytes | None, value: bytes | None, reason: bytes, at_ms: bytes
) -> None:
    headers: list[tuple[str, bytes | None]] = [*DEAD, ("dead-reason", reason), ("dead-at-ms", at_ms)]
    letter = letter_of(message(headers, key, value))
    line = _line(Topic(), letter, None)  # type: ignore[arg-type]
    assert line.isprintable()
    assert len(line) < 3_500
    told = _as_json(Topic(), letter, None)  # type: ignore[arg-type]
    assert told.isascii()
    assert told.isprintable()
    assert json.loads(told)["number"] == 12


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    letter = letter_of(message(DEAD, b"\xff7", '{"text":"Grüße\n"}'.encode()))
    line = _line(Topic(), letter, How.dropped)  # type: ignore[arg-type]
    assert line == (
        "tweet.created 12  2026-05-28T20:26:40Z  dropped  from tweet.created[3]@4711  not JSON  key \\xff7  "
        'value {"text":"Grüße\\n"}'
    )
    told = json.loads(_as_json(Topic(), letter, How.dropped))  # type: ignore[arg-type]
    assert (told["key"], told["value"]) == ({"base64": "/zc="}, '{"text":"Grüße\n"}')
    assert (told["state"], told["from"]) == ("dropped", "tweet.created[3]@4711")


@pytest.mark.parametrize("command", ["retry", "drop"])
def test_ctrl_c_while_letters_are_read_says_that_what_was_told_is_done(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_leaving = threading.Event()

    class Slow(Topic):
        def survey(self) -> Survey:
            return Survey(Numbers([0]), {how: Numbers() for how in How}, 1)

        def read(self, _numbers: Numbers) -> Iterator[Letter]:
            os.kill(os.getpid(), signal.SIGINT)
            assert is_leaving.wait(10), "the command waits for this thread"
            yield from ()

    @contextmanager
    def topics(*_: object) -> Iterator[list[Slow]]:
        yield [Slow()]

    @asynccontextmanager
    async def producer(*_: object, **__: object) -> AsyncIterator[None]:
        try:
            yield
        finally:
            is_leaving.set()

    monkeypatch.setattr(letters_command, "open_dead_topics", topics)
    monkeypatch.setattr(letters_command, "open_producer", producer)
    done = CliRunner().invoke(dead_letters, [command, "--all"])
    assert (done.exit_code, done.stderr) == (130, "stopped; what was told is done, run this again to go on\n")


@pytest.mark.parametrize("command", ["retry", "drop"])
@pytest.mark.parametrize("arguments", [[], ["--all", "3"], ["x"], ["-1"], ["--topic", "nothing", "--all"]])
def test_letters_are_named_by_number_or_all_of_them_on_purpose(command: str, arguments: list[str]) -> None:
    assert CliRunner().invoke(dead_letters, [command, *arguments]).exit_code == 2
