"""What a process needs that serves many: as many open files as it may have, and a garbage collector out of the way."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress


@contextmanager
def prepared() -> Generator[Callable[[], None]]:
    """Have the process ready to serve while the block goes on. Call what it gives when everything is loaded.

    What is loaded then is there to stay: it is never looked through for garbage again, which takes 50 ms of everybody's time
    for a server of functions and 110 for one of graphs, each time that all is looked through.
    """
    _allow_many_files()
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
