"""A graph as an agent: what it returns, and what surrounds it while it runs."""

import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import Any, TypedDict
from uuid import UUID

import pytest
from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackHandler
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.channels import EphemeralValue, LastValue
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.pregel import NodeBuilder, Pregel
from langgraph.runtime import Runtime
from langgraph.types import Command
from tests.integration.langgraph.counting_graphs import Count, calling, counting

from trackside import RunSpec, RunStatus, TracksideError, as_agent, current_run, run_agent
from trackside.harness.adapters.langgraph import LangGraphAgent, adapt
from trackside.harness.ids import new_id


async def test_a_graph_runs_in_a_script(stage: Any) -> None:
    seen = []

    async def watch(event: Any) -> None:
        seen.append(str(event.event_type))

    result = await run_agent(counting().compile(), {"n": 1}, observer=watch)
    assert result.status is RunStatus.success
    assert seen == ["run_started", "thread_status_updated", "run_completed", "thread_status_updated"]


async def test_the_output_is_what_ainvoke_returns_and_the_values_are_the_whole_state(run_context: Any) -> None:
    class Out(TypedDict):
        n: int

    async def note(state: Count) -> Count:
        return {"n": 1, "seen": ["here"]}

    graph = StateGraph(Count, output_schema=Out).add_node("note", note).add_edge(START, "note").compile()
    result = await LangGraphAgent(graph).run(run_context({"n": 1}))
    assert result.output == await graph.ainvoke({"n": 1}) == {"n": 2}
    assert result.values == {"n": 2, "seen": ["here"]}


async def test_an_entrypoint_of_the_functional_api_runs(run_context: Any) -> None:
    @entrypoint()
    async def shout(text: str) -> str:
        return text.upper()

    result = await LangGraphAgent(shout).run(run_context("hello"))
    assert result.output == "HELLO"
    assert result.values is None


async def test_a_pregel_without_a_state_graph_runs(run_context: Any) -> None:
    double = NodeBuilder().subscribe_only("a").do(lambda x: x + x).write_to("b")
    channels = {"a": EphemeralValue(str), "b": LastValue(str)}
    graph = Pregel(nodes={"double": double}, channels=channels, input_channels=["a"], output_channels="b")
    result = await LangGraphAgent(graph).run(run_context({"a": "x"}))
    assert result.output == "xx"


async def test_a_builder_is_compiled_and_other_things_are_left_to_others() -> None:
    adapted = adapt(counting())
    assert isinstance(adapted, LangGraphAgent)
    assert adapt(counting().compile(), name="counter").name == "counter"  # type: ignore[union-attr]
    assert adapt(AIMessage("no graph")) is None
    assert adapt(lambda state: state) is None
    assert as_agent(counting().compile(name="own name")).name == "own name"


async def test_a_node_sees_its_config_its_context_and_its_run(stage: Any) -> None:
    @dataclass
    class Who:
        name: str

    seen: dict[str, Any] = {}

    async def look(state: Count, config: RunnableConfig, runtime: Runtime[Who]) -> Count:
        seen["config"] = config
        seen["context"] = runtime.context
        seen["run"] = current_run()
        return {}

    graph = StateGraph(Count, context_schema=Who).add_node("look", look).add_edge(START, "look").compile()
    run_id, thread_id = new_id(), new_id()
    config = {"configurable": {"shade": "dark"}, "tags": ["t"], "metadata": {"m": 1}, "recursion_limit": 7}
    outcome = await stage.play(
        graph, {"n": 1}, run_id=run_id, thread_id=thread_id, config=config, context={"name": "Ada"}, metadata={"r": 2}
    )
    assert outcome.status is RunStatus.success
    assert seen["context"] == Who("Ada")
    assert seen["run"].run_id == run_id
    given = seen["config"]
    assert given["configurable"]["shade"] == "dark"
    assert given["configurable"]["thread_id"] == thread_id
    assert "t" in given["tags"]
    assert given["metadata"] | {"m": 1, "r": 2, "run_id": run_id} == given["metadata"]
    assert given["recursion_limit"] == 7
    assert config["configurable"] == {"shade": "dark"}


async def test_nobody_else_tells_a_graph_what_langgraph_tells_those_inside(open_stage: Any) -> None:
    stage = await open_stage(checkpointer=InMemorySaver())
    graph = counting().compile()
    own = {"__pregel_resuming": True, "__pregel_checkpointer": None, "__pregel_runtime": {}}
    for turn in (1, 2):
        outcome = await stage.play(graph, {"n": 1}, thread_id="t", config={"configurable": own})
        assert outcome.values == {"n": 2 * turn}


async def test_sync_nodes_in_threads_and_tools_see_their_run(stage: Any) -> None:
    seen: list[tuple[str, Any, bool]] = []

    def look(where: str) -> None:
        seen.append((where, current_run(), threading.current_thread() is threading.main_thread()))

    @tool
    def peek(text: str) -> str:
        """Look."""
        look("sync tool")
        return text

    @tool
    async def apeek(text: str) -> str:
        """Look."""
        look("async tool")
        return text

    def node(state: MessagesState) -> dict[str, Any]:
        look("sync node")
        calls = [{"name": name, "args": {"text": "?"}, "id": name} for name in ("peek", "apeek")]
        return {"messages": [AIMessage("", tool_calls=calls)]}

    graph = (
        StateGraph(MessagesState)
        .add_node("node", node)
        .add_node("tools", ToolNode([peek, apeek]))
        .add_edge(START, "node")
        .add_edge("node", "tools")
        .compile()
    )
    outcome = await stage.play(graph, "go")
    assert outcome.status is RunStatus.success
    assert {where: on_main for where, _, on_main in seen} == {
        "sync node": False,
        "sync tool": False,
        "async tool": True,
    }
    assert {run.run_id for _, run, _ in seen} == {outcome.result.run_id}
    assert outcome.usage["tool_call_count"] == 2
    assert current_run() is None


class Heard(BaseCallbackHandler):
    run_inline = True

    def __init__(self) -> None:
        self.run_ids: list[UUID] = []

    def on_chain_start(self, *args: Any, run_id: UUID, **kwargs: Any) -> None:
        self.run_ids.append(run_id)


@pytest.mark.parametrize("as_manager", [False, True])
async def test_the_callers_callbacks_hear_the_run_under_its_id(stage: Any, as_manager: bool) -> None:
    heard = Heard()
    callbacks = AsyncCallbackManager([], [heard]) if as_manager else [heard]
    if as_manager:
        callbacks.add_handler(heard)  # type: ignore[union-attr]
    run_id = new_id()
    await stage.play(counting().compile(), {"n": 1}, run_id=run_id, config={"callbacks": callbacks})
    assert heard.run_ids[0] == UUID(run_id)


async def test_a_manager_of_callbacks_that_the_caller_brings_stays_as_it_is(stage: Any) -> None:
    callbacks = AsyncCallbackManager([heard := Heard()])
    await stage.play(counting().compile(), {"n": 1}, config={"callbacks": callbacks})

    assert callbacks.handlers == [heard], "what counts and stops one run hears nothing of the next"


async def test_a_run_started_by_a_node_inherits_nothing_from_its_graph(stage: Any) -> None:
    inner_config: dict[str, Any] = {}

    async def inside(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        inner_config.update(config)
        return {"messages": [AIMessage("inside")]}

    inner = calling(inside, MessagesState)

    async def outside(state: MessagesState) -> dict[str, Any]:
        result = await run_agent(inner, "inner question")
        return {"messages": [AIMessage(result.status)]}

    outcome = await stage.play(calling(outside, MessagesState), "go", config={"tags": ["outer"]}, stream_subgraphs=True)
    assert outcome.values["messages"][-1]["content"] == "success"
    assert "outer" not in inner_config.get("tags", ())
    assert all(part.namespace == () for part in outcome.parts)


@pytest.mark.parametrize("by_manager", [False, True])
async def test_a_function_whose_run_a_node_started_inherits_nothing_from_its_graph_either(
    by_manager: bool, open_stage: Any
) -> None:
    inner_config: dict[str, Any] = {}
    said = {"input_tokens": 10, "output_tokens": 2, "total_tokens": 12}
    llm = FakeMessagesListChatModel(responses=[AIMessage("inside", usage_metadata=said)])

    async def inside(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        inner_config.update(config)
        return {"messages": [await llm.ainvoke(state["messages"])]}

    inner = calling(inside, MessagesState)

    async def plain(question: str) -> str:
        return (await inner.ainvoke({"messages": [HumanMessage(question)]}))["messages"][-1].content

    async def outside(state: MessagesState) -> dict[str, Any]:
        if by_manager:
            result = await (await stage.manager.start(RunSpec(plain, "inner question"))).result()
        else:
            result = await run_agent(plain, "inner question")
        return {"messages": [AIMessage(result.output)]}

    stage = await open_stage(checkpointer=InMemorySaver())
    graph = calling(outside, MessagesState)
    outcome = await stage.play(graph, "go", thread_id="t", config={"tags": ["outer"]}, stream_subgraphs=True)
    assert outcome.values["messages"][-1]["content"] == "inside"
    assert outcome.usage["total_tokens"] == 0, "what the other run uses is its own"
    assert "outer" not in inner_config.get("tags", ())
    assert "thread_id" not in inner_config["configurable"]
    assert all(part.namespace == () for part in outcome.parts)


async def test_the_managers_checkpointer_is_used_on_a_copy(open_stage: Any) -> None:
    saver = InMemorySaver()
    graph = counting().compile()
    stage = await open_stage(checkpointer=saver, agents={"counter": graph})
    for _ in range(2):
        outcome = await stage.play("counter", {"n": 1}, thread_id="t")
    assert outcome.values == {"n": 4}
    assert graph.checkpointer is None


async def test_a_graphs_own_checkpointer_comes_before_the_managers(open_stage: Any) -> None:
    own, others = InMemorySaver(), InMemorySaver()
    stage = await open_stage(checkpointer=others)
    await stage.play(counting().compile(checkpointer=own), {"n": 1}, thread_id="t")
    assert [checkpoint async for checkpoint in own.alist(None)]
    assert not [checkpoint async for checkpoint in others.alist(None)]


async def test_a_graph_that_refuses_checkpoints_gets_none(open_stage: Any) -> None:
    saver = InMemorySaver()
    stage = await open_stage(checkpointer=saver)
    await stage.play(counting().compile(checkpointer=False), {"n": 1}, thread_id="t")
    assert not [checkpoint async for checkpoint in saver.alist(None)]


async def test_run_interrupt_inside_a_graph_says_what_to_call_instead(stage: Any, run_context: Any) -> None:
    async def ask(state: Count) -> Count:
        run = current_run()
        assert run is not None
        run.interrupt("?")
        return {}

    agent = as_agent(calling(ask))
    with pytest.raises(TracksideError, match=r"langgraph\.types\.interrupt"):
        await agent.run(run_context({"n": 1}))


@pytest.mark.parametrize("mode", ["values", "events"])
async def test_a_graph_that_hands_over_to_one_around_it_is_told_that_there_is_none(open_stage: Any, mode: str) -> None:
    async def hand_over(state: Count) -> Command[Any]:
        return Command(graph=Command.PARENT, goto="bob", update={"n": 10})

    stage = await open_stage(checkpointer=InMemorySaver())
    outcome = await stage.play(calling(hand_over), {"n": 1}, thread_id="t", stream_mode=["values", mode])
    assert (outcome.status, outcome.end["error_type"]) == (RunStatus.error, "NoParentGraphError")
    assert "`Command.PARENT`), and there is none" in outcome.end["error"]
    again = await stage.play(counting().compile(), {"n": 1}, thread_id="t")
    assert again.values["n"] == 3


_FIRST_RUN = """
import asyncio, sys
import trackside.harness.adapters.langgraph
from langgraph.graph import START, StateGraph
from trackside import run_agent

graph = StateGraph(dict).add_node("say", lambda state: {}).add_edge(START, "say").compile()
known = {*sys.modules}
print((asyncio.run(run_agent(graph, {}))).status)
print([name for name in {*sys.modules} - known if name.startswith(("langchain", "langgraph", "langsmith"))])
"""


def test_the_first_run_of_a_process_imports_nothing_more_of_langchain() -> None:
    """A process that is out of descriptors goes on with what it has; importing more would fail its runs."""
    done = subprocess.run([sys.executable, "-c", _FIRST_RUN], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["success", "[]"]
