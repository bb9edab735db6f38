"""The driver's errors as ours: the one place where they are translated.

A read that failed is Unavailable. A write that was sent and not acknowledged is OutcomeUnknown, and so is every compare-and-set that
was sent and failed: its value may have been accepted. A statement that the server finds wrong is a bug, and stays what it is.
"""

from __future__ import annotations

from cassandra import (
    CoordinationFailure,
    OperationTimedOut,
    RequestValidationException,
    Timeout,
    UnresolvableContactPoints,
)
from cassandra import Unavailable as NotEnoughReplicas
from cassandra.cluster import NoHostAvailable
from cassandra.connection import ConnectionBusy, ConnectionException
from cassandra.pool import NoConnectionsAvailable
from cassandra.protocol import ErrorMessage
from cassandra.protocol import RequestValidationException as InvalidMessage

from timeline.domain.errors import OutcomeUnknown, Overloaded, Unavailable

_TIMEOUTS = (OperationTimedOut, Timeout)
_ENGINE = (
    *_TIMEOUTS,
    CoordinationFailure,
    NotEnoughReplicas,
    NoHostAvailable,
    ConnectionException,
    ConnectionBusy,
    NoConnectionsAvailable,
    ErrorMessage,  # overloaded, bootstrapping, server error, and codes that the driver has no class for
)
_BUGS = (RequestValidationException, InvalidMessage)
_REFUSED = (NotEnoughReplicas, ConnectionBusy, NoConnectionsAvailable)


class _TimedOut(Unavailable):
    """A read that timed out: its own class so that the metrics tell it from a node that is away."""


def translate(error: BaseException, *, maybe_done: bool) -> BaseException:
    """Ours for the driver's, with the cause chained; any other error as it is. `maybe_done`: it may have changed something."""
    if isinstance(error, _BUGS) or not isinstance(error, _ENGINE):
        return error
    text = f"Cassandra: {describe(error)}"
    ours: Unavailable
    if maybe_done:
        ours = OutcomeUnknown(text)
    elif isinstance(error, _TIMEOUTS):
        ours = _TimedOut(text)
    else:
        ours = Unavailable(text)
    ours.__cause__ = error
    return ours


def describe(error: BaseException) -> str:
    """One line, without the addresses of objects."""
    if isinstance(error, NoHostAvailable):
        causes = error.errors.items() if isinstance(error.errors, dict) else ()
        return "; ".join(f"{host}: {type(cause).__name__} {cause}" for host, cause in causes) or str(error)
    if isinstance(error, UnresolvableContactPoints):
        return "no name of a host resolves"
    return f"{type(error).__name__}: {error}"


def outcome_of(error: BaseException) -> str:
    """The outcome's label in the metrics."""
    if isinstance(error, Overloaded) or isinstance(error.__cause__, _REFUSED):
        return "refused"
    if isinstance(error, _TimedOut) or isinstance(error.__cause__, _TIMEOUTS):
        return "timeout"
    return "unavailable" if isinstance(error, Unavailable) else "error"
