"""What the event log needs of the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from timeline.domain.model import Tweet


class Outbox(Protocol):
    """store/outbox.py"""

    async def clear_many(self, tweets: Sequence[Tweet]) -> None:
        """Delete the rows that say that these tweets' events are still to be produced. Raises Unavailable."""
