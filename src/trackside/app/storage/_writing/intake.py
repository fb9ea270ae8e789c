"""Whether the database has room for what is new.

One that has none may still take what is no larger than before: leases, and who has which run. Runs that began then would
fail one after another, each at its first event.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import Final

from trackside.app.storage.errors import DatabaseFullError

logger = logging.getLogger("trackside.storage")

_LEAST: Final = 5.0
_MOST: Final = 75.0  # longer than the longest pause before what was spooled is tried again


class Intake:
    """Is told what becomes of writes that need room, by the writer's thread, and says whether runs may begin."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._until = 0.0

    @property
    def is_shut(self) -> bool:
        """Whether the events of a run that began now would be refused, as far as is known.

        It ends with the next write that finds room. If none is tried, it ends after as long again as it has lasted, so
        that a run finds out.
        """
        return self._since is not None and monotonic() < self._until

    def taken(self) -> None:
        """There was room for something."""
        self._since = None

    def refused(self, why: DatabaseFullError) -> None:
        """There was none."""
        now = monotonic()
        if self._since is None:
            self._since = now
            logger.warning("no run begins here until the database has room again: %s", why)
        self._until = now + min(max(_LEAST, 2 * (now - self._since)), _MOST)
