"""Which calls a run made: in the order of their starts, timed by the run's own clock, however it ends."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.contract.ways_to_run import virtual

from trackside.harness import RunContext, RunManager, RunSpec, RunStatus
from trackside.harness.calls import MAX_CALLS
from trackside.harness.errors import InvalidSpecError
from trackside.harness.journal import Journal
from trackside.testing import RecordingObserver, VirtualClock

type Code = Callable[[Any, RunContext], Awaitable[Any]]


async def ended(agent: Code, *, cancel_after: float | None = None, **asked: Any) -> tuple[RunStatus, dict[str, Any]]:
    """How a run of an agent ended, in virtual time, with its totals."""
    recorder = RecordingObserver()
    async with RunManager(observers=[recorder], clock=VirtualClock()) as manager:
        handle = await manager.start(RunSpec(agent, "hello", **asked))
        if cancel_after is not None:
            await asyncio.sleep(cancel_after)
            await handle.cancel()
        result = await handle.result()
        await manager.observers.flush(1)
    told = next(event.payload for event in recorder.events if "completion_data" in event.payload)["completion_data"]
    assert result.completion_data == told
    return result.status, told


@virtual
async def test_calls_are_listed_in_the_order_of_their_starts_with_the_seconds_that_they_took() -> None:
    async def agent(_: Any, run: RunContext) -> None:
        await asyncio.sleep(1)
        with run.call("invoke_agent", "researcher"):
            with run.call("execute_tool", "search", caller="researcher"):
                await asyncio.sleep(2)
            with run.call("chat", "asked-for", caller="researcher") as call:
                await asyncio.sleep(4)
                run.record_usage("answered", input_tokens=12, output_tokens=40, reasoning_tokens=7, call=call)
        run.record_usage("other", input_tokens=1, output_tokens=2, cache_read_tokens=1, seconds=6.5)
        run.record_tool_call("look", seconds=0.5)

    _, told = await ended(agent)
    at_researcher = {"caller": "researcher", "name": "answered", "kind": "chat", "request_model": "asked-for"}
    tokens = {"input_tokens": 12, "output_tokens": 40, "reasoning_tokens": 7}
    lead = {"caller": "lead_agent"}
    cached = {"input_tokens": 1, "output_tokens": 2, "cache_read_tokens": 1}
    assert told["calls"] == [
        {"kind": "chat", "name": "other", **lead, "at": 0.5, "seconds": 6.5, **cached},
        {"kind": "invoke_agent", "name": "researcher", **lead, "at": 1, "seconds": 6},
        {"kind": "execute_tool", "name": "search", "caller": "researcher", "at": 1, "seconds": 2},
        {**at_researcher, "at": 3, "seconds": 4, **tokens},
        {"kind": "execute_tool", "name": "look", **lead, "at": 6.5, "seconds": 0.5},
    ]
    assert (told["tool_call_count"], told["llm_call_count"]) == (2, 2)
    assert told["token_usage_by_caller"]["researcher"]["total_tokens"] == 52


@virtual
async def test_what_is_raised_inside_is_told_as_the_calls_failure_and_passed_on() -> None:
    async def agent(_: Any, run: RunContext) -> None:
        with run.call("execute_tool", "send"):
            raise ConnectionError("nobody is there")

    status, told = await ended(agent)
    assert status is RunStatus.error
    assert [call["error_type"] for call in told["calls"]] == ["ConnectionError"]


@virtual
async def test_a_question_is_no_failure_of_the_tool_that_asks_it() -> None:
    async def agent(_: Any, run: RunContext) -> None:
        with run.call("execute_tool", "ask"):
            run.interrupt("May I?")

    status, told = await ended(agent)
    assert status is RunStatus.interrupted
    assert [call.get("error_type") for call in told["calls"]] == [None]


@pytest.mark.parametrize(
    ("asked", "status"),
    [({"cancel_after": 3.0}, RunStatus.cancelled), ({"timeout": 3.0}, RunStatus.timeout)],
    ids=["cancelled", "timeout"],
)
@virtual
async def test_calls_that_a_stop_broke_off_have_lasted_until_then(asked: dict[str, Any], status: RunStatus) -> None:
    async def agent(_: Any, run: RunContext) -> None:
        await asyncio.sleep(1)
        run.begin_call("invoke_agent", "nobody ends this one")
        with run.call("execute_tool", "slow"):
            await asyncio.sleep(1_000)

    ended_as, told = await ended(agent, **asked)
    assert ended_as is status
    assert [(call["at"], call["seconds"], call["error_type"]) for call in told["calls"]] == [(1, 2, "cancelled")] * 2


@virtual
async def test_a_call_that_has_not_come_back_when_the_run_succeeds_is_unfinished() -> None:
    async def agent(_: Any, run: RunContext) -> None:
        run.begin_call("chat", "slow")
        await asyncio.sleep(2)

    _, told = await ended(agent)
    assert [(call["seconds"], call["error_type"]) for call in told["calls"]] == [(2, "unfinished")]


@virtual
async def test_a_run_that_calls_nothing_lists_nothing() -> None:
    async def agent(_: Any, run: RunContext) -> None:
        assert run.elapsed == 0

    _, told = await ended(agent)
    assert "calls" not in told
    assert "calls_omitted" not in told


def test_the_first_thousand_calls_are_listed_and_all_are_counted() -> None:
    journal = Journal()
    journal.start()
    for number in range(MAX_CALLS + 7):
        journal.record_tool_call(f"tool-{number}")
    told = journal.completion_data(1.0)
    assert [call["name"] for call in told["calls"]] == [f"tool-{number}" for number in range(MAX_CALLS)]
    assert told["calls_omitted"] == 7
    assert told["tool_call_count"] == MAX_CALLS + 7


def test_names_are_plain_and_short() -> None:
    journal = Journal()
    journal.begin_call("execute_tool", "half of an emoji \ud83d" + "x" * 10_000, "\x00").end()
    (call,) = journal.completion_data(0)["calls"]
    call["name"].encode()
    assert len(call["name"]) <= 200


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "1", True], ids=repr)
def test_seconds_that_are_none_are_refused_and_nothing_counted(seconds: Any) -> None:
    journal = Journal()
    with pytest.raises(InvalidSpecError, match="a number of seconds from 0 up"):
        journal.record_usage("m", input_tokens=1, output_tokens=1, seconds=seconds)
    with pytest.raises(InvalidSpecError, match="a number of seconds from 0 up"):
        journal.record_tool_call("look", seconds=seconds)
    assert journal.completion_data(0) == Journal().completion_data(0)


@pytest.mark.parametrize("at", [-7, float("nan"), float("inf"), 10**400, "0.5", True], ids="{!r:.9}".format)
@virtual
async def test_a_call_that_began_at_no_second_of_the_run_fails_its_agent_and_nothing_is_counted(at: Any) -> None:
    async def agent(_: Any, run: RunContext) -> None:
        run.begin_call("execute_tool", "search", at=at).end()

    status, told = await ended(agent)
    assert status is RunStatus.error
    assert (told["tool_call_count"], told.get("calls")) == (0, None)


@virtual
async def test_a_run_ends_though_its_agent_spoils_what_it_has_said_of_a_call(caplog: pytest.LogCaptureFixture) -> None:
    async def agent(_: Any, run: RunContext) -> str:
        run.begin_call("chat", "small").at = None  # type: ignore[assignment]
        return "done"

    status, told = await ended(agent)
    assert status is RunStatus.success
    assert told == Journal().completion_data(0)
    assert "its end says nothing of it" in caplog.text


def test_what_is_said_first_of_a_calls_end_counts_and_what_it_used_adds_up() -> None:
    now = iter([0.0, 1.0, 3.0, 9.0])
    journal = Journal(monotonic=lambda: next(now))
    journal.start()
    call = journal.begin_call("chat", "asked-for")
    journal.record_usage("small", input_tokens=1, output_tokens=2, cache_read_tokens=1, call=call)
    journal.record_usage("large", input_tokens=10, output_tokens=20, reasoning_tokens=5, call=call)
    call.end()
    call.end(ConnectionError("said when it was over"))

    (told,) = journal.completion_data(9.0)["calls"]
    assert told == {
        "kind": "chat",
        "name": "large",
        "request_model": "asked-for",
        "caller": "lead_agent",
        "at": 1,
        "seconds": 2,
        "input_tokens": 11,
        "output_tokens": 22,
        "cache_read_tokens": 1,
        "reasoning_tokens": 5,
    }


def test_another_kind_of_call_is_refused() -> None:
    unknown: Any = "dance"
    with pytest.raises(InvalidSpecError, match="choose one of chat, execute_tool, invoke_agent"):
        Journal().begin_call(unknown, "tango")


def test_calls_from_many_threads_are_all_listed() -> None:
    journal = Journal()
    journal.start()

    def work(name: str) -> None:
        for _ in range(50):
            call = journal.begin_call("chat", name)
            journal.record_usage(name, input_tokens=1, output_tokens=1, call=call)
            call.end()

    threads = [threading.Thread(target=work, args=[f"model-{number}"]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    calls = journal.completion_data(1.0)["calls"]
    assert len(calls) == 400
    assert sum(call["input_tokens"] for call in calls) == 400
    assert [call["at"] for call in calls] == sorted(call["at"] for call in calls)
