"""`timeline schema`: the keyspace and its tables, applied or looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from timeline.domain.errors import TimelineError
from timeline.settings import read_settings
from timeline.store.migrations import WAIT_SECONDS, MigrationStatus
from timeline.store.migrations import apply as apply_migrations
from timeline.store.migrations import status as read_status


@click.group()
def schema() -> None:
    """Keep the tables in Cassandra or ScyllaDB up to date.

    Where: TIMELINE_CASSANDRA_HOSTS, _DATACENTER, _KEYSPACE; a new keyspace gets TIMELINE_CASSANDRA_REPLICATION
    (datacenter:copies, comma separated), at least 3 copies in production.
    """


@schema.command()
@click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(min=0),
    default=WAIT_SECONDS,
    show_default=True,
    help="Seconds to wait for another run to end.",
)
def apply(wait_seconds: float) -> None:
    """Make the keyspace if it is missing, and apply what is pending. Safe to repeat, and to run from several places."""
    with _errors_told():
        applied = apply_migrations(read_settings(), wait_seconds=wait_seconds, report=click.echo)
    click.echo(f"{len(applied)} applied" if applied else "up to date")


@schema.command()
def status() -> None:
    """Show every migration. The exit code is 0 when all are applied, 3 when some are pending or were changed since."""
    with _errors_told():
        rows = read_status(read_settings(), report=click.echo)
    for row in rows:
        click.echo(f"{row.name:40} {_state(row)}")
    if any(row.changed or row.applied_at is None for row in rows):
        raise SystemExit(3)


def _state(row: MigrationStatus) -> str:
    if row.applied_at is None:
        return "pending"
    return f"applied {row.applied_at:%Y-%m-%d %H:%M:%S} UTC" + (", CHANGED since" if row.changed else "")


@contextmanager
def _errors_told() -> Iterator[None]:
    """What can go wrong, as one line and exit code 1; a bug keeps its traceback, and a wrong setting is the command line's to tell."""
    try:
        yield
    except TimelineError as error:
        raise click.ClickException(str(error)) from error
