"""A log in memory that a spool delivers to, and what a process leaves in the folder of a spool."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from trackside.app.spool import Spool
from trackside.harness import RunLifecycleEvent
from trackside.harness.errors import TracksideError
from trackside.harness.lifecycle import RunFold


class AwayError(TracksideError):
    """The log is away."""

    fault = "store"
    retryable = True


class BrokenError(TracksideError):
    """The log cannot do this."""

    fault = "store"


class ListLog:
    """A log in memory: each event once, runs in their order. `fails` says what goes wrong with the events of a run."""

    def __init__(self, *stored: RunLifecycleEvent) -> None:
        self.events = list(stored)
        self.fails: dict[str, Exception] = {}
        self.offered: list[str] = []

    async def append(self, events: Sequence[RunLifecycleEvent]) -> None:
        run_id = events[0].run_id
        self.offered.append(run_id)
        await asyncio.sleep(0)
        if (failure := self.fails.get(run_id) or self.fails.get("*")) is not None:
            raise failure
        fold = RunFold(run_id)
        known = [event for event in self.events if event.run_id == run_id]
        new = [event for event in events if event.event_id not in {one.event_id for one in known}]
        for event in [*known, *new]:
            fold = fold.apply(event.event_type, event.sequence, event.payload)
        self.events += new


@contextlib.asynccontextmanager
async def left_behind(folder: Path, *rests: Sequence[RunLifecycleEvent]) -> AsyncIterator[Path]:
    """The file of a process that has spooled these and has ended."""
    spool = Spool(folder)
    for rest in rests:
        await spool.append(rest)
    await spool.aclose()
    (path,) = await asyncio.to_thread(lambda: sorted(folder.glob("waiting-*.jsonl"))[-1:])
    yield path


async def names_in(folder: Path) -> list[str]:
    return await asyncio.to_thread(lambda: sorted(path.name for path in folder.iterdir()) if folder.exists() else [])
