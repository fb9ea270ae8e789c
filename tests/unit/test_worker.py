"""How a run is executed when its agent or its services are not what they should be."""

import asyncio
import gc
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, override

import pytest
from tests.contract.slow_ports import SlowCoordinator, SlowStates
from tests.contract.ways_to_run import ByManager, Way, both_ways, end_of, required, told, virtual
from tests.unit.scripted_agents import BUSY, FAILED, Scripted

from trackside.harness import AgentResult, RunContext, RunManager, RunResult, RunSpec, RunStatus
from trackside.harness.foreign.failures import TRACEBACK_CHARS
from trackside.testing import RecordingObserver, assert_run_order

NOT_RESULTS = [
    pytest.param(None, id="None"),
    pytest.param({"answer": 42}, id="dict"),
    pytest.param("done", id="text"),
    pytest.param(AgentResult("x", values=["a list"]), id="values that are no mapping"),  # type: ignore[arg-type]
    pytest.param(AgentResult("x", interrupts=5), id="interrupts that are a number"),  # type: ignore[arg-type]
    pytest.param(AgentResult("x", interrupts=["?"]), id="interrupts that are texts"),  # type: ignore[list-item]
    pytest.param(AgentResult("x", interrupts=[{"value": "?"}]), id="an interrupt without an id"),
    pytest.param(AgentResult("x", interrupts=[{"id": 5, "value": "?"}]), id="an interrupt whose id is no text"),
    pytest.param(AgentResult("x", interrupts=[{"id": "a"}, {"id": "b"}, {"id": "a"}]), id="interrupts of one id"),
]


@both_ways
@pytest.mark.parametrize("gives", NOT_RESULTS)
@virtual
async def test_an_agent_whose_result_is_none_fails_and_its_run_ends(way: Way, gives: Any) -> None:
    seen = RecordingObserver()
    async with way(required(seen)) as runs:
        result = await runs.run(Scripted(gives))
    assert told(seen.events) == FAILED
    assert end_of(seen.events).payload["error_type"] == "AgentOutputError"
    assert "The agent 'scripted' gave back something that is not a result" in (result.error or "")
    assert_run_order(seen.events)


@both_ways
@pytest.mark.parametrize("method", ["run", "human_messages"])
@virtual
async def test_an_agent_whose_methods_are_plain_functions_that_fail(way: Way, method: str) -> None:
    seen = RecordingObserver()

    class Plain(Scripted):
        def fails(self, run: RunContext) -> Any:
            raise LookupError("at once")

    agent = Plain()
    setattr(agent, method, agent.fails)
    async with way(required(seen)) as runs:
        result = await runs.run(agent)
    assert told(seen.events) == FAILED
    assert result.error == "at once"
    assert_run_order(seen.events)


class LeavesBadly(Scripted):
    def leave(self, run: RunContext) -> Any:
        raise LookupError("at once")


@both_ways
@virtual
async def test_an_agent_whose_leave_is_a_plain_function_that_fails_has_its_result_all_the_same(
    way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    async with way() as runs:
        result = await runs.run(LeavesBadly())
    assert (result.status, result.output) == (RunStatus.success, "done")
    (line,) = [record for record in caplog.records if "could not be closed" in record.message]
    assert isinstance(line.exc_info[1], LookupError)  # type: ignore[index]


@virtual
async def test_a_run_that_was_withdrawn_has_an_end_though_its_agent_fails_when_it_is_left() -> None:
    async with ByManager(max_running=1) as runs:
        first = await runs.start(Scripted(seconds=1.0))
        pending = await runs.start(LeavesBadly())
        await pending.cancel()
        result = await pending.ended()
        await first.ended()
    assert isinstance(result, RunResult)
    assert result.status is RunStatus.cancelled


@both_ways
@pytest.mark.parametrize("raises", [ValueError("no"), SystemExit(1), asyncio.CancelledError()], ids=repr)
@virtual
async def test_messages_that_cannot_be_had_fail_the_run_after_its_start(way: Way, raises: BaseException) -> None:
    seen = RecordingObserver()
    async with way(required(seen)) as runs:
        await runs.run(Scripted(brings=raises))
    assert told(seen.events) == FAILED


class Remembered(Scripted):
    uses_thread_state = True


@both_ways
@pytest.mark.parametrize("kind", [Scripted, Remembered])
@virtual
async def test_a_cancel_while_the_run_is_being_prepared_comes_before_the_agent(way: Way, kind: type[Scripted]) -> None:
    for moment in (0.5, 1.0):
        seen = RecordingObserver()
        agent = kind(seconds=1.0, brings=[{"type": "human", "content": "hi"}])
        async with way(required(seen)) as runs:
            run = await runs.start(agent)
            await asyncio.sleep(moment)
            await run.cancel()
            await run.ended()
        assert told(seen.events) == [
            "run_started",
            BUSY,
            f"run_cancelled {way.cancel_mode}",
            "thread_status_updated idle",
        ]
        assert_run_order(seen.events)


@both_ways
@pytest.mark.parametrize("fails", [False, True])
@virtual
async def test_what_an_agent_says_while_it_prepares_a_run_is_announced_after_the_start(way: Way, fails: bool) -> None:
    class Early(Scripted):
        @override
        async def human_messages(self, run: RunContext) -> Sequence[Mapping[str, Any]]:
            run.message({"type": "human", "content": "early"})
            await asyncio.sleep(1)
            if fails:
                raise LookupError("no more")
            return await super().human_messages(run)

    seen = RecordingObserver()
    async with way(required(seen)) as runs:
        await runs.run(Early(brings=[{"type": "human", "content": "hi"}], seconds=1))
    assert_run_order(seen.events)
    said = [event.payload["message"]["content"] for event in seen.events if event.event_type == "human_message"]
    assert said == (["early"] if fails else ["hi", "early"])


@pytest.mark.parametrize("timeout", [0.5, 1.0, 1.5, 2.0, 2.5])
@virtual
async def test_a_timeout_counts_from_the_claim(timeout: float) -> None:
    seen = RecordingObserver()
    async with ByManager(required(seen)) as runs:
        result = await runs.run(Scripted(seconds=1.0), timeout=timeout)
    assert result.status is (RunStatus.success if timeout > 2 else RunStatus.timeout) or timeout == 2.0
    assert_run_order(seen.events)


@virtual
async def test_a_run_that_never_started_took_no_time_however_long_it_waited() -> None:
    seen = RecordingObserver()
    async with ByManager(required(seen)) as runs:
        await runs.start(Scripted(seconds=5.0), thread_id="t")
        waiting = await runs.start(Scripted(), thread_id="t")
        await asyncio.sleep(3)
        await runs.manager.cancel(waiting.run_id, wait=True)
    (alone,) = [event for event in seen.events if event.run_id == waiting.run_id]
    assert alone.payload["completion_data"]["duration_seconds"] == 0.0


@pytest.mark.parametrize("moment", [0.0, 0.5, 1.0, 1.5, 2.0, 3.5, 4.0, 4.5])
@virtual
async def test_a_cancel_at_any_moment_of_slow_steps_ends_the_run_once_and_frees_its_thread(moment: float) -> None:
    seen = RecordingObserver()
    coordinator, states = SlowCoordinator(), SlowStates()

    async def agent(input: Any) -> str:
        await asyncio.sleep(1)
        return "done"

    async with ByManager(required(seen), coordinator=coordinator, states=states) as runs:
        starts = asyncio.create_task(runs.manager.start(RunSpec(agent, "hello", thread_id="t", run_id="first")))
        await asyncio.sleep(2 + moment)
        handle = await starts
        await handle.cancel(wait=True)
        assert (await runs.run(agent, thread_id="t", run_id="second")).status is RunStatus.success
    assert_run_order(seen.events)
    assert {e.run_id for e in seen.events} == {"first", "second"}


@both_ways
@virtual
async def test_a_long_traceback_keeps_its_end(way: Way) -> None:
    seen = RecordingObserver()

    async def agent(input: Any) -> None:
        raise ValueError("x" * TRACEBACK_CHARS)

    async with way(seen) as runs:
        await runs.run(agent)
    trace = end_of(seen.events).payload["traceback"]
    assert len(trace) == TRACEBACK_CHARS + 1
    assert trace.startswith("…")
    assert "trackside/harness" not in trace


@both_ways
@virtual
async def test_the_title_comes_from_the_agent_or_its_values(way: Way) -> None:
    async with way() as runs:
        by_values = await runs.run(Scripted(AgentResult(values={"title": "From values"})))
        no_title = await runs.run(Scripted(AgentResult(values={"title": 5})))

        async def titled(input: Any, run: RunContext) -> dict[str, str]:
            run.set_title("By hand")
            return {"title": "From values"}

        by_hand = await runs.run(titled)
    assert [r.title for r in (by_values, no_title, by_hand)] == ["From values", None, "By hand"]


@virtual
async def test_the_result_is_the_callers_own() -> None:
    async def works(input: Any, run: RunContext) -> None:
        with run.call("execute_tool", "search"):
            pass

    seen = RecordingObserver()
    async with RunManager(observers=[required(seen)]) as manager:
        result = await (await manager.start(RunSpec(works))).result()
        result.completion_data["token_usage_by_model"]["spoilt"] = {}
        result.completion_data["calls"][0]["name"] = "spoilt"
        result.completion_data.clear()
        record = await manager.get(result.run_id)
    told = end_of(seen.events).payload["completion_data"]
    assert (told["token_usage_by_model"], told["calls"][0]["name"]) == ({}, "search")
    assert record.completion_data["message_count"] == 0


@both_ways
@virtual
async def test_an_agent_that_asks_because_no_model_answered_has_something_to_say(way: Way) -> None:
    async def agent(input: object, run: RunContext) -> None:
        run.record_model_failure(ConnectionError("no model"))
        run.interrupt("what shall I do without a model?")

    async with way() as runs:
        assert (await runs.run(agent)).status is RunStatus.interrupted


@pytest.mark.parametrize("asked", [{}, {"max_tokens": 10}], ids=["no budget", "a budget"])
@both_ways
@virtual
async def test_a_run_that_has_ended_does_not_wait_for_the_garbage_collector(way: Way, asked: dict[str, Any]) -> None:
    runs_seen: list[weakref.ref[RunContext]] = []

    async def agent(input: object, run: RunContext) -> None:
        runs_seen.append(weakref.ref(run))
        run.record_usage("a model", input_tokens=1, output_tokens=1)
        await asyncio.sleep(1)

    async with way(required(RecordingObserver()), RecordingObserver()) as runs:
        gc.disable()
        try:
            result = await asyncio.create_task(runs.run(agent, **asked))
            await asyncio.sleep(0)
            assert [run() for run in runs_seen] == [None]
        finally:
            gc.enable()
    assert result.status is RunStatus.success
