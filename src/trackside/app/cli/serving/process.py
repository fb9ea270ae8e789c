"""What a process that serves many clients needs.

That is as many open files as allowed, few heaps, a garbage collector that stays out of the way, and a fast event loop.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Final

from trackside.app.cli.leftovers import UnwaitedExecutor
from trackside.app.cli.stopping import interrupt_on_stop_signals
from trackside.harness.threads import AGENT_THREADS

_ARENA_MAX: Final = -8
"""The number by which glibc's `mallopt` knows the limit on heaps (`M_ARENA_MAX` in `malloc.h`)."""
_ARENAS: Final = 2
_YOUNG: Final = 50_000
"""After how many new objects the garbage collector searches them.

Of the usual 2,000, most are still in use by runs that go on, so searching them would be in vain.
"""


def take_signals() -> None:
    """Have stop signals end the process, and SIGHUP without a terminal do nothing, until something handles them."""
    interrupt_on_stop_signals()
    if hasattr(signal, "SIGHUP") and not sys.stdin.isatty():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something that can begin anew


def new_event_loop() -> asyncio.AbstractEventLoop:
    """The fastest event loop that this system has.

    Its executor has as many threads for what agents run there as there are for the agents themselves; the loop waits
    for none of them when it closes.
    """
    if sys.platform == "win32":
        loop = asyncio.new_event_loop()
    else:
        import uvloop

        loop = uvloop.new_event_loop()
    loop.set_default_executor(UnwaitedExecutor(AGENT_THREADS, thread_name_prefix="asyncio"))
    return loop


@contextmanager
def prepared() -> Generator[Callable[[], None]]:
    """Prepare the process to serve while the block lasts. Call what this returns when everything is loaded.

    What is loaded by then stays: it is never searched for garbage again. Each full search would take 50 ms of everybody's
    time on a server of functions, and 110 ms on one of graphs. Objects made after that are searched less often, unless
    an agent's module has called `gc.set_threshold`.
    """
    _allow_many_files()
    _limit_heaps()
    before = gc.get_threshold()

    def keep_what_is_there() -> None:
        gc.collect()
        gc.freeze()
        if gc.get_threshold() == before:
            gc.set_threshold(_YOUNG, *before[1:])
        gc.enable()

    gc.disable()  # loading creates many objects, few of them garbage
    try:
        yield keep_what_is_there
    finally:
        gc.enable()
        gc.unfreeze()
        gc.set_threshold(*before)


def _allow_many_files() -> None:
    """Raise the limit on open files: each client takes one, and the usual 1,024 run out soon. The hard limit stays."""
    with suppress(ImportError, ValueError, OSError):  # a system that has no such limits, or lets nobody change them
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _limit_heaps() -> None:
    """Have threads share heaps: with glibc nearly each has its own, and others cannot use what it frees there."""
    if "MALLOC_ARENA_MAX" not in os.environ:
        with suppress(AttributeError, OSError, TypeError):  # a system with another `malloc`
            ctypes.CDLL(None).mallopt(_ARENA_MAX, _ARENAS)
