"""Event loops of commands, none of which Ctrl-C meets half made or half closed: that is heard of when it is thrown away."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import signal
from collections.abc import Callable, Coroutine, Generator
from types import FrameType
from typing import Any

from trackside.app.cli.stopping import stop_signals


def run[T](main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, for commands: whenever Ctrl-C comes, nothing is heard of it but the `KeyboardInterrupt`."""
    try:
        with open_runner() as runner:
            return runner.run(main)
    finally:
        if inspect.getcoroutinestate(main) == inspect.CORO_CREATED:
            main.close()  # who never came to it does not complain that nobody has awaited it


@contextlib.contextmanager
def open_runner(
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    *,
    close: Callable[[asyncio.Runner], None] = asyncio.Runner.close,
) -> Generator[asyncio.Runner]:
    """A runner that has its loop, and in the end is closed."""
    runner = asyncio.Runner(loop_factory=factory)
    try:
        with interrupts_held_back():
            runner.get_loop()
        yield runner
    finally:
        with interrupts_held_back():
            close(runner)


@contextlib.contextmanager
def interrupts_held_back() -> Generator[None]:
    """Take what would raise `KeyboardInterrupt` in the block when that is over; if it comes again, at once."""
    held: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        if held:
            raise KeyboardInterrupt
        held.append(number)

    interrupting = [number for number in stop_signals() if signal.getsignal(number) is signal.default_int_handler]
    try:
        for number in interrupting:
            signal.signal(number, hold)
        yield
    finally:
        for number in interrupting:
            signal.signal(number, signal.default_int_handler)
        if held:
            signal.raise_signal(signal.Signals(held.pop()))
