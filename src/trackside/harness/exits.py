"""Gets a `SystemExit` or Ctrl-C of an agent's code to whoever runs the agent, and a Ctrl-C on to whoever runs the loop.

Frameworks run tools in tasks, and asyncio lets these two out of a task through the event loop: past the run, whose end
would never be announced (I18).
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from typing import NoReturn


class CarriedExit(BaseException):
    """Stands for `error` on its way through tasks. No `Exception`: nobody on the way takes it for a tool's failure."""

    def __init__(self, error: SystemExit | KeyboardInterrupt) -> None:
        super().__init__(error)
        self.error = error


@contextmanager
def carrying_exits() -> Generator[None]:
    """Raise a `CarriedExit` instead."""
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as exc:
        raise CarriedExit(exc) from None


def interrupt_loop(interrupt: KeyboardInterrupt) -> None:
    """Have whoever runs the event loop get a Ctrl-C, in a moment; what it means is his to decide.

    Raised in a task it would stay with the task as well, whose exception nobody retrieves.
    """
    asyncio.get_running_loop().call_soon(_raise, interrupt)


def _raise(interrupt: KeyboardInterrupt) -> NoReturn:
    raise interrupt
