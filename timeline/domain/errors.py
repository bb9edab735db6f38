"""What can go wrong, as far as some caller acts on it differently. Adapters translate driver errors into these."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class TimelineError(Exception):
    """The root of the errors below; never raised itself."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One bad member of a request: where (a JSON pointer, '' is the whole) and what is wrong with it."""

    pointer: str
    detail: str


class BadRequest(TimelineError):
    """The caller's mistake: nothing was changed. `kind` is the stable name of the problem (api/errors.py maps it)."""

    def __init__(self, kind: str, detail: str, faults: tuple[Fault, ...] = ()) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.faults = kind, detail, faults


class Unavailable(TimelineError):
    """An engine could not answer; nothing is known to be wrong with the request. Retry later."""


class OutcomeUnknown(Unavailable):
    """A write timed out, or a change was begun and not finished: it may or may not have happened. Retry only what is idempotent."""


class Overloaded(Unavailable):
    """Refused before it was tried, since a bound was reached."""


class Stored(Unavailable):
    """The change is stored, but cannot yet be promised to hold for the next read. Repeating it is harmless."""


class PoisonEvent(TimelineError):
    """An event that cannot be decoded. It goes to its dead-letter topic with this reason."""


@contextmanager
def after_effect() -> Iterator[None]:
    """Around what follows the first effect of a change: an engine that fails or refuses there leaves a change that is done in part, so
    every Unavailable becomes OutcomeUnknown. An Overloaded would say that nothing was done."""
    try:
        yield
    except (OutcomeUnknown, Stored):
        raise
    except Unavailable as error:
        raise OutcomeUnknown(f"begun, and not finished: {error}") from error
