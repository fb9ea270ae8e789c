"""Cancels: before the start, during it, twice, many at once, after the end; and agents that do not stop."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from tests.integration.runs.stage import Agents, Backend, turns, within_patience

from trackside import RunContext, RunSpec, RunStatus, UnknownRunError
from trackside.harness.running.ending import StopPolicy


@pytest.mark.parametrize("action", ["interrupt", "rollback"])
async def test_a_cancel_before_the_start_wins(backend: Backend, agents: Agents, action: str) -> None:
    async with backend.open({"work": agents.work}) as stage:
        holder = await stage.start("work", "holder", thread_id="t")
        waits = await stage.start("work", "quick never", thread_id="t")
        behind = await stage.start("work", "quick behind", thread_id="t")
        record = await within_patience(waits.cancel(action=action, wait=True))
        assert record.status is RunStatus.cancelled
        agents.let("holder")
        results = await within_patience(asyncio.gather(holder.result(), waits.result(), behind.result()))
    assert [result.status for result in results] == [RunStatus.success, RunStatus.cancelled, RunStatus.success]
    assert agents.begun == ["holder", "quick behind"]
    assert stage.told(waits) == [f"run_cancelled {action}"], "the log says nothing that did not happen"
    assert stage.end(waits).sequence == 1


async def test_a_cancel_at_any_moment_after_the_start_ends_the_run_once(backend: Backend, agents: Agents) -> None:
    async with backend.open({"work": agents.work}) as stage:
        for moment in (0, 1, 2, 3, 5, 8, 20, 60):
            name = f"at {moment}"
            run = await stage.start("work", name, thread_id=name)
            await turns(moment)
            assert (await within_patience(run.cancel(wait=True))).status is RunStatus.cancelled
            assert (await within_patience(run.result())).status is RunStatus.cancelled
            assert stage.end(run).event_type == "run_cancelled"
            assert (name in agents.begun) is (name in agents.cancelled)
            assert name not in agents.begun or "run_started" in stage.told(run)
            assert (await stage.run("work", "quick", thread_id=name)).status is RunStatus.success


async def test_a_cancel_of_a_running_agent_is_said_when_it_has_stopped(backend: Backend, agents: Agents) -> None:
    async with backend.open({"work": agents.work}) as stage:
        run = await stage.start("work", "slow to stop", thread_id="t")
        await agents.until_running("slow to stop")
        record = await within_patience(run.cancel())
        assert (record.status, record.cancel_requested) == (RunStatus.running, "interrupt")
        while not agents.cancelled:
            await turns(1)
        again = await within_patience(run.cancel(action="rollback"))
        # The second cancel reaches the agent while it cleans up: whoever asks again wants it gone, which it may be by now.
        standings = {(RunStatus.running, "interrupt"), (RunStatus.cancelled, None)}
        assert (again.status, again.cancel_requested) in standings, "the first word counts"
        result = await within_patience(run.result())
    assert result.status is RunStatus.cancelled
    assert result.completion_data["total_tokens"] == 7
    assert stage.told(run)[-2:] == ["run_cancelled interrupt", "thread_status_updated idle"]


async def test_cancels_are_repeated_without_harm_by_many_at_once(backend: Backend, agents: Agents) -> None:
    async with backend.open({"work": agents.work}) as stage:
        run = await stage.start("work", "long", thread_id="t")
        await agents.until_running("long")
        records = await within_patience(asyncio.gather(*(run.cancel(wait=n % 2 == 0) for n in range(30))))
        assert {record.run_id for record in records} == {run.run_id}
        assert all(record.status is RunStatus.cancelled for record in records[::2])
        after = await within_patience(run.cancel(wait=True))
        assert after.status is RunStatus.cancelled
    assert len([event for event in stage.events if event.event_type == "run_cancelled"]) == 1


async def test_two_hundred_runs_are_cancelled_at_once(backend: Backend, agents: Agents) -> None:
    async with backend.open({"work": agents.work}, max_running=40) as stage:
        runs = [await stage.start("work", f"long {n}", thread_id=f"t{n % 50}") for n in range(200)]
        await agents.until_running("long 0")
        records = await within_patience(asyncio.gather(*(run.cancel(wait=True) for run in runs)))
        assert {record.status for record in records} == {RunStatus.cancelled}
        assert sorted(agents.cancelled) == sorted(agents.begun)
        again = [await stage.run("work", "quick", thread_id=f"t{n}") for n in range(50)]
        assert {result.status for result in again} == {RunStatus.success}
    for run in runs:
        assert stage.end(run).event_type == "run_cancelled"


async def test_a_cancel_of_what_has_ended_changes_nothing(backend: Backend, agents: Agents) -> None:
    async with backend.open({"work": agents.work}) as stage:
        result = await stage.run("work", "quick", thread_id="t")
        for action in ("interrupt", "rollback"):
            record = await within_patience(stage.manager.cancel(result.run_id, action=action, wait=True))
            assert (record.status, record.cancel_requested) == (RunStatus.success, None)
        with pytest.raises(UnknownRunError, match="There is no run 'nobody' here"):
            await stage.manager.cancel("nobody")
    assert len(stage.told(result)) == 5


async def test_a_cancel_whose_caller_goes_is_finished_all_the_same(backend: Backend, agents: Agents) -> None:
    async with backend.open({"work": agents.work}) as stage:
        for moment in (0, 1, 2, 4, 9, 30):
            name = f"long {moment}"
            run = await stage.start("work", name)
            await agents.until_running(name)
            cancels = asyncio.create_task(stage.manager.cancel(run.run_id, wait=True))
            await turns(moment)
            cancels.cancel()
            await within_patience(asyncio.wait({cancels}))
            if moment:  # the cancel took its first step, so it was asked for
                assert (await within_patience(run.result())).status is RunStatus.cancelled
            else:
                await within_patience(run.cancel(wait=True))


async def test_an_agent_that_swallows_its_cancel_is_stuck_and_not_cancelled_until_it_has_stopped(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    entered, leave, asked = asyncio.Event(), asyncio.Event(), []

    async def stubborn(input: Any, run: RunContext) -> None:
        entered.set()
        while not leave.is_set():
            try:
                await leave.wait()
            except asyncio.CancelledError:
                asked.append(run.cancelled)

    async def quick(input: Any) -> Any:
        return input

    stopping = StopPolicy(stuck_after=0.05)
    async with backend.open({"stubborn": stubborn, "quick": quick}, stopping=stopping) as stage:
        run = await stage.start("stubborn", thread_id="t")
        await within_patience(entered.wait())
        behind = await stage.start("quick", thread_id="t")
        with caplog.at_level(logging.ERROR, "trackside"):
            await run.cancel()
            while (record := await stage.record(run)).stuck_since is None:
                await turns(1)
        assert (record.status, record.ended_at) == (RunStatus.running, None)
        assert (await stage.record(behind)).status is RunStatus.pending, "the slot is held"
        assert stage.told(run) == ["run_started", "thread_status_updated busy"]
        (said,) = [line for line in caplog.records if run.run_id in line.getMessage()]
        assert "stubborn" in said.getMessage(), "the log shows where it is"
        assert asked == [True], "it is not cancelled again of our own accord"
        caplog.clear()
        leave.set()
        assert (await within_patience(run.result())).status is RunStatus.cancelled
        assert (await within_patience(behind.result())).status is RunStatus.success
        ended = await stage.record(run)
        assert (ended.status, ended.stuck_since) == (RunStatus.cancelled, None)
    assert stage.told(run)[-1] == "run_cancelled interrupt"


async def test_an_agent_may_see_that_it_shall_stop_before_it_is_cancelled(backend: Backend) -> None:
    seen: list[str] = []
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def polite(input: Any, run: RunContext) -> Any:
        entered.set()
        try:
            await go_on.wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        seen.append(f"cancelled={run.cancelled}")
        return {"partial": True}

    async with backend.open({"polite": polite}, stopping=StopPolicy(cancel_after=30.0)) as stage:
        run = await stage.start("polite", thread_id="t")
        await within_patience(entered.wait())
        await run.cancel()
        go_on.set()
        result = await within_patience(run.result())
    assert (result.status, seen) == (RunStatus.cancelled, ["cancelled=True"])


async def test_an_agent_that_only_sees_its_time_is_over_has_timed_out(backend: Backend) -> None:
    async def polite(input: Any, run: RunContext) -> Any:
        while not run.cancelled:
            await asyncio.sleep(0)
        return "partial"

    async with backend.open({"polite": polite}, stopping=StopPolicy(cancel_after=30.0)) as stage:
        result = await stage.run("polite", timeout=0.02)
    assert result.status is RunStatus.timeout


async def test_a_cancelled_wait_for_a_result_leaves_the_run_alone(backend: Backend, agents: Agents) -> None:
    async with backend.open({"work": agents.work}) as stage:
        run = await stage.start("work", "long")
        waits = [asyncio.create_task(run.result()) for _ in range(5)]
        await agents.until_running("long")
        for task in waits[:4]:
            task.cancel()
        agents.let("long")
        await within_patience(asyncio.wait(waits))
        assert waits[4].result().status is RunStatus.success


async def test_a_run_cancels_itself_and_others(backend: Backend, agents: Agents) -> None:
    async def canceller(input: Any, run: RunContext) -> None:
        await stage.manager.cancel(victim.run_id, wait=True)
        await stage.manager.cancel(run.run_id)
        await asyncio.Event().wait()

    async with backend.open({"work": agents.work, "canceller": canceller}) as stage:
        victim = await stage.start("work", "victim")
        await agents.until_running("victim")
        itself = await within_patience((await stage.manager.start(RunSpec("canceller"))).result())
        assert (await within_patience(victim.result())).status is RunStatus.cancelled
    assert itself.status is RunStatus.cancelled
