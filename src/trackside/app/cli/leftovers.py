"""Threads that an agent left running: Python does not end before they do, so whoever waits is told."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

from trackside.app.cli.formatting import count
from trackside.app.cli.output import standard_error
from trackside.app.cli.stopping import stop_signals

_UNMENTIONED = 0.5  # seconds of waiting of which nobody needs to be told


class UnwaitedExecutor(ThreadPoolExecutor):
    """An event loop's executor for which the loop does not wait when it closes. Python does, when it ends."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls."""
        super().shutdown(wait=False, cancel_futures=cancel_futures)


def _left() -> list[threading.Thread]:
    """Those for which Python waits when it ends."""
    main = threading.main_thread()
    return [thread for thread in threading.enumerate() if thread is not main and not thread.daemon]


def expect_threads(code: int) -> None:
    """Prepare for the end: say so if it has to wait for threads, and end at once on Ctrl-C, with this exit code."""

    def leave(number: int, frame: FrameType | None) -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)

    for number in stop_signals():
        signal.signal(number, leave)
    timer = threading.Timer(_UNMENTIONED, _say_what_is_left)
    timer.daemon = True
    timer.start()


def _say_what_is_left() -> None:
    if left := _left():
        them = "it" if len(left) == 1 else "them"
        said = f"waiting for {count(len(left), 'thread')} of the agent; Ctrl-C leaves {them}"
        standard_error().print(said, soft_wrap=True)
