"""`timeline topics apply | status`."""

from __future__ import annotations

import click

from timeline.domain.errors import Unavailable
from timeline.eventlog.topics import ensure_topics, status
from timeline.settings import read_settings


@click.group()
def topics() -> None:
    """Kafka's topics: make them, look at them."""


@topics.command()
def apply() -> None:
    """Create the topics that are missing, and wait until they can be used. Those that exist are left as they are."""
    try:
        ensure_topics(read_settings(), say=click.echo)
    except Unavailable as error:
        raise click.ClickException(str(error)) from error


@topics.command(name="status")
def show() -> None:
    """Each topic with its partitions; exits with 1 while one is missing or has no leader."""
    try:
        found = status(read_settings())
    except Unavailable as error:
        raise click.ClickException(str(error)) from error
    for topic in found:
        click.echo(str(topic))
    if not all(topic.is_ready for topic in found):
        raise SystemExit(1)
