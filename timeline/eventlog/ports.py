"""What the event log needs of the store."""

from __future__ import annotations

from typing import Protocol

from timeline.domain.model import Tweet


class Outbox(Protocol):
    """store/outbox.py"""

    async def clear(self, tweet: Tweet) -> None:
        """Delete the row that says this tweet's event is still to be produced. Raises Unavailable."""
