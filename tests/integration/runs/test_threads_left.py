"""What runs have begun in the event loop's executor threads: no end is announced before this has returned."""

from __future__ import annotations

import asyncio
import queue
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
from tests.integration.runs.stage import time_is_up, turns

from trackside import RunManager, RunSpec, RunStatus, StopPolicy, current_run
from trackside.harness.threads import LoopThreads
from trackside.testing import run_virtual

LONG = 0.3
"""Seconds of work after a run is told to stop."""


class Work:
    """Blocks the thread in which it is called, and goes on for a while after its run is told to stop."""

    def __init__(self) -> None:
        self.begun, self.stopped, self.returned = threading.Event(), threading.Event(), False

    def __call__(self) -> str:
        self.begun.set()
        assert self.stopped.wait(60)
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
    async with RunManager({"agent": a_node(work)}) as manager:
        run = await manager.start(RunSpec("agent", {"messages": []}, timeout=3_600))
        await work.until_begun()
        time_is_up(manager, run.run_id)
        work.stopped.set()
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
    loop, work, called = asyncio.get_running_loop(), Work(), []
    loop.set_default_executor(ThreadPoolExecutor(1))

    async def agent(value: Any) -> None:
        await asyncio.gather(asyncio.to_thread(work), asyncio.to_thread(called.append, 1))

    async with RunManager({"agent": agent}) as manager:
        run = await manager.start(RunSpec("agent"))
        await work.until_begun()
        await manager.cancel(run.run_id, wait=False)
        work.stopped.set()
        assert ((await run.result()).status, work.returned, called) == (RunStatus.cancelled, True, [])


async def test_what_others_wait_for_goes_on_and_is_not_waited_for() -> None:
    loop, before, load = asyncio.get_running_loop(), Work(), Work()
    loop.set_default_executor(ThreadPoolExecutor(1))
    busy = asyncio.create_task(asyncio.to_thread(before))
    await before.until_begun()
    loading: list[asyncio.Task[str]] = []

    async def agent(value: Any) -> str:
        if not loading:
            loading.append(asyncio.create_task(asyncio.to_thread(load)))
        return await asyncio.shield(loading[0])

    async with RunManager({"agent": agent}) as manager:
        first, second = [await manager.start(RunSpec("agent")) for _ in range(2)]
        await turns(20)
        await manager.cancel(first.run_id, wait=False)
        assert (await first.result()).status is RunStatus.cancelled
        for work in (before, load):
            work.stopped.set()
        assert (await second.result()).output == "done"
        await busy


async def test_a_reader_that_goes_on_for_all_runs_keeps_none_that_fails() -> None:
    news: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    readers: list[asyncio.Task[Any]] = []
    loop, reads = asyncio.get_running_loop(), asyncio.Event()

    def read() -> str | None:
        loop.call_soon_threadsafe(reads.set)
        return news.get()

    async def agent(value: Any) -> None:
        readers.append(asyncio.create_task(asyncio.to_thread(read)))
        await reads.wait()
        raise ValueError("no")

    async with RunManager({"agent": agent}) as manager:
        result = await (await manager.start(RunSpec("agent"))).result()
        assert (result.status, readers[0].done()) == (RunStatus.error, False)
    news.put(None)
    await readers[0]


@pytest.mark.parametrize("how", ["timeout", "cancel", "closing"])
async def test_a_run_that_has_failed_ends_as_that_though_it_is_stopped_while_a_thread_is_waited_for(how: str) -> None:
    work, failed = Work(), asyncio.Event()

    async def agent(value: Any) -> None:
        beside = asyncio.create_task(asyncio.to_thread(work))
        await work.until_begun()
        beside.cancel()
        await asyncio.wait((beside,))
        failed.set()
        raise ValueError("the reason")

    manager = RunManager({"agent": agent})
    run = await manager.start(RunSpec("agent", timeout=3_600 if how == "timeout" else None))
    await failed.wait()
    if how == "timeout":
        time_is_up(manager, run.run_id)
    if how == "cancel":
        await manager.cancel(run.run_id, wait=False)
    closing = asyncio.create_task(manager.aclose(grace=0)) if how == "closing" else None
    await asyncio.sleep(0.4)
    work.stopped.set()
    result = await run.result()
    await (manager.aclose() if closing is None else closing)
    assert (result.status, result.error, work.returned) == (RunStatus.error, "the reason", True)


async def test_one_that_has_failed_is_stuck_if_its_thread_does_not_come_back(caplog: pytest.LogCaptureFixture) -> None:
    work = Work()

    async def agent(value: Any) -> None:
        beside = asyncio.create_task(asyncio.to_thread(work))
        await work.until_begun()
        beside.cancel()
        await asyncio.wait((beside,))
        raise ValueError("no")

    async with RunManager({"agent": agent}, stopping=StopPolicy(stuck_after=0.05)) as manager:
        run = await manager.start(RunSpec("agent"))
        while not manager.stats().stuck:
            await asyncio.sleep(0.01)
        assert "has failed, and something of it goes on in a thread" in caplog.text
        work.stopped.set()
        assert (await run.result()).status is RunStatus.error


def test_virtual_time_stands_still_while_a_thread_is_waited_for() -> None:
    async def main() -> tuple[RunStatus, bool, float]:
        work = Work()
        async with RunManager({"agent": a_coroutine(work)}) as manager:
            run = await manager.start(RunSpec("agent"))
            while not work.begun.is_set():
                await asyncio.to_thread(work.begun.wait, 0.01)
            ticking = asyncio.create_task(asyncio.sleep(3_600))
            await manager.cancel(run.run_id, wait=False)
            work.stopped.set()
            status = (await run.result()).status
            ticking.cancel()
            return status, work.returned, asyncio.get_running_loop().time()

    status, returned, time = run_virtual(main())
    assert (status, returned) == (RunStatus.cancelled, True)
    assert time < 3_600


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


async def test_what_is_called_in_a_thread_need_not_have_a_hash() -> None:
    class Adds(list[int]):
        def __call__(self) -> int:
            return sum(self)

    async def agent(value: Any) -> int:
        return await asyncio.get_running_loop().run_in_executor(None, Adds([1, 2]))

    async with RunManager({"agent": agent}) as manager:
        assert (await (await manager.start(RunSpec("agent"))).result()).output == 3


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
        assert await asyncio.to_thread(begun.wait, 60)
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
