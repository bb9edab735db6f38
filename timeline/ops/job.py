"""`timeline job`: what is done once, by hand or by cron. What it works with is put together above and handed in."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import click
import uvloop

from timeline.domain.errors import Unavailable
from timeline.ops.ports import Board, CountedFollowers
from timeline.ops.reclassify import Figures, Reclassification, skips_small
from timeline.settings import Settings, read_settings

OpenClasses = Callable[[Settings], AbstractAsyncContextManager[tuple[Board, CountedFollowers]]]


def make_job_command(*commands: click.Command) -> click.Group:
    """The group, with these in it."""

    @click.group("job")
    def job() -> None:
        """Jobs that are run once, by hand or by cron."""

    for command in commands:
        job.add_command(command)
    return job


def make_reclassify_command(open_classes: OpenClasses) -> click.Command:
    """The command, with what opens the store."""

    @click.command("reclassify", short_help="Pull and push authors by the threshold as it is now.")
    @click.option("--dry-run", is_flag=True, help="Change nothing, say what would be.")
    def reclassify(dry_run: bool) -> None:
        """Pull and push authors by the threshold as it is now.

        Authors with more followers than TIMELINE_PUSH_FOLLOWERS_MAX come to be
        pulled when homes are read; those with less than 80 % of it come to be
        pushed again. Fan-out does that with each author's next tweet: this is
        for all the others, after the threshold was changed. It must be the same
        here as for every fanout process.

        Authors of one follower shard (about 5,000 followers) are in no list
        that it could go through. Is the threshold so low, they wait for their
        next tweet, unless they are pulled already.

        Beside a running service, harmless to repeat: a second run changes
        nothing. Exit code 1: an engine did not answer, or not all could be
        done; what was told is done.
        """
        settings = read_settings()
        try:
            figures = uvloop.run(_reclassify(settings, open_classes, dry_run))
        except Unavailable as error:
            raise click.ClickException(
                f"{error}\n  what to do: see that Cassandra serves (`timeline local status`, or your operator's console), "
                "and run this again: what was told is done"
            ) from error
        except KeyboardInterrupt:
            click.echo("stopped; what was told is done, run this again for the rest", err=True)
            sys.exit(130)
        _sum_up(settings, figures, dry_run)

    return reclassify


async def _reclassify(settings: Settings, open_classes: OpenClasses, dry_run: bool) -> Figures:
    async with open_classes(settings) as (board, followers):
        job = Reclassification(
            board, followers, settings.limits, settings.push_followers_max, dry_run=dry_run, tell=click.echo
        )
        return await job.run()


def _sum_up(settings: Settings, figures: Figures, dry_run: bool) -> None:
    would = "would be " if dry_run else ""
    click.echo(
        f"threshold {settings.push_followers_max:,}: {figures.counted:,} authors counted, {figures.begun:,} {would}pulled "
        f"from now on, {figures.ended:,} {would}pushed; {figures.pulled:,} are pulled in all"
    )
    if skips_small(settings.limits, settings.push_followers_max):
        click.echo(
            f"the threshold is low: authors of one follower shard (about {settings.limits.follower_shard_size:,} followers) who "
            "were not pulled were not looked at; each is with the next tweet"
        )
    if figures.refused:
        raise click.ClickException(
            f"{figures.refused:,} authors stay pushed: there are more notices than notices_max ({settings.limits.notices_max:,}). "
            "Raise that limit in every process, or the threshold"
        )
