"""TLS: the data plane and redis-py, which asks for the map of slots, both speak it and both check the certificate.

The redis-server that is fetched has no TLS, so a proxy before each node does.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.integration.cache.conftest import Nodes, settings_for
from timeline.cache import open_cache, topology
from timeline.domain.errors import Unavailable
from timeline.domain.ids import TweetId
from timeline.domain.records import State
from timeline.settings import address


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "timeline tests")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "node.crt", folder / "node.key"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65_536):
        sink.write(data)
        await sink.drain()
    sink.close()


@asynccontextmanager
async def proxy(server: str, tls: ssl.SSLContext) -> AsyncIterator[int]:
    """A port that speaks TLS and hands on to the node."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        node_reader, node_writer = await asyncio.open_connection(*address(server))
        try:
            await asyncio.wait(
                [asyncio.create_task(pump(reader, node_writer)), asyncio.create_task(pump(node_reader, writer))]
            )
        finally:
            node_writer.close()
            writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with listener:
        yield listener.sockets[0].getsockname()[1]


async def test_both_clients_speak_tls_and_refuse_a_certificate_that_nobody_vouches_for(
    redis_nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = make_certificate(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
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
