"""Asks whoever sits at the terminal before something is done that cannot be undone."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from trackside.app.cli.arguments import ArgumentError
from trackside.app.cli.failures import ExitCode
from trackside.app.cli.views.output import standard_error


@dataclass(frozen=True, slots=True)
class Consent:
    """What was typed of `--yes` and `--dry-run`."""

    yes: bool = False
    dry_run: bool = False


def refuse_idle(*, yes: str | None = None, dry_run: str | None = None) -> None:
    """See that `--yes` and `--dry-run` stand where they mean something; of each that does not: what it goes with.

    Raises:
        ArgumentError: one does not.
    """
    if yes is not None:
        raise ArgumentError(name="--yes", why=f"there is nothing to agree to; it goes with {yes}")
    if dry_run is not None:
        raise ArgumentError(name="--dry-run", why=f"nothing would be done; it goes with {dry_run}")


_AGREED = {"y", "yes"}


def agrees(question: str, *, yes: bool, would: str) -> bool:
    """Whether somebody wants it: at once with `yes`, else if he answers so at the terminal. An empty line is no.

        if not agrees("Remove 3 runs for good?", yes=yes, would="3 runs would be removed for good"):
            return not_done("Nothing was removed.")

    Args:
        question: what is asked; it says what would be done, and how much of it.
        yes: whether `--yes` was typed.
        would: the same as a part of the sentence that is said where nobody can be asked.

    Raises:
        ArgumentError: nobody sits there, and nothing was typed that says so.
    """
    if yes:
        return True
    if not can_ask():
        raise ArgumentError(name="--yes", why=f"nobody can be asked here; {would}")
    standard_error().print(f"{question} [y/N] ", end="", soft_wrap=True)
    return sys.stdin.readline().strip().casefold() in _AGREED


def can_ask() -> bool:
    """Whether there is a terminal to ask at and to be answered from."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def not_done(said: str) -> ExitCode:
    """Say that nobody wanted it; for the shell that is as if it had been broken off."""
    standard_error().print(said, soft_wrap=True)
    return ExitCode.cancelled
