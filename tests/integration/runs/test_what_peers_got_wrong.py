"""What users of comparable systems reported and no other test holds: docs/peers.md says which test holds what.

Each test is named after a line of that table.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections import Counter
from typing import Any

import pytest
from tests.integration.runs.stage import Agents, Backend, Stage, shared, time_is_up, turns, within_patience

from trackside import RunContext, RunHandle, RunSpec, RunStatus, StreamPart
from trackside.harness.errors import NoStreamHereError
from trackside.harness.lifecycle import is_final, is_terminal
from trackside.harness.types import AgentLimits, CancelAction


async def followed(stage: Stage, run_id: str) -> list[Any]:
    return [part async for part in stage.manager.stream(run_id)]


@shared
async def test_line_7_a_worker_that_was_taken_for_dead_overwrites_nothing(backend: Backend, agents: Agents) -> None:
    """A worker went on past its lease, and its verdict replaced that of the peer that had ended the run."""
    async with backend.open({"work": agents.work}, lease_seconds=0.3) as here:
        run = await here.start("work", "zombie", thread_id="t")
        await agents.until_running("zombie")
        enrolment = here.manager._services.coordinator._enrolment  # type: ignore[attr-defined]
        enrolment._heart.stop()  # as in a suspended process, or a machine that sleeps
        enrolment.stay = lambda: None
        follows = asyncio.create_task(followed(here, run.run_id))
        async with backend.open({"work": agents.work}, lease_seconds=3.0) as there:
            while not is_final((await there.manager.get(run.run_id)).status):
                await turns(1)
            verdict = await there.manager.get(run.run_id)
            agents.let("zombie")
            told = await within_patience(run.result())
            await within_patience(follows)
            assert (verdict.status, told.status) == (RunStatus.error, RunStatus.error)
            assert (await there.manager.get(run.run_id)) == verdict, "the first verdict stays"
            assert (await there.run("work", "quick", thread_id="t")).status is RunStatus.success


async def test_line_8_whoever_follows_a_run_gets_to_its_end_however_it_ends(backend: Backend) -> None:
    """Followers of a run that had been recovered or was over heard heartbeats for ever."""

    async def agent(input: Any, run: RunContext) -> None:
        run.send("working")
        match input:
            case "fail":
                raise ValueError("no")
            case "hang":
                await asyncio.Event().wait()

    async with backend.open({"agent": agent}) as stage:
        holder = await stage.start("agent", "hang", thread_id="t")
        runs = {
            "success": await stage.start("agent", "do"),
            "error": await stage.start("agent", "fail"),
            "timeout": await stage.start("agent", "hang", timeout=0.02),
            "cancelled": await stage.start("agent", "hang"),
            "never started": await stage.start("agent", "do", thread_id="t"),
        }
        follows = {name: asyncio.create_task(followed(stage, run.run_id)) for name, run in runs.items()}
        await turns(20)
        await within_patience(runs["cancelled"].cancel(wait=True))
        await within_patience(runs["never started"].cancel(wait=True))
        await within_patience(asyncio.gather(*(run.result() for run in runs.values())))
        for name, run in runs.items():
            assert all(isinstance(part, StreamPart) for part in await within_patience(follows[name])), name
            await within_patience(followed(stage, run.run_id))
        await within_patience(holder.cancel(wait=True))


@shared
async def test_line_8_whoever_wants_to_follow_a_run_of_another_process_is_not_left_waiting(
    backend: Backend, agents: Agents
) -> None:
    async with backend.open({"work": agents.work}) as here, backend.open({"work": agents.work}) as there:
        run = await here.start("work", "long")
        await agents.until_running("long")
        with pytest.raises(NoStreamHereError, match="has no live output here: another process executes it"):
            await within_patience(followed(there, run.run_id))
        agents.let("long")
        await within_patience(run.result())
        assert await within_patience(followed(there, run.run_id)) == []


async def test_line_11_whoever_waits_for_a_run_gets_how_it_ended_and_nothing_before(
    backend: Backend, agents: Agents
) -> None:
    """A wait returned half a run as a success."""
    async with backend.open({"work": agents.work}) as stage:
        run = await stage.start("work", "long", thread_id="t", idempotency_key="k")
        same = await stage.start("work", "long", thread_id="t", idempotency_key="k")
        await agents.until_running("long")
        waits = [asyncio.create_task(handle.result()) for handle in (run, same)]
        cancels = asyncio.create_task(stage.manager.cancel(run.run_id, wait=True))
        results = await within_patience(asyncio.gather(*waits))
        record = await within_patience(cancels)
        assert {result.status for result in results} == {record.status} == {RunStatus.cancelled}
        assert all(result.completion_data["total_tokens"] == 7 for result in results)


async def test_line_13_however_many_end_a_run_at_the_same_moment_it_ends_once(backend: Backend) -> None:
    """Several parts announced the end and disagreed. Here: agent, timeout, budget, two cancels, displacement, close."""

    async def agent(input: Any, run: RunContext) -> str:
        try:
            await go.wait()
            run.record_usage("small", input_tokens=100, output_tokens=0)
        except asyncio.CancelledError:
            run.record_usage("small", input_tokens=100, output_tokens=0)
            raise
        return "done"

    for moment in range(6):
        go = asyncio.Event()
        async with backend.open({"agent": agent}) as stage:
            run = await stage.start("agent", thread_id=f"t{moment}", timeout=0.01, max_tokens=10)
            await stage.watcher.until(run.run_id, "run_started")
            ends: list[Any] = [
                stage.manager.cancel(run.run_id),
                stage.manager.cancel(run.run_id, action="rollback"),
                stage.manager.start(RunSpec("agent", thread_id=f"t{moment}", multitask="interrupt", timeout=0.01)),
            ]
            tasks = [asyncio.create_task(end) for end in ends]
            await turns(moment)
            go.set()
            await within_patience(asyncio.wait(tasks))
            await within_patience(stage.manager.aclose(grace=0.0))
            result = await within_patience(run.result())
            end = stage.end(run)
            assert result.status == {"run_completed": "success", "run_cancelled": "cancelled"}.get(
                end.event_type, end.payload.get("status")
            )
            assert sum(is_terminal(e.event_type) for e in stage.events if e.run_id == run.run_id) == 1
    backend.at_rest = not backend.durable  # the displacing run may be left to the next start


async def test_line_15_tokens_of_every_run_are_in_its_end_its_row_and_the_totals_by_model_and_by_caller(
    backend: Backend,
) -> None:
    """Tokens of interrupted runs vanished, and those of sub-agents were credited to the lead model."""

    async def agent(input: Any, run: RunContext) -> None:
        run.record_usage("large", input_tokens=100, output_tokens=10)
        run.record_usage("small", input_tokens=20, output_tokens=2, caller="researcher")
        run.record_usage("small", input_tokens=3, output_tokens=1, caller="summariser", answered=False)
        match input:
            case "fail":
                raise ValueError("no")
            case "ask":
                run.interrupt("sure?")
            case "spend":
                run.record_tool_call("search")
                run.record_tool_call("search")
            case "do":
                return
        running.set()
        await asyncio.Event().wait()

    async with backend.open({"agent": agent}) as stage:
        runs: list[RunHandle] = []
        for what, asked in {
            "do": {},
            "fail": {},
            "ask": {},
            "spend": {"max_tool_calls": 1},
            "late": {"timeout": 3_600},
            "cancel": {},
            "shutdown": {},
        }.items():
            running = asyncio.Event()
            runs.append(run := await stage.start("agent", what, **asked))
            if what in {"late", "cancel", "shutdown"}:
                await within_patience(running.wait())
            if what == "late":
                time_is_up(stage.manager, run.run_id)
            if what == "cancel":
                await within_patience(run.cancel(wait=True))
            elif what != "shutdown":
                await within_patience(run.result())
        await within_patience(stage.manager.aclose(grace=0.0))
        for run in runs:
            used = stage.end(run).payload["completion_data"]
            assert (used["total_input_tokens"], used["total_output_tokens"], used["total_tokens"]) == (123, 13, 136)
            by_model = {model: usage["total_tokens"] for model, usage in used["token_usage_by_model"].items()}
            by_caller = {who: usage["total_tokens"] for who, usage in used["token_usage_by_caller"].items()}
            assert by_model == {"large": 110, "small": 26}
            assert by_caller == {"lead_agent": 110, "researcher": 22, "summariser": 4}
            assert (await within_patience(run.result())).completion_data == used
        if stage.store is not None:
            stats = await stage.store.stats()
            assert stats.by_model["small"].input_tokens == 23 * len(runs)
            assert stats.by_caller["researcher"].output_tokens == 2 * len(runs)


async def test_line_16_a_run_that_has_ended_leaves_the_process(backend: Backend) -> None:
    """Memory grew with every run."""
    alive: weakref.WeakSet[Any] = weakref.WeakSet()

    class Big(dict[str, Any]):
        pass

    async def agent(input: Any, run: RunContext) -> None:
        alive.add(input)
        alive.add(run)
        if input["n"] % 3 == 0:
            raise ValueError("no")

    async with backend.open({"agent": agent}) as stage:
        for n in range(40):
            result = await stage.run("agent", Big(n=n), thread_id=f"t{n % 7}")
            assert is_final(result.status)
        await stage.manager.observers.flush(60)
        await turns(10)
        gc.collect()
        kept = Counter(type(each).__name__ for each in alive)
        assert all(count <= 8 for count in kept.values()), kept  # threads may remember their last input
        assert stage.manager._runs.all() == []
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("trackside-run-")]


async def test_line_22_what_cannot_be_done_is_refused_and_not_ignored(backend: Backend, agents: Agents) -> None:
    """Options were accepted and had no effect."""
    called: list[Any] = []

    async def input_alone(input: Any) -> None:
        called.append(input)

    async with backend.open({"work": agents.work, "input alone": input_alone}) as stage:
        with pytest.raises(TypeError, match="if_not_exists"):
            RunSpec("work", if_not_exists="reject")  # type: ignore[call-arg]
        with pytest.raises(LookupError, match="'wrok'"):
            async with backend.open({"work": agents.work}, limits={"wrok": AgentLimits(max_tokens=5)}):
                pass
        asked = [{"command": {"goto": "x"}}, {"command": {"update": {"x": 1}}}, {"interrupt_before": ["x"]}]
        for each in [*asked, {"durability": "exit"}]:
            result = await stage.run("input alone", thread_id="t", **each)
            assert result.status is RunStatus.error, "a function has no nodes and no state, and does not see the run"
            assert next(iter(each)) in str(result.error)
            assert stage.end(result).payload["error_type"] == "InvalidSpecError"
    assert called == []


async def test_line_28_nothing_that_comes_late_changes_an_end(backend: Backend, agents: Agents) -> None:
    """A late heartbeat turned a completed run into a crashed one."""
    async with backend.open({"work": agents.work}) as stage:
        result = await stage.run("work", "quick", thread_id="t")
        before, events = await stage.record(result), list(stage.events)
        coordinator = stage.manager._services.coordinator
        await coordinator.note_stuck(result.run_id, before.created_at)
        await coordinator.request_cancel(result.run_id, CancelAction.rollback)
        assert await coordinator.claim(result.run_id) is None
        assert await coordinator.withdraw(result.run_id) is False
        with_wait = await stage.manager.cancel(result.run_id, wait=True)
        assert with_wait == before == await stage.record(result)
        assert stage.events == events
        assert (await stage.run("work", "quick again", thread_id="t")).status is RunStatus.success


@shared
async def test_line_30_who_starts_while_others_recover_executes_nothing_twice(backend: Backend, agents: Agents) -> None:
    """Recovery ran once and swallowed its error; after a stale read, something was executed twice."""
    async with backend.open({"work": agents.work}, lease_seconds=0.3) as gone:
        holder = await gone.start("work", "holder", thread_id="t")
        await agents.until_running("holder")
        queue = [await gone.start("work", f"quick {n}", thread_id="t") for n in range(5)]
        coordinator: Any = gone.manager._services.coordinator
        coordinator._enrolment._heart.stop()
        coordinator._upkeep.stop()
        coordinator._enrolment._lease = 30.0  # should it come back, it stays
        async with (
            backend.open({"work": agents.work}, lease_seconds=3.0) as one,
            backend.open({"work": agents.work}, lease_seconds=3.0) as two,
            backend.open({"work": agents.work}, lease_seconds=3.0) as three,
        ):
            while not all([is_final((await one.manager.get(run.run_id)).status) for run in queue]):
                await turns(1)
            assert (await two.manager.get(holder.run_id)).status is RunStatus.error
            ends = [(await three.manager.get(run.run_id)).status for run in queue]
            assert ends == [RunStatus.success] * 5
    assert agents.begun == ["holder", *(f"quick {n}" for n in range(5))]
