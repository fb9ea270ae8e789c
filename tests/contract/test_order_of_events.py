"""The order of events in one run, however it ends: by itself, by a failure, or by its timeout."""

import asyncio
import gc
import threading
import weakref
from typing import Any

import pytest
from tests.contract.ways_to_run import Way, both_ways, end_of, required, told, virtual
from unsayable import UnsayableError

from trackside.harness import LifecycleEventType, RunContext, RunStatus
from trackside.testing import RecordingObserver, assert_run_order, run_virtual

OPENING = ["run_started", "thread_status_updated busy"]


class AgentBaseError(BaseException):
    """Neither an `Exception` nor one of Python's own."""


@both_ways
@virtual
async def test_success(way: Way) -> None:
    seen = RecordingObserver()

    async def agent(input: str, run: RunContext) -> dict[str, Any]:
        run.set_title("Greeting")
        return {"answer": input.upper()}

    async with way(seen) as runs:
        result = await runs.run(agent, "hello", thread_id="t", metadata={"team": "blue"})

    assert told(seen.events) == [*OPENING, "human_message", "run_completed success", "thread_status_updated idle"]
    assert_run_order(seen.events)
    started, busy, message, completed, idle = seen.events
    assert started.payload == {"agent": "agent", "metadata": {"team": "blue"}}
    assert busy.payload == {"status": "busy", "previous": "idle"}
    assert message.payload["message"]["content"] == "hello"
    assert completed.payload["title"] == "Greeting"
    assert idle.payload == {"status": "idle", "previous": "busy", "title": "Greeting"}
    assert {e.thread_id for e in seen.events} == {"t"} == {result.thread_id}
    assert {e.run_id for e in seen.events} == {result.run_id}
    assert (result.status, result.error, result.title) == (RunStatus.success, None, "Greeting")
    assert result.completion_data == completed.payload["completion_data"]


@both_ways
@virtual
async def test_a_run_without_input_brings_no_human_message(way: Way) -> None:
    seen = RecordingObserver()

    async def agent(input: None) -> None: ...

    async with way(seen) as runs:
        await runs.run(agent)
    assert told(seen.events) == [*OPENING, "run_completed success", "thread_status_updated idle"]


FAILURES = [
    pytest.param(ValueError("no such city"), "ValueError", "no such city", id="Exception"),
    pytest.param(AgentBaseError("odd"), "AgentBaseError", "odd", id="BaseException"),
    pytest.param(SystemExit(3), "SystemExit", "SystemExit: 3", id="SystemExit"),
    pytest.param(GeneratorExit("closed"), "GeneratorExit", "closed", id="GeneratorExit"),
    pytest.param(asyncio.CancelledError(), "CancelledError", "CancelledError without a message", id="I16-own-cancel"),
    pytest.param(StopAsyncIteration(), "StopAsyncIteration", "StopAsyncIteration without a message", id="StopAsync"),
    pytest.param(
        BaseExceptionGroup("both", [SystemExit(1), ValueError()]), "BaseExceptionGroup", "both (2", id="group"
    ),
    pytest.param(KeyError("city"), "KeyError", "KeyError: 'city'", id="KeyError"),
]


@both_ways
@pytest.mark.parametrize("pauses", [0, 1], ids=["at-once", "after-a-pause"])
@pytest.mark.parametrize(("raises", "error_type", "error"), FAILURES)
@virtual
async def test_whatever_an_agent_raises_is_the_end_of_its_run_alone(
    way: Way, raises: BaseException, error_type: str, error: str, pauses: int
) -> None:
    seen = RecordingObserver()

    async def agent(input: Any) -> None:
        for _ in range(pauses):
            await asyncio.sleep(1)
        raise raises

    async with way(seen) as runs:
        result = await runs.run(agent)

    assert told(seen.events) == [*OPENING, "run_failed error", "thread_status_updated error"]
    assert_run_order(seen.events)
    says = end_of(seen.events).payload
    assert says["error_type"] == error_type
    assert says["error"].startswith(error)
    assert "raise raises" in says["traceback"]
    assert (result.status, result.error) == (RunStatus.error, says["error"])


@both_ways
@pytest.mark.parametrize("raises", [SystemExit(2), StopIteration(), AgentBaseError()], ids=lambda e: type(e).__name__)
@virtual
async def test_whatever_an_agent_raises_in_a_thread_is_the_end_of_its_run_alone(
    way: Way, raises: BaseException
) -> None:
    seen = RecordingObserver()

    def agent(input: Any) -> None:
        raise raises

    async with way(seen) as runs:
        assert (await runs.run(agent)).status is RunStatus.error
    assert told(seen.events) == [*OPENING, "run_failed error", "thread_status_updated error"]


@both_ways
@pytest.mark.parametrize("in_thread", [False, True], ids=["task", "thread"])
def test_keyboard_interrupt_is_raised_after_the_terminal_event(way: Way, in_thread: bool) -> None:
    seen = RecordingObserver()

    async def agent(input: Any) -> None:
        raise KeyboardInterrupt

    def plain_agent(input: Any) -> None:
        raise KeyboardInterrupt

    async def story() -> None:
        async with way(required(seen)) as runs:
            try:
                await runs.run(plain_agent if in_thread else agent)
            except KeyboardInterrupt:
                assert told(seen.events)[-1] == "thread_status_updated error"
                raise
            await asyncio.Event().wait()

    with pytest.raises(KeyboardInterrupt):
        run_virtual(story())
    assert told(seen.events) == [*OPENING, "run_failed error", "thread_status_updated error"]
    assert end_of(seen.events).payload["error_type"] == "KeyboardInterrupt"


@both_ways
@virtual
async def test_an_exception_that_cannot_say_what_it_is_ends_the_run_all_the_same(way: Way) -> None:
    seen = RecordingObserver()

    async def agent(input: Any) -> None:
        raise UnsayableError

    async with way(seen) as runs:
        result = await runs.run(agent)
    assert result.error is not None
    assert result.error.endswith("UnsayableError, whose message cannot be read")
    assert_run_order(seen.events)


@both_ways
@pytest.mark.parametrize("part", ["__class__", "__traceback__", "__cause__"])
@virtual
async def test_an_exception_that_does_not_let_itself_be_looked_at_ends_the_run_all_the_same(
    way: Way, part: str
) -> None:
    seen = RecordingObserver()

    class Remote(Exception):
        def __getattribute__(self, name: str) -> Any:
            if name == part:
                raise EOFError("the connection is gone")
            return super().__getattribute__(name)

    async def agent(input: Any) -> None:
        raise Remote("no such file")

    async with way(seen) as runs:
        result = await runs.run(agent)
    assert (result.status, result.error) == (RunStatus.error, "no such file")
    assert end_of(seen.events).payload["error_type"].endswith("Remote")
    assert_run_order(seen.events)


@both_ways
@virtual
async def test_timeout(way: Way) -> None:
    seen = RecordingObserver()

    async def agent(input: Any) -> None:
        await asyncio.sleep(60)

    async with way(seen) as runs:
        result = await runs.run(agent, timeout=5)

    assert told(seen.events) == [*OPENING, "run_failed timeout", "thread_status_updated error"]
    says = end_of(seen.events).payload
    assert says["error"] == "the run took longer than its timeout of 5 s"
    assert says["error_type"] == "TimeoutError"
    assert 5 <= says["completion_data"]["duration_seconds"] < 6 or way.cancel_mode == "task_cancelled"
    assert (result.status, result.error) == (RunStatus.timeout, says["error"])


@both_ways
@pytest.mark.parametrize("then", ["returns", "raises", "goes on for a while"])
@virtual
async def test_timeout_of_an_agent_that_swallows_the_cancel_once(way: Way, then: str) -> None:
    seen = RecordingObserver()
    stopped = False

    async def agent(input: Any) -> str:
        nonlocal stopped
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if then == "goes on for a while":
                await asyncio.sleep(10)
            stopped = True
        if then == "raises":
            raise ValueError("interrupted in the middle")
        return "as if nothing had happened"

    async with way(seen) as runs:
        result = await runs.run(agent, timeout=5)
        assert stopped, "the run ends when its agent has really stopped"
    assert result.status is RunStatus.timeout
    assert told(seen.events) == [*OPENING, "run_failed timeout", "thread_status_updated error"]


@both_ways
async def test_timeout_of_a_plain_function_waits_for_its_thread(way: Way) -> None:
    seen = RecordingObserver()
    never, returned = threading.Event(), threading.Event()

    def agent(input: Any, run: RunContext) -> str:
        while not run.cancelled:
            never.wait(0.001)
        returned.set()
        return "told to stop"

    async with way(required(seen)) as runs:
        result = await runs.run(agent, timeout=0.5)
        assert returned.is_set()
    assert result.status is RunStatus.timeout
    assert told(seen.events) == [*OPENING, "run_failed timeout", "thread_status_updated error"]


@both_ways
@virtual
async def test_an_agent_that_ends_before_its_timeout_leaves_no_timer(way: Way) -> None:
    seen = RecordingObserver()
    ended: list[weakref.ref[RunContext]] = []

    async def agent(input: Any, run: RunContext) -> str:
        ended.append(weakref.ref(run))
        return "quick"

    async with way(seen) as runs:
        assert (await runs.run(agent, timeout=1_000)).status is RunStatus.success
        await runs.run(agent, timeout=1_000)
        await asyncio.sleep(100)
        gc.collect()
        assert ended[0]() is None, "a timer that still waits would hold on to its run"
        await asyncio.sleep(2_000)
    assert told(seen.events)[-2:] == ["run_completed success", "thread_status_updated idle"]


@both_ways
@pytest.mark.parametrize("ends", ["success", "error", "timeout", "cancelled", "interrupted"])
@virtual
async def test_every_terminal_event_names_its_agent_and_carries_the_tokens(way: Way, ends: str) -> None:
    seen = RecordingObserver()
    counted = asyncio.Event()

    async def agent(input: str, run: RunContext) -> str:
        run.record_usage("model-a", input_tokens=100, output_tokens=20, cache_read_tokens=7, cost_usd=0.25)
        run.record_usage("model-b", input_tokens=3, output_tokens=4, reasoning_tokens=2, caller="planner")
        run.record_tool_call("search")
        run.message({"role": "assistant", "content": "one moment"})
        counted.set()
        if ends == "error":
            raise ValueError
        if ends == "interrupted":
            run.interrupt("go on?")
        if ends in {"timeout", "cancelled"}:
            await asyncio.sleep(100)
        return "done"

    async with way(seen) as runs:
        run = await runs.start(agent, "question", timeout=50)
        await counted.wait()
        if ends == "cancelled":
            await run.cancel()
        await run.ended()

    assert_run_order(seen.events)
    assert end_of(seen.events).payload["agent"] == "agent"
    data = end_of(seen.events).payload["completion_data"]
    assert (data["total_input_tokens"], data["total_output_tokens"], data["total_tokens"]) == (103, 24, 127)
    assert (data["llm_call_count"], data["tool_call_count"]) == (2, 1)
    assert data["message_count"] == (3 if ends == "success" else 2)
    assert data["cost_usd"] == 0.25
    assert data["first_human_message"] == "question"
    assert data["last_ai_message"] == ("done" if ends == "success" else "one moment")
    assert data["token_usage_by_model"] == {
        "model-a": {
            "input_tokens": 100,
            "output_tokens": 20,
            "total_tokens": 120,
            "cache_read_tokens": 7,
            "cost_usd": 0.25,
        },
        "model-b": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7, "reasoning_tokens": 2},
    }
    assert {name: usage["total_tokens"] for name, usage in data["token_usage_by_caller"].items()} == {
        "lead_agent": 120,
        "planner": 7,
    }
    assert data["duration_seconds"] >= 0


@both_ways
@virtual
async def test_a_run_that_fails_before_its_agent_is_called_has_started_all_the_same(way: Way) -> None:
    seen = RecordingObserver()
    called = False

    async def agent(input: Any) -> None:
        nonlocal called
        called = True

    async with way(seen) as runs:
        result = await runs.run(agent, command={"resume": "yes"})
    assert not called
    assert result.status is RunStatus.error
    assert end_of(seen.events).payload["error_type"] == "NotPausedError"
    # The run was asked for wrongly, and left the thread as it was.
    assert told(seen.events) == [*OPENING, "run_failed error", "thread_status_updated idle"]


@both_ways
@virtual
async def test_the_events_of_one_run_have_ids_and_times_that_grow(way: Way) -> None:
    seen = RecordingObserver()

    async def agent(input: Any, run: RunContext) -> None:
        await asyncio.sleep(1)

    async with way(seen) as runs:
        await runs.run(agent, "hello")
    ids = [event.event_id for event in seen.events]
    times = [event.occurred_at for event in seen.events]
    assert ids == sorted(set(ids))
    assert times == sorted(times)
    assert [event.sequence for event in seen.events] == [1, 2, 3, 4, 5]


@both_ways
@virtual
async def test_nobody_is_told_of_the_end_before_the_terminal_event_is_taken(way: Way) -> None:
    from tests.contract.ways_to_run import Gate

    gate = Gate(LifecycleEventType.RUN_COMPLETED)

    async def agent(input: Any, run: RunContext) -> None:
        run.send("working")

    async with way(required(gate)) as runs:
        run = await runs.start(agent)
        await gate.reached.wait()
        await asyncio.sleep(10)
        assert not run.waits.done()
        if hasattr(runs, "manager"):
            assert (await runs.manager.get(run.run_id)).status is RunStatus.running
            follower = asyncio.create_task(anext(runs.manager.stream(run.run_id, after=1), None))
            await asyncio.sleep(10)
            assert not follower.done()
        gate.opened.set()
        assert isinstance(await run.ended(), object)
        if hasattr(runs, "manager"):
            assert (await runs.manager.get(run.run_id)).status is RunStatus.success
            assert await follower is None


@both_ways
@virtual
async def test_the_error_of_a_task_group_says_what_failed_in_it(way: Way) -> None:
    seen = RecordingObserver()

    async def look_up() -> None:
        raise ExceptionGroup("cities", [LookupError("no Rome"), KeyError("Bonn"), ValueError(), OSError("no disk")])

    async def agent(input: Any) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(look_up())

    async with way(seen) as runs:
        result = await runs.run(agent)
    said = "LookupError: no Rome; KeyError: 'Bonn'; ValueError without a message; …"
    assert result.error == f"unhandled errors in a TaskGroup (1 sub-exception): {said}"
