"""What agents that are plain Python give back: what is streamed, what is the output, and what their thread remembers."""

import asyncio
import functools
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.contract.ways_to_run import Way, both_ways, virtual

from trackside.harness import RunContext, RunManager, RunSpec, RunStatus, StreamPart, run_agent
from trackside.harness.ids import new_id


@virtual
async def test_an_output_that_cannot_be_kept_is_called_an_output() -> None:
    class Unreadable:
        def __repr__(self) -> str:
            raise OSError("no disk")

    async def agent(input: Any) -> Any:
        return {"it": Unreadable()}

    result = await run_agent(agent)
    assert result.error == "The value at output cannot be kept: reading it raised OSError: no disk."


@both_ways
async def test_a_generator_that_a_function_gives_back_is_the_agents_error(way: Way) -> None:
    async with way() as runs:
        result = await runs.run(lambda x: (i for i in range(3)))
        other = await runs.run(functools.partial(stream_three))
        deferred = await runs.run(lambda x: stream_three(x or None))
    assert result.status is RunStatus.error
    assert "a generator; write `async def` with `yield`" in (result.error or "")
    assert other.status is RunStatus.success
    assert deferred.status is RunStatus.error


async def stream_three(input: Any) -> AsyncIterator[int]:
    for i in range(3):
        yield i


@virtual
async def test_each_item_of_an_async_generator_is_streamed_and_the_last_is_the_output() -> None:
    class Streaming:
        async def __call__(self, input: Any, run: RunContext) -> AsyncIterator[int]:
            for i in range(input):
                await asyncio.sleep(1)
                yield i

    async with RunManager() as manager:
        for agent, given, items in ((stream_three, "x", 3), (Streaming(), 4, 4), (Streaming(), 0, 0)):
            run = await manager.start(RunSpec(agent, given))
            parts = [part async for part in run.stream()]
            assert [p.data for p in parts if isinstance(p, StreamPart) and p.mode == "custom"] == list(range(items))
            values = [p.data for p in parts if isinstance(p, StreamPart) and p.mode == "values"]
            assert values == ([{"output": items - 1}] if items else [])


@both_ways
@virtual
async def test_what_a_function_returns_is_the_output_and_what_its_thread_remembers_however_long(way: Way) -> None:
    said = {"messages": [{"type": "ai", "content": "x" * 2_000_000}, {"type": "ai", "content": "the newest"}]}

    async def agent(input: Any, run: RunContext) -> Any:
        return run.values or said

    async with way() as runs:
        thread_id = new_id()
        first, second = [await runs.run(agent, thread_id=thread_id) for _ in range(2)]
    assert first.output == said == second.output


@both_ways
@virtual
async def test_a_cancelled_async_generator_is_closed_before_its_run_ends(way: Way) -> None:
    closed = False

    async def agent(input: Any) -> AsyncIterator[int]:
        nonlocal closed
        try:
            yield 1
            await asyncio.sleep(3_600)
        finally:
            await asyncio.sleep(1)
            closed = True

    async with way() as runs:
        run = await runs.start(agent)
        await asyncio.sleep(1)
        await run.cancel()
        await run.ended()
        assert closed


@both_ways
async def test_an_async_generator_that_says_what_cannot_be_said_is_closed_before_its_run_ends(way: Way) -> None:
    closed = False

    class Unsayable:
        def model_dump(self, **_: Any) -> Any:
            raise RuntimeError("no")

    async def agent(input: Any) -> AsyncIterator[Any]:
        nonlocal closed
        try:
            yield Unsayable()
        finally:
            await asyncio.sleep(0)
            closed = True

    async with way() as runs:
        assert (await runs.run(agent)).status is RunStatus.error
        assert closed


@pytest.mark.parametrize(
    ("output", "values"),
    [
        (None, {}),
        ("text", {"output": "text"}),
        ({"a": (1, 2)}, {"a": [1, 2]}),
        ([1, 2], {"output": [1, 2]}),
        (0, {"output": 0}),
        ({"when": {3, 1}}, {"when": [1, 3]}),
    ],
    ids=str,
)
@virtual
async def test_what_a_function_gives_back_is_what_its_thread_remembers(output: Any, values: dict[str, Any]) -> None:
    seen: list[Any] = []

    async def agent(input: Any, run: RunContext) -> Any:
        seen.append(run.values)
        return output

    thread = new_id()
    for _ in range(2):
        await run_agent(agent, thread_id=thread)
    assert seen == [{}, values]


@virtual
async def test_messages_in_the_output_are_counted_once() -> None:
    async def agent(input: Any) -> Any:
        return {
            "messages": [
                {"role": "user", "content": "counted when it came"},
                {"role": "assistant", "content": "first"},
                {"type": "tool", "content": "result"},
                {"type": "ai", "content": "last"},
                "not a message",
            ]
        }

    result = await run_agent(agent, "counted when it came")
    assert result.completion_data["message_count"] == 4
    assert result.completion_data["last_ai_message"] == "last"


@pytest.mark.parametrize("in_place", [False, True])
@virtual
async def test_a_conversation_that_a_thread_remembers_is_not_counted_again(in_place: bool) -> None:
    async def agent(input: Any, run: RunContext) -> Any:
        before = run.values.get("messages", [])
        messages = before if in_place else [*before]
        messages += [{"role": "user", "content": input}, {"role": "assistant", "content": "well"}]
        return {"messages": messages}

    thread = new_id()
    results = [await run_agent(agent, "hello", thread_id=thread) for _ in range(3)]
    assert [result.completion_data["message_count"] for result in results] == [2, 2, 2]


@virtual
async def test_the_same_answer_counts_each_time() -> None:
    async def agent(input: Any) -> Any:
        return {"messages": [{"role": "assistant", "content": "well"}]}

    thread = new_id()
    results = [await run_agent(agent, "hello", thread_id=thread) for _ in range(2)]
    assert [result.completion_data["message_count"] for result in results] == [2, 2]


@virtual
async def test_an_output_that_cannot_be_read_is_an_error() -> None:
    class Unreadable:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    async def agent(input: Any) -> Any:
        return {"x": Unreadable()}

    result = await run_agent(agent)
    assert result.status is RunStatus.error
    assert "reading it raised RuntimeError: no" in (result.error or "")
