"""Asks the person at the terminal before a command does something that cannot be undone."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from trackside.app.cli.arguments import ArgumentError
from trackside.app.cli.failures import ExitCode
from trackside.app.cli.views.output import standard_error


@dataclass(frozen=True, slots=True)
class Consent:
    """Whether `--yes` and `--dry-run` were typed."""

    yes: bool = False
    dry_run: bool = False


def refuse_idle(*, yes: str | None = None, dry_run: str | None = None) -> None:
    """Refuse `--yes` and `--dry-run` where they mean nothing; each argument says what the option goes with.

    Raises:
        ArgumentError: one of them means nothing here.
    """
    if yes is not None:
        raise ArgumentError(name="--yes", why=f"there is nothing to confirm; it goes with {yes}")
    if dry_run is not None:
        raise ArgumentError(name="--dry-run", why=f"nothing would be done; it goes with {dry_run}")


_AGREED = {"y", "yes"}


def agrees(question: str, *, yes: bool, would: str) -> bool:
    """Whether the person agrees: at once with `yes`, else by an answer at the terminal. An empty line means no.

        if not agrees("Remove 3 runs for good?", yes=yes, would="3 runs would be removed for good"):
            return not_done("Nothing was removed.")

    Args:
        question: the question, which says what would be done, and to how much.
        yes: whether `--yes` was typed.
        would: the same as a clause, for the error that is raised if there is nobody to ask.

    Raises:
        ArgumentError: there is nobody to ask, and `--yes` was not typed.
    """
    if yes:
        return True
    if not can_ask():
        raise ArgumentError(name="--yes", why=f"nobody is here to confirm it; {would}")
    standard_error().print(f"{question} [y/N] ", end="", soft_wrap=True)
    return sys.stdin.readline().strip().casefold() in _AGREED


def can_ask() -> bool:
    """Whether there is a terminal on which to ask and to get an answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def not_done(said: str) -> ExitCode:
    """Say that the person declined; to the shell that is the same as an interrupted command."""
    standard_error().print(said, soft_wrap=True)
    return ExitCode.cancelled
