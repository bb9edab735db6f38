"""Numbered CQL files (timeline/store/schema, which `schema/` at the top of the tree points to), applied once each, in order.

What was applied stands in `schema_migrations` with the file's checksum. One runner at a time: a lock by compare-and-set whose row
expires by itself, so that a runner that died holds it for a minute and no longer. After each statement all nodes must agree on
the schema before the next is sent. Everything here blocks: it is for a command, or a thread.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from cassandra import InvalidRequest
from cassandra.cluster import Session as DriverSession

from timeline.domain.errors import TimelineError, Unavailable
from timeline.settings import Settings
from timeline.store.errors import translate
from timeline.store.session import Cql, Session, connect

LOCK_SECONDS = 60  # longer than any one statement takes, renewed before each
WAIT_SECONDS = 90.0  # longer than the lock of a runner that died
STATEMENT_SECONDS = 30.0  # a CREATE TABLE waits for every node

_VERSIONS = Cql("schema_versions", "SELECT version FROM schema_migrations")
_NAME = re.compile(r"^(\d{4})_[a-z0-9_]+\.cql$")
_BOOK = """CREATE TABLE IF NOT EXISTS {keyspace}.schema_migrations (
    version int PRIMARY KEY, name text, checksum text, applied_at timestamp)
    WITH id = {book_id} AND compaction = {{'class': 'LeveledCompactionStrategy'}}"""
_LOCKS = """CREATE TABLE IF NOT EXISTS {keyspace}.schema_lock (
    name text PRIMARY KEY, owner text, who text)
    WITH id = {lock_id} AND compaction = {{'class': 'LeveledCompactionStrategy'}}"""


class MigrationError(TimelineError):
    """The schema cannot be brought up to date; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def statements(self) -> list[str]:
        """Its statements, comments taken out. No literal of ours holds a semicolon or two dashes."""
        bare = re.sub(r"--[^\n]*", "", self.text)
        return [statement.strip() for statement in bare.split(";") if statement.strip()]


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """`applied_at` is None while it is pending; `changed` when the file is no longer what was applied."""

    version: int
    name: str
    applied_at: datetime | None
    changed: bool


def migrations() -> list[Migration]:
    """All that ship with this release, in order. Raises MigrationError on a file that is misnamed or numbered twice."""
    folder = resources.files("timeline.store") / "schema"
    found: dict[int, Migration] = {}
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        match = _NAME.match(file.name)
        if not match:
            raise MigrationError(f"schema/{file.name} is not named like 0001_what_it_does.cql")
        version = int(match[1])
        if version in found:
            raise MigrationError(f"schema/{file.name} and schema/{found[version].name} have the same number")
        found[version] = Migration(version, file.name, file.read_text("utf-8"))
    return list(found.values())


async def check(session: Session, keyspace: str) -> None:
    """Raises Unavailable unless everything that this release needs was applied; what a newer one has applied does no harm."""
    remedy = "run `timeline schema apply` first"
    try:
        await session.prepare([_VERSIONS])
    except InvalidRequest as error:
        raise Unavailable(f"the keyspace {keyspace!r} holds no schema: {remedy}") from error
    applied = {row[0] for row in await session.rows(_VERSIONS)}
    lacking = [migration.name for migration in migrations() if migration.version not in applied]
    if lacking:
        raise Unavailable(f"the schema in {keyspace!r} lacks {', '.join(lacking)}: {remedy}")


def status(
    settings: Settings, files: list[Migration] | None = None, report: Callable[[str], None] = lambda line: None
) -> list[MigrationStatus]:
    """Every migration, applied or pending; applied ones that this release does not know included. Reported is a keyspace that is
    replicated otherwise than the settings say. Raises Unavailable."""
    with _connected(settings) as session:
        _tell_difference(session, settings, report)
        return _status(session, settings.cassandra_keyspace, migrations() if files is None else files)


def apply(
    settings: Settings,
    *,
    files: list[Migration] | None = None,
    wait_seconds: float = WAIT_SECONDS,
    report: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Make the keyspace and whatever is pending; the names of what was applied. Repeating it changes nothing.

    Raises MigrationError (an applied file was changed; another runner holds the lock past `wait_seconds`) and Unavailable.
    """
    wanted = migrations() if files is None else files
    keyspace = settings.cassandra_keyspace
    with _connected(settings) as session:
        if _replication_of(session, keyspace) is None:
            _make_keyspace(session, settings, report)
        else:
            _tell_difference(session, settings, report)
        _make_books(session, keyspace)
        with _lock(session, keyspace, wait_seconds, report) as renew:
            pending = _pending(wanted, _status(session, keyspace, wanted))
            for migration in pending:
                report(f"applying {migration.name}")
                for statement in migration.statements:
                    renew()
                    _run(session, statement, keyspace)
                _run(
                    session,
                    f"INSERT INTO {keyspace}.schema_migrations (version, name, checksum, applied_at) VALUES (%s, %s, %s, %s)",
                    None,
                    (migration.version, migration.name, migration.checksum, datetime.now(UTC)),
                )
    return [migration.name for migration in pending]


def _pending(wanted: list[Migration], known: list[MigrationStatus]) -> list[Migration]:
    changed = [row.name for row in known if row.changed]
    if changed:
        raise MigrationError(
            f"{', '.join(changed)} was changed after it had been applied. Put the file back as it was, and make the change in "
            "a new file with the next number"
        )
    applied = {row.version for row in known if row.applied_at is not None}
    return [migration for migration in wanted if migration.version not in applied]


def _status(session: DriverSession, keyspace: str, wanted: list[Migration]) -> list[MigrationStatus]:
    applied = {row[0]: row[1:] for row in _applied(session, keyspace)}
    rows = []
    for migration in wanted:
        _, checksum, at = applied.pop(migration.version, (migration.name, migration.checksum, None))
        rows.append(MigrationStatus(migration.version, migration.name, at, checksum != migration.checksum))
    # what a newer release has applied: known, and none of our business
    rows += [MigrationStatus(version, name, at, False) for version, (name, _, at) in applied.items()]
    return sorted(rows, key=lambda row: row.version)


def _applied(session: DriverSession, keyspace: str) -> list[Any]:
    tables = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s AND table_name = 'schema_migrations'"
    if not _run(session, tables, None, (keyspace,)):
        return []
    return _run(session, f"SELECT version, name, checksum, applied_at FROM {keyspace}.schema_migrations", None)


def _replication_of(session: DriverSession, keyspace: str) -> dict[str, str] | None:
    """Without its class. None: there is no such keyspace."""
    rows = _run(session, "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = %s", None, (keyspace,))
    return {name: str(copies) for name, copies in rows[0][0].items() if name != "class"} if rows else None


def _tell_difference(session: DriverSession, settings: Settings, report: Callable[[str], None]) -> None:
    """A keyspace that exists keeps its replication: changing it moves data, and wants a repair after it."""
    there = _replication_of(session, settings.cassandra_keyspace)
    wanted = {datacenter: str(copies) for datacenter, copies in settings.replication.items()}
    if there is not None and there != wanted:
        told = ",".join(f"{datacenter}:{copies}" for datacenter, copies in sorted(there.items()))
        report(
            f"keyspace {settings.cassandra_keyspace} is replicated as {told}; TIMELINE_CASSANDRA_REPLICATION says "
            f"{','.join(settings.cassandra_replication)}, and is for a new keyspace"
        )


def _make_keyspace(session: DriverSession, settings: Settings, report: Callable[[str], None]) -> None:
    keyspace = settings.cassandra_keyspace
    known = {str(host.datacenter) for host in session.cluster.metadata.all_hosts()}
    if unknown := settings.replication.keys() - known:
        raise MigrationError(
            f"Cassandra has no datacenter {', '.join(sorted(unknown))}, but {', '.join(sorted(known))}: "
            "set TIMELINE_CASSANDRA_REPLICATION"
        )
    report(f"making keyspace {keyspace}")
    copies = "".join(f", '{datacenter}': {count}" for datacenter, count in settings.replication.items())
    replication = f"{{'class': 'NetworkTopologyStrategy'{copies}}}"
    # Scylla's compare-and-set wants a keyspace without tablets; Cassandra does not know the option
    scylla = (
        "SELECT table_name FROM system_schema.tables WHERE keyspace_name = 'system' AND table_name = 'scylla_local'"
    )
    tablets = " AND tablets = {'enabled': false}" if _run(session, scylla, None) else ""
    _run(session, f"CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {replication}{tablets}", None)


def _make_books(session: DriverSession, keyspace: str) -> None:
    # Two runners may make these two at once, before there is a lock: the same id for both makes it the same table everywhere
    ids = {name: uuid.uuid5(uuid.NAMESPACE_OID, f"timeline.{keyspace}.{name}") for name in ("book_id", "lock_id")}
    for statement in (_BOOK, _LOCKS):
        _run(session, statement.format(keyspace=keyspace, **ids), None)


@contextmanager
def _lock(
    session: DriverSession, keyspace: str, wait_seconds: float, report: Callable[[str], None]
) -> Iterator[Callable[[], None]]:
    """Holds the lock; yields a function that renews it, which raises MigrationError when it is lost."""
    table, owner = f"{keyspace}.schema_lock", uuid.uuid4().hex
    who = f"{socket.gethostname()}, process {os.getpid()}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    _take(session, table, owner, who, wait_seconds, report)

    def renew() -> None:
        statement = (
            f"UPDATE {table} USING TTL {LOCK_SECONDS} SET owner = %s, who = %s WHERE name = 'schema' IF owner = %s"
        )
        if not _run(session, statement, None, (owner, who, owner), cas=True)[0][0]:
            raise MigrationError("the lock on the schema was lost to another runner: run it again")

    try:
        yield renew
    finally:
        _run(session, f"DELETE FROM {table} WHERE name = 'schema' IF owner = %s", None, (owner,), cas=True)


def _take(
    session: DriverSession, table: str, owner: str, who: str, wait_seconds: float, report: Callable[[str], None]
) -> None:
    deadline = time.monotonic() + wait_seconds
    insert = f"INSERT INTO {table} (name, owner, who) VALUES ('schema', %s, %s) IF NOT EXISTS USING TTL {LOCK_SECONDS}"
    told = ""
    while not _run(session, insert, None, (owner, who), cas=True)[0][0]:
        # a serial read sees what stands, were it our own insert whose answer was lost
        rows = _run(session, f"SELECT owner, who FROM {table} WHERE name = 'schema'", None, serial=True)
        if rows and rows[0][0] == owner:
            return
        holder = rows[0][1] if rows else told
        if time.monotonic() > deadline:
            raise MigrationError(
                f"the schema is being changed by {holder}. Wait for it to end; if it died, its lock expires {LOCK_SECONDS} s after "
                "its last step"
            )
        if holder and holder != told:
            report(f"waiting for {holder}")
            told = holder
        time.sleep(0.3)


def _run(
    session: DriverSession,
    statement: str,
    keyspace: str | None,
    params: tuple[Any, ...] | None = None,
    *,
    cas: bool = False,
    serial: bool = False,
) -> list[Any]:
    """One statement, then every node agrees. `keyspace` is what names without one mean."""
    profile = "cas" if cas else "serial" if serial else "default"
    try:
        if keyspace is not None:
            session.set_keyspace(keyspace)
        future = session.execute_async(statement, params, timeout=STATEMENT_SECONDS, execution_profile=profile)
        rows = list(future.result())
    except Exception as error:
        raise translate(error, maybe_done=not statement.startswith("SELECT")) from error
    if not future.is_schema_agreed:
        raise Unavailable(
            "Cassandra's nodes do not agree on the schema: see that all are up (nodetool describecluster), then run it again"
        )
    return rows


@contextmanager
def _connected(settings: Settings) -> Iterator[DriverSession]:
    cluster, session = connect(settings, settings.limits, keyspace_needed=False)
    cluster.max_schema_agreement_wait = STATEMENT_SECONDS
    try:
        yield session
    finally:
        cluster.shutdown()
