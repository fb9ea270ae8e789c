"""A run is let in or it is not: a caller who is cancelled while starting one leaves no run that holds a thread."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.integration.runs.stage import Agents, Backend, Stage, turns, within_patience

from trackside import RunSpec, RunStatus
from trackside.harness.errors import DuplicateRunError, ThreadBusyError
from trackside.harness.types import MultitaskStrategy

MOMENTS = [*range(12), 20, 50, 150, 400]
"""How often the loop turns before the caller is cancelled: memory needs a few turns, a database takes more."""


async def cancelled_start(stage: Stage, moment: int, **asked: Any) -> bool:
    """Start a run and be cancelled; return whether the caller received the run all the same."""
    starts = asyncio.create_task(stage.manager.start(RunSpec("work", "lost", **asked)))
    await turns(moment)
    starts.cancel()
    await within_patience(asyncio.wait({starts}))
    return not starts.cancelled() and starts.exception() is None


async def test_a_caller_who_is_cancelled_at_any_moment_of_a_start_leaves_his_thread_free(
    backend: Backend, agents: Agents
) -> None:
    async with backend.open({"work": agents.work}) as stage:
        for moment in MOMENTS:
            name = f"at {moment}"
            received = await cancelled_start(stage, moment, run_id=name, thread_id=name)
            if received:
                await within_patience(stage.manager.cancel(name, wait=True))
            assert (await stage.run("work", "quick", thread_id=name)).status is RunStatus.success
            if stage.told(name):
                assert stage.end(name).event_type == "run_cancelled", "who was let in ends, and is said to"
                assert (await stage.manager.get(name)).status is RunStatus.cancelled
            if not received:
                assert stage.told(name) in ([], ["run_cancelled task_cancelled"]), "nobody's run never starts"


@pytest.mark.parametrize("strategy", MultitaskStrategy)
async def test_a_caller_who_is_cancelled_at_any_moment_of_a_start_on_a_busy_thread_leaves_others_going(
    backend: Backend, agents: Agents, strategy: MultitaskStrategy
) -> None:
    async with backend.open({"work": agents.work}) as stage:
        for moment in MOMENTS[::3]:
            name = f"at {moment}"
            active = await stage.start("work", f"active {name}", thread_id=name)
            await agents.until_running(f"active {name}")
            behind = await stage.start("work", f"quick {name}", thread_id=name)
            if await cancelled_start(stage, moment, run_id=name, thread_id=name, multitask=strategy):
                await within_patience(stage.manager.cancel(name, wait=True))
            agents.let(f"active {name}")
            ends = [(await within_patience(run.result())).status for run in (active, behind)]
            if strategy in {MultitaskStrategy.enqueue, MultitaskStrategy.reject}:
                assert ends == [RunStatus.success, RunStatus.success]
            else:  # the runs it displaced are displaced, or none was
                assert ends in ([RunStatus.success] * 2, [RunStatus.cancelled] * 2)
            assert (await stage.run("work", "quick", thread_id=name)).status is RunStatus.success


async def test_a_caller_who_is_refused_while_he_is_cancelled_is_cancelled(backend: Backend, agents: Agents) -> None:
    async with backend.open({"work": agents.work}) as stage:
        held = await stage.start("work", "held", thread_id="t")
        for moment in MOMENTS:
            spec = RunSpec("work", "lost", thread_id="t", multitask=MultitaskStrategy.reject)
            starts = asyncio.create_task(stage.manager.start(spec))
            await turns(moment)
            in_time = starts.cancel()
            await within_patience(asyncio.wait({starts}))
            assert starts.cancelled() == in_time, "who goes on after a refusal would go on for ever"
            if not in_time:
                assert isinstance(starts.exception(), ThreadBusyError)
        agents.let("held")
        assert (await within_patience(held.result())).status is RunStatus.success


async def test_many_callers_who_are_cancelled_at_once_leave_one_thread_free(backend: Backend, agents: Agents) -> None:
    async with backend.open({"work": agents.work}) as stage:
        starts = [asyncio.create_task(stage.manager.start(RunSpec("work", "x", thread_id="t"))) for _ in range(50)]
        await turns(1)
        for task in starts:
            task.cancel()
        await within_patience(asyncio.wait(starts))
        for task in starts:
            if not task.cancelled():
                await within_patience((await task).cancel(wait=True))
        assert (await stage.run("work", "quick", thread_id="t")).status is RunStatus.success
        assert agents.begun.count("x") == len([task for task in starts if not task.cancelled()])


async def test_an_admission_of_one_thread_does_not_wait_for_another(backend: Backend, agents: Agents) -> None:
    async with backend.open({"work": agents.work}) as stage:
        held = await stage.start("work", "held", thread_id="held")
        queue = [await stage.start("work", f"quick {n}", thread_id="held") for n in range(10)]
        others = await within_patience(
            asyncio.gather(*(stage.run("work", f"quick other {n}", thread_id=f"other {n}") for n in range(10)))
        )
        assert {result.status for result in others} == {RunStatus.success}
        assert not any(name in agents.begun for name in ("quick 0", "quick 9"))
        agents.let("held")
        results = await within_patience(asyncio.gather(*(run.result() for run in (held, *queue))))
        assert {result.status for result in results} == {RunStatus.success}


async def test_a_run_id_is_given_once_and_the_refused_start_leaves_nothing(backend: Backend, agents: Agents) -> None:
    async with backend.open({"work": agents.work}) as stage:
        first = await stage.run("work", "quick", run_id="one", thread_id="t")
        with pytest.raises(DuplicateRunError, match="'one'"):
            await stage.start("work", "quick", run_id="one", thread_id="elsewhere")
        assert (await stage.run("work", "quick", thread_id="elsewhere")).status is RunStatus.success
        assert stage.told("one")[-2] == "run_completed success"
        assert (await stage.record(first)).thread_id == "t"


async def test_of_starts_with_one_run_id_at_the_same_time_one_is_let_in(backend: Backend, agents: Agents) -> None:
    async with backend.open({"work": agents.work}) as stage:
        starts = [stage.manager.start(RunSpec("work", "quick", run_id="one", thread_id=f"t{n}")) for n in range(20)]
        got = await within_patience(asyncio.gather(*starts, return_exceptions=True))
        (run,) = [each for each in got if not isinstance(each, BaseException)]
        assert all(isinstance(each, DuplicateRunError) for each in got if isinstance(each, BaseException))
        await within_patience(run.result())
        for n in range(20):
            assert (await stage.run("work", "quick", thread_id=f"t{n}")).status is RunStatus.success
