"""What Ctrl-C, SIGTERM and SIGHUP do while a run goes on: the first signal cancels it, the second does not wait for it.

SIGHUP says that the terminal has been closed. It comes more than once by itself, so it never counts as the second.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from time import monotonic
from types import FrameType, TracebackType
from typing import Any, Protocol, Self

_BLOCKED_AFTER = 0.3  # seconds within which a loop that is not blocked gets to anything


def interrupt_on_stop_signals() -> None:
    """Have SIGTERM and SIGHUP end the command as Ctrl-C does, until there is a run to cancel."""
    for number in stop_signals():
        signal.signal(number, signal.default_int_handler)


def stop_signals() -> list[signal.Signals]:
    """The signals that mean to stop; without SIGHUP if it is ignored (`nohup`) or does not exist."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers


@contextmanager
def ended_by_stop_signals(end: Callable[[], object], stopped: asyncio.Event) -> Generator[None]:
    """Have these signals, however often they come, set `stopped` and call `end` on the running loop, which nobody blocks."""

    def stop() -> None:
        stopped.set()
        end()

    loop, before = asyncio.get_running_loop(), {number: signal.getsignal(number) for number in stop_signals()}
    for number in before:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


class Stoppable(Protocol):
    """A run that goes on in this process or on a server."""

    async def cancel(self) -> object:
        """Stop the run; may be called again."""
        ...


class StopSignals:
    """Takes these signals for one run, as a context manager inside a running event loop in the main thread.

    `insisted` is set when somebody asks a second time to stop. `say` is called at once, even while the agent blocks the
    loop, with what is being done and a hint.
    """

    def __init__(self, handle: Stoppable, say: Callable[[str, str], None]) -> None:
        self.insisted = asyncio.Event()
        self._handle = handle
        self._say = say
        self._loop = asyncio.get_running_loop()
        self._first_asked: float | None = None
        self._cancelling: asyncio.Task[Any] | None = None
        self._before: list[tuple[signal.Signals, Any]] = []

    def __enter__(self) -> Self:
        # Not `loop.add_signal_handler`: the loop notices nothing while an agent blocks it, but Python does.
        self._before = [(number, signal.signal(number, self._take)) for number in stop_signals()]
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._before:
            signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self._first_asked is None:
            self._first_asked = monotonic()
            self._say("cancelling", "once more to stop at once")
            self._loop.call_soon_threadsafe(self._cancel)
            self._later(_BLOCKED_AFTER, self._say_if_blocked)
        elif number == signal.SIGHUP:
            return
        elif self._cancelling is not None:
            self._loop.call_soon_threadsafe(self._insist)
        elif (early := self._first_asked + _BLOCKED_AFTER - monotonic()) > 0:
            # The loop may be about to get to it: look again when it must have done so.
            self._later(early, lambda: os.kill(os.getpid(), number))
        else:
            self._break_in()

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call it in a thread, because the loop may be blocked."""
        timer = threading.Timer(seconds, call)
        timer.daemon = True
        timer.start()

    def _say_if_blocked(self) -> None:
        if self._cancelling is None:
            self._say("cancelling", "the agent blocks; once more to break it off")

    def _cancel(self) -> None:
        self._cancelling = asyncio.create_task(self._handle.cancel(), name="trackside-cli-cancel")

    def _insist(self) -> None:
        # Cancel the agent once more, too: one that swallowed the first cancellation may heed the second.
        self._cancelling = asyncio.create_task(self._handle.cancel(), name="trackside-cli-cancel")
        self.insisted.set()

    def _break_in(self) -> None:
        """Cancel right here what the loop does: it has not handled the first signal, so an agent must be blocking it."""
        task = asyncio.current_task(self._loop)
        if task is None:
            raise KeyboardInterrupt
        task.cancel()
        raise asyncio.CancelledError
