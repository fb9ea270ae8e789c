"""What a server says of itself that only its assembler knows: its settings, its spool, what is wrong around it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from trackside.app.spool.standing import SpoolStanding
from trackside.harness.threads import in_own_thread

PATIENCE: Final = 3.0
"""Seconds that looking around may take."""

_FRESH: Final = 2.0  # seconds for which findings are good: however many pages ask, one looks


class Setting(NamedTuple):
    """The value of a setting, as it may be shown, and who set it; None: nobody, it is the default."""

    value: Any
    source: str | None


class Found(NamedTuple):
    """Something that is wrong, where, and what to do; of the level "error", "warning" or "note"."""

    level: str
    what: str
    where: str
    next_command: str


class Surroundings(NamedTuple):
    """What was found around a server."""

    spool: SpoolStanding | None
    """What could not be written to the database; None if nobody could look."""
    findings: Sequence[Found]


class Looker:
    """Looks around for all who ask: one at a time, and for no longer than `PATIENCE`."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._busy = threading.Lock()
        self._found: Surroundings | None = None
        self._at = 0.0

    async def look(self, look: Callable[[], Surroundings]) -> Surroundings:
        """What is found now, or was a moment ago."""
        loop = asyncio.get_running_loop()
        async with self._lock:
            if self._found is None or loop.time() - self._at >= _FRESH:
                self._found, self._at = await self._looked(look), loop.time()
            return self._found

    async def _looked(self, look: Callable[[], Surroundings]) -> Surroundings:
        try:
            async with asyncio.timeout(PATIENCE):
                found = await in_own_thread(self._alone, look)
        except TimeoutError:
            found = None
        if found is not None:
            return found
        what = f"looking for what is wrong takes more than {PATIENCE:g} s"
        return Surroundings(None, [Found("warning", what, "this server", "trackside doctor")])

    def _alone(self, look: Callable[[], Surroundings]) -> Surroundings | None:
        """What is found; None while a look that nobody waits for any more goes on."""
        if not self._busy.acquire(blocking=False):
            return None
        try:
            return look()
        finally:
            self._busy.release()


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemSources:
    """The sources of what a server says of itself. Functions block, and are called in threads."""

    database: str = ""
    """Its address, as it may be shown."""
    spool: str | None = None
    """The folder of the spool."""
    settings: Mapping[str, Setting] = field(default_factory=lambda: MappingProxyType({}))
    look: Callable[[], Surroundings] = lambda: Surroundings(None, [])
    """Looks at the spool, and for what is wrong."""
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    looker: Looker = field(default_factory=Looker)
