"""A database that has no room for events, though it takes who has which run: what waits does not begin only to fail."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster
from tests.integration.runs.stage import within_patience
from tests.property.queue_hands import ForgetfulSession

from trackside import ObserverBinding
from trackside.app.observers import storage as storage_observer
from trackside.app.observers.storage import StorageObserver
from trackside.app.spool import Spool
from trackside.app.storage import Store
from trackside.app.storage.coordinator import StoredCoordinator
from trackside.app.storage.errors import DatabaseFullError
from trackside.harness.dispatch import DispatchPolicy
from trackside.harness.ports import Claim
from trackside.harness.types import RunStatus


class FullSession(ForgetfulSession):
    """A session of a database that has no room for events."""

    def save(self, changes: Any) -> None:
        if changes.events:
            raise DatabaseFullError(database="it", why="no space left on device")
        self._session.save(changes)


class Claims:
    """Counts how often each run of a coordinator is to be claimed."""

    def __init__(self, coordinator: StoredCoordinator) -> None:
        self._claim = coordinator.claim
        self._asked = Counter[str]()
        self._one_more = asyncio.Condition()
        coordinator.claim = self._count  # type: ignore[method-assign]

    async def _count(self, run_id: str) -> Claim | None:
        async with self._one_more:
            self._asked[run_id] += 1
            self._one_more.notify_all()
        return await self._claim(run_id)

    async def until(self, run_id: str, times: int) -> None:
        async with self._one_more:
            await self._one_more.wait_for(lambda: self._asked[run_id] >= times)


async def test_runs_that_wait_do_not_begin_while_there_is_no_room_for_what_they_say(
    worker: Any,
    agents: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    blockbuster: BlockBuster,
) -> None:
    blockbuster.deactivate()
    monkeypatch.setattr(storage_observer, "_LONGEST_PAUSE", 0.05)
    observers: list[StorageObserver] = []

    def spooling(store: Store) -> list[Any]:
        observers.append(StorageObserver(store, spool=Spool(tmp_path / "spool")))
        return [ObserverBinding(observers[0], required=True)]

    a = await worker(lease_seconds=0.6, bind=spooling, max_running=1, policy=DispatchPolicy(retry_for=0.0))
    claims = Claims(a.coordinator)
    first = await a.start("one")
    waiting = [await a.start("quick two"), await a.start("quick three")]
    await agents.until_running("one")
    session = a.store._writer._session
    a.store._writer._session = FullSession(session)
    agents.let("one")
    assert "no space left on device" in ((await within_patience(first.result())).error or "")
    for run in waiting:
        await within_patience(claims.until(run.run_id, 3))
    assert a.store.writer_stats().full
    a.store._writer._session = session

    ends = [await within_patience(run.result()) for run in waiting]

    assert [end.status for end in ends] == [RunStatus.success, RunStatus.success]
    await a.until_ended(first.run_id)
    assert (await a.store.run(first.run_id)).status is RunStatus.success
    assert not a.store.writer_stats().full
    assert caplog.text.count("no run begins here until the database has room again") == 1
    await observers[0].aclose()
