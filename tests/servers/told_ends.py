"""A log of how runs end, told by hand, that mirrors can ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

from trackside.app.storage.errors import StorageError
from trackside.app.streams.ends import ToldEnd


class ToldEnds:
    """Knows what `tell` has told, and wakes those who wait for it."""

    def __init__(self) -> None:
        self.told: dict[str, ToldEnd] = {}
        self.asked: list[str] = []
        self.threads: dict[str, datetime] = {}
        """The threads that exist, and when they were made."""
        self.earlier: set[str] = set()
        """Runs of threads that were there before."""
        self.is_away = False
        """Whether nobody can see where the log ends."""
        self._ends: list[tuple[str, ToldEnd]] = []
        self._news = asyncio.Event()

    def tell(
        self, run_id: str, thread_id: str = "thread-1", *, at: int = 5_000, started: bool = True, **says: Any
    ) -> None:
        end = ToldEnd(run_id, {"status": "success", **says}, at, started)
        self.told[run_id] = end
        self._ends.append((thread_id, end))
        self._news.set()
        self._news = asyncio.Event()

    async def end_of(self, run_id: str) -> ToldEnd | None:
        self.asked.append(run_id)
        while run_id not in self.told:
            await self._news.wait()
        return self.told[run_id]

    async def place(self) -> int:
        if self.is_away:
            raise StorageError(database="told", why="it is away")
        return len(self._ends)

    async def ends_on(self, thread_id: str, *, after: int) -> AsyncIterator[ToldEnd]:
        while True:
            while after < len(self._ends):
                of, end = self._ends[after]
                after += 1
                if of == thread_id:
                    yield end
            await self._news.wait()

    async def thread_made_at(self, thread_id: str) -> datetime | None:
        return self.threads.get(thread_id)

    async def runs_on(self, thread_id: str, run_ids: set[str]) -> set[str]:
        return run_ids - self.earlier
