"""A wrong request is refused with a sentence that names the fault; an odd one has a clear outcome."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.contract.ways_to_run import told
from tests.integration.runs.stage import Agents, Backend, in_memory, within_patience

from trackside import NotAnAgentError, RunContext, RunLifecycleEvent, RunStatus, UnknownAgentError, run_agent
from trackside.harness.errors import InvalidSpecError, NotASpecError, TracksideError, UnknownRunError
from trackside.harness.types import LifecycleEventType


async def echo(input: Any) -> Any:
    return input


async def count(input: Any) -> int:
    return len(str(input))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"timeout": -5}, "timeout = -5 does not fit a run: it has to be a number of seconds."),
    ({"timeout": 0}, "timeout = 0 does not fit a run: a timeout is a number of seconds above 0."),
    (
        {"max_tokens": 0},
        "max_tokens = 0 does not fit a run: it is a whole number from 1 up; leave it out for no limit.",
    ),
    ({"max_llm_calls": -1}, "max_llm_calls = -1 does not fit a run: it is a whole number from 1 up"),
    ({"max_tool_calls": "many"}, "max_tool_calls = 'many' does not fit a run: it is a whole number from 1 up"),
    ({"max_cost_usd": 0}, "max_cost_usd = 0 does not fit a run: a run that may cost nothing could not call a model"),
    ({"max_cost_usd": -0.5}, "max_cost_usd = -0.5 does not fit a run: it has to be a number of US dollars."),
    ({"run_id": ""}, "run_id = '' does not fit a run: an id is a text of 1 to 255 printable characters."),
    ({"thread_id": "t" * 300}, f"thread_id = '{'t' * 40}…' does not fit a run: an id is a text of 1 to 255"),
    ({"metadata": "team"}, "metadata = 'team' does not fit a run: it has to be a mapping of names to values."),
    ({"config": [1]}, "config = [1] does not fit a run: it has to be a mapping of names to values."),
    ({"command": {"resum": 1}}, "command = 'resum' does not fit a run: a command has resume, update, goto only."),
    ({"command": "yes"}, "command = 'yes' does not fit a run: it has to be a mapping, as {'resume': answer}."),
    (
        {"command": {"resume": 1}, "input": "x"},
        "command = {'resume': 1} does not fit a run: it takes the place of an input; pass one of them.",
    ),
    (
        {"command": {"resume": 1}, "input": "x", "thread_id": "t"},
        "command = {'resume': 1} does not fit a run: it takes the place of an input; pass one of them.",
    ),
]
ONLY_STARTED: list[tuple[dict[str, Any], str]] = [
    ({"multitask": "sometimes"}, "choose one of reject, enqueue, interrupt, rollback."),
    ({"after_seconds": -1}, "after_seconds = -1 does not fit a run: it has to be a number of seconds."),
    ({"idempotency_key": ""}, "idempotency_key = '' does not fit a run: an id is a text of 1 to 255"),
    ({"stream_mode": 5}, "stream_mode = 5 does not fit a run: it has to be a mode or a list of modes."),
    (
        {"config": 5, "idempotency_key": "k"},
        "config = 5 does not fit a run: it has to be a mapping of names to values.",
    ),
    ({"options": 5}, "options = 5 does not fit a run: it has to be a mapping of names to values."),
    ({"max_attempts": 0}, "max_attempts = 0 does not fit a run: it is a whole number from 1 up"),
]


def assert_reads_well(message: str) -> None:
    """Assert that the message is a sentence or two for a human, with nothing of a program in it."""
    assert message == message.strip()
    assert message[-1] in ".?!"
    assert ".." not in message
    assert not re.search(r"Traceback|object at 0x|<class|\n", message), message


async def test_a_start_that_makes_no_run_says_what_is_wrong_and_leaves_nothing(
    backend: Backend, agents: Agents
) -> None:
    async with backend.open({"work": agents.work}) as stage:
        for asked, says in [*REFUSED, *ONLY_STARTED]:
            with pytest.raises(InvalidSpecError) as refused:
                await stage.start("work", **{"thread_id": "t"} | asked)
            assert says in str(refused.value)
            assert_reads_well(str(refused.value))
            if "input" in asked:
                assert refused.value.details["value"] == asked["command"]
        assert (await stage.run("work", "quick", thread_id="t")).status is RunStatus.success
    assert agents.begun == ["quick"]
    assert len(stage.events) == 5


@pytest.mark.parametrize("options", [5, 0, ["a"]])
async def test_a_run_that_has_an_owner_is_refused_the_same(backend: Backend, agents: Agents, options: Any) -> None:
    async def starts(input: Any) -> str:
        with pytest.raises(InvalidSpecError) as refused:
            await stage.start("work", options=options)
        return str(refused.value)

    async with backend.open({"starts": starts, "work": agents.work}) as stage:
        result = await stage.run("starts", owner="ada")
    assert result.output == f"options = {options!r} does not fit a run: it has to be a mapping of names to values."
    assert agents.begun == []


@in_memory
async def test_run_agent_says_the_same(backend: Backend, agents: Agents) -> None:
    seen: list[RunLifecycleEvent] = []

    async def watch(event: RunLifecycleEvent) -> None:
        seen.append(event)

    for asked, says in REFUSED:
        with pytest.raises(InvalidSpecError) as refused:
            await run_agent(echo, observer=watch, **asked)
        assert says in str(refused.value)
    assert seen == []


async def test_what_is_not_there_is_named_with_what_is(backend: Backend) -> None:
    async with backend.open({"echo": echo, "count": count}) as stage:
        with pytest.raises(UnknownAgentError) as no_agent:
            await stage.start("ecko")
        assert str(no_agent.value) == "There is no agent named 'ecko'; known are: count, echo."
        with pytest.raises(NotAnAgentError, match="5 is not an agent: a int cannot be called. Pass an async function"):
            await stage.start(5)
        with pytest.raises(NotASpecError, match=r"pass a `RunSpec`, as `RunSpec\(\"agent\", \"input\"\)`"):
            await stage.manager.start("echo")  # type: ignore[arg-type]
        for call in (stage.manager.get, stage.manager.cancel):
            with pytest.raises(UnknownRunError) as no_run:
                await call("nobody")
            assert str(no_run.value) == (
                "There is no run 'nobody' here: its id is wrong, or it ended long ago and only the log still knows it."
            )
        with pytest.raises(UnknownRunError):
            async for _ in stage.manager.stream("nobody"):
                pass
        with pytest.raises(InvalidSpecError, match="choose one of interrupt, rollback"):
            await stage.manager.cancel("nobody", action="kill")
    for nonsense in ("echo", 5, None):
        with pytest.raises(NotAnAgentError) as no_agent_at_all:
            await run_agent(nonsense)
        assert_reads_well(str(no_agent_at_all.value))


class Hostile:
    """A value whose own code fails, whatever anybody asks of it."""

    def __repr__(self) -> str:
        raise RuntimeError("not even a repr")

    __str__ = __repr__


def cyclic() -> dict[str, Any]:
    cycle: dict[str, Any] = {"name": "cycle", "items": [1]}
    cycle["items"].append(cycle)
    return cycle


def deep(levels: int) -> Any:
    value: Any = "bottom"
    for _ in range(levels):
        value = [value]
    return value


ODD: dict[str, Any] = {
    "ten megabytes": "x" * 10_000_000,
    "NUL and half characters": "a\0b\ud800c",
    "nested deep": deep(5_000),
    "a cycle": cyclic(),
    "what JSON lacks": {
        "when": datetime(2026, 1, 31, tzinfo=UTC),
        "set": {1},
        2: b"\xff",
        "nan": float("nan"),
        "big": 10**400,
    },
    "very many": [*range(200_000)],
}


async def test_a_run_takes_any_input_and_its_agent_sees_it_as_it_is(backend: Backend) -> None:
    seen: list[Any] = []

    async def look(input: Any) -> str:
        seen.append(input)
        return "seen"

    async with backend.open({"look": look}) as stage:
        for name, value in ODD.items():
            result = await stage.run("look", value, thread_id="t")
            assert (result.status, result.error) == (RunStatus.success, None), name
            assert seen[-1] is value, name
        largest = max(len(str(event.payload)) for event in stage.events)
        assert largest < 2_000_000, "what is announced is cut, and says so"
        cut = next(e for e in stage.events if e.event_type is LifecycleEventType.HUMAN_MESSAGE)
        assert "truncated" in str(cut.payload["message"]["content"])[-100:]
    embedded = await run_agent(look, ODD["ten megabytes"])
    assert embedded.status is RunStatus.success


async def test_what_an_agent_names_with_characters_that_cannot_be_kept_is_marked(backend: Backend) -> None:
    async def titled(input: Any, run: RunContext) -> None:
        run.set_title("a\0b")

    async def named(input: Any, run: RunContext) -> None:
        if input == "tool":
            run.record_tool_call("half \ud800")
        else:
            run.record_usage("m\0", input_tokens=1, output_tokens=1)

    async with backend.open({"titled": titled, "named": named, "echo": echo}) as stage:
        ran = [await stage.run("titled"), await stage.run("named", "tool"), await stage.run("named", "model")]
        for result in ran:
            assert stage.end(result).payload["sanitized"] is True
        titles = [event for event in stage.events if event.payload.get("title") == "a\ufffdb"]
        kinds = {LifecycleEventType.RUN_COMPLETED, LifecycleEventType.THREAD_STATUS_UPDATED}
        assert {event.event_type for event in titles} == kinds
        assert all(event.payload["sanitized"] is True for event in titles)
        assert "sanitized" not in stage.end(await stage.run("echo")).payload


async def test_any_metadata_is_kept_in_a_form_that_can_be_kept(backend: Backend) -> None:
    async with backend.open({"echo": echo}) as stage:
        for name, value in ODD.items():
            run = await stage.start("echo", metadata={"team": "a", "odd": [value]})
            assert (await within_patience(run.result())).status is RunStatus.success, name
            started = next(e for e in stage.events if e.run_id == run.run_id)
            record = await stage.record(run)
            if name != "very many":
                assert started.payload["metadata"]["sanitized"] is True, name
            assert started.payload["metadata"]["team"] == "a"
            assert len(str(started.payload)) < 2_000_000
            assert dict(record.metadata) == started.payload["metadata"]


async def test_metadata_whose_own_code_fails_is_refused_before_anything_happens(backend: Backend) -> None:
    async with backend.open({"echo": echo}) as stage:
        with pytest.raises(TracksideError) as refused:
            await stage.start("echo", metadata={"who": Hostile()}, thread_id="t")
        assert "metadata" in str(refused.value)
        assert_reads_well(str(refused.value))
        with pytest.raises(TracksideError, match="metadata"):
            await run_agent(echo, metadata={"who": Hostile()})
        assert (await stage.run("echo", thread_id="t")).status is RunStatus.success
    assert len(stage.events) == 4


async def test_an_output_that_cannot_be_kept_is_the_agents_error(backend: Backend) -> None:
    async def hostile(input: Any) -> Any:
        return Hostile()

    async def of_any_size(input: Any) -> Any:
        return {"text": "x" * 5_000_000}

    async with backend.open({"hostile": hostile, "large": of_any_size}) as stage:
        result = await stage.run("hostile", thread_id="t")
        assert result.status is RunStatus.error
        assert result.error is not None
        assert_reads_well(result.error)
        assert (await stage.run("large", thread_id="t")).status is RunStatus.success


async def test_agents_that_do_not_do_what_agents_do_fail_their_own_runs(backend: Backend) -> None:
    async def says_nonsense(input: Any, run: RunContext) -> Any:
        run.record_usage("small", input_tokens=-1, output_tokens=2)

    async def asks_nonsense(input: Any, run: RunContext) -> Any:
        run.interrupt(Hostile())

    async def messages_nonsense(input: Any, run: RunContext) -> Any:
        run.message(5)  # type: ignore[arg-type]

    async def breaks_off(input: Any) -> AsyncIterator[int]:
        yield 1
        raise ValueError("half way")

    odd = {"usage": says_nonsense, "question": asks_nonsense, "message": messages_nonsense, "generator": breaks_off}
    async with backend.open({**odd, "echo": echo}) as stage:
        for name in odd:
            result = await stage.run(name, thread_id="t")
            assert result.status is RunStatus.error, name
            assert result.error, name
            assert stage.end(result).payload["error_type"], name
            assert (await stage.run("echo", thread_id="t")).status is RunStatus.success
        assert told(stage.events, result.run_id)[-2] == "run_failed error"


async def test_an_agent_that_awaits_its_own_thread_fails_at_once_and_holds_up_nobody(backend: Backend) -> None:
    """A run that waits for a run behind itself would never end; it is told so, and the other run begins."""
    inner: list[Any] = []

    async def waits_for_itself(input: Any, run: RunContext) -> None:
        inner.append(await stage.start("echo", "inner", thread_id=run.thread_id))
        await inner[0].result()

    async with backend.open({"waits": waits_for_itself, "echo": echo}) as stage:
        result = await within_patience(asyncio.create_task(stage.run("waits", thread_id="t")))
        assert result.status is RunStatus.error
        assert f"run {inner[0].run_id!r}, which is the next of the same thread" in str(result.error)
        assert (await within_patience(inner[0].result())).status is RunStatus.success


async def test_an_agent_that_never_stops_starting_itself_is_stopped_by_its_depth(backend: Backend) -> None:
    depth: list[int] = []

    async def again(input: Any, run: RunContext) -> Any:
        depth.append(run.depth)
        result = await (await stage.start("again", thread_id=f"t{run.depth + 1}")).result()
        if result.status is RunStatus.error:
            raise RuntimeError(result.error)

    async with backend.open({"again": again}, max_running=1) as stage:
        result = await within_patience(asyncio.create_task(stage.run("again", thread_id="t0")))
        assert result.status is RunStatus.error
        assert "an observer or agent probably starts itself" in str(result.error)
        assert max(depth) == 8
