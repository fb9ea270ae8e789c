"""A log in memory that can be away, and a storage observer with a spool in front of it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from trackside.app.observers.storage import StorageObserver
from trackside.app.spool import Spool
from trackside.harness import RunLifecycleEvent, current_run
from trackside.harness.errors import TracksideError
from trackside.harness.lifecycle import RunFold
from trackside.harness.observer import HearTaken


class AwayError(TracksideError):
    """The log is away."""

    fault = "store"
    retryable = True


class Log:
    """A log in memory that keeps the order of each run, and is away while `away` is set."""

    def __init__(self) -> None:
        self.events: list[RunLifecycleEvent] = []
        self.away: Exception | None = None
        self.tries: list[float] = []
        self.seen_by: set[object] = set()

    async def append(self, events: Sequence[RunLifecycleEvent]) -> None:
        self.tries.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.001)
        self.seen_by.add(current_run())
        if self.away is not None:
            raise self.away
        folds: dict[str, RunFold] = {}
        known = {event.event_id for event in self.events}
        new = [event for event in events if event.event_id not in known]
        for event in [*self.events, *new]:
            fold = folds.get(event.run_id) or RunFold(event.run_id)
            folds[event.run_id] = fold.apply(event.event_type, event.sequence, event.payload)
        self.events += new


@asynccontextmanager
async def observing(log: Log, folder: Path) -> AsyncIterator[tuple[StorageObserver, Spool]]:
    spool = Spool(folder)
    observer = StorageObserver(log, spool=spool)
    yield observer, spool
    await observer.aclose()


async def missed(
    observer: StorageObserver, events: Sequence[RunLifecycleEvent], on_taken: HearTaken | None = None
) -> str | None:
    """Make the observer miss these, as the harness does."""
    with pytest.raises(TracksideError) as failed:
        await observer.on_events(events)
    return await observer.on_missed(events, failed.value, on_taken=on_taken)


async def settled(observer: StorageObserver) -> None:
    """Wait until it has nothing more to deliver."""
    if observer._lookout is not None:
        await asyncio.wait([observer._lookout])
