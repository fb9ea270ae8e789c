"""What the server does with a run at the moment when it continues as another attempt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from trackside.app.server.following import cancelled
from trackside.app.server.parts import ServerParts
from trackside.app.storage import Store
from trackside.app.streams import StreamHub
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import CancelAction, RunStatus
from trackside.testing import make_run


class Leaving:
    """A manager whose runs end before a cancel reaches them: their worker leaves, and they go on as the next attempts."""

    def __init__(self, store: Store, ends: dict[str, list[RunLifecycleEvent]]) -> None:
        self._store = store
        self._ends = ends
        self.asked: list[tuple[str, CancelAction | str]] = []

    async def cancel(self, run_id: str, *, action: CancelAction | str) -> None:
        self.asked.append((run_id, action))
        await self._store.append(self._ends.get(run_id, []))


async def test_the_attempt_is_cancelled_that_begins_while_the_one_before_is_cancelled(tmp_path: Path) -> None:
    async with Store.open(f"sqlite:///{tmp_path / 'runs.db'}") as store:
        ends = {}
        for run_id, again in (("first", "second"), ("second", "last"), ("last", None)):
            events = make_run(run_id, thread_id=f"of {run_id}", messages=0, status=RunStatus.error)
            await store.append(events[:2])
            if again is not None:
                ends[run_id] = [replace(events[2], payload={**events[2].payload, "retried_as": again})]
        manager = Leaving(store, ends)
        parts = ServerParts(
            manager=cast("Any", manager), store=store, streams=StreamHub(), checkpointer=None, vitals=cast("Any", None)
        )
        run = await store.run("first")
        assert run is not None

        last = await cancelled(parts, run, action=CancelAction.rollback)

        assert manager.asked == [(run_id, CancelAction.rollback) for run_id in ("first", "second", "last")]
        assert (last.run_id, last.status) == ("last", RunStatus.running)
        assert (await cancelled(parts, run, action="interrupt")).run_id == "last"
