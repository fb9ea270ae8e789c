"""Tools that leave the process: the SDK calls them in tasks, where asyncio would end the event loop."""

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pytest
from agents import Agent, RunContextWrapper, function_tool
from tests.contract.ways_to_run import virtual
from tests.integration.openai_agents.scripted_model import Calls, ScriptedModel

from trackside import RunManager, RunSpec, RunStatus, run_agent
from trackside.testing import RecordingObserver, assert_run_order


async def leaves() -> str:
    sys.exit(3)


def leaves_in_a_thread() -> str:
    sys.exit(3)


def calling(function: Callable[[], Any], **options: Any) -> Agent[Any]:
    tool = function_tool(function, name_override="leave", **options)
    return Agent("lead", model=ScriptedModel(Calls("leave"), "well"), tools=[tool])


def below(agent: Agent[Any], **options: Any) -> Agent[Any]:
    tool = agent.as_tool(tool_name="below", tool_description="Leaves.", **options)
    return Agent("top", model=ScriptedModel(Calls("below", {"input": "x"}), "well"), tools=[tool])


LEAVING = {
    "async": lambda: calling(leaves),
    "plain": lambda: calling(leaves_in_a_thread),
    "timed": lambda: calling(leaves, timeout=5.0),
    "below": lambda: below(calling(leaves)),
    "streamed-below": lambda: below(calling(leaves), on_stream=lambda event: None),
    "after-handoff": lambda: Agent("top", model=ScriptedModel(Calls("transfer_to_lead")), handoffs=[calling(leaves)]),
}


@pytest.mark.parametrize("made", LEAVING.values(), ids=LEAVING)
@virtual
async def test_a_tool_that_leaves_ends_its_own_run_alone(made: Callable[[], Agent[Any]]) -> None:
    done = asyncio.Event()

    async def waits(_: Any) -> str:
        await done.wait()
        return "went on"

    async with RunManager() as manager:
        other = await manager.start(RunSpec(waits))
        guilty = await (await manager.start(RunSpec(made(), "go"))).result()
        done.set()
        assert (await other.result()).output == "went on"
    assert (guilty.status, guilty.error) == (RunStatus.error, "SystemExit: 3")
    assert guilty.completion_data["llm_call_count"] > 0


def test_ctrl_c_in_a_tool_ends_the_run_before_it_is_raised() -> None:
    async def interrupted() -> str:
        raise KeyboardInterrupt

    recorder = RecordingObserver()
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(run_agent(calling(interrupted), "go", observer=recorder))
    assert_run_order(recorder.events)
    assert recorder.events[-2].event_type == "run_failed"


async def test_a_tool_gets_the_context_that_it_asks_for_and_stays_as_it_was() -> None:
    kinds = []

    async def leave(context: RunContextWrapper[Any], arguments: str) -> str:
        kinds.append(type(context))
        return "no"

    agent = calling(leaves)
    (tool,) = agent.tools
    tool.on_invoke_tool = leave  # type: ignore[union-attr]  # it is a tool made of a function
    assert (await run_agent(agent, "go")).status is RunStatus.success
    assert kinds == [RunContextWrapper]
    assert tool.on_invoke_tool is leave  # type: ignore[union-attr]  # it is a tool made of a function
