"""The API over fakes: what it does with HTTP, and nothing below it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, web

from tests.unit.api.fakes import (
    Calls,
    FakeEdits,
    FakeLikes,
    FakeMarked,
    FakeMarkers,
    FakePeople,
    FakeReading,
    FakeRelations,
    FakeWriter,
)
from timeline.api.app import make_app
from timeline.api.auth import Authenticator, ByHeader
from timeline.api.serving import serving
from timeline.domain.limits import Limits


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def authenticator() -> Authenticator:
    return ByHeader()


@pytest.fixture
def limits() -> Limits:
    return Limits()


@pytest.fixture
def app(calls: Calls, authenticator: Authenticator, limits: Limits) -> web.Application:
    return make_app(
        writer=FakeWriter(calls),  # type: ignore[arg-type]
        relations=FakeRelations(calls),  # type: ignore[arg-type]
        likes=FakeLikes(calls),  # type: ignore[arg-type]
        edits=FakeEdits(calls),  # type: ignore[arg-type]
        markers=FakeMarkers(calls),  # type: ignore[arg-type]
        reading=FakeReading(calls),  # type: ignore[arg-type]
        people=FakePeople(calls),  # type: ignore[arg-type]
        marked=FakeMarked(calls),  # type: ignore[arg-type]
        authenticator=authenticator,
        limits=limits,
    )


@pytest.fixture
async def port(app: web.Application, limits: Limits) -> AsyncIterator[int]:
    async with serving(app, name="PORT", host="127.0.0.1", port=0, limits=limits) as port:
        yield port


@pytest.fixture
async def http(port: int) -> AsyncIterator[ClientSession]:
    async with ClientSession(f"http://127.0.0.1:{port}") as session:
        yield session
