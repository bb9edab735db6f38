"""Random numbers that only have to differ from all others: names of requests, tokens of cache fills. Not secrets.

The operating system's own are a system call each, during which the interpreter's lock is given away, to a driver's thread that may
keep it for milliseconds: they were 4 % of what an api that posts did. So it is asked once a process.
"""

from __future__ import annotations

import os
import random

_generator = random.Random(os.urandom(32))
os.register_at_fork(after_in_child=lambda: _generator.seed(os.urandom(32)))  # no two processes say the same


def token() -> int:
    """63 bits, never 0."""
    return _generator.getrandbits(63) | 1


def name() -> str:
    """32 hexadecimal digits."""
    return f"{_generator.getrandbits(128):032x}"
