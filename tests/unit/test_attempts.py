"""How often a run is tried: who may ask for it, what a coordinator is told, and what is said of it."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
from tests.contract.shared_ports import SharedCoordinator
from tests.contract.ways_to_run import required, virtual

from trackside.harness import AgentLimits, InvalidSpecError, RunManager, RunSpec, RunStatus
from trackside.harness.admission import asked_again, attempts_of, request_of, seconds_before, spec_of
from trackside.harness.ports import Admission, Settlement
from trackside.harness.types import RunRecord
from trackside.testing import RecordingObserver, VirtualClock


async def echo(input: Any) -> Any:
    return input


async def sleeper(input: Any) -> None:
    await asyncio.Event().wait()


class Durable(SharedCoordinator):
    """A coordinator that outlives the process, and restarts what was shut down as `again`."""

    def __init__(self) -> None:
        super().__init__(durable=True, clock=VirtualClock())
        self.specs: list[RunSpec | None] = []
        self.shut_down: list[bool] = []

    async def admit(self, record: RunRecord, *, spec: RunSpec | None = None, **asked: Any) -> Admission:
        self.specs.append(spec)
        return await super().admit(record, spec=spec, **asked)

    async def settle(self, run_id: str, status: RunStatus, *, shut_down: bool = False, **said: Any) -> Settlement:
        self.shut_down.append(shut_down)
        settlement = await super().settle(run_id, status, **said)
        return settlement._replace(retried_as="again") if shut_down else settlement


def test_each_attempt_waits_twice_as_long_as_the_one_before_up_to_a_minute() -> None:
    waits = [seconds_before(attempt) for attempt in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10**6)]
    assert waits == [0, 0, 2, 4, 8, 16, 32, 60, 60, 60]


def test_what_is_asked_for_again_is_asked_for_at_once_and_under_no_name() -> None:
    spec = RunSpec(
        "chat", "?", run_id="r", idempotency_key="k", after_seconds=5, multitask="interrupt", max_attempts=3, timeout=7
    )

    request = request_of(spec, "chat")
    again = spec_of(asked_again(request, attempt=2, retry_of="r", thread_id="t"))

    assert again == RunSpec("chat", "?", thread_id="t", max_attempts=3, timeout=7, attempt=2, retry_of="r")
    assert attempts_of(request) == 3
    assert attempts_of({"agent": "chat"}) == attempts_of({"max_attempts": "3"}) == 1


@virtual
async def test_several_attempts_are_refused_where_nothing_outlives_the_process() -> None:
    async with RunManager({"echo": echo}, clock=VirtualClock()) as manager:
        with pytest.raises(InvalidSpecError, match=r"max_attempts = 2 .*store\.coordinator\(\)"):
            await manager.start(RunSpec("echo", max_attempts=2))
        assert (await (await manager.start(RunSpec("echo", max_attempts=1))).result()).status == "success"
        with pytest.raises(InvalidSpecError, match="max_attempts = 'many'"):
            await manager.start(RunSpec("echo", max_attempts="many"))  # type: ignore[arg-type]
    with pytest.raises(InvalidSpecError, match=r"limits\['echo'\]\.max_attempts = 2"):
        RunManager({"echo": echo}, limits={"echo": AgentLimits(max_attempts=2)}, clock=VirtualClock())


@virtual
async def test_a_coordinator_is_told_how_often_a_run_is_tried_whoever_said_so() -> None:
    coordinator = Durable()
    limits = {"echo": AgentLimits(max_attempts=2)}
    async with RunManager(
        {"echo": echo, "plain": sleeper},
        observers=[required(RecordingObserver())],
        coordinator=coordinator,
        limits=limits,
        clock=VirtualClock(),
    ) as manager:
        for spec in (RunSpec("echo"), RunSpec(echo), RunSpec("echo", max_attempts=5), RunSpec("echo", max_attempts=1)):
            await (await manager.start(spec)).result()
        with pytest.raises(InvalidSpecError, match="name it in RunManager"):
            await manager.start(RunSpec(lambda _: None, max_attempts=2))

    assert [spec and spec.max_attempts for spec in coordinator.specs] == [2, 2, 5, 1]


@virtual
async def test_a_run_that_is_shut_down_says_as_which_run_it_goes_on() -> None:
    coordinator, observer = Durable(), RecordingObserver()
    async with RunManager(
        {"sleeper": sleeper},
        observers=[required(observer)],
        coordinator=coordinator,
        shutdown_grace=0.0,
        clock=VirtualClock(),
    ) as manager:
        cancelled = await manager.start(RunSpec("sleeper"))
        await asyncio.sleep(0)
        await cancelled.cancel(wait=True)
        await manager.start(RunSpec("sleeper", max_attempts=2))
        await asyncio.sleep(0.1)

    ends = [event.payload for event in observer.events if event.event_type == "run_cancelled"]
    assert [(end["cancel_mode"], end.get("retried_as")) for end in ends] == [("interrupt", None), ("shutdown", "again")]
    assert coordinator.shut_down == [False, True]


def test_what_has_not_begun_when_its_event_loop_ends_stays_where_it_waits_and_is_not_begun_on_the_way_out() -> None:
    coordinator, observer = Durable(), RecordingObserver()
    observers = [required(observer)]
    manager = RunManager({"sleeper": sleeper}, observers=observers, coordinator=coordinator, max_running=1)

    async def main() -> None:
        for _ in range(3):
            await manager.start(RunSpec("sleeper"))
        sys.exit()

    with pytest.raises(SystemExit):
        asyncio.run(main())
    assert manager.closing
    assert len(coordinator.specs) == 3
    assert (coordinator.claims, coordinator.shut_down, observer.events) == ([], [], [])


@virtual
async def test_a_manager_that_closes_takes_nothing_over() -> None:
    coordinator, observers = Durable(), [required(RecordingObserver())]
    manager = RunManager({"echo": echo}, observers=observers, coordinator=coordinator, clock=VirtualClock())
    assert [*coordinator.host.agents] == ["echo"]

    await manager.aclose()

    assert not coordinator.host.agents
