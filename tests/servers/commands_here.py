"""Commands of `trackside` that run in the process of a test and leave nothing behind there."""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def commands_here() -> Iterator[None]:
    """Restore afterwards who takes signals and who hears what Trackside logs; a command never puts that back, as its
    process ends with it.
    """
    takers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    logger = logging.getLogger("trackside")
    heard_by = logger.handlers[:]
    try:
        yield
    finally:
        logger.handlers[:] = heard_by
        for number, taker in takers.items():
            signal.signal(number, taker)
