"""What agents and observers left running.

Python does not exit before their threads end, so the person who waits is told. Tasks are waited for only a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from types import FrameType
from typing import NoReturn

from trackside.app.cli.formatting import count
from trackside.app.cli.loops import CommandRunner
from trackside.app.cli.stopping import stop_signals
from trackside.app.cli.views.output import standard_error
from trackside.harness.threads import LoopThreads

_UNMENTIONED = 1.0  # seconds of waiting that are not worth mentioning
_LAST_WORDS = 0.5  # seconds that tasks have to end after they are cancelled

_stuck: list[asyncio.Runner] = []
_reading: list[bool] = []


class UnwaitedExecutor(LoopThreads):
    """An executor that its event loop does not wait for when the loop closes. Python itself does wait, at exit."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls."""
        super().shutdown(wait=False, cancel_futures=cancel_futures)


def event_loop(factory: Callable[[], asyncio.AbstractEventLoop] | None = None) -> CommandRunner:
    """A runner that, unlike `asyncio.Runner`, ends even if a task swallows its cancellation."""
    return CommandRunner(factory, close=_close)


def _close(runner: asyncio.Runner) -> None:
    if runner.get_loop().run_until_complete(_have_ended()):
        runner.close()
    else:
        _stuck.append(runner)


async def _have_ended() -> bool:
    """Cancel all other tasks, and return whether all of them end soon."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    return not tasks or not (await asyncio.wait(tasks, timeout=_LAST_WORDS))[1]


@contextlib.contextmanager
def reading_without_end() -> Generator[CommandRunner]:
    """A runner for code that reads a pipe in a thread. On Ctrl-C it does not wait for input that may never come."""
    try:
        with event_loop() as runner:
            runner.get_loop().set_default_executor(UnwaitedExecutor())
            yield runner
    except KeyboardInterrupt:
        _reading.append(True)
        raise


def has_no_end() -> bool:
    """Whether no normal end is possible: an event loop cannot be closed, or a thread is still reading."""
    return bool(_stuck or _reading)


def leave(code: int) -> NoReturn:
    """End the process now, whatever is still running in it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def _left() -> list[threading.Thread]:
    """The threads that Python waits for at exit."""
    main = threading.main_thread()
    return [thread for thread in threading.enumerate() if thread is not main and not thread.daemon]


def expect_threads(code: int) -> None:
    """Prepare for an exit that may wait for threads: Ctrl-C then ends the process at once, with this exit code."""

    def leave_now(number: int, frame: FrameType | None) -> None:
        leave(code)

    for number in stop_signals():
        signal.signal(number, leave_now)


def say_what_is_left_soon() -> None:
    """Say how many threads Python waits for, if it still does in a moment. Threads of idle pools have ended by then."""
    timer = threading.Timer(_UNMENTIONED, _say_what_is_left)
    timer.daemon = True
    timer.start()


def _say_what_is_left() -> None:
    if left := _left():
        them = "it" if len(left) == 1 else "them"
        said = f"waiting for {count(len(left), 'thread')} of the agent or an observer; Ctrl-C leaves {them}"
        standard_error().print(said, soft_wrap=True)
