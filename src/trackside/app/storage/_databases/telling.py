"""Tells those who want to hear of what a store does. What one of them raises is its own failure: the others are told
all the same, and nobody waits for what has happened already.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

logger = logging.getLogger("trackside.storage")


def tell_each[*Said](hearers: Iterable[Callable[[*Said], object]], *said: *Said) -> None:
    """Call each of these; a failure goes to the program's log."""
    for hear in [*hearers]:
        try:
            hear(*said)
        except Exception:  # the hearer's failure, which is nobody else's
            logger.exception("a listener of the store has failed")
