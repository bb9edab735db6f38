"""What a compare-and-set came to, when its answer may have been lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from timeline.domain.errors import OutcomeUnknown, Unavailable
from timeline.store.session import Cql, Params, Session

Found = TypeVar("Found")


async def settle(
    session: Session, statement: Cql, values: Params, wanted: Found, stands: Callable[[], Awaitable[Found | None]]
) -> Found | None:
    """`wanted` when it was applied; when it was not, or that is not known, what `stands`: a read at serial consistency, which first
    completes or rules out whatever is under way. If that cannot be read either, an unknown outcome stays one."""
    unknown: OutcomeUnknown | None = None
    try:
        if await session.compare_and_set(statement, values):
            return wanted
    except OutcomeUnknown as error:
        unknown = error
    try:
        return await stands()
    except Unavailable as error:
        if unknown is None:
            raise
        raise OutcomeUnknown(f"{unknown}; then it could not be read: {error}") from error
