"""Failures are told truly: of agents, whatever they raise, and of a required observer on each kind of event."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.contract.ways_to_run import required
from tests.integration.runs.stage import Agents, Backend, within_patience

from trackside import RunContext, RunLifecycleEvent, RunStatus
from trackside.app.observers.storage import StorageObserver
from trackside.app.spool import Spool
from trackside.harness import DispatchPolicy
from trackside.harness.errors import TracksideError
from trackside.harness.types import LifecycleEventType
from trackside.testing import Misbehaviour, RecordingObserver, assert_run_order


class OwnError(BaseException):
    """An exception that nobody expects."""


RAISED = [ValueError("no"), SystemExit(3), GeneratorExit(), OwnError("own"), asyncio.CancelledError("nobody asked")]


async def test_whatever_an_agent_raises_is_the_error_of_its_run_alone(backend: Backend, agents: Agents) -> None:
    async def raiser(input: Any, run: RunContext) -> None:
        run.record_usage("small", input_tokens=5, output_tokens=2)
        await asyncio.sleep(0)
        raise RAISED[input]

    async with backend.open({"raiser": raiser, "work": agents.work}) as stage:
        for number, raised in enumerate(RAISED):
            behind_it = "quick behind"
            run = await stage.start("raiser", number, thread_id="t")
            behind = await stage.start("work", behind_it, thread_id="t")
            result = await within_patience(run.result())
            assert result.status is RunStatus.error, raised
            end = stage.end(run).payload
            assert end["error_type"] == type(raised).__qualname__
            assert "in raiser" in end["traceback"], "kept for the page of the run"
            assert result.completion_data["total_tokens"] == 7
            assert (await stage.record(run)).error == result.error == end["error"]
            assert (await within_patience(behind.result())).status is RunStatus.success


async def test_a_run_whose_every_call_of_a_model_failed_is_no_success(backend: Backend) -> None:
    async def hides(input: Any, run: RunContext) -> str:
        for _ in range(3):
            run.record_model_failure(ConnectionError("the model is away"))
        if input == "answered at last":
            run.record_usage("small", input_tokens=1, output_tokens=1)
        return "Sorry, something went wrong."

    async with backend.open({"hides": hides}) as stage:
        failed = await stage.run("hides", "never", thread_id="t")
        assert failed.status is RunStatus.error
        assert "the model is away" in str(failed.error)
        assert stage.end(failed).payload["error_type"] == "ConnectionError"
        assert (await stage.run("hides", "answered at last", thread_id="t")).status is RunStatus.success


async def test_an_exception_that_says_too_much_leaves_room_for_everything_else(backend: Backend) -> None:
    async def talks(input: Any, run: RunContext) -> Any:
        run.record_usage("small", input_tokens=5, output_tokens=2)
        raise ValueError("x" * 3_000_000)

    async with backend.open({"talks": talks}) as stage:
        end = stage.end(await stage.run("talks")).payload
        assert len(end["error"]) + len(end["traceback"]) < 100_000
        assert end["error"].startswith("xxx")
        assert end["error"].endswith("characters]"), "and says that it was cut"
        assert (end["error_type"], end["completion_data"]["total_tokens"]) == ("ValueError", 7)


async def test_an_agent_that_leaves_tasks_behind_has_ended_when_it_returns(backend: Backend, agents: Agents) -> None:
    left: list[asyncio.Task[None]] = []
    go_on = asyncio.Event()

    async def later(run: RunContext) -> None:
        await go_on.wait()
        run.record_usage("small", input_tokens=100, output_tokens=100)
        run.message({"type": "human", "content": "too late"})
        run.send("too late")

    async def careless(input: Any, run: RunContext) -> str:
        left.append(asyncio.create_task(later(run), name="left behind"))
        return "done"

    async with backend.open({"careless": careless, "work": agents.work}) as stage:
        result = await stage.run("careless", thread_id="t")
        go_on.set()
        await within_patience(asyncio.wait(left))
        assert (result.status, result.completion_data["total_tokens"]) == (RunStatus.success, 0)
        assert (await stage.run("work", "quick", thread_id="t")).status is RunStatus.success
        assert "human_message" not in stage.told(result)


class UnreliableLog:
    """A log that refuses one kind of event of one run, as often as it is told to."""

    class AwayError(TracksideError):
        """The log is away."""

        fault = "store"
        retryable = True

    def __init__(self, inner: Any, kind: str, run_id: str, times: int) -> None:
        self._inner = inner
        self._kind = kind
        self._run_id = run_id
        self._left = times

    async def append(self, events: Sequence[RunLifecycleEvent]) -> Any:
        if self._left and any(e.run_id == self._run_id and e.event_type == self._kind for e in events):
            self._left -= 1
            raise self.AwayError
        return await self._inner.append(events)


FOR_EVER = 10**6
KINDS = {  # the input that has the run announce each of these
    "run_started": "quick",
    "human_message": "quick",
    "run_completed": "quick",
    "run_failed": "fail",
    "run_cancelled": "long",
    "thread_status_updated": "quick",
}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_log_that_is_away_for_one_kind_of_event_and_comes_back_has_the_run_whole(
    backend: Backend, agents: Agents, tmp_path: Path, kind: str
) -> None:
    """Nothing lasting: two tries fail, and then all is as if nothing had happened."""
    async with backend.open({"work": agents.work, "fail": failing}, observers=[]) as stage:
        flaky = RecordingObserver(Misbehaviour(how=OSError("locked"), on=LifecycleEventType(kind), times=2))
        stage.manager.observers.add(flaky, required=True)
        result = await run_to(stage, agents, KINDS[kind])
        assert result.error in (None, "no")
        assert [e.event_id for e in flaky.events if e.run_id == result.run_id] == [
            e.event_id for e in stage.events if e.run_id == result.run_id
        ]
        assert_run_order(flaky.events)


async def failing(input: Any) -> None:
    raise ValueError("no")


async def run_to(stage: Any, agents: Agents, input: str, **asked: Any) -> Any:
    """Have a run end as its input says."""
    run = await stage.start("fail" if input == "fail" else "work", input, thread_id="t", **asked)
    if input == "long":
        await agents.until_running("long")
        await within_patience(run.cancel(wait=True))
    return await within_patience(run.result())


@pytest.mark.parametrize("kind", KINDS)
async def test_a_log_that_never_takes_a_kind_of_event_gates_the_run_and_gets_the_rest_from_the_spool(
    backend: Backend, agents: Agents, tmp_path: Path, kind: str
) -> None:
    """I14: no start is announced that is not stored, and an end that is not stored is kept and delivered later."""
    policy = DispatchPolicy(retry_for=0.0)
    async with backend.open({"work": agents.work, "fail": failing}, policy=policy) as stage:
        inner = stage.store or MemoryLog()
        log = UnreliableLog(inner, kind, "troubled", FOR_EVER)
        observer = StorageObserver(log, spool=Spool(tmp_path / "spool"))
        stage.manager.observers.add(observer, required=True)
        result = await run_to(stage, agents, KINDS[kind], run_id="troubled")
        began = {"quick", "fail", "long"} & {*agents.begun}
        if kind in {"run_started", "human_message", "thread_status_updated"}:
            assert (result.status, began) == (RunStatus.error, set()), "the agent is never called"
        if kind != "thread_status_updated":
            assert result.status is RunStatus.error
            assert f"kept for later in {tmp_path}/spool" in str(result.error), "said loudly"
            assert stage.manager.observers.missed.kept > 0
        log._left = 0
        await within_patience(observer.deliver_spooled())
        assert (await run_to(stage, agents, "quick")).status is RunStatus.success, "and the thread is free"
        if isinstance(inner, MemoryLog):
            assert_run_order(inner.events)
            assert "troubled" in {event.run_id for event in inner.events}
        await observer.aclose()


class MemoryLog:
    """A log in memory that accepts each event once."""

    def __init__(self) -> None:
        self.events: list[RunLifecycleEvent] = []

    async def append(self, events: Sequence[RunLifecycleEvent]) -> None:
        known = {event.event_id for event in self.events}
        self.events += [event for event in events if event.event_id not in known]


async def test_an_optional_observer_that_fails_on_everything_costs_no_run_anything(
    backend: Backend, agents: Agents
) -> None:
    broken = RecordingObserver(Misbehaviour(how=OwnError("broken")))
    hangs = RecordingObserver(Misbehaviour(how="hang"))
    behind = RecordingObserver()
    async with backend.open({"work": agents.work}, observers=[broken, hangs, behind]) as stage:
        results = [await stage.run("work", "quick", thread_id="t") for _ in range(5)]
        assert {result.status for result in results} == {RunStatus.success}
        hangs.release()
        reports = await stage.manager.observers.flush(60)
        assert len(reports) == 3
        for seen in (hangs, behind):
            assert [e.event_id for e in seen.events] == [e.event_id for e in stage.events]
    assert broken.events == []


async def test_nobody_behind_the_log_sees_what_is_not_in_it(backend: Backend, agents: Agents) -> None:
    late = RecordingObserver()
    refuses = RecordingObserver(Misbehaviour(how=OSError("full")))
    policy = DispatchPolicy(retry_for=0.0)
    async with backend.open({"work": agents.work}, observers=[required(refuses), late], policy=policy) as stage:
        result = await stage.run("work", "quick")
        assert result.status is RunStatus.error
        assert "a required observer did not take that: full" in str(result.error)
        await stage.manager.observers.flush(60)
    assert (agents.begun, late.events) == ([], [])
