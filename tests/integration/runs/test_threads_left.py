"""What runs have begun in threads of the event loop's executor: nobody is told of an end before it has returned."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import uvloop
from agents import Agent as OpenAIAgent
from agents import function_tool
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from tests.integration.openai_agents.scripted_model import Calls, ScriptedModel

from trackside import RunManager, RunSpec, RunStatus, current_run
from trackside.harness.threads import LoopThreads

LONG = 0.3
"""Seconds of work after a run is told to stop."""


class Work:
    """Blocks the thread that it is called in, and goes on for a while after its run is told to stop."""

    def __init__(self) -> None:
        self.begun, self.stopped, self.returned = threading.Event(), threading.Event(), False

    def __call__(self) -> str:
        self.begun.set()
        assert self.stopped.wait(10)
        time.sleep(LONG)
        self.returned = True
        return "done"

    async def until_begun(self) -> None:
        while not self.begun.is_set():
            await asyncio.sleep(0.005)


def a_node(work: Work) -> Any:
    def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [work()]}

    return StateGraph(MessagesState).add_node(node).add_edge(START, "node").compile()


def a_tool_of_a_graph(work: Work) -> Any:
    @tool
    def look() -> str:
        """Look."""
        return work()

    calls = [{"name": "look", "args": {}, "id": "1"}]
    graph = StateGraph(MessagesState).add_node("ask", lambda state: {"messages": [AIMessage("", tool_calls=calls)]})
    return graph.add_node(ToolNode([look])).add_edge(START, "ask").add_edge("ask", "tools").compile()


def a_tool_of_an_openai_agent(work: Work) -> Any:
    def look() -> str:
        return work()

    return OpenAIAgent("lead", model=ScriptedModel(Calls("look"), "well"), tools=[function_tool(look)])


def a_coroutine(work: Work) -> Any:
    async def agent(value: Any) -> str:
        return await asyncio.to_thread(work)

    return agent


AGENTS = [a_node, a_tool_of_a_graph, a_tool_of_an_openai_agent, a_coroutine]


@pytest.mark.parametrize("used_before", [False, True], ids=["new executor", "executor in use"])
@pytest.mark.parametrize("agent_of", AGENTS)
async def test_a_run_is_cancelled_when_what_it_began_in_a_thread_has_returned(
    agent_of: Callable[[Work], Any], used_before: bool
) -> None:
    if used_before:
        await asyncio.to_thread(int)
    work = Work()
    async with RunManager({"agent": agent_of(work)}) as manager:
        run = await manager.start(RunSpec("agent", "go", thread_id="t"))
        await work.until_begun()
        await manager.cancel(run.run_id, wait=False)
        work.stopped.set()
        result = await run.result()
        assert (result.status, work.returned) == (RunStatus.cancelled, True)


async def test_a_thread_is_given_on_when_a_cancelled_run_has_left_it() -> None:
    works = [Work(), Work()]
    begun_before_the_end: list[bool] = []

    def node(state: MessagesState) -> dict[str, Any]:
        mine = works[len(begun_before_the_end)]
        begun_before_the_end.append(not works[0].returned)
        return {"messages": [mine()]}

    graph = StateGraph(MessagesState).add_node(node).add_edge(START, "node").compile()
    async with RunManager({"agent": graph}) as manager:
        first = await manager.start(RunSpec("agent", {"messages": []}, thread_id="t"))
        await works[0].until_begun()
        second = await manager.start(RunSpec("agent", {"messages": []}, thread_id="t", multitask="interrupt"))
        works[0].stopped.set()
        works[1].stopped.set()
        assert [(await run.result()).status for run in (first, second)] == [RunStatus.cancelled, RunStatus.success]
        assert begun_before_the_end == [True, False]


async def test_a_run_times_out_when_what_it_began_in_a_thread_has_returned() -> None:
    work = Work()
    work.stopped.set()
    async with RunManager({"agent": a_node(work)}) as manager:
        run = await manager.start(RunSpec("agent", {"messages": []}, timeout=LONG / 10))
        assert ((await run.result()).status, work.returned) == (RunStatus.timeout, True)


async def test_a_run_fails_when_what_goes_on_beside_the_failure_has_returned() -> None:
    work = Work()

    def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [work()]}

    async def failing(state: MessagesState) -> dict[str, Any]:
        await work.until_begun()
        work.stopped.set()
        raise ValueError("no")

    graph = StateGraph(MessagesState).add_node(node).add_node(failing)
    graph.add_edge(START, "node").add_edge(START, "failing")
    async with RunManager({"agent": graph.compile()}) as manager:
        result = await (await manager.start(RunSpec("agent", {"messages": []}))).result()
        assert (result.status, str(result.error), work.returned) == (RunStatus.error, "no", True)


async def test_what_no_thread_has_taken_is_not_called_for_a_run_that_is_stopped() -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    work, called = Work(), []

    async def agent(value: Any) -> None:
        begun = asyncio.get_running_loop().run_in_executor(None, work)
        asyncio.get_running_loop().run_in_executor(None, called.append, 1)
        await begun

    async with RunManager({"agent": agent}) as manager:
        run = await manager.start(RunSpec("agent"))
        await work.until_begun()
        await manager.cancel(run.run_id, wait=False)
        work.stopped.set()
        assert ((await run.result()).status, work.returned, called) == (RunStatus.cancelled, True, [])


async def test_a_second_cancel_does_not_end_the_wait() -> None:
    work = Work()
    async with RunManager({"agent": a_coroutine(work)}) as manager:
        run = await manager.start(RunSpec("agent"))
        await work.until_begun()
        for _ in range(3):
            await manager.cancel(run.run_id, wait=False)
            await asyncio.sleep(0.01)
        work.stopped.set()
        assert ((await run.result()).status, work.returned) == (RunStatus.cancelled, True)


async def test_what_a_success_leaves_going_is_not_waited_for() -> None:
    work = Work()

    async def agent(value: Any) -> str:
        asyncio.get_running_loop().run_in_executor(None, work)
        await work.until_begun()
        return "well"

    async with RunManager({"agent": agent}) as manager:
        result = await (await manager.start(RunSpec("agent"))).result()
        assert (result.status, work.returned) == (RunStatus.success, False)
    work.stopped.set()


async def test_a_function_in_a_thread_sees_that_its_run_shall_stop() -> None:
    begun = threading.Event()
    returned: list[bool] = []

    def node(state: MessagesState) -> dict[str, Any]:
        begun.set()
        run = current_run()
        assert run is not None
        while not run.cancelled:
            time.sleep(0.005)
        returned.append(True)
        return {}

    graph = StateGraph(MessagesState).add_node(node).add_edge(START, "node").compile()
    async with RunManager({"agent": graph}) as manager:
        run = await manager.start(RunSpec("agent", {"messages": []}))
        assert await asyncio.to_thread(begun.wait, 10)
        await manager.cancel(run.run_id, wait=False)
        assert ((await run.result()).status, returned) == (RunStatus.cancelled, [True])


def test_on_uvloop_it_is_so_with_an_executor_that_notes_its_calls() -> None:
    async def main() -> tuple[RunStatus, bool]:
        asyncio.get_running_loop().set_default_executor(LoopThreads())
        work = Work()
        async with RunManager({"agent": a_node(work)}) as manager:
            run = await manager.start(RunSpec("agent", {"messages": []}))
            await work.until_begun()
            await manager.cancel(run.run_id, wait=False)
            work.stopped.set()
            return (await run.result()).status, work.returned

    assert uvloop.run(main()) == (RunStatus.cancelled, True)


async def test_asyncio_keeps_its_executor_where_it_is_looked_for() -> None:
    loop = asyncio.get_running_loop()
    assert vars(loop)["_default_executor"] is None
    await asyncio.to_thread(int)
    assert isinstance(vars(loop)["_default_executor"], ThreadPoolExecutor)
