"""What becomes of a run whose thread is busy: `reject`, `enqueue`, `interrupt`, `rollback`."""

from __future__ import annotations

import asyncio
import operator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from tests.integration.runs.stage import Agents, Backend, turns, within_patience

from trackside import RunStatus, ThreadBusyError
from trackside.harness.types import MultitaskStrategy


async def test_reject_names_the_run_that_holds_the_thread_and_leaves_nothing(backend: Backend, agents: Agents) -> None:
    async with backend.open({"work": agents.work}) as stage:
        holder = await stage.start("work", "holder", thread_id="t")
        for _ in range(2):
            with pytest.raises(ThreadBusyError) as refused:
                await stage.start("work", "quick refused", thread_id="t", run_id="refused", multitask="reject")
            assert refused.value.details == {"thread_id": "t", "run_id": holder.run_id}
            assert holder.run_id in str(refused.value)
        agents.let("holder")
        await within_patience(holder.result())
        taken = await stage.run("work", "quick", thread_id="t", run_id="refused", multitask="reject")
        assert taken.status is RunStatus.success, "a refused id may come again"
    assert stage.told(holder)[-1] == "thread_status_updated idle"


async def test_reject_refuses_a_thread_that_only_has_a_run_that_waits_for_a_place(
    backend: Backend, agents: Agents
) -> None:
    async with backend.open({"work": agents.work}, max_running=1) as stage:
        elsewhere = await stage.start("work", "elsewhere")
        waits = await stage.start("work", "quick", thread_id="t")
        with pytest.raises(ThreadBusyError) as refused:
            await stage.start("work", "quick", thread_id="t", multitask="reject")
        assert refused.value.details["run_id"] == waits.run_id
        agents.let("elsewhere")
        await within_patience(asyncio.gather(elsewhere.result(), waits.result()))


async def test_enqueued_runs_start_in_the_order_in_which_they_came(backend: Backend, agents: Agents) -> None:
    async with backend.open({"work": agents.work}) as stage:
        first = await stage.start("work", "first", thread_id="t")
        queue = [await stage.start("work", f"quick {n}", thread_id="t", multitask="enqueue") for n in range(20)]
        await agents.until_running("first")
        assert [(await stage.record(run)).status for run in queue] == [RunStatus.pending] * 20
        agents.let("first")
        await within_patience(asyncio.gather(*(run.result() for run in (first, *queue))))
    assert agents.begun == ["first", *(f"quick {n}" for n in range(20))]
    busy = [event for event in stage.events if event.payload.get("status") == "busy"]
    idle = [event for event in stage.events if event.payload.get("status") == "idle"]
    assert (busy[0].run_id, idle[0].run_id, len(busy), len(idle)) == (first.run_id, queue[-1].run_id, 1, 1)


async def test_a_run_that_waits_is_started_by_the_end_before_it_and_not_by_a_clock(
    backend: Backend, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue drains before the first timer set meanwhile fires; each timer is made to take its time."""
    fired: list[Any] = []
    async with backend.open({"work": agents.work}) as stage:
        first = await stage.start("work", "first", thread_id="t")
        queue = [await stage.start("work", f"quick {n}", thread_id="t") for n in range(5)]
        await agents.until_running("first")
        loop = asyncio.get_running_loop()

        def call_at(when: float, callback: Any, *args: Any, **options: Any) -> asyncio.TimerHandle:
            def fire(*args: Any) -> None:
                fired.append(callback)
                callback(*args)

            return type(loop).call_at(loop, max(when, loop.time() + 60.0), fire, *args, **options)

        with monkeypatch.context() as changes:
            changes.setattr(loop, "call_at", call_at)
            agents.let("first")
            results = await asyncio.gather(*(run.result() for run in (first, *queue)))
            assert fired == []
    assert [result.status for result in results] == [RunStatus.success] * 6


@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
async def test_a_run_that_displaces_waits_until_the_old_one_has_really_stopped(
    backend: Backend, agents: Agents, strategy: str
) -> None:
    async with backend.open({"work": agents.work}) as stage:
        old = await stage.start("work", "slow to stop", thread_id="t")
        await agents.until_running("slow to stop")
        waiting = await stage.start("work", "quick waiting", thread_id="t")
        new = await stage.start("work", "quick new", thread_id="t", multitask=strategy)

        gone = await within_patience(waiting.result())
        await turns(50)
        assert (gone.status, agents.begun) == (RunStatus.cancelled, ["slow to stop"])
        assert agents.cancelled == ["slow to stop"]
        assert (await stage.record(old)).status is RunStatus.running, "it has not stopped, and nobody says that it has"
        assert (await stage.record(new)).status is RunStatus.pending
        agents.let("slow to stop")
        old_result, new_result = await within_patience(asyncio.gather(old.result(), new.result()))

        assert (old_result.status, new_result.status) == (RunStatus.cancelled, RunStatus.success)
        assert old_result.completion_data["total_tokens"] == 7, "what it used counts"
        assert stage.told(waiting) == [f"run_cancelled {strategy}"]
        assert stage.told(old)[-1] == f"run_cancelled {strategy}"
        assert stage.told(new) == [
            "run_started",
            "human_message",
            "run_completed success",
            "thread_status_updated idle",
        ]


async def test_of_many_that_displace_each_other_at_once_the_last_to_be_let_in_runs(
    backend: Backend, agents: Agents
) -> None:
    async with backend.open({"work": agents.work}) as stage:
        old = await stage.start("work", "old", thread_id="t")
        await agents.until_running("old")
        runs = [await stage.start("work", f"quick {n}", thread_id="t", multitask="interrupt") for n in range(8)]
        results = await within_patience(asyncio.gather(*(run.result() for run in (old, *runs))))
    statuses = [result.status for result in results]
    assert statuses[-1] is RunStatus.success
    assert statuses[0] is RunStatus.cancelled
    assert agents.cancelled == ["old"]
    for run, status in zip(runs, statuses[1:], strict=True):
        assert (f"run_cancelled {MultitaskStrategy.interrupt}" in stage.told(run)) is (status is RunStatus.cancelled)


@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
async def test_the_values_of_a_thread_are_as_they_were_before_the_run_that_was_displaced(
    backend: Backend, strategy: str
) -> None:
    entered = asyncio.Event()

    async def agent(input: Any, run: Any) -> Any:
        if input == "wait":
            run.values["notes"].append("by the one that was stopped")
            entered.set()
            await asyncio.Event().wait()
        return {"notes": [*run.values.get("notes", []), input]}

    async with backend.open({"agent": agent}) as stage:
        await stage.run("agent", "first", thread_id="t")
        old = await stage.start("agent", "wait", thread_id="t")
        await within_patience(entered.wait())
        new = await stage.run("agent", "second", thread_id="t", multitask=strategy)
        state = await stage.manager._services.states.load("t")
        assert state is not None
        assert state.values == {"notes": ["first", "second"]}
        assert new.status is RunStatus.success
        assert (await within_patience(old.result())).status is RunStatus.cancelled


class Notes(TypedDict, total=False):
    notes: Annotated[list[str], operator.add]


@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
async def test_a_graph_keeps_its_partial_work_under_interrupt_and_loses_it_under_rollback(
    backend: Backend, tmp_path: Path, strategy: str
) -> None:
    waiting, wants_to_wait = asyncio.Event(), True

    async def step(state: Notes) -> Notes:
        return {"notes": ["step"]}

    async def wait(state: Notes) -> Notes:
        if wants_to_wait and state["notes"].count("step") == 2:
            waiting.set()
            await asyncio.Event().wait()
        return {"notes": ["done"]}

    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "threads.db")) as on_disk:
        saver: Any = on_disk if backend.durable else InMemorySaver()
        builder = StateGraph(Notes).add_node("step", step).add_node("wait", wait)
        graph = builder.add_edge(START, "step").add_edge("step", "wait").compile(checkpointer=saver)
        config: Any = {"configurable": {"thread_id": "t"}}
        async with backend.open({"graph": graph}) as stage:
            await stage.run("graph", {"notes": ["first"]}, thread_id="t")
            before = (await graph.aget_state(config)).config["configurable"]["checkpoint_id"]
            old = await stage.start("graph", {"notes": ["second"]}, thread_id="t")
            await within_patience(waiting.wait())
            wants_to_wait = False
            new = await stage.run("graph", {"notes": ["third"]}, thread_id="t", multitask=strategy)
            values = (await graph.aget_state(config)).values

            assert new.status is RunStatus.success
            assert stage.told(old)[-1] == f"run_cancelled {strategy}"
            kept = ["second", "step"] if strategy == "interrupt" else []
            assert values == {"notes": ["first", "step", "done", *kept, "third", "step", "done"]}
            said = stage.end(old).payload.get("pre_run_checkpoint_id")
            assert said == (before if strategy == "rollback" else None)
