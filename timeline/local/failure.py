"""What goes wrong on a person's machine, and what that person can do about it."""

from __future__ import annotations


class LocalFailure(Exception):
    """Ends the command with exit code 1. `problem` says what happened, `remedy` what to do."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}\n  what to do: {remedy}")
        self.problem, self.remedy = problem, remedy


class Stopping(Exception):
    """Somebody asked for the end (Ctrl-C, SIGTERM) while something was still starting."""
