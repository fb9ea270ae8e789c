"""Closing: nothing new is let in, runs may finish for a while, the rest is cancelled as `shutdown`, nobody hangs."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.contract.ways_to_run import required
from tests.integration.runs.stage import EVERYWHERE, Agents, Backend, turns, within_patience

from trackside import ClosedError, RunHandle, RunResult, RunSpec, RunStatus
from trackside.app.spool import Spool
from trackside.harness import DispatchPolicy
from trackside.harness.errors import NoResultHereError
from trackside.testing import Misbehaviour, RecordingObserver

BACKENDS = EVERYWHERE


async def ended(run: RunHandle) -> RunResult | None:
    """Return how a run ended, or None if it was left to others."""
    try:
        return await within_patience(run.result())
    except NoResultHereError:
        return None


async def test_running_runs_may_finish_and_a_start_meanwhile_is_refused(backend: Backend, agents: Agents) -> None:
    async with backend.open({"work": agents.work}, shutdown_grace=30.0) as stage:
        run = await stage.start("work", "long")
        await agents.until_running("long")
        closes = asyncio.create_task(stage.manager.aclose())
        await turns(3)
        with pytest.raises(ClosedError, match="This run manager is closed and takes nothing more"):
            await stage.start("work", "quick")
        assert not closes.done()
        agents.let("long")
        await within_patience(closes)
        assert (await within_patience(run.result())).status is RunStatus.success
        await within_patience(stage.manager.aclose())
    assert agents.begun == ["long"]


@pytest.mark.parametrize("after_seconds", [None, 0.05])
async def test_a_run_that_may_finish_may_start_runs_and_wait_for_them(
    backend: Backend, agents: Agents, after_seconds: float | None
) -> None:
    asked, closes = asyncio.Event(), asyncio.Event()

    async def leads(input: Any) -> list[Any]:
        before = await stage.start("work", "quick before", after_seconds=after_seconds)
        await stage.start("work", "quick, another day", after_seconds=86_400)  # nobody waits for this one
        asked.set()
        await closes.wait()
        await stage.start("work", "long")  # the agent does not wait for this one
        meanwhile = await stage.start("work", "quick meanwhile", after_seconds=after_seconds)
        await stage.start("work", "quick, some day", after_seconds=3_600)
        return [(await run.result()).output["did"] for run in (before, meanwhile)]

    async with backend.open({"work": agents.work, "leads": leads}, shutdown_grace=3_600.0) as stage:
        run = await stage.start("leads")
        await within_patience(asked.wait())
        closing = asyncio.create_task(stage.manager.aclose())
        await turns(3)
        closes.set()
        result = await within_patience(run.result())
        assert (result.status, result.output) == (RunStatus.success, ["quick before", "quick meanwhile"])
        with pytest.raises(ClosedError):
            await stage.start("work", "quick, from outside")
        await agents.until_running("long")
        assert not closing.done(), "what it has started may finish, too"
        agents.let("long")
        await within_patience(closing)
    backend.at_rest = not backend.durable
    assert sorted(agents.begun) == ["long", "quick before", "quick meanwhile"]


@pytest.mark.parametrize("waits_for", ["long", "a day"])
async def test_a_run_that_waits_for_one_of_its_own_when_the_grace_is_over_is_stopped_and_did_not_fail(
    backend: Backend, agents: Agents, waits_for: str
) -> None:
    asked, refused = asyncio.Event(), asyncio.Event()

    async def leads(input: Any) -> None:
        try:
            run = await stage.start("work", "long", after_seconds=86_400 if waits_for == "a day" else None)
            asked.set()
            await run.result()
        finally:
            try:
                await stage.start("work", "quick")
            except ClosedError:
                refused.set()

    async with backend.open({"work": agents.work, "leads": leads}) as stage:
        run = await stage.start("leads", max_attempts=3 if backend.durable else None)
        await within_patience(asked.wait())
        await within_patience(stage.manager.aclose(grace=0.05))
        assert refused.is_set()
        assert (await within_patience(run.result())).status is RunStatus.cancelled
        end = stage.end(run).payload
        assert (end["cancel_mode"], "retried_as" in end) == ("shutdown", backend.durable)
    backend.at_rest = not backend.durable


async def test_what_runs_waits_or_is_due_later_is_ended_as_shutdown_or_left_to_the_next_start(
    backend: Backend, agents: Agents
) -> None:
    async with backend.open({"work": agents.work}, max_running=2) as stage:
        runs = {
            "runs": await stage.start("work", "runs", thread_id="t"),
            "stops slowly": await stage.start("work", "runs too", thread_id="v"),
            "waits for its thread": await stage.start("work", "quick waits", thread_id="t"),
            "waits for a place": await stage.start("work", "quick place", thread_id="u"),
            "is due later": await stage.start("work", "quick later", thread_id="w", after_seconds=3_600),
        }
        await agents.until_running("runs")
        await agents.until_running("runs too")
        await within_patience(stage.manager.aclose(grace=0.0))
        results = {name: await ended(run) for name, run in runs.items()}
        for name in ("runs", "stops slowly"):
            result = results.pop(name)
            assert result is not None
            assert (result.status, result.completion_data["total_tokens"]) == (RunStatus.cancelled, 7)
            assert stage.end(runs[name]).payload["cancel_mode"] == "shutdown"
        if not backend.durable:
            assert {result and result.status for result in results.values()} == {RunStatus.cancelled}
            assert all(stage.told(runs[name]) == ["run_cancelled shutdown"] for name in results)
        else:
            assert set(results.values()) == {None}
            assert not any(stage.told(runs[name]) for name in results), "nothing is said of what is not over"
    assert sorted(agents.begun) == ["runs", "runs too"]
    if not backend.durable:
        return
    async with backend.open({"work": agents.work}) as stage:
        for name in ("waits for its thread", "waits for a place"):
            await stage.watcher.until(runs[name].run_id, "run_completed")
        await within_patience(stage.manager.cancel(runs["is due later"].run_id))
    assert sorted(agents.begun[2:]) == ["quick place", "quick waits"]


async def test_a_required_observer_that_hangs_does_not_hold_up_a_close_for_ever(
    backend: Backend, agents: Agents, tmp_path: Path
) -> None:
    hangs = RecordingObserver(Misbehaviour(how="swallow"))
    policy = DispatchPolicy(retry_for=0.0)
    async with backend.open({"work": agents.work}, policy=policy, spool=Spool(tmp_path / "spool")) as stage:
        run = await stage.start("work", "runs", thread_id="t")
        await agents.until_running("runs")
        stage.manager.observers.policy = replace(policy, call_limit=0.5)  # for the one that comes, and not for the log
        stage.manager.observers.add(hangs, required=True)
        behind = await stage.start("work", "quick", thread_id="t")
        await within_patience(stage.manager.aclose(grace=0.0))
        result = await ended(run)
        assert result is not None
        assert result.status is RunStatus.error
        assert "a required observer did not take that" in str(result.error), "said loudly"
        gone = await ended(behind)
        assert gone is None or gone.status is not RunStatus.success
        assert stage.end(run).payload["cancel_mode"] == "shutdown", "who is bound before or after it knows"
        hangs.release()
        await turns(3)
    backend.at_rest = not backend.durable


async def test_a_close_that_is_cancelled_is_quicker_and_closes_all_the_same(backend: Backend, agents: Agents) -> None:
    async with backend.open({"work": agents.work}, shutdown_grace=3_600.0) as stage:
        run = await stage.start("work", "long")
        await agents.until_running("long")
        closes = asyncio.create_task(stage.manager.aclose())
        await turns(2)
        closes.cancel()
        await within_patience(asyncio.wait({closes}))
        assert closes.cancelled()
        result = await ended(run)
        assert result is not None
        assert (result.status, stage.end(run).payload["cancel_mode"]) == (RunStatus.cancelled, "shutdown")
        await within_patience(stage.manager.aclose())


async def test_closes_and_starts_at_the_same_time_leave_no_run_without_an_end(backend: Backend, agents: Agents) -> None:
    for moment in (0, 1, 3, 10):
        async with backend.open({"work": agents.work}) as stage:
            spec = RunSpec("work", "quick", thread_id=f"t{moment}")
            starts = [asyncio.create_task(stage.manager.start(spec)) for _ in range(10)]
            await turns(moment)
            await within_patience(stage.manager.aclose(grace=0.0))
            got: list[Any] = await within_patience(asyncio.gather(*starts, return_exceptions=True))
            for each in got:
                if isinstance(each, RunHandle):
                    await ended(each)
                else:
                    assert isinstance(each, ClosedError)
    async with backend.open({"work": agents.work}) as stage:  # runs left to the next start now have their turn
        for moment in (0, 1, 3, 10):
            assert (await stage.run("work", "quick", thread_id=f"t{moment}")).status is RunStatus.success


async def test_an_agent_that_does_not_stop_is_left_behind_and_named(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def stubborn(input: Any) -> None:
        entered.set()
        while not leave.is_set():
            try:
                await leave.wait()
            except asyncio.CancelledError:
                continue

    async with backend.open({"stubborn": stubborn}) as stage:
        run = await stage.start("stubborn")
        await within_patience(entered.wait())
        await within_patience(stage.manager.aclose(grace=0.0))
        assert stage.told(run) == ["run_started", "thread_status_updated busy"], "it is not said to have ended"
        assert run.run_id in caplog.text
        assert (await stage.record(run)).status is RunStatus.running
        leave.set()
        assert (await within_patience(run.result())).status is RunStatus.cancelled


async def test_a_manager_that_is_left_with_an_exception_waits_for_nobody(backend: Backend, agents: Agents) -> None:
    with pytest.raises(ValueError, match="the app failed"):
        async with backend.open({"work": agents.work}, shutdown_grace=3_600.0) as stage:
            run = await stage.start("work", "long")
            await agents.until_running("long")
            raise ValueError("the app failed")
    assert stage.end(run).payload["cancel_mode"] == "shutdown"


async def test_observers_are_told_everything_before_they_are_let_go(backend: Backend, agents: Agents) -> None:
    slow = Slow()
    async with backend.open({"work": agents.work}, observers=[slow], shutdown_grace=10.0) as stage:
        for n in range(20):
            await stage.start("work", f"quick {n}")
    assert [e.event_id for e in slow.events] == [e.event_id for e in stage.events]
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("trackside-")]


class Slow(RecordingObserver):
    """Takes a few turns of the loop for each event."""

    async def on_event(self, event: Any) -> None:
        await turns(2)
        await super().on_event(event)


async def test_observers_that_need_a_place_get_no_run_after_the_close(backend: Backend, agents: Agents) -> None:
    refused: list[BaseException] = []

    class Starter(RecordingObserver):
        async def on_event(self, event: Any) -> None:
            if event.event_type == "run_cancelled":
                try:
                    await stage.manager.start(RunSpec("work", "quick"))
                except ClosedError as exc:
                    refused.append(exc)
            await super().on_event(event)

    async with backend.open({"work": agents.work}, observers=[required(Starter())]) as stage:
        await stage.start("work", "long")
        await agents.until_running("long")
    assert len(refused) == 1
    assert agents.begun == ["long"]
