"""Brings a `SystemExit` or Ctrl-C in an agent's code to whoever runs the agent, and a Ctrl-C to whoever runs the loop.

Frameworks run tools in tasks, and asyncio lets these two escape from a task through the event loop: past the run, whose
end would never be announced (I18).
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from typing import NoReturn


class CarriedExit(BaseException):
    """Carries `error` through tasks. Not an `Exception`, so that nobody on the way takes it for a tool's failure."""

    def __init__(self, error: SystemExit | KeyboardInterrupt) -> None:
        super().__init__(error)
        self.error = error


@contextmanager
def carrying_exits() -> Generator[None]:
    """Raise a `CarriedExit` instead of a `SystemExit` or Ctrl-C."""
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as exc:
        raise CarriedExit(exc) from None


def interrupt_loop(interrupt: KeyboardInterrupt) -> None:
    """Give a Ctrl-C, in a moment, to whoever runs the event loop, who decides what it means.

    Raised in a task, it would also stay with the task, whose exception nobody retrieves.
    """
    asyncio.get_running_loop().call_soon(_raise, interrupt)


def _raise(interrupt: KeyboardInterrupt) -> NoReturn:
    raise interrupt
