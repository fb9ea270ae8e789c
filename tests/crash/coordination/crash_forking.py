"""Forks a process for each piece of work, so that the imports, which take longer than most of these live, happen once.

It reads orders from its standard input, a JSON object each. Every line that the processes say begins with the number of
their order.
"""

import asyncio
import ctypes
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

type Work = Callable[..., Coroutine[Any, Any, None] | None]
"""What a process does, given the number and the options of its order."""

PR_SET_PDEATHSIG = 1  # see prctl(2)


def die_with_parent() -> None:
    """Have the kernel kill this process with its parent: whatever ends the test, nothing of it goes on alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def live(work: Mapping[str, Work], order: dict[str, Any]) -> None:
    """Do the work of one order in a process of its own, and say how that ended."""
    die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    number, kind = order.pop("order"), order.pop("kind")
    child = os.fork()
    if child == 0:
        die_with_parent()
        try:
            if (under_way := work[kind](number, **order)) is not None:
                asyncio.run(under_way)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    os.write(1, f"{number} dead {os.waitstatus_to_exitcode(status)}\n".encode())


def fork_for_orders(work: Mapping[str, Work]) -> None:
    """Fork for each order until there are no more."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes between us and the workers
    for line in sys.stdin:
        if os.fork() == 0:
            try:
                live(work, json.loads(line))
            finally:
                os._exit(0)
