"""A manager among others: what they do with its runs, and what it does with theirs."""

import asyncio
import logging
from typing import Any, override

import pytest
from msgspec.structs import replace
from tests.contract.shared_ports import SharedCoordinator, SharedLog
from tests.contract.slow_ports import SlowCoordinator
from tests.contract.ways_to_run import Gate, end_of, required, told, virtual

from trackside.harness import (
    AgentResult,
    LifecycleEventType,
    MultitaskStrategy,
    NoResultHereError,
    RunContext,
    RunManager,
    RunRecord,
    RunResult,
    RunSpec,
    RunStatus,
)
from trackside.harness.bounding import RequiredObserver
from trackside.harness.errors import EventOrderError
from trackside.harness.memory import MemoryStream
from trackside.harness.ports import Admission
from trackside.harness.types import CancelAction, CancelMode
from trackside.testing import RecordingObserver, VirtualClock, assert_run_order

BUSY = "thread_status_updated busy"
LOST = ("error", "its worker is lost", "T", {"total_tokens": 7})


async def sleeper(input: Any) -> Any:
    await asyncio.sleep(100)
    return input


def summary(result: RunResult) -> tuple[str, str | None, str | None, dict[str, Any]]:
    return result.status, result.error, result.title, result.completion_data


class Fleet:
    """A manager, the coordinator and the log that it shares with others, and an observer behind the log."""

    def __init__(
        self, *, durable: bool = False, kind: type[SharedCoordinator] = SharedCoordinator, **options: Any
    ) -> None:
        self.coordinator = kind(clock=VirtualClock(), durable=durable)
        self.log = SharedLog(self.coordinator)
        self.behind = RecordingObserver()
        self.manager = RunManager(
            {"sleeper": sleeper},
            observers=[required(self.log), required(self.behind)],
            coordinator=self.coordinator,
            clock=VirtualClock(),
            **options,
        )

    def foreign(self, **fields: Any) -> RunRecord:
        """A run that another process has let in."""
        given = {"run_id": "foreign", "thread_id": "t", "agent": "sleeper", "multitask": MultitaskStrategy.enqueue}
        return RunRecord(status=RunStatus.pending, created_at=VirtualClock().now(), **given | fields)

    def check_quiet(self) -> None:
        """Check that nothing is held any more, and that observers behind the log saw what it took."""
        assert self.manager._runs.all() == []
        assert isinstance(stream := self.manager._services.stream, MemoryStream)
        assert stream._channels == {}
        for _, observer in self.manager.observers._wrapped.values():
            assert isinstance(observer, RequiredObserver)
            assert observer._held == observer._missed == {}
        assert self.coordinator._runs == self.coordinator._threads == {}
        assert [e.event_id for e in self.behind.events] == [e.event_id for e in self.log.events]


@virtual
async def test_a_lost_run_stops_says_nothing_more_and_its_caller_gets_how_it_ended() -> None:
    stopped = asyncio.Event()

    async def agent(input: Any, run: RunContext) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            run.send("too late")
            run.message({"type": "human", "content": "too late"})
            stopped.set()

    fleet = Fleet()
    async with fleet.manager as manager:
        run = await manager.start(RunSpec(agent, run_id="lost", thread_id="t"))
        parts = asyncio.create_task(anext(run.stream(), None))  # type: ignore[arg-type]
        await asyncio.sleep(1)
        await fleet.coordinator.end("lost")
        assert summary(await run.result()) == LOST
        assert stopped.is_set()
        assert await parts is None
        assert told(fleet.log.events) == ["run_started", BUSY]
        assert fleet.log.refused == [], "it does not even try"
        after = await manager.start(RunSpec("sleeper", thread_id="t"))
        assert (await after.result()).status is RunStatus.success
        fleet.check_quiet()


@virtual
async def test_of_a_lost_run_that_goes_on_elsewhere_its_caller_is_told_no_end_that_nobody_knows() -> None:
    fleet = Fleet()
    async with fleet.manager as manager:
        run = await manager.start(RunSpec("sleeper", run_id="goes on"))
        await asyncio.sleep(1)
        fleet.coordinator.host.on_lost("goes on")
        with pytest.raises(NoResultHereError, match="Run 'goes on' has no result here: another process has taken it"):
            await run.result()
        assert fleet.manager._runs.all() == []
        assert told(fleet.log.events) == ["run_started", BUSY]


@virtual
async def test_a_run_that_is_lost_while_it_is_being_ended_says_nothing_more() -> None:
    class SlowToRollBack:
        name = "slow"

        async def human_messages(self, run: RunContext) -> list[dict[str, Any]]:
            return []

        async def run(self, run: RunContext) -> AgentResult:
            await asyncio.sleep(100)
            return AgentResult()

        async def rollback(self, run: RunContext) -> str | None:
            await asyncio.sleep(10)
            return None

    fleet = Fleet()
    async with fleet.manager as manager:
        run = await manager.start(RunSpec(SlowToRollBack(), run_id="lost"))
        await asyncio.sleep(1)
        await run.cancel(action="rollback")
        await asyncio.sleep(1)
        await fleet.coordinator.end("lost")
        assert summary(await run.result()) == LOST
        assert fleet.log.refused == []
        fleet.check_quiet()


@pytest.mark.parametrize("ends", ["returns", "raises", "asks", "is cancelled", "runs out of time"])
@virtual
async def test_a_zombie_finds_out_when_the_log_refuses_its_end(ends: str) -> None:
    async def agent(input: Any, run: RunContext) -> None:
        await asyncio.sleep(10)
        if ends == "raises":
            raise ValueError
        if ends == "asks":
            run.interrupt("?")

    fleet = Fleet()
    async with fleet.manager as manager:
        run = await manager.start(RunSpec(agent, run_id="zombie", timeout=5 if ends == "runs out of time" else None))
        await asyncio.sleep(1)
        await fleet.coordinator.end("zombie", tells=False)
        if ends == "is cancelled":
            await run.cancel()
        assert summary(await run.result()) == LOST
        assert told(fleet.log.events) == ["run_started", BUSY]
        assert len(fleet.log.refused) == 1, "an end that is not its own is not offered again"
        fleet.check_quiet()


@virtual
async def test_an_agent_stops_when_the_log_refuses_what_its_run_says_meanwhile() -> None:
    fleet = Fleet()
    loop = asyncio.get_running_loop()

    async def agent(input: Any, run: RunContext) -> None:
        await asyncio.sleep(10)
        run.message({"type": "human", "content": "still there"})
        await asyncio.sleep(1_000)

    async with fleet.manager as manager:
        run = await manager.start(RunSpec(agent, run_id="zombie"))
        await asyncio.sleep(1)
        await fleet.coordinator.end("zombie", tells=False)
        assert summary(await run.result()) == LOST
        assert loop.time() == 10.0
        fleet.check_quiet()


@virtual
async def test_an_agent_is_never_called_for_a_run_that_ended_before_it_began() -> None:
    fleet = Fleet()
    called = False

    class EndedMeanwhile(RecordingObserver):
        async def on_event(self, event: Any) -> None:
            if event.event_type == "run_started":
                await fleet.coordinator.end("zombie", tells=False)

    async def agent(input: Any) -> None:
        nonlocal called
        called = True

    manager = RunManager(
        observers=[required(EndedMeanwhile()), required(fleet.log)],
        coordinator=fleet.coordinator,
        clock=VirtualClock(),
    )
    async with manager:
        run = await manager.start(RunSpec(agent, run_id="zombie"))
        assert summary(await run.result()) == LOST
    assert not called
    assert fleet.log.events == []


@virtual
async def test_a_refusal_of_a_run_that_nobody_has_ended_is_a_failure_and_no_loss() -> None:
    class Refusing(RecordingObserver):
        async def on_event(self, event: Any) -> None:
            if event.event_type == "run_started":
                raise EventOrderError(run_id=event.run_id, event_type="run_started", sequence=1, why="it is there")

    manager = RunManager(
        observers=[required(Refusing())], coordinator=SharedCoordinator(), clock=VirtualClock(), shutdown_grace=0.0
    )
    async with manager:
        result = await (await manager.start(RunSpec(sleeper))).result()
    assert result.status is RunStatus.error
    assert "it is there" in (result.error or "")


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


@virtual
async def test_a_cancel_while_it_is_found_out_that_a_run_is_lost_does_not_keep_its_caller_waiting() -> None:
    """Found by generated schedules: the question was cut off, and with it everything that follows the end."""
    coordinator = SharedCoordinator(clock=VirtualClock())
    slow = SlowCoordinator(1.0, inner=coordinator)
    log = SharedLog(coordinator)
    async with RunManager(observers=[required(log)], coordinator=slow, clock=VirtualClock()) as manager:
        run = await manager.start(RunSpec(sleeper, run_id="lost"))
        waits = asyncio.create_task(run.result())
        await slow.done["claim"].wait()
        await asyncio.sleep(50)
        await coordinator.end("lost", tells=False)
        await slow.entered["get"].wait()
        execution = manager._runs.get("lost")
        assert execution is not None
        assert execution.task is not None
        execution.task.cancel()
        assert summary(await waits) == LOST
        assert manager._runs.all() == []


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
