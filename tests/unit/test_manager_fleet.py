"""A manager among others: what they do with its runs, and what it does with theirs."""

import asyncio
import logging
from typing import Any, override

import pytest
from msgspec.structs import replace
from tests.contract.shared_ports import SharedCoordinator
from tests.contract.ways_to_run import Gate, end_of, required, told, virtual
from tests.unit.manager_among_others import BUSY, LOST, Fleet, sleeper, summary

from trackside.harness import LifecycleEventType, NoResultHereError, RunManager, RunRecord, RunSpec, RunStatus
from trackside.harness.ports import Admission
from trackside.harness.types import CancelAction, CancelMode
from trackside.testing import RecordingObserver, VirtualClock, assert_run_order


@pytest.mark.parametrize("while_it", ["waits for its thread", "waits for a place", "is not due"])
@virtual
async def test_a_pending_run_that_others_ended_never_starts(while_it: str) -> None:
    fleet = Fleet(max_running=1)
    async with fleet.manager as manager:
        await manager.start(RunSpec("sleeper", thread_id="t"))
        asked: dict[str, Any] = {
            "waits for its thread": {"thread_id": "t"},
            "waits for a place": {},
            "is not due": {"after_seconds": 50},
        }[while_it]
        run = await manager.start(RunSpec("sleeper", run_id="pending", **asked))
        await asyncio.sleep(1)
        await fleet.coordinator.end("pending", "cancelled elsewhere")
        assert (await run.result()).error == "cancelled elsewhere"
        await asyncio.sleep(1_000)
        assert told(fleet.log.events, "pending") == []
        fleet.check_quiet()


@virtual
async def test_a_run_that_ended_between_its_admission_and_its_claim_is_told_by_the_coordinator() -> None:
    fleet = Fleet(max_running=1)
    async with fleet.manager as manager:
        first = await manager.start(RunSpec("sleeper"))
        run = await manager.start(RunSpec("sleeper", run_id="pending"))
        await fleet.coordinator.end("pending", tells=False)
        await first.result()
        assert summary(await run.result()) == LOST
        fleet.check_quiet()


@virtual
async def test_a_run_that_is_claimed_elsewhere_keeps_its_caller_waiting_until_it_is_known_how_it_goes_on() -> None:
    fleet = Fleet()
    async with fleet.manager as manager:
        runs = {
            name: await manager.start(RunSpec("sleeper", run_id=name)) for name in ("ends", "comes back", "goes on")
        }
        fleet.coordinator.claimed_elsewhere |= runs.keys()
        waits = {name: asyncio.create_task(run.result()) for name, run in runs.items()}
        await asyncio.sleep(1)
        assert not any(wait.done() for wait in waits.values())
        await fleet.coordinator.end("ends")
        fleet.coordinator.claimed_elsewhere.clear()
        fleet.coordinator.host.on_ready("comes back")
        fleet.coordinator.host.on_lost("goes on")
        assert summary(await waits["ends"]) == LOST
        assert (await waits["comes back"]).status is RunStatus.success
        with pytest.raises(NoResultHereError, match="Run 'goes on' has no result here: another process has taken it"):
            await waits["goes on"]
        assert told(fleet.log.events, "goes on") == []
    assert fleet.manager._runs.all() == []


@virtual
async def test_a_run_that_comes_back_while_it_is_looked_up_has_its_place_until_its_end() -> None:
    asked, answered = asyncio.Event(), asyncio.Event()

    class SlowToSay(SharedCoordinator):
        @override
        async def get(self, run_id: str) -> RunRecord | None:
            asked.set()
            await answered.wait()
            return await super().get(run_id)

    fleet = Fleet(max_running=1, kind=SlowToSay)
    async with fleet.manager as manager:
        run = await manager.start(RunSpec("sleeper", run_id="r"))
        fleet.coordinator.claimed_elsewhere.add("r")
        await asked.wait()
        fleet.coordinator.claimed_elsewhere.clear()
        fleet.coordinator.host.on_ready("r")
        await asyncio.sleep(1)
        answered.set()
        await asyncio.sleep(1)
        next_run = await manager.start(RunSpec("sleeper", run_id="next"))
        await asyncio.sleep(1)
        assert (manager.stats().running, manager.stats().waiting_for_place) == (1, 1)
        assert told(fleet.log.events, "next") == []
        for each in (run, next_run):
            assert (await each.result()).status is RunStatus.success
        assert manager._runs._places.taken == 0
        fleet.check_quiet()


@virtual
async def test_a_run_whose_end_is_being_announced_here_while_it_is_looked_up_gives_its_thread_back() -> None:
    asked, answered = asyncio.Event(), asyncio.Event()
    log, gate = RecordingObserver(), Gate(LifecycleEventType.RUN_CANCELLED)

    class ReadsTheLog(SharedCoordinator):
        @override
        async def get(self, run_id: str) -> RunRecord | None:
            record = await super().get(run_id)
            if record is None or asked.is_set():
                return record
            asked.set()
            await answered.wait()
            return replace(record, status=RunStatus.cancelled) if told(log.events, run_id) else record

    coordinator = ReadsTheLog(clock=VirtualClock())
    coordinator.claimed_elsewhere.add("r")
    async with RunManager(
        observers=[required(log), required(gate)], coordinator=coordinator, clock=VirtualClock()
    ) as manager:
        run = await manager.start(RunSpec(sleeper, run_id="r", thread_id="t"))
        behind = await manager.start(RunSpec(sleeper, thread_id="t"))
        await asked.wait()
        cancels = asyncio.create_task(run.cancel(wait=True))
        await gate.reached.wait()
        answered.set()
        await asyncio.sleep(1)
        gate.opened.set()
        await cancels
        assert (await run.result()).status is RunStatus.cancelled
        assert (await behind.result()).status is RunStatus.success
        assert told(gate.events, "r")[0] == "run_cancelled interrupt"
        assert_run_order(log.events)
        assert coordinator._runs == coordinator._threads == {}


@virtual
async def test_being_told_twice_or_of_runs_of_others_changes_nothing() -> None:
    fleet = Fleet()
    async with fleet.manager as manager:
        run = await manager.start(RunSpec("sleeper", run_id="r"))
        host = fleet.coordinator.host
        for seconds in (0, 0, 1, 1):
            host.on_ready("r")
            await asyncio.sleep(seconds)
        host.on_ready("nobody's")
        host.on_lost("nobody's")
        host.on_cancel("nobody's", CancelAction.interrupt)
        host.on_displaced([fleet.foreign()], CancelMode.interrupt)
        assert (await run.result()).status is RunStatus.success
        host.on_lost("r")
        assert fleet.coordinator.claims == ["r"]
        assert_run_order(fleet.log.events)
        fleet.check_quiet()


@virtual
async def test_others_may_cancel_a_run_that_runs_and_one_that_waits() -> None:
    fleet = Fleet()
    async with fleet.manager as manager:
        runs = [await manager.start(RunSpec("sleeper", thread_id="t", run_id=f"r{i}")) for i in range(2)]
        await asyncio.sleep(1)
        await fleet.coordinator.cancel("r1", "interrupt")
        await fleet.coordinator.cancel("r0", "rollback")
        assert [(await run.result()).status for run in runs] == [RunStatus.cancelled] * 2
    assert end_of(fleet.log.events, "r0").payload["cancel_mode"] == "rollback"
    assert told(fleet.log.events, "r1")[0] == "run_cancelled interrupt"
    assert_run_order(fleet.log.events)
    fleet.check_quiet()


@virtual
async def test_a_run_that_another_process_let_in_is_executed_here() -> None:
    fleet = Fleet(default_timeout=50.0, max_running=1, shutdown_grace=1_000.0)
    async with fleet.manager:
        spec = RunSpec("sleeper", "hello", metadata={"a": 1}, timeout=None)
        await fleet.coordinator.hand_over(fleet.foreign(run_id="first", metadata={"a": 1}), spec)
        await fleet.coordinator.hand_over(fleet.foreign(run_id="second"), RunSpec("sleeper", "hi", timeout=500))
        await asyncio.sleep(60)
        assert told(fleet.log.events, "first")[:3] == ["run_started", BUSY, "human_message"]
        assert end_of(fleet.log.events, "first").payload["status"] == "timeout"
    assert fleet.log.events[0].payload == {"agent": "sleeper", "metadata": {"a": 1}}
    assert end_of(fleet.log.events, "second").payload["status"] == "success"
    assert_run_order(fleet.log.events)
    fleet.check_quiet()


@virtual
async def test_a_run_that_comes_back_to_its_own_manager_keeps_its_caller() -> None:
    fleet = Fleet(max_running=1)
    async with fleet.manager as manager:
        await manager.start(RunSpec("sleeper"))
        run = await manager.start(RunSpec("sleeper", run_id="r"))
        fleet.coordinator.host.on_adopted(await manager.get("r"), RunSpec("sleeper"), ready=True)
        assert (await run.result()).status is RunStatus.success
    assert told(fleet.log.events, "r").count("run_started") == 1
    fleet.check_quiet()


@virtual
async def test_what_cannot_be_taken_over_is_left_to_others(caplog: pytest.LogCaptureFixture) -> None:
    fleet = Fleet(durable=True)
    async with fleet.manager:
        assert list(fleet.coordinator.host.agents) == ["sleeper"]
        with caplog.at_level(logging.WARNING, "trackside.manager"):
            await fleet.coordinator.hand_over(fleet.foreign(agent="stranger"), RunSpec("stranger"))
        assert "run foreign of agent 'stranger' cannot be taken over here" in caplog.text
    await fleet.coordinator.hand_over(fleet.foreign(run_id="late", thread_id="u"), RunSpec("sleeper"))
    await asyncio.sleep(1_000)
    assert fleet.log.events == []


@virtual
async def test_a_run_that_another_process_executes_has_no_result_here() -> None:
    fleet = Fleet()
    async with fleet.manager as manager:
        spec = RunSpec("sleeper", thread_id="t", idempotency_key="k")
        first = await manager.start(spec)
        execution = manager._runs.get(first.run_id)
        assert execution is not None
        manager._runs.forget(execution)  # as in a process that started after the run
        again = await manager.start(spec)
        assert again.run_id == first.run_id
        with pytest.raises(NoResultHereError, match="another process executes it"):
            await again.result()


class ForOthers(SharedCoordinator):
    """A coordinator that lets runs in for other processes to execute, as a fleet's server does."""

    immediate = False

    def __init__(self) -> None:
        super().__init__(clock=VirtualClock(), durable=True)
        self.let_in = asyncio.Event()
        self.let_in.set()

    async def admit(self, record: RunRecord, **asked: Any) -> Admission:
        admission = await super().admit(record, **asked)
        await self.let_in.wait()
        return admission if admission.existing else admission._replace(ready=False, elsewhere=True)


def for_others(coordinator: ForOthers) -> RunManager:
    observers = [required(RecordingObserver())]
    return RunManager({"sleeper": sleeper}, observers=observers, coordinator=coordinator, clock=VirtualClock())


async def forget_nothing(manager: RunManager) -> None:
    assert not manager._runs.all()
    await manager.aclose()


@virtual
async def test_a_run_for_others_has_no_result_here_and_is_known_and_cancelled_all_the_same() -> None:
    manager = for_others(coordinator := ForOthers())
    handle = await manager.start(RunSpec("sleeper"))
    assert not manager.has(handle.run_id)
    with pytest.raises(NoResultHereError, match="another process executes it"):
        await handle.result()
    assert (await manager.get(handle.run_id)).status is RunStatus.pending
    assert (await handle.cancel(wait=True)).cancel_requested is CancelAction.interrupt
    assert coordinator.claims == []
    await forget_nothing(manager)


@virtual
async def test_a_run_for_others_that_makes_room_for_itself_leaves_theirs_to_them() -> None:
    manager = for_others(coordinator := ForOthers())
    first = await manager.start(RunSpec("sleeper", thread_id="t"))
    second = await manager.start(RunSpec("sleeper", thread_id="t", multitask="interrupt"))
    assert (await coordinator.get(first.run_id)) is not None
    assert (await manager.get(second.run_id)).status is RunStatus.pending
    await forget_nothing(manager)


@virtual
async def test_a_key_finds_the_run_that_others_execute() -> None:
    manager = for_others(ForOthers())
    first = await manager.start(RunSpec("sleeper", idempotency_key="k"))
    again = await manager.start(RunSpec("sleeper", idempotency_key="k"))
    assert (again.run_id, again.existing, first.existing) == (first.run_id, True, False)
    with pytest.raises(NoResultHereError, match="another process executes it"):
        await again.result()
    await forget_nothing(manager)


@virtual
async def test_a_run_for_others_whose_starter_is_cancelled_meanwhile_is_cancelled() -> None:
    manager = for_others(coordinator := ForOthers())
    coordinator.let_in.clear()
    starting = asyncio.create_task(manager.start(RunSpec("sleeper", run_id="r")))
    while await coordinator.get("r") is None:
        await asyncio.sleep(0)
    starting.cancel()
    coordinator.let_in.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    while (await manager.get("r")).cancel_requested is None:
        await asyncio.sleep(0)
    await forget_nothing(manager)
