"""Notices that something blocks the event loop, and says what."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable

from trackside.harness.amounts import timeout_of
from trackside.harness.context import RunContext, run_of
from trackside.harness.ports import Clock, SystemClock
from trackside.harness.running.logs import fields_of

logger = logging.getLogger("trackside.watchdog")

_FRAMES = 12  # the innermost ones: what called them is mostly the loop itself


class LoopWatchdog:
    """Says when an event loop has not turned for `after` seconds while runs execute, and when it turns again.

    A thread asks the loop to answer every half of `after` seconds: a block is noticed if it takes one and a half times
    as long, and a reported one has lasted as long as the log says. While nothing executes the thread sleeps. It does
    not outlive a process that was forked, and a process forked from this one does not wait for it.

    Args:
        after: seconds.
        monotonic: the clock of its thread.
    """

    def __init__(self, after: float, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.blocks = 0
        """How often the loop was found blocked."""
        self._after = after
        self._monotonic = monotonic
        self._inside = 0
        self._asleep = True
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._thread: threading.Thread | None = None
        self._work = threading.Event()
        self._pause = threading.Event()
        self._answered = threading.Event()

    def enter(self) -> None:
        """A run executes from now on."""
        self._inside += 1
        if self._asleep:  # which is rare: the thread falls asleep only if it finds nobody inside
            self._wake()

    def leave(self) -> None:
        """A run has ended."""
        self._inside -= 1

    def close(self) -> None:
        """Watch no more."""
        self._closed = True
        if self._is_alive:
            for event in (self._work, self._pause, self._answered):
                event.set()

    @property
    def _is_alive(self) -> bool:
        # Not in a forked process, where the locks of the events may be held for ever by a thread that is not there.
        return self._thread is not None and self._thread.is_alive()

    def _wake(self) -> None:
        self._asleep = False
        if self._is_alive:
            self._work.set()
        elif self._thread is None and not self._closed:
            self._loop = asyncio.get_running_loop()
            self._loop_thread = threading.get_ident()
            self._thread = threading.Thread(target=self._watch, name="trackside-watchdog", daemon=True)
            self._thread.start()

    def _watch(self) -> None:
        while not self._closed:
            if self._inside == 0:
                self._sleep()
            else:
                try:
                    self._look()
                except RuntimeError:  # the loop is closed
                    return
                self._pause.wait(self._after / 2)

    def _sleep(self) -> None:
        self._work.clear()
        self._asleep = True
        # Checked after `_asleep` is set, because `enter` counts first and then checks that: no run is missed.
        if self._inside == 0 and not self._closed:
            self._work.wait()
        self._asleep = False

    def _look(self) -> None:
        """Ask the loop to answer; if it does not in time, log that, and how long it took in the end."""
        loop = self._loop
        assert loop is not None
        answered = self._answered = threading.Event()
        asked = self._monotonic()
        loop.call_soon_threadsafe(answered.set)
        if answered.wait(self._after) or self._closed:
            return
        if loop.is_running():
            self.blocks += 1
            self._say_where(loop, self._monotonic() - asked)
            answered.wait()  # or for `close`, which the loop calls
            logger.warning("the event loop turns again, after %.1f s", self._monotonic() - asked)
        else:  # stopped, and perhaps run again later
            answered.wait()

    def _say_where(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        task = asyncio.current_task(loop)
        run = None if task is None else run_of(task)
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001  # named so by the library, and documented
        logger.warning(
            "the event loop has not turned for %.1f s: %s blocks it, and with it all other runs. Its thread is at\n%s",
            seconds,
            "something" if run is None else _name_of(run),
            "".join(traceback.format_stack(frame, _FRAMES)).rstrip() if frame is not None else "an unknown place",
            extra=None if run is None else fields_of(run),
        )


def watchdog_of(block_warning_after: float | None, clock: Clock) -> LoopWatchdog | None:
    """A watchdog that warns after so many seconds; None if nobody wants a warning, or the clock is not the system's.

    Raises:
        InvalidSpecError: (a `ValueError`) it is no number of seconds.
    """
    seconds = timeout_of(block_warning_after, "block_warning_after")
    return LoopWatchdog(seconds) if seconds is not None and isinstance(clock, SystemClock) else None


def _name_of(run: RunContext) -> str:
    return f"run {run.run_id} of agent {run.agent!r}"
