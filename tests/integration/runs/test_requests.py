"""What a start may say besides agent and input: idempotency keys, delays, timeouts, and what is only carried along."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.integration.runs.stage import Agents, Backend, turns, within_patience

from trackside import InvalidSpecError, LifecycleEventType, RunResult, RunSpec, RunStatus
from trackside.harness.types import AgentLimits


async def test_a_key_gives_the_same_run_while_it_waits_while_it_runs_and_when_it_has_ended(
    backend: Backend, agents: Agents
) -> None:
    async with backend.open({"work": agents.work}) as stage:
        holder = await stage.start("work", "holder", thread_id="t")
        first = await stage.start("work", "keyed", thread_id="t", idempotency_key="k")
        waits = await stage.start("work", "keyed", thread_id="t", idempotency_key="k")
        agents.let("holder")
        await agents.until_running("keyed")
        runs = await stage.start("work", "keyed", thread_id="t", idempotency_key="k")
        agents.let("keyed")
        result = await within_patience(first.result())
        ended = await stage.start("work", "keyed", thread_id="t", idempotency_key="k")

        assert {run.run_id for run in (first, waits, runs, ended)} == {first.run_id}
        results = [await within_patience(run.result()) for run in (waits, runs, ended)]
        assert {(each.status, each.thread_id) for each in results} == {(result.status, "t")}
        assert (await within_patience(holder.result())).status is RunStatus.success
    assert agents.begun == ["holder", "keyed"]


async def test_a_key_that_was_used_for_something_else_is_refused_and_names_the_run(
    backend: Backend, agents: Agents
) -> None:
    asked: dict[str, Any] = {"input": "quick a", "thread_id": "t", "metadata": {"n": 1}, "idempotency_key": "k"}
    others = [{"input": "quick b"}, {"thread_id": "u"}, {"metadata": {"n": 2}}, {"timeout": 5}, {"max_tokens": 9}]
    async with backend.open({"work": agents.work}) as stage:
        first = await stage.run("work", **asked)
        for other in others:
            with pytest.raises(InvalidSpecError, match="idempotency_key = 'k'") as refused:
                await stage.start("work", **asked | other)
            assert first.run_id in str(refused.value)
        again = await stage.start("work", **asked)
        assert again.run_id == first.run_id
    assert agents.begun == ["quick a"]


async def test_of_many_starts_with_one_key_at_once_one_makes_a_run_and_all_get_it(
    backend: Backend, agents: Agents
) -> None:
    async with backend.open({"work": agents.work}) as stage:
        spec = RunSpec("work", "keyed", thread_id="t", idempotency_key="k")
        starts = [asyncio.create_task(stage.manager.start(spec)) for _ in range(40)]
        await turns(2)
        for task in starts[::7]:
            task.cancel()
        got = await within_patience(asyncio.gather(*starts, return_exceptions=True))
        agents.let("keyed")
        handles = [each for each in got if not isinstance(each, BaseException)]
        results = await within_patience(asyncio.gather(*(handle.result() for handle in handles)))
        again = await stage.start("work", "keyed", thread_id="t", idempotency_key="k")
        assert {each.run_id for each in [*results, again]} == {again.run_id}
        assert len({result.status for result in results}) == 1
    assert agents.begun in (["keyed"], []), "one run, or none if the caller whose run it was is the one who went"


async def test_a_refused_start_does_not_use_its_key_up(backend: Backend, agents: Agents) -> None:
    async with backend.open({"work": agents.work}) as stage:
        holder = await stage.start("work", "holder", thread_id="t")
        asked: dict[str, Any] = {"thread_id": "t", "idempotency_key": "k", "multitask": "reject"}
        with pytest.raises(Exception, match="is busy with run"):
            await stage.start("work", "quick", **asked)
        agents.let("holder")
        await within_patience(holder.result())
        assert (await stage.run("work", "quick", **asked)).status is RunStatus.success


async def test_a_run_for_later_holds_no_thread_until_it_is_due_and_then_starts_by_itself(
    backend: Backend, agents: Agents
) -> None:
    async with backend.open({"work": agents.work}) as stage:
        never = await stage.start("work", "quick never", thread_id="t", after_seconds=3_600)
        for seconds in (0.5, 3.0, 15.0):  # one after the other, until a run comes and goes in less
            agents.begun.clear()
            later = await stage.start("work", "quick later", thread_id="t", after_seconds=seconds)
            record = await stage.record(later)
            overtaking = stage.run("work", "quick now", thread_id="t", multitask="reject")
            (now,) = await asyncio.gather(overtaking, return_exceptions=True)
            if record.due_at is not None and datetime.now(UTC) < record.due_at:
                break
            await within_patience(later.result())
        assert isinstance(now, RunResult), now
        assert now.status is RunStatus.success
        assert record.due_at is not None
        assert record.due_at > record.created_at
        assert (await within_patience(later.result())).status is RunStatus.success
        started = (await stage.record(later)).started_at
        assert started is not None
        assert started >= record.due_at
        await within_patience(never.cancel(wait=True))
    assert agents.begun == ["quick now", "quick later"]
    assert stage.told(never) == ["run_cancelled interrupt"]


async def test_a_run_that_is_due_while_its_thread_is_busy_waits_its_turn_whatever_it_was_asked_for(
    backend: Backend, agents: Agents
) -> None:
    async with backend.open({"work": agents.work}) as stage:
        holder = await stage.start("work", "holder", thread_id="t")
        other = await stage.start("work", "other", thread_id="u")
        await agents.until_running("holder")
        await agents.until_running("other")
        due = await stage.start("work", "quick due", thread_id="t", after_seconds=0.02, multitask="reject")
        makes_room = await stage.start("work", "quick room", thread_id="u", after_seconds=0.02, multitask="interrupt")
        assert (await within_patience(other.result())).status is RunStatus.cancelled
        assert (await within_patience(makes_room.result())).status is RunStatus.success
        assert (await stage.record(due)).status is RunStatus.pending
        agents.let("holder")
        assert (await within_patience(due.result())).status is RunStatus.success
        await within_patience(holder.result())


@pytest.mark.parametrize("where", ["spec", "agent", "manager"])
async def test_a_run_whose_time_is_over_is_stopped_and_says_so(backend: Backend, agents: Agents, where: str) -> None:
    options: dict[str, Any] = {"default_timeout": 0.05 if where == "manager" else 3_600}
    if where == "agent":
        options["limits"] = {"work": AgentLimits(timeout=0.05)}
    asked: dict[str, Any] = {"timeout": 0.05} if where == "spec" else {}
    async with backend.open({"work": agents.work}, **options) as stage:
        result = await stage.run("work", "too long", thread_id="t", **asked)
        assert result.status is RunStatus.timeout
        assert "0.05" in str(result.error)
        assert result.completion_data["total_tokens"] == 7 * len(agents.begun)
        end = stage.end(result)
        assert (end.event_type, end.payload["status"], end.payload["error_type"]) == (
            "run_failed",
            "timeout",
            "TimeoutError",
        )
        assert (await stage.record(result)).status is RunStatus.timeout
        assert agents.cancelled == agents.begun, "its time may be over before it was called, on a busy machine"
        assert (await stage.run("work", "quick", thread_id="t", timeout=3_600)).status is RunStatus.success


async def test_what_a_start_says_is_in_its_record_its_events_and_its_row(backend: Backend, agents: Agents) -> None:
    metadata = {"team": "a", "nested": {"n": [1, 2.5, None, True]}, "ü": "✓"}
    asked: dict[str, Any] = {"metadata": metadata, "parent_run_id": "the-parent", "trigger": "cron"}
    async with backend.open({"work": agents.work}) as stage:
        run = await stage.start("work", "quick", **asked)
        before = await stage.record(run)
        await within_patience(run.result())
        after = await stage.record(run)
        for record in (before, after):
            assert {name: getattr(record, name) for name in asked} == asked
            assert (record.agent, record.attempt, record.retry_of) == ("work", 1, None)
        started = next(event for event in stage.events if event.event_type == "run_started")
        assert {name: started.payload[name] for name in asked} == asked
        assert started.payload["agent"] == "work"
        if stage.store is not None:
            row = await stage.store.run(run.run_id)
            assert {name: getattr(row, name) for name in asked} == asked


async def test_a_run_that_a_run_starts_names_its_parent(backend: Backend, agents: Agents) -> None:
    async def parent(input: Any, run: Any) -> Any:
        assert stage is not None
        result = await (await stage.manager.start(RunSpec("work", "quick child", timeout=60))).result()
        return {"child": result.run_id}

    async with backend.open({"parent": parent, "work": agents.work}, max_running=1) as stage:
        result = await stage.run("parent", "go")
        starts = [event.payload for event in stage.events if event.event_type is LifecycleEventType.RUN_STARTED]
        (child,) = [started for started in starts if started["agent"] == "work"]
        assert child["parent_run_id"] == result.run_id
