"""Two managers on one database, as in two processes: one queue, one truth."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.integration.runs.stage import Agents, Backend, shared, within_patience

from trackside import AgentLimits, InvalidSpecError, RunContext, RunResult, RunSpec, RunStatus, ThreadBusyError
from trackside.harness.errors import NoResultHereError
from trackside.harness.running.ending import StopPolicy

pytestmark = shared


async def test_each_strategy_counts_against_the_runs_of_the_other(backend: Backend, agents: Agents) -> None:
    theirs = Agents()
    async with backend.open({"work": agents.work}) as here, backend.open({"work": theirs.work}) as there:
        holder = await there.start("work", "holder", thread_id="t")
        await theirs.until_running("holder")
        with pytest.raises(ThreadBusyError) as refused:
            await here.start("work", "quick", thread_id="t", multitask="reject")
        assert refused.value.details["run_id"] == holder.run_id
        waits = await here.start("work", "quick waits", thread_id="t", multitask="enqueue")
        assert (await there.record(waits)).status is RunStatus.pending  # type: ignore[arg-type]
        new = await here.start("work", "quick new", thread_id="t", multitask="interrupt")
        results = await within_patience(asyncio.gather(holder.result(), waits.result(), new.result()))
        assert [result.status for result in results] == [RunStatus.cancelled, RunStatus.cancelled, RunStatus.success]
        assert (theirs.cancelled, agents.begun) == (["holder"], ["quick new"])
        assert there.end(holder).payload["cancel_mode"] == "interrupt"
        again = await there.start("work", "last", thread_id="t")
        await theirs.until_running("last")
        newest = await here.run("work", "quick newest", thread_id="t", multitask="rollback")
        assert (newest.status, (await within_patience(again.result())).status) == (
            RunStatus.success,
            RunStatus.cancelled,
        )
        assert there.end(again).payload["cancel_mode"] == "rollback"


async def test_runs_of_one_thread_are_executed_in_their_order_by_whoever_let_them_in(
    backend: Backend, agents: Agents
) -> None:
    async with backend.open({"work": agents.work}) as here, backend.open({"work": agents.work}) as there:
        first = await here.start("work", "first", thread_id="t")
        queue = [await (here, there)[n % 2].start("work", f"quick {n}", thread_id="t") for n in range(10)]
        agents.let("first")
        results = await within_patience(asyncio.gather(*(run.result() for run in (first, *queue))))
        assert {result.status for result in results} == {RunStatus.success}
    assert agents.begun == ["first", *(f"quick {n}" for n in range(10))]


async def test_a_cancel_from_the_other_reaches_a_run_that_waits_and_one_that_runs(
    backend: Backend, agents: Agents
) -> None:
    async with backend.open({"work": agents.work}) as here, backend.open({"work": agents.work}) as there:
        runs = await here.start("work", "runs", thread_id="t")
        await agents.until_running("runs")
        waits = await here.start("work", "quick waits", thread_id="t")
        for run in (waits, runs):
            for _ in range(2):
                await within_patience(there.manager.cancel(run.run_id))
            assert (await within_patience(run.result())).status is RunStatus.cancelled
            assert (await there.manager.get(run.run_id)).status is RunStatus.cancelled
        assert agents.cancelled == ["runs"]
        after = await there.manager.cancel(runs.run_id, wait=True)
        assert after.status is RunStatus.cancelled


async def test_a_key_names_one_run_for_both(backend: Backend, agents: Agents) -> None:
    spec = RunSpec("work", "quick keyed", thread_id="t", idempotency_key="k")
    async with backend.open({"work": agents.work}) as here, backend.open({"work": agents.work}) as there:
        got = await within_patience(asyncio.gather(*((here, there)[n % 2].manager.start(spec) for n in range(20))))
        assert len({run.run_id for run in got}) == 1
        for stage in (here, there):
            with pytest.raises(InvalidSpecError, match="asked for something else"):
                await stage.start("work", "quick other", thread_id="t", idempotency_key="k")
            assert (await within_patience(stage.manager.start(spec))).run_id == got[0].run_id
        results = await asyncio.gather(*(run.result() for run in got), return_exceptions=True)
        kinds = {result.status if isinstance(result, RunResult) else type(result) for result in results}
        assert kinds <= {RunStatus.success, NoResultHereError}, "who does not execute it says so, and hangs nowhere"
        assert RunStatus.success in kinds
    assert agents.begun == ["quick keyed"]


async def test_a_key_names_its_run_also_where_its_agent_is_given_as_an_object(backend: Backend, agents: Agents) -> None:
    async def here_work(input: Any, run: RunContext) -> Any:
        return await agents.work(input, run)

    async def there_work(input: Any, run: RunContext) -> Any:  # the same, as another process has it: another object
        return await agents.work(input, run)

    async with backend.open({"work": here_work}) as here, backend.open({"work": there_work}) as there:
        first = await here.start(here_work, "quick keyed", idempotency_key="k")
        for stage, agent in ((here, "work"), (here, here_work), (there, "work"), (there, there_work)):
            assert (await stage.start(agent, "quick keyed", idempotency_key="k")).run_id == first.run_id
        await within_patience(first.result())
    assert agents.begun == ["quick keyed"]


async def test_a_key_names_its_run_whatever_is_said_besides_of_the_user_who_asks(
    backend: Backend, agents: Agents
) -> None:
    def asked(**user: Any) -> RunSpec:
        config = {"configurable": {"langgraph_auth_user": user, "model": "small"}}
        return RunSpec("work", "quick keyed", idempotency_key="k", config=config)

    async with backend.open({"work": agents.work}) as here, backend.open({"work": agents.work}) as there:
        first = await here.manager.start(asked(identity="ada", exp=1, permissions=["read", "write"]))
        for stage in (here, there):
            spec = asked(identity="ada", exp=2, permissions=["write", "read"])
            assert (await within_patience(stage.manager.start(spec))).run_id == first.run_id
            with pytest.raises(InvalidSpecError, match="asked for something else"):
                await stage.manager.start(asked(identity="eve", exp=1))
        await within_patience(first.result())


async def test_a_key_names_its_run_also_where_the_agent_has_other_limits_by_now(
    backend: Backend, agents: Agents
) -> None:
    spec = RunSpec("work", "quick keyed", thread_id="t", idempotency_key="k")
    more = {"work": AgentLimits(max_attempts=3)}
    async with (
        backend.open({"work": agents.work}) as here,
        backend.open({"work": agents.work}, limits=more) as there,
    ):
        first = await here.manager.start(spec)
        assert (await there.manager.start(spec)).run_id == first.run_id
        await within_patience(first.result())


async def test_both_start_on_the_same_threads_at_once_and_no_thread_has_two_runs(
    backend: Backend, agents: Agents
) -> None:
    async with backend.open({"work": agents.work}) as here, backend.open({"work": agents.work}) as there:
        specs = [RunSpec("work", f"quick {n}", thread_id=f"t{n % 10}") for n in range(200)]
        starts = [(here, there)[n % 2].manager.start(spec) for n, spec in enumerate(specs)]
        runs = await within_patience(asyncio.gather(*starts))
        results = await within_patience(asyncio.gather(*(run.result() for run in runs)))
        assert {result.status for result in results} == {RunStatus.success}
    assert len(agents.begun) == 200


async def test_of_many_rejects_at_once_from_both_one_gets_the_thread(backend: Backend, agents: Agents) -> None:
    async with backend.open({"work": agents.work}) as here, backend.open({"work": agents.work}) as there:
        spec = RunSpec("work", "one", thread_id="t", multitask="reject")
        starts = [(here, there)[n % 2].manager.start(spec) for n in range(30)]
        got = await within_patience(asyncio.gather(*starts, return_exceptions=True))
        (run,) = [each for each in got if not isinstance(each, BaseException)]
        refusals = [each for each in got if isinstance(each, ThreadBusyError)]
        assert len(refusals) == 29
        assert {each.details["run_id"] for each in refusals} == {run.run_id}
        agents.let("one")
        assert (await within_patience(run.result())).status is RunStatus.success


async def test_a_run_whose_manager_closed_before_its_turn_is_executed_by_the_other_at_once(
    backend: Backend, agents: Agents
) -> None:
    async with backend.open({"work": agents.work}) as there:  # its next beat comes in 20 minutes
        async with backend.open({"work": agents.work}) as here:
            await here.start("work", "runs", thread_id="t")
            await agents.until_running("runs")
            waits = await here.start("work", "quick waits", thread_id="t")
        await there.watcher.until(waits.run_id, "run_completed")
        assert (await there.manager.get(waits.run_id)).status is RunStatus.success
    assert agents.begun == ["runs", "quick waits"]


async def test_a_stuck_run_is_seen_as_such_from_the_other(backend: Backend, agents: Agents) -> None:
    options = {"stopping": StopPolicy(stuck_after=0.02)}
    async with backend.open({"work": agents.work}, **options) as here, backend.open({"work": agents.work}) as there:
        run = await here.start("work", "slow to stop", thread_id="t")
        await agents.until_running("slow to stop")
        await there.manager.cancel(run.run_id)
        while (record := await there.manager.get(run.run_id)).stuck_since is None:
            await asyncio.sleep(0)
        assert record.status is RunStatus.running
        agents.let("slow to stop")
        assert (await within_patience(run.result())).status is RunStatus.cancelled
        assert (await there.manager.get(run.run_id)).stuck_since is None
