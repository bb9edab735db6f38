"""Follows into Cassandra, so old that nobody is a new follower."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import replace

from timeline.domain.entries import UserIds
from timeline.domain.limits import Limits
from timeline.settings import Settings
from timeline.store import open_store

_AGE_US = 86_400 * 1_000_000
_PATIENT_MS = 20_000  # millions of rows on two cores


def load_follows(settings: Mapping[str, str], follower: UserIds, followee: UserIds) -> float:
    """How many seconds it took."""
    began = time.monotonic()
    asyncio.run(_load(patient(settings), follower, followee))
    return time.monotonic() - began


def patient(settings: Mapping[str, str]) -> Settings:
    """Of a stack, with time enough for a load."""
    values = {name.removeprefix("TIMELINE_").lower(): value for name, value in settings.items()}
    limits = Limits(**json.loads(values.pop("limits", "{}")))
    return Settings(**values, limits=replace(limits, cassandra_timeout_ms=_PATIENT_MS))  # type: ignore[arg-type]


async def _load(settings: Settings, follower: UserIds, followee: UserIds) -> None:
    async with open_store(settings) as store:
        await store.bulk.load_follows(follower, followee, time.time_ns() // 1000 - _AGE_US)
