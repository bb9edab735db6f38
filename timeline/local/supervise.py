"""Until somebody asks for the end: watches the children, does what is asked for, and hears Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from timeline.local.control import serve_requests
from timeline.local.fleet import Fleet

WATCH_SECONDS = 0.2
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def signals_stop(fleet: Fleet) -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP ends the fleet in order; a second one kills what is left of it at once."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        if fleet.stopping.is_set():
            fleet.kill_all()
        fleet.stopping.set()

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def watch(fleet: Fleet, on_death: Callable[[str], None]) -> None:
    """Returns when the fleet is to stop. `on_death` gets the name of each process that ended unasked, and may raise."""
    while not fleet.stopping.wait(WATCH_SECONDS):
        serve_requests(fleet)
        for name in fleet.dead():
            on_death(name)
