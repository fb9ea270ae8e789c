"""Ten thousand runs at once, in one process: everybody hears of each, in order."""

import asyncio
from collections import defaultdict
from typing import Any

from trackside import ObserverBinding, RunLifecycleEvent, RunManager, RunSpec, RunStatus
from trackside.testing import RecordingObserver, assert_run_order

RUNS = 10_000


async def test_ten_thousand_runs_at_once_reach_required_and_optional_observers_whole() -> None:
    async def agent(input: Any) -> Any:
        await asyncio.sleep(0)
        return input

    required, optional = RecordingObserver(), RecordingObserver()
    observers = [ObserverBinding(required, True), optional]
    async with RunManager({"a": agent}, observers=observers, shutdown_grace=60) as manager:
        runs = [await manager.start(RunSpec("a", number)) for number in range(RUNS)]
        results = [await run.result() for run in runs]

    assert {result.status for result in results} == {RunStatus.success}
    assert_run_order(required.events)
    seen: dict[str, list[RunLifecycleEvent]] = defaultdict(list)
    for event in optional.events:
        seen[event.run_id].append(event)
    assert len(seen) == RUNS
    assert sorted(e.event_id for e in optional.events) == sorted(e.event_id for e in required.events)
    assert all([e.sequence for e in events] == list(range(1, len(events) + 1)) for events in seen.values())
