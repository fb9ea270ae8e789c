"""How runs have ended, as the log says it to those who did not hear it from who executed them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple, Protocol


class ToldEnd(NamedTuple):
    """How a run has ended, as the log has it. `at` is when, in milliseconds since 1970."""

    run_id: str
    says: Mapping[str, Any]
    at: int
    started: bool


class EndLog(Protocol):
    """What a mirror asks the log."""

    async def end_of(self, run_id: str) -> ToldEnd | None:
        """How a run has ended, as soon as it has; None if the log is closed before."""
        ...

    async def place(self) -> int:
        """Where it ends now."""
        ...

    def ends_on(self, thread_id: str, *, after: int) -> AsyncIterator[ToldEnd]:
        """How the runs of a thread end, from behind this place on."""
        ...

    async def thread_made_at(self, thread_id: str) -> datetime | None:
        """When the thread was made that has this id now; None if there is none."""
        ...
