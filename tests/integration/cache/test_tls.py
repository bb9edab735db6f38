"""TLS: the data plane and redis-py, which asks for the map of slots, both speak it and both check the certificate.

The redis-server that is fetched has no TLS, so a proxy before each node does.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.cache.conftest import Nodes, settings_for
from tests.integration.tls import make_certificate, proxy, server_context
from timeline.cache import open_cache, topology
from timeline.domain.errors import Unavailable
from timeline.domain.ids import TweetId
from timeline.domain.records import State
from timeline.settings import address


async def test_both_clients_speak_tls_and_refuse_a_certificate_that_nobody_vouches_for(
    redis_nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = make_certificate(tmp_path)
    tls = server_context(certificate, key)
    async with AsyncExitStack() as stack:
        ports = {address(each)[1]: await stack.enter_async_context(proxy(each, tls)) for each in redis_nodes.addresses}
        told = topology.parse_slots

        def through_proxies(reply: object, asked: str) -> tuple[topology.SlotRange, ...]:
            return tuple(
                replace(part, nodes=tuple((host, ports[port]) for host, port in part.nodes))
                for part in told(reply, asked)  # type: ignore[arg-type]
            )

        monkeypatch.setattr(topology, "parse_slots", through_proxies)
        base = settings_for(redis_nodes, redis_open_ms=1_000)
        changes = {
            "redis_nodes": tuple(f"127.0.0.1:{port}" for port in ports.values()),
            "redis_tls": True,
            "redis_tls_ca": certificate,
        }
        async with open_cache(base.model_copy(update=changes)) as cache:
            states = {TweetId(tweet): State(tweet, False, False) for tweet in range(200)}
            await cache.contents.put_states(states, cache.contents.moment())
            assert await cache.contents.states(list(states)) == states
            await cache.ping()
        with pytest.raises(Unavailable, match=r"(?i)certificate"):
            async with open_cache(base.model_copy(update=changes | {"redis_tls_ca": None})):
                pass
