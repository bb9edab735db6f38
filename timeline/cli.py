"""`timeline`: the command line. What a command needs is imported when it runs, so that `timeline --help` is quick.

Exit codes: 0 well, 1 it went wrong, 2 a setting or an argument is wrong, 130 interrupted. Of `schema status` 3: something is
pending. Of `doctor` 1: there are differences; 3: an engine did not answer.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from importlib import import_module
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pydantic import ValidationError

    from timeline.settings import Settings

# name → where the command is, and what it is in a line: looked at by --help without importing it
_ELSEWHERE: Mapping[str, tuple[str, str]] = {
    "schema": ("timeline.store.command:schema", "Cassandra's tables: apply | status."),
    "topics": ("timeline.eventlog.command:topics", "Kafka's topics: apply | status."),
    "local": ("timeline.local.command:local", "Run everything on this machine, real engines included."),
    "doctor": ("timeline.wiring:doctor", "doctor timeline USER: what a cached timeline lacks, and why."),
    "job": ("timeline.wiring:job", "Once, by hand or cron: dead-letters | reclassify."),
    "load": ("timeline.wiring:load", "Load a graph of follows, and posts, through the write path."),
}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class _Lazy(click.Group):
    """A group, some of whose commands are imported only when they are called."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted([*super().list_commands(context), *_ELSEWHERE])

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _ELSEWHERE:
            return super().get_command(context, name)
        module, _, attribute = _ELSEWHERE[name][0].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        own = {name: super(_Lazy, self).get_command(context, name) for name in super().list_commands(context)}
        lines = {name: command.get_short_help_str(100) for name, command in own.items() if command is not None}
        lines |= {name: text for name, (_, text) in _ELSEWHERE.items()}
        with formatter.section("Commands"):
            formatter.write_dl(sorted(lines.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="timeline", message="%(version)s")
def timeline() -> None:
    """A home-timeline service: post, follow, read.

    Settings come from variables TIMELINE_…, or from files timeline_… in the folder TIMELINE_SECRETS_DIR.
    """


@timeline.command()
def api() -> None:
    """Serve the HTTP API."""
    settings = _settings()
    from timeline.wiring import run_api

    sys.exit(run_api(settings))


@timeline.command()
def fanout() -> None:
    """Carry new tweets to the home timelines of followers."""
    settings = _settings()
    from timeline.wiring import run_fanout

    sys.exit(run_fanout(settings))


@timeline.command(short_help="Produce events that did not get to Kafka.")
def relay() -> None:
    """Produce the events that an api process stored and did not get to Kafka."""
    settings = _settings()
    from timeline.wiring import run_relay

    sys.exit(run_relay(settings))


@timeline.command(short_help="Compare cached timelines with the store, for ever.")
@click.option(
    "--per-second",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Readers looked at in a second; each costs the store what building a list costs.",
)
def audit(per_second: float) -> None:
    """Compare the cached home timelines of sampled readers with the store, for ever: proof that feeds have no holes.

    What differs twice is counted by timeline_holes_found_total, and told in the log; `timeline doctor timeline USER` explains it.
    Changes nothing. One process is enough.
    """
    settings = _settings()
    if per_second > settings.limits.audits_per_second_max:
        raise click.BadParameter(f"at most {settings.limits.audits_per_second_max}", param_hint="--per-second")
    from timeline.wiring import run_audit

    sys.exit(run_audit(settings, per_second))


class _UserId(click.ParamType[int]):
    name = "user"

    def convert(self, value: str, param: click.Parameter | None, context: click.Context | None) -> int:
        from timeline.api.auth import parse_id

        user_id = parse_id(value)
        if user_id is None:
            self.fail("a user id is a decimal number from 1 to 2^63-1", param, context)
        return user_id


class _Seconds(click.ParamType[int]):
    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, context: click.Context | None) -> int:
        found = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", str(value))
        if found is None:
            self.fail("write a number and a unit: 90s, 15m, 1h, 30d", param, context)
        return int(found[1]) * _UNITS[found[2]]


@timeline.command(short_help="Print a token for a user.")
@click.argument("user", type=_UserId())
@click.option("--scope", type=click.Choice(["admin"]), help="admin: may act on any user.")
@click.option("--expires-in", default="1h", show_default=True, type=_Seconds(), help="90s, 15m, 1h, 30d.")
def token(user: int, scope: str | None, expires_in: int) -> None:
    """Print a token for USER, signed with TIMELINE_JWT_SECRET: for `Authorization: Bearer`."""
    from timeline.api.auth import make_token
    from timeline.domain.ids import UserId

    click.echo(make_token(_settings(), UserId(user), scope=scope, expires_in_seconds=expires_in))


def _settings() -> Settings:
    from timeline.settings import read_settings

    return read_settings()


def main() -> None:
    """Run a command; a setting that is wrong is a line each, and exit code 2."""
    try:
        timeline(prog_name="timeline")
    except Exception as error:
        told = _told(error)
        if told is None:
            raise
        for line in told:
            click.echo(f"error: {line}", err=True)
        sys.exit(2)


def _told(error: Exception) -> list[str] | None:
    """What is wrong with the settings and how to put it right; None of an error that is about something else."""
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from timeline.settings import SettingError, Settings

    if isinstance(error, SettingError):
        return [str(error)]
    if isinstance(error, SettingsError):  # JSON that is none; the text names the field, not the value
        return [f"{error}. Lists are written with commas, limits as a JSON object."]
    if isinstance(error, ValidationError) and error.title in (Settings.__name__, "Limits"):
        return _each(error, lambda name: _default(Settings.model_fields[name].default))
    return None


def _default(value: object) -> str:
    return "that of each" if is_dataclass(value) else repr(value)


def _each(error: ValidationError, default_of: Callable[[str], str]) -> list[str]:
    lines = []
    for wrong in error.errors(include_url=False, include_input=False, include_context=False):
        path, message = [str(part) for part in wrong["loc"]], wrong["msg"].removeprefix("Value error, ")
        if not path:
            lines.append(f"TIMELINE_… settings do not fit together: {message}")
            continue
        name = f"TIMELINE_{path[0].upper()}" + (f" ({'.'.join(path[1:])})" if path[1:] else "")
        lines.append(f"{name}: {message}. Set another, or unset it for the default, {default_of(path[0])}.")
    return lines
