"""`timeline load`: the command line of this room. What it writes through is put together above and handed in."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import click
import uvloop

from timeline.domain.errors import Unavailable
from timeline.ops import demo
from timeline.ops.files import BadFile
from timeline.ops.journal import JournalError
from timeline.ops.load import Figures, LoadPlan, run_load
from timeline.ops.pace import AsRecorded, Pace, Steady, at_once
from timeline.ops.ports import Doors
from timeline.ops.progress import progress_for
from timeline.settings import Settings, read_settings

OpenDoors = Callable[[Settings], AbstractAsyncContextManager[Doors]]
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def make_load_command(open_doors: OpenDoors) -> click.Command:
    """The command, with what opens the store and the writer."""

    @click.command("load")
    @click.option("--follows", type=_FILE, help="Lines `follower followee`; plain or gzipped.")
    @click.option(
        "--posts",
        type=_FILE,
        help="Lines `post_id unix_ts author kind ref_post ref_user`, kind P, RT, MT or RE, 0 for no reference.",
    )
    @click.option(
        "--demo", "is_demo", is_flag=True, help="The small world that ships with the service, instead of files."
    )
    @click.option("--limit", type=click.IntRange(min=0), help="Only the first N rows of posts.")
    @click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Rows of posts a second.")
    @click.option("--as-recorded", is_flag=True, help="Space posts like their times in the file.")
    @click.option(
        "--speed",
        type=click.FloatRange(min=0, min_open=True),
        default=1.0,
        show_default=True,
        help="With --as-recorded: so many times as fast.",
    )
    @click.option(
        "--journal",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Where is noted what is done, so that the next run goes on.  [default: .timeline/KEYSPACE.FILE.load]",
    )
    def load(
        follows: Path | None, posts: Path | None, is_demo: bool, limit: int | None, rate: float | None,
        as_recorded: bool, speed: float, journal: Path | None,
    ) -> None:  # fmt: skip
        """Load users and follows in bulk, then posts through the write path.

        Handles, names and texts are made up from the ids. A retweet that the file repeats changes nothing. Interrupted, or run again
        with a larger --limit, it goes on where it ended (within a day of the interruption: that long a half-written row is known).
        """
        if is_demo == (follows is not None or posts is not None) or (follows is None) != (posts is None):
            raise click.UsageError("give --follows and --posts, or --demo")
        if rate is not None and as_recorded:
            raise click.UsageError("--rate and --as-recorded exclude each other")
        settings = read_settings()
        source = (demo.FOLLOWS, demo.POSTS) if follows is None or posts is None else (follows, posts)
        name = "demo" if is_demo else source[1].name
        plan = LoadPlan(
            follows=source[0],
            posts=source[1],
            journal=journal or Path(".timeline") / f"{settings.cassandra_keyspace}.{name}.load",
            limit=limit,
            pace=_pace(rate, as_recorded, speed),
        )
        _told(lambda: uvloop.run(_load(plan, settings, open_doors)), plan)

    return load


def _pace(rate: float | None, as_recorded: bool, speed: float) -> Pace:
    if rate is not None:
        return Steady(rate)
    return AsRecorded(speed) if as_recorded else at_once


async def _load(plan: LoadPlan, settings: Settings, open_doors: OpenDoors) -> Figures:
    async with open_doors(settings) as doors:
        return await run_load(plan, doors, settings.limits, progress_for())


def _told(run: Callable[[], Figures], plan: LoadPlan) -> None:
    """Figures, or what went wrong, as a person wants them. Exit codes: 1 it went wrong, 130 interrupted."""
    try:
        figures = run()
    except (BadFile, JournalError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except Unavailable as error:
        raise click.ClickException(
            f"{error}\n  what to do: see that the engines serve (`timeline local status`), and run this again: it goes on"
        ) from error
    except KeyboardInterrupt:
        click.echo(f"stopped; run this again to go on ({plan.journal})", err=True)
        sys.exit(130)
    for line in figures.lines():
        click.echo(line)
    if figures.rows["refused"]:
        raise click.ClickException(f"{figures.rows['refused']} rows were refused; the first ones are told above")
