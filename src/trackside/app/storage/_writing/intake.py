"""Whether the database has room for what runs say.

One that has none may still take what is no larger than before: leases, and who has which run. Runs that began then would
fail one after another, each at its first event.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from time import monotonic
from typing import Final

from trackside.app.storage.errors import DatabaseFullError

logger = logging.getLogger("trackside.storage")

_LEAST: Final = 5.0
_MOST: Final = 75.0  # longer than the longest pause before what was spooled is tried again


class Intake:
    """Heeds what becomes of events, and says whether runs may begin."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._until = 0.0

    @property
    def is_shut(self) -> bool:
        """Whether the events of a run that began now would be refused, as far as is known.

        It ends with the next events that are taken. If none are tried, it ends after as long again as it has lasted, so
        that a run finds out.
        """
        return self._since is not None and monotonic() < self._until

    async def heed[T](self, appending: Awaitable[T]) -> T:
        """Wait for events that are appended, and note whether there was room for them.

        Raises:
            DatabaseFullError: there was none.
        """
        try:
            taken = await appending
        except DatabaseFullError as exc:
            self._note_refusal(exc)
            raise
        self._since = None
        return taken

    def _note_refusal(self, why: DatabaseFullError) -> None:
        now = monotonic()
        if self._since is None:
            self._since = now
            logger.warning("no run begins here until the database takes events again: %s", why)
        self._until = now + min(max(_LEAST, 2 * (now - self._since)), _MOST)
