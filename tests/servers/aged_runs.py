"""A database of five runs, three of which ended forty days ago, and what its tables hold."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from trackside.app.storage import Store
from trackside.harness.ids import new_id
from trackside.harness.observer import LifecycleEventType, RunLifecycleEvent

OTHER: Final = "--database=sqlite:///other.db"
"""What is typed for another database, beside that one."""


async def record(url: str, *, runs: int, ago: timedelta = timedelta(0)) -> None:
    """Record runs that began and ended so long ago."""
    async with Store.open(url) as store:
        for _ in range(runs):
            run_id, thread_id, when = new_id(), new_id(), datetime.now(UTC) - ago
            ends = [
                (LifecycleEventType.RUN_STARTED, {"agent": "chat", "metadata": {"ago": ago.days}}),
                (LifecycleEventType.RUN_COMPLETED, {"status": "success", "completion_data": {}}),
            ]
            await store.append(
                RunLifecycleEvent(new_id(), kind, run_id, thread_id, number, when, payload)
                for number, (kind, payload) in enumerate(ends, 1)
            )


def recorded_in(folder: Path) -> Path:
    """Make the database in a folder; returns its path."""
    path = folder / "trackside.db"
    asyncio.run(record(f"sqlite:///{path}", runs=3, ago=timedelta(days=40)))
    asyncio.run(record(f"sqlite:///{path}", runs=2))
    return path


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    """What an SQLite database answers."""
    with closing(sqlite3.connect(path)) as database:
        return database.execute(query).fetchall()
