"""Agents that do what agents should not: each has a clear outcome, and the manager goes on."""

import asyncio
import logging
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from blockbuster import BlockBuster
from tests.contract.shared_ports import SharedCoordinator
from tests.contract.ways_to_run import ByManager, Way, both_ways, end_of, required, told, virtual

from trackside.harness import (
    AgentResult,
    InvalidSpecError,
    RunContext,
    RunLifecycleEvent,
    RunManager,
    RunRecord,
    RunSpec,
    RunStatus,
    StopPolicy,
    run_agent,
)
from trackside.testing import RecordingObserver, VirtualClock, assert_run_order


async def echo(input: Any) -> Any:
    return input


async def goes_on(manager: RunManager, **asked: Any) -> None:
    """Check that the manager, and the thread, take runs as before."""
    assert (await (await manager.start(RunSpec(echo, "still there?", **asked))).result()).status is RunStatus.success


@both_ways
@virtual
async def test_an_agent_that_swallows_its_timeout_is_stuck_until_it_stops_and_has_timed_out(
    way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    async def rock(input: Any) -> None:
        for _ in range(2):
            try:
                await asyncio.sleep(50)
            except asyncio.CancelledError:
                continue

    seen = RecordingObserver()
    async with way(required(seen)) as runs:
        result = await runs.run(rock, run_id="r", timeout=10.0)
        assert result.status is RunStatus.timeout
        assert len([record for record in caplog.records if "does not stop" in record.message]) == 1
        if isinstance(runs, ByManager):
            assert runs.manager.stats().stuck_total == 1
            await goes_on(runs.manager)
    assert asyncio.get_running_loop().time() >= 60.0, "its end is told when it has stopped"
    assert end_of(seen.events, "r").payload["error_type"] == "TimeoutError"


@virtual
async def test_an_agent_over_its_budget_that_does_not_stop_is_stuck_and_its_budget_is_why_it_ends() -> None:
    async def spender(input: Any, run: RunContext) -> None:
        run.record_tool_call("t")
        run.record_tool_call("t")
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            await asyncio.sleep(100)

    seen = RecordingObserver()
    async with ByManager(required(seen), stopping=StopPolicy(stuck_after=5.0)) as runs:
        run = await runs.start(spender, max_tool_calls=1)
        await asyncio.sleep(10)
        assert (await runs.manager.get(run.run_id)).stuck_since is not None
        assert await run.ended()
    assert end_of(seen.events).payload["error_type"] == "budget_exceeded"


@both_ways
@virtual
async def test_an_agent_that_never_waits_for_anything_is_cancelled_all_the_same(way: Way) -> None:
    async def busy(input: Any) -> None:
        while True:
            await asyncio.sleep(0)

    async with way() as runs:
        run = await runs.start(busy)
        for _ in range(10):
            await asyncio.sleep(0)
        await run.cancel()
        end = await run.ended()
    assert isinstance(end, asyncio.CancelledError) or end.status is RunStatus.cancelled  # type: ignore[union-attr]


async def test_a_thread_that_computes_for_ever_is_stuck_and_other_runs_go_on() -> None:
    """Nobody can stop a thread: it is reported as still there, and its end once it looks at `run.cancelled`."""
    begun, looked = threading.Event(), threading.Event()

    def computes(input: Any, run: RunContext) -> None:
        begun.set()
        while not looked.is_set():
            sum(range(1_000))

    seen = RecordingObserver()
    stopping = StopPolicy(stuck_after=0.0)
    async with RunManager({"computes": computes}, observers=[required(seen)], stopping=stopping) as manager:
        run = await manager.start(RunSpec("computes", run_id="r"))
        while not begun.is_set():
            await asyncio.sleep(0)
        await run.cancel()
        while not manager.stats().stuck:
            await asyncio.sleep(0)
        await goes_on(manager)
        assert told(seen.events, "r")[-1] == "thread_status_updated busy", "nothing is said that did not happen"
        looked.set()
        assert (await run.result()).status is RunStatus.cancelled


@both_ways
@virtual
async def test_tasks_that_an_agent_leaves_say_nothing_any_more_and_hold_nobody_up(way: Way) -> None:
    left: list[asyncio.Task[None]] = []
    seen = RecordingObserver()

    async def gossip(run: RunContext) -> None:
        await asyncio.sleep(100)
        run.message({"type": "human", "content": "late"})
        run.record_usage("m", input_tokens=10**9, output_tokens=0)
        run.send("late")

    async def leaver(input: Any, run: RunContext) -> str:
        left.append(asyncio.create_task(gossip(run)))
        return "done"

    async with way(required(seen)) as runs:
        result = await runs.run(leaver, max_tokens=10, thread_id="t")
        assert asyncio.get_running_loop().time() == 0.0
        assert (await runs.run(echo, thread_id="t")).status is RunStatus.success
        await left[0]
    assert result.status is RunStatus.success
    assert result.completion_data["total_tokens"] == 0
    assert_run_order(seen.events)
    assert "late" not in repr(seen.events)


def test_code_that_outlives_its_run_and_its_event_loop_may_still_say_what_it_used() -> None:
    kept: list[RunContext] = []

    async def agent(input: Any, run: RunContext) -> None:
        kept.append(run)

    asyncio.run(run_agent(agent, max_tool_calls=1))
    (run,) = kept
    late = threading.Thread(target=lambda: kept.extend(run for _ in range(3) if run.record_tool_call("t") is None))
    late.start()
    late.join()
    assert len(kept) == 4, "it did not fail"


async def test_an_agent_that_blocks_the_event_loop_ends_and_is_counted(blockbuster: BlockBuster) -> None:
    blockbuster.deactivate()

    async def blocks(input: Any) -> str:
        while not manager.stats().loop_blocks_total:
            pass
        return "done"

    async with RunManager({"blocks": blocks}, block_warning_after=0.01) as manager:
        assert (await (await manager.start(RunSpec("blocks"))).result()).status is RunStatus.success
        await goes_on(manager)


@virtual
async def test_ten_megabytes_of_input_go_in_and_metadata_that_holds_itself_is_kept_without_its_circle() -> None:
    metadata: dict[str, Any] = {"name": "ring"}
    metadata["self"] = metadata
    seen = RecordingObserver()
    text = "x" * 10_000_000
    async with ByManager(required(seen)) as runs:
        result = await runs.run(len, text, metadata=metadata)
        assert result.status is RunStatus.success
        assert (await runs.manager.get(result.run_id)).metadata["name"] == "ring"
    assert_run_order(seen.events)
    assert max(len(repr(event)) for event in seen.events) < 1_100_000, "an event is no place for files"


def test_a_sub_task_that_exits_ends_the_event_loop_and_every_run_is_told_to_its_end() -> None:
    """asyncio passes a task's `SystemExit` on to whoever runs the loop, past everybody; the manager closes with it."""
    seen = RecordingObserver()

    async def exits() -> None:
        raise SystemExit(3)

    async def agent(input: Any) -> None:
        await asyncio.create_task(exits())

    async def main() -> None:
        manager = RunManager({"agent": agent}, observers=[required(seen)])
        await manager.start(RunSpec(asyncio.sleep, 1e6, run_id="other"))
        await (await manager.start(RunSpec("agent", run_id="guilty"))).result()

    with pytest.raises(SystemExit):
        asyncio.run(main())
    assert_run_order(seen.events)
    assert told(seen.events, "other")[-2] == "run_cancelled shutdown"
    assert end_of(seen.events, "guilty")


def test_ctrl_c_in_an_agent_reaches_who_runs_the_event_loop_also_where_the_result_was_the_last_that_main_waits_for() -> (
    None
):
    seen = RecordingObserver()

    async def interrupted(input: Any) -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        manager = RunManager(observers=[required(seen)])
        await (await manager.start(RunSpec(interrupted))).result()

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert_run_order(seen.events)
    assert end_of(seen.events).event_type == "run_failed"


def test_ctrl_c_in_an_observer_that_is_told_of_a_run_that_never_began_reaches_who_runs_the_event_loop() -> None:
    class Interrupted(RecordingObserver):
        pressed = False

        async def on_event(self, event: RunLifecycleEvent) -> None:
            if event.run_id == "waiting" and not self.pressed:
                self.pressed = True
                raise KeyboardInterrupt
            await super().on_event(event)

    seen = Interrupted()

    async def main() -> None:
        manager = RunManager(observers=[required(seen)])
        await manager.start(RunSpec(asyncio.sleep, 1e6, thread_id="t"))
        waiting = await manager.start(RunSpec(asyncio.sleep, 1e6, run_id="waiting", thread_id="t"))
        await waiting.cancel(wait=True)
        await asyncio.sleep(1)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert_run_order(seen.events)
    assert end_of(seen.events, "waiting").event_type == "run_cancelled"


@pytest.mark.parametrize("is_due", [True, False])
def test_ctrl_c_in_a_coordinator_that_is_asked_about_a_lost_run_reaches_who_runs_the_event_loop(is_due: bool) -> None:
    class Interrupted(SharedCoordinator):
        async def get(self, run_id: str) -> RunRecord | None:
            raise KeyboardInterrupt

    async def main() -> None:
        coordinator = Interrupted()
        coordinator.claimed_elsewhere.add("r")
        manager = RunManager(coordinator=coordinator)
        await manager.start(RunSpec(asyncio.sleep, 0.0, run_id="r", after_seconds=None if is_due else 1e6))
        if not is_due:
            coordinator.host.on_lost("r")
        await asyncio.sleep(1)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())


@pytest.mark.parametrize("field", ["cancel_after", "stuck_after"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), True, "1", None])
def test_a_way_of_stopping_that_is_no_time_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidSpecError, match=field):
        StopPolicy(**{field: value})


@virtual
async def test_an_agent_that_looks_stops_by_itself_and_is_cancelled_by_nobody() -> None:
    async def looks(input: Any, run: RunContext) -> str:
        while not run.cancelled:
            await asyncio.sleep(1)
        await asyncio.sleep(3)  # to put its things in order
        return "in order"

    async with ByManager(stopping=StopPolicy(cancel_after=10.0)) as runs:
        run = await runs.start(looks)
        await asyncio.sleep(5)
        await run.cancel()
        await run.ended()
        assert asyncio.get_running_loop().time() == pytest.approx(8.0, abs=1.1)
        assert runs.manager.stats().stuck_total == 0


@virtual
async def test_who_asks_again_has_an_agent_cancelled_at_once() -> None:
    async def looks_away(input: Any, run: RunContext) -> None:
        await asyncio.sleep(1e5)

    async with ByManager(stopping=StopPolicy(cancel_after=1_000.0)) as runs:
        run = await runs.start(looks_away)
        await asyncio.sleep(5)
        await run.cancel()
        await asyncio.sleep(5)
        await run.cancel()
        await run.ended()
        assert asyncio.get_running_loop().time() == 10.0


@virtual
async def test_a_close_does_not_wait_longer_for_one_that_looks_than_for_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def looks_away(input: Any, run: RunContext) -> None:
        await asyncio.sleep(1e5)

    manager = RunManager(clock=VirtualClock(), stopping=StopPolicy(cancel_after=3.0), shutdown_grace=20.0)
    with caplog.at_level(logging.ERROR):
        run = await manager.start(RunSpec(looks_away))
        await asyncio.sleep(1)
        await manager.aclose(grace=0.0)
    assert asyncio.get_running_loop().time() == 4.0
    assert (await run.result()).status is RunStatus.cancelled
    assert not caplog.records


@pytest.mark.parametrize("hurries", [False, True])
@virtual
async def test_a_close_cancels_those_that_have_longer_to_stop_by_themselves_than_it_waits(
    hurries: bool, caplog: pytest.LogCaptureFixture
) -> None:
    cancels: list[float] = []
    loop = asyncio.get_running_loop()

    async def puts_away(input: Any) -> None:
        try:
            await asyncio.sleep(1e5)
        finally:
            cancels.append(loop.time())
            await asyncio.sleep(0.5)  # a second cancel would break this off
            cancels.append(loop.time())

    manager = RunManager(clock=VirtualClock(), stopping=StopPolicy(cancel_after=30.0), shutdown_grace=10.0)
    run = await manager.start(RunSpec(puts_away))
    closes = asyncio.create_task(manager.aclose(grace=0.0))
    await asyncio.sleep(0)
    if hurries:
        await manager.aclose(grace=0.0)
    await closes

    assert cancels == ([0.0, 0.5] if hurries else [9.0, 9.5])
    assert (await run.result()).status is RunStatus.cancelled
    assert not caplog.records


@both_ways
@virtual
async def test_a_result_that_cannot_be_read_fails_its_run(way: Way) -> None:
    class Torn(Mapping[str, Any]):
        def __getitem__(self, name: str) -> Any:
            raise ZeroDivisionError

        def __iter__(self) -> Iterator[str]:
            raise ZeroDivisionError

        def __len__(self) -> int:
            return 1

    class TearsUp:
        name = "tears up"

        async def human_messages(self, run: RunContext) -> list[dict[str, Any]]:
            return []

        async def run(self, run: RunContext) -> AgentResult:
            return AgentResult(values=Torn())

        async def rollback(self, run: RunContext) -> None:
            return None

    seen = RecordingObserver()
    async with way(required(seen)) as runs:
        result = await runs.run(TearsUp(), run_id="r")
    assert result.status is RunStatus.error
    assert end_of(seen.events, "r").payload["error_type"] == "ZeroDivisionError"
