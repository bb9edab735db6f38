"""Redis's error replies and lost connections, translated in this one place."""

from __future__ import annotations

from dataclasses import dataclass

from hiredis import ReplyError as RawError

from timeline.domain.errors import OutcomeUnknown, Overloaded, Unavailable

# The node, or the cluster, cannot serve just now; nothing is wrong with the command.
_AWAY = frozenset(
    (
        "CLUSTERDOWN",
        "LOADING",
        "TRYAGAIN",
        "MASTERDOWN",
        "READONLY",
        "OOM",
        "BUSY",
        "MISCONF",
        "NOREPLICAS",
        "UNKILLABLE",
    )
)
# Of these, the map of slots may be the cause.
_STALE_MAP = frozenset(("CLUSTERDOWN", "MASTERDOWN", "READONLY"))


class ReplyError(Exception):
    """Redis refused the command itself: a bug of ours, and no `Unavailable`."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """MOVED or ASK: where a slot is served. `host` is empty when it is the host that answered."""

    slot: int
    host: str
    port: int
    ask: bool


def redirect_of(error: RawError) -> Redirect | None:
    """The redirect that an error reply is, if it is one."""
    kind, _, rest = str(error).partition(" ")
    if kind not in ("MOVED", "ASK"):
        return None
    slot, _, server = rest.partition(" ")
    host, _, port = server.rpartition(":")
    return Redirect(int(slot), host, int(port), kind == "ASK")


def translate(error: RawError) -> Unavailable | ReplyError:
    """What an error reply means for a caller."""
    text = str(error)
    return Unavailable(f"redis: {text}") if text.partition(" ")[0] in _AWAY else ReplyError(text)


def blames_the_map(error: RawError) -> bool:
    """Whether the map of slots should be asked for again."""
    return str(error).partition(" ")[0] in _STALE_MAP


def lost(node: str, why: str, *, writes: bool, cause: BaseException | None = None) -> Unavailable:
    """For a command that was sent and not answered: a read is to be had elsewhere, a write may have happened."""
    kind = OutcomeUnknown if writes else Unavailable
    error = kind(f"redis {node}: {why}")
    error.__cause__ = cause
    return error


def outcome_of(error: BaseException) -> str:
    """The metric's word for what was raised."""
    if isinstance(error, Overloaded):
        return "refused"
    if isinstance(error.__cause__, TimeoutError):
        return "timeout"
    return "unavailable" if isinstance(error, Unavailable) else "error"
