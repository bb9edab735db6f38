"""`timeline doctor`: deep questions about one thing, answered in words. What it examines with is put together above and handed in."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial

import click
import uvloop

from timeline.assembly.compare import Comparison, seen_again
from timeline.assembly.examine import Examiner
from timeline.domain.errors import Unavailable
from timeline.domain.ids import ID_MAX, UserId
from timeline.domain.limits import Limits
from timeline.domain.records import ListKind
from timeline.ops.diagnosis import lines_of
from timeline.settings import Settings, read_settings

OpenExaminer = Callable[[Settings], AbstractAsyncContextManager[Examiner]]
DIFFERENCES, UNKNOWN = 1, 3  # exit codes


class _UserId(click.ParamType[int]):
    name = "user"

    def convert(self, value: str, param: click.Parameter | None, context: click.Context | None) -> int:
        if value.isascii() and value.isdigit() and len(value) <= 19 and 1 <= int(value) <= ID_MAX:
            return int(value)
        self.fail(
            "a user id is a decimal number from 1 to 2^63-1 (GET /api/user?handle= tells a handle's)", param, context
        )


def make_doctor_command(open_examiner: OpenExaminer, key_of: Callable[[Settings, ListKind, int], str]) -> click.Group:
    """The command, with what opens an examiner, and how Redis calls a list."""

    @click.group("doctor")
    def doctor() -> None:
        """Compare what is cached with what is stored, and explain the differences."""

    @doctor.command("timeline", short_help="Compare a cached home timeline with the store.")
    @click.argument("user", type=_UserId())
    def timeline(user: int) -> None:
        """Compare the cached home timeline of USER (a decimal id) with the store, entry by entry.

        Changes nothing, and renews no expiry. Differences are looked at twice, a few seconds apart: those told were there both times.

        Exit code: 0 no differences, 1 differences, 2 a wrong argument or setting, 3 an engine did not answer, so nothing is known.
        """
        settings = read_settings()
        try:
            found = uvloop.run(_diagnose(UserId(user), settings, open_examiner))
        except Unavailable as error:
            click.echo(f"error: {error}", err=True)
            click.echo(
                "  Nothing is known of the timeline. What to do: see that the engines serve "
                "(`timeline local status`, or your operator's console), and ask again.",
                err=True,
            )
            sys.exit(UNKNOWN)
        for line in lines_of(found, settings.limits, partial(key_of, settings)):
            click.echo(line)
        sys.exit(DIFFERENCES if found.differences else 0)

    return doctor


async def diagnose(examiner: Examiner, user_id: UserId, limits: Limits) -> Comparison:
    """The differences that two looks show; the second one is not taken when the first shows none. Raises Unavailable."""
    first = await examiner.examine(user_id)
    if not first.differences:
        return first
    await asyncio.sleep(limits.doctor_second_look_ms / 1000)
    second = await examiner.examine(user_id)
    return replace(second, differences=seen_again(first.differences, second.differences))


async def _diagnose(user_id: UserId, settings: Settings, open_examiner: OpenExaminer) -> Comparison:
    async with open_examiner(settings) as examiner:
        return await diagnose(examiner, user_id, settings.limits)
