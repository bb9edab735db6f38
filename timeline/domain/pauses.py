"""Named points at which a test may hold an actor, to try every order of two of them. Nobody holds anything in production: a point
costs one comparison.

A point stands where another actor may come between: after something was read and before what follows from it is written. In code:
`if pauses.hold is not None: await pauses.hold(Point.install, user_id)`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum


class Point(StrEnum):
    """Where an actor is about to go on. The number beside it is the user or the tweet that it is about."""

    build = "build"  # a list's building header stands, or what stands is noted; its history is not yet pulled
    install = "install"  # history is pulled, and not yet in the list
    trim = "trim"  # what is to be cut was read, and is not yet cut
    fill = "fill"  # a record was read from the store, and is not yet in the cache
    invalidate = "invalidate"  # a change is stored, and caches do not know yet
    batch = "batch"  # a tweet has its id, and is not yet stored
    produce = "produce"  # a tweet is stored, and its event is not yet handed on
    push = "push"  # an event's followers are known, and their lists are not yet written
    reclassify = "reclassify"  # how an author is to be delivered is decided, and not yet written


Hold = Callable[[Point, int], Awaitable[None]]

hold: Hold | None = None  # set by tests alone
