"""Random numbers that differ from all others."""

from __future__ import annotations

import os

from timeline.domain import tokens


def of_a_child() -> str:
    """What a forked process says next."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, tokens.name().encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as told:
        return told.read()


def test_tokens_are_63_bits_and_never_nothing() -> None:
    several = [tokens.token() for _ in range(1_000)]
    assert all(0 < each < 1 << 63 for each in several)
    assert len(set(several)) == len(several)
    assert len({len(tokens.name()) for _ in range(1_000)}) == 1, "leading zeros are written"


def test_a_forked_process_says_something_else() -> None:
    said = [of_a_child(), of_a_child(), tokens.name()]
    assert [len(name) for name in said] == [32, 32, 32]
    assert len(set(said)) == 3
