"""Looks at a system while it is used: how far its subscriptions are, and how much of everything it has."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

from delivery_check import Sample, samples_in
from tests.torture import counted_tasks
from tests.torture.systems import System

_EVERY: Final = 0.5  # seconds


class Watch:
    """Samples subscriptions until the end of an `async with`: no cursor may go back, or past what nobody has got."""

    def __init__(self, system: System) -> None:
        self.samples: dict[str, list[Sample]] = {}
        """How each subscription stood, in the order of time."""
        self._system = system
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._look_again_and_again(), name="watch")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Take a sample."""
        found = samples_in(self._system.url, dead=None, died_at=0, now=time.monotonic_ns)
        for name, sample in found.items():
            self.samples.setdefault(name, []).append(sample)

    async def _look_again_and_again(self) -> None:
        while True:
            with suppress(Exception):  # the database is away, and each kind says so in its way
                await asyncio.to_thread(self.look)
            await asyncio.sleep(_EVERY)


def sizes_of(system: System) -> dict[str, float]:
    """How much the processes have of everything, and how large the database is."""
    found: dict[str, float] = {}
    for process in system.processes:
        proc = Path(f"/proc/{process.pid}")
        found[f"{process.name} memory"] = float(process.process.memory())
        found[f"{process.name} descriptors"] = float(len([*(proc / "fd").iterdir()]))
        if (tasks := counted_tasks.number_of(process.pid, system.folder)) is not None:
            found[f"{process.name} tasks"] = tasks
        found[f"{process.name} threads"] = float(len([*(proc / "task").iterdir()]))
    found |= _of_sqlite(system) if system.url.startswith("sqlite") else _of_postgres(system)
    return found


def _of_sqlite(system: System) -> dict[str, float]:
    path = system.url.removeprefix("sqlite:///")
    wal = Path(f"{path}-wal")
    return {"WAL": float(wal.stat().st_size if wal.exists() else 0)}


def _of_postgres(system: System) -> dict[str, float]:
    """The tables that are small by their nature, as work comes and goes: anything more that they take is bloat."""
    found: dict[str, float] = {}
    for table in ("active_runs", "counters", "subscriptions", "workers"):
        rows: list[tuple[Any, ...]] = system.ask(f"SELECT pg_total_relation_size('{table}')")
        found[f"table {table}"] = float(rows[0][0])
    return found
