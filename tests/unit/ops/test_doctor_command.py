"""What the command `timeline doctor timeline` answers, and by which exit code."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from click.testing import CliRunner, Result

from tests.unit.test_compare import A, B, C, Story
from timeline.assembly.compare import Comparison
from timeline.domain.errors import Unavailable
from timeline.domain.ids import UserId
from timeline.ops.doctor import make_doctor_command
from timeline.settings import Settings

CLEAN, HOLES, OTHER_HOLES = Story([A, B]).told(), Story([A, B, C], [C]).told(), Story([A, B, C], [A, B]).told()


class Examiner:
    def __init__(self, *answers: Comparison | Unavailable) -> None:
        self.answers = list(answers)

    async def examine(self, user_id: UserId) -> Comparison:
        answer = self.answers.pop(0)
        if isinstance(answer, Unavailable):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMELINE_LIMITS", '{"doctor_second_look_ms": 1}')


def run(user: str, *answers: Comparison | Unavailable) -> Result:
    @asynccontextmanager
    async def opened(settings: Settings) -> AsyncIterator[Examiner]:
        yield Examiner(*answers)

    command = make_doctor_command(opened, lambda settings, kind, user_id: f"{kind.value}:{{{user_id}}}")  # type: ignore[arg-type]
    return CliRunner().invoke(command, ["timeline", user])


def test_a_sound_timeline_is_exit_code_0_after_one_look() -> None:
    done = run("1", CLEAN)
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "No differences.")


def test_differences_that_two_looks_show_are_exit_code_1() -> None:
    done = run("1", HOLES, HOLES)
    assert done.exit_code == 1
    assert "2 differences, seen twice" in done.stdout


def test_a_difference_that_is_gone_or_another_at_the_second_look_is_none() -> None:
    assert run("1", HOLES, CLEAN).exit_code == 0
    done = run("1", HOLES, OTHER_HOLES)
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "No differences.")


def test_an_engine_that_does_not_answer_is_exit_code_3_and_no_verdict() -> None:
    done = run("1", HOLES, Unavailable("cassandra: no host answers"))
    assert (done.exit_code, done.stdout) == (3, "")
    assert "no host answers" in done.stderr
    assert "Nothing is known" in done.stderr


@pytest.mark.parametrize("user", ["ann", "0", "-1", "9223372036854775808", "1.5", "١"])
def test_what_is_no_user_id_is_exit_code_2(user: str) -> None:
    done = run(user)
    assert done.exit_code == 2
