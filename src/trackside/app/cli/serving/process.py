"""What a process needs that serves many: as many open files as it may have, few heaps, a garbage collector out of the way,
a fast loop.
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
"""What `mallopt` of glibc calls the most heaps that there may be (`M_ARENA_MAX` in `malloc.h`)."""
_ARENAS: Final = 2


def take_signals() -> None:
    """Have signals to stop end the process, and others do nothing, until there is something that takes them."""
    interrupt_on_stop_signals()
    if hasattr(signal, "SIGHUP") and not sys.stdin.isatty():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something that could begin anew


def new_event_loop() -> asyncio.AbstractEventLoop:
    """The fastest event loop that there is here, with as many threads for what agents run in its executor as for agents; it
    waits for none of them when it closes.
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
    """Have the process ready to serve while the block goes on. Call what it gives when everything is loaded.

    What is loaded then is there to stay: it is never looked through for garbage again, which takes 50 ms of everybody's time
    for a server of functions and 110 for one of graphs, each time that all is looked through.
    """
    _allow_many_files()
    _limit_heaps()
    gc.disable()  # loading makes much, and little of it garbage
    try:
        yield _keep_what_is_there
    finally:
        gc.enable()
        gc.unfreeze()


def _keep_what_is_there() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()


def _allow_many_files() -> None:
    """Each client takes one, and the usual 1,024 are soon gone; nobody may have more than the hard limit."""
    with suppress(ImportError, ValueError, OSError):  # a system that knows no such limits, or lets nobody change them
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _limit_heaps() -> None:
    """Have threads share heaps: with glibc nearly each has its own, and what it frees there is of no use to others."""
    if "MALLOC_ARENA_MAX" not in os.environ:
        with suppress(AttributeError, OSError, TypeError):  # a system with another `malloc`
            ctypes.CDLL(None).mallopt(_ARENA_MAX, _ARENAS)
