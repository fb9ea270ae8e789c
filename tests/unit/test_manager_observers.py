"""A manager's observers come and go while it runs: who sees which events, and what is left of who was removed."""

from typing import Any

import pytest
from tests.contract.ways_to_run import required, told, virtual
from tests.unit.sleeping_runs import manager_of, tasks

from trackside.harness import ClosedError, RunSpec
from trackside.testing import RecordingObserver


@virtual
async def test_observers_come_and_go_between_dispatches() -> None:
    first, second = RecordingObserver(), RecordingObserver()
    async with manager_of(required(first)) as manager:
        manager.observers.add(second, required=True)
        await (await manager.start(RunSpec("sleeper", run_id="a"))).result()
        manager.observers.remove(first)
        await (await manager.start(RunSpec("sleeper", run_id="b"))).result()
    assert {e.run_id for e in first.events} == {"a"}
    assert {e.run_id for e in second.events} == {"a", "b"}
    with pytest.raises(ClosedError):
        manager.observers.add(first)


@virtual
async def test_an_observer_that_is_added_during_a_dispatch_sees_the_next_event_first() -> None:
    late = RecordingObserver()

    class Inviting(RecordingObserver):
        async def on_event(self, event: Any) -> None:
            if event.event_type == "run_started":
                manager.observers.add(late, required=True)
            await super().on_event(event)

    async with manager_of(required(Inviting())) as manager:
        await (await manager.start(RunSpec("sleeper", 0.0))).result()
    assert [e.sequence for e in late.events] == [2, 3, 4], "I19: the opening was on its way, but not its second event"


@virtual
async def test_a_buffered_observer_that_is_removed_gets_what_it_had_accepted_and_leaves_no_task() -> None:
    removed = RecordingObserver()
    manager = manager_of(removed)
    for _ in range(5):
        await (await manager.start(RunSpec("sleeper", 1.0))).result()
        manager.observers.remove(removed)
        manager.observers.add(removed)
    assert len([name for name in tasks() if "buffer" in name]) <= 2
    await manager.aclose()
    assert told(removed.events).count("run_started") == 5
    assert tasks() == set()
