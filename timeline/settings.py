"""Every setting, read in this one place, from the environment or from secret files.

A setting `name` is the variable `TIMELINE_NAME`, or a file `timeline_name` in the folder `TIMELINE_SECRETS_DIR`.
Lists are written with commas: `TIMELINE_REDIS_NODES=10.0.0.1:6379,10.0.0.2:6379`.
"""

from __future__ import annotations

import os
import re
from dataclasses import fields
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from timeline.domain.limits import Limits

Names = Annotated[tuple[str, ...], NoDecode]
_COPIES = re.compile(r"[\w.-]+:[1-9][0-9]?")


class SettingError(Exception):
    """A setting that is missing or does not fit the others: its variable, what is wrong, what to do."""

    def __init__(self, variable: str, wrong: str, remedy: str) -> None:
        super().__init__(f"{variable}: {wrong}. {remedy}")


class Auth(StrEnum):
    """How a request says who is asking."""

    jwt = "jwt"
    header = "header"


class Settings(BaseSettings):
    """All settings, checked. A wrong one is a ValidationError that names it, one that does not fit another a SettingError; secrets
    print as stars."""

    model_config = SettingsConfigDict(env_prefix="TIMELINE_", extra="ignore", frozen=True)

    # The doors
    host: str = "0.0.0.0"  # every process in a container listens to its pod; `timeline local` sets loopback
    port: int = Field(8080, ge=0, le=65535)
    admin_host: str = "0.0.0.0"
    admin_port: int = Field(9100, ge=0, le=65535)
    auth: Auth = Auth.jwt
    jwt_secret: SecretStr | None = None
    jwks_file: Path | None = None
    jwt_user_claim: str = "sub"
    jwt_audience: str | None = None
    jwt_issuer: str | None = None
    media_url: str = "/media/{type}/{name}"  # {id}, {type} and {name} are filled in
    log_level: str = "INFO"

    # Cursors are signed by the first key and accepted under any: "2:new-secret,1:old-secret"
    cursor_keys: SecretStr | None = None

    # Cassandra or ScyllaDB
    cassandra_hosts: Names = ("127.0.0.1:9042",)
    cassandra_datacenter: str = "datacenter1"
    cassandra_keyspace: str = Field("timeline", pattern=r"^[a-z][a-z0-9_]{0,47}$")
    cassandra_replication: Names = ("datacenter1:1",)  # datacenter:copies; at least 3 copies in production
    cassandra_protocol: int = Field(5, ge=4, le=5)  # 4 on ScyllaDB
    cassandra_username: str | None = None
    cassandra_password: SecretStr | None = None
    cassandra_tls: bool = False
    cassandra_tls_ca: Path | None = None
    cassandra_tls_cert: Path | None = None
    cassandra_tls_key: Path | None = None

    # Redis Cluster
    redis_nodes: Names = ("127.0.0.1:6379",)
    redis_key_prefix: str = Field("", max_length=32)  # so that tests, or two deployments, share a cluster
    redis_username: str | None = None
    redis_password: SecretStr | None = None
    redis_tls: bool = False
    redis_tls_ca: Path | None = None
    redis_tls_cert: Path | None = None
    redis_tls_key: Path | None = None

    # Kafka
    kafka_bootstrap: Names = ("127.0.0.1:9092",)
    kafka_topic_prefix: str = Field("", max_length=64, pattern=r"^[a-zA-Z0-9._-]*$")  # what Kafka takes in a name
    kafka_group: str = "fanout"
    kafka_group_protocol: str = Field("consumer", pattern="^(consumer|classic)$")
    kafka_group_instance: str | None = None  # static membership: one name a process, or none
    kafka_partitions: int = Field(12, ge=1, le=10_000)
    kafka_replication: int = Field(1, ge=1, le=9)
    kafka_username: str | None = None
    kafka_password: SecretStr | None = None
    kafka_sasl_mechanism: str = "SCRAM-SHA-512"
    kafka_tls: bool = False
    kafka_tls_ca: Path | None = None
    kafka_tls_cert: Path | None = None
    kafka_tls_key: Path | None = None

    # Who may mint ids with which worker numbers: a region's share of 0..4095
    worker_min: int = Field(0, ge=0, le=4095)
    worker_max: int = Field(4095, ge=0, le=4095)

    # An account with more followers than this comes to be pulled when homes are read, instead of pushed into them. It is pushed again
    # when it has a fifth less (limits.pull_until_percent). Safe to change at any time; the same for every fanout process.
    # It holds for an author from the next tweet on; for everybody at once after `timeline job reclassify`.
    push_followers_max: int = Field(100_000, ge=1)

    # Changes to named limits (domain/limits.py), as JSON. For tests, which shrink them.
    limits: Limits = Limits()

    @field_validator("cassandra_hosts", "cassandra_replication", "redis_nodes", "kafka_bootstrap", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("limits", mode="before")
    @classmethod
    def _known(cls, value: object) -> object:
        unknown = sorted(set(value) - {limit.name for limit in fields(Limits)}) if isinstance(value, dict) else []
        if unknown:
            raise ValueError(f"there is no limit {', '.join(map(str, unknown))}")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.worker_min > self.worker_max:
            raise ValueError("worker_min is above worker_max")
        for server in (*self.cassandra_hosts, *self.redis_nodes, *self.kafka_bootstrap):
            host, colon, port = server.rpartition(":")
            if not (colon and host and port.isdigit()):
                raise ValueError(f"an address is written host:port, not {server!r}")
        for part in self.cassandra_replication:
            if not _COPIES.fullmatch(part):
                raise SettingError(
                    "TIMELINE_CASSANDRA_REPLICATION", f"{part!r} is not datacenter:copies", "Set datacenter1:3, say."
                )
        for engine in ("cassandra", "redis", "kafka"):
            self._check_access(engine)
        return self

    def _check_access(self, engine: str) -> None:
        """Nothing that an engine's TLS or login is given may stay without effect. Raises SettingError."""
        prefix = f"TIMELINE_{engine.upper()}"
        username, password, tls, ca, cert, key = (
            getattr(self, f"{engine}_{name}")
            for name in ("username", "password", "tls", "tls_ca", "tls_cert", "tls_key")
        )
        if username is not None and password is None:
            raise SettingError(f"{prefix}_USERNAME", "it has no password", f"Set {prefix}_PASSWORD too, or neither.")
        if password is not None and username is None and engine != "redis":  # Redis has a user that is the default
            raise SettingError(f"{prefix}_PASSWORD", "it is nobody's", f"Set {prefix}_USERNAME too, or neither.")
        for name, path in (("CA", ca), ("CERT", cert), ("KEY", key)):
            if path is not None and not tls:
                raise SettingError(f"{prefix}_TLS_{name}", "TLS is not on", f"Set {prefix}_TLS=true, or unset it.")
            if path is not None and not (path.is_file() and os.access(path, os.R_OK)):
                raise SettingError(
                    f"{prefix}_TLS_{name}", f"there is no file {path} to read", "Name one that is there."
                )
        if (cert is None) != (key is None):
            there, lacking = ("CERT", "KEY") if key is None else ("KEY", "CERT")
            raise SettingError(
                f"{prefix}_TLS_{there}", "a certificate and its key go together", f"Set {prefix}_TLS_{lacking} too."
            )
        if engine == "cassandra" and tls and ca is None:
            raise SettingError(
                f"{prefix}_TLS",
                "nodes are known by address, so their names are not checked, and any public certificate would do",
                f"Set {prefix}_TLS_CA to the file of the CA that vouches for them.",
            )

    @property
    def kafka_slice_group(self) -> str:
        """The group that takes slices of large fan-outs: its backlog is not that of new tweets."""
        return f"{self.kafka_group}.slices"

    @cached_property
    def replication(self) -> dict[str, int]:
        """Copies by datacenter."""
        pairs = (part.rpartition(":") for part in self.cassandra_replication)
        return {datacenter: int(copies) for datacenter, _, copies in pairs}


def read_settings() -> Settings:
    """The settings of this process. Raises pydantic.ValidationError, which names each wrong one, and SettingError."""
    folder = os.environ.get("TIMELINE_SECRETS_DIR")
    if folder and not Path(folder).is_dir():
        raise SettingError(
            "TIMELINE_SECRETS_DIR", f"there is no folder {folder}", "Name one that is there, or unset it."
        )
    return Settings(_secrets_dir=folder) if folder else Settings()


def address(server: str) -> tuple[str, int]:
    """('10.0.0.1', 9042) of '10.0.0.1:9042'."""
    host, _, port = server.rpartition(":")
    return host.strip("[]"), int(port)
