"""Whether Kafka can be reached."""

from __future__ import annotations

import pytest

from timeline.domain.errors import Unavailable
from timeline.eventlog.reach import open_reach
from timeline.settings import Settings


async def test_a_reach_that_was_left_has_let_its_client_go(settings: Settings) -> None:
    async with open_reach(settings, now=True) as reach:
        await reach.ping()
    with pytest.raises(Unavailable, match="ending"):
        await reach.ping()
