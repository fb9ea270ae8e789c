"""Traces of the frameworks' agents: what they call, below whoever called it."""

from typing import Any

import pytest
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from tests.integration.tracing.conftest import Traced

from trackside import RunSpec, RunStatus


def answer(text: str, model: str, **more: Any) -> AIMessage:
    usage: Any = {"input_tokens": 10, "output_tokens": 2, "total_tokens": 12}
    return AIMessage(text, usage_metadata=usage, response_metadata={"model_name": model}, **more)


def asking(*answers: AIMessage) -> Any:
    llm = FakeMessagesListChatModel(responses=list(answers))

    async def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await llm.ainvoke(state["messages"])]}

    return ask


async def test_a_graph_whose_tool_runs_another_graph(traced: Traced) -> None:
    researcher = StateGraph(MessagesState).add_node("think", asking(answer("42", "small"))).add_edge(START, "think")
    helper: Any = researcher.compile(name="researcher")

    @tool
    async def look_up(question: str) -> str:
        """Look something up."""
        state = await helper.ainvoke({"messages": question})
        return str(state["messages"][-1].content)

    call = {"name": "look_up", "args": {"question": "?"}, "id": "1"}
    graph = (
        StateGraph(MessagesState)
        .add_node("ask", asking(answer("", "large", tool_calls=[call])))
        .add_node("tools", ToolNode([look_up]))
        .add_node("write", asking(answer("it is 42", "large")))
        .add_edge(START, "ask")
        .add_edge("ask", "tools")
        .add_edge("tools", "write")
        .compile(name="lead")
    )
    async with traced.manager() as manager:
        result = await (await manager.start(RunSpec(graph, "how many?"))).result()
    assert result.status is RunStatus.success
    assert traced.trace.tree() == [
        "invoke_agent lead",
        "invoke_agent lead > chat large",
        "invoke_agent lead > chat large",
        "invoke_agent lead > execute_tool look_up",
        "invoke_agent lead > execute_tool look_up > invoke_agent researcher",
        "invoke_agent lead > execute_tool look_up > invoke_agent researcher > chat small",
    ]
    assert traced.trace["chat small"].attributes["gen_ai.usage.input_tokens"] == 10


async def test_a_graph_whose_tool_fails(traced: Traced) -> None:
    @tool
    def look() -> str:
        """Look."""
        raise LookupError("nothing to be seen")

    call = {"name": "look", "args": {}, "id": "1"}
    graph: Any = (
        StateGraph(MessagesState)
        .add_node("ask", asking(answer("", "large", tool_calls=[call])))
        .add_node("tools", ToolNode([look], handle_tool_errors=False))
        .add_edge(START, "ask")
        .add_edge("ask", "tools")
        .compile(name="lead")
    )
    async with traced.manager() as manager:
        await (await manager.start(RunSpec(graph, "look"))).result()
    for name in ("execute_tool look", "invoke_agent lead"):
        span = traced.trace[name]
        assert (span.status, span.attributes["error.type"]) == ("error", "LookupError")


async def test_an_agent_of_the_openai_sdk_that_hands_over_and_has_agents_as_tools(traced: Traced) -> None:
    agents = pytest.importorskip("agents")
    from tests.integration.openai_agents.scripted_model import Calls, ScriptedModel

    def agent(name: str, *turns: Any, **options: Any) -> Any:
        return agents.Agent(name, model=ScriptedModel(*turns, name=f"model-of-{name}"), **options)

    helper = agent("helper", "42").as_tool(tool_name="ask_helper", tool_description="Helps.")
    expert = agent("expert", Calls("ask_helper", {"input": "?"}), "it is 42", tools=[helper])
    desk = agent("desk", Calls("transfer_to_expert"), handoffs=[expert])
    async with traced.manager() as manager:
        result = await (await manager.start(RunSpec(desk, "how many?"))).result()
    assert result.status is RunStatus.success
    assert traced.trace.tree() == [
        "invoke_agent desk",
        "invoke_agent desk > chat model-of-desk",
        "invoke_agent desk > invoke_agent expert",
        "invoke_agent desk > invoke_agent expert > chat model-of-expert",
        "invoke_agent desk > invoke_agent expert > chat model-of-expert",
        "invoke_agent desk > invoke_agent expert > execute_tool ask_helper",
        "invoke_agent desk > invoke_agent expert > execute_tool ask_helper > invoke_agent helper",
        "invoke_agent desk > invoke_agent expert > execute_tool ask_helper > invoke_agent helper > chat model-of-helper",
    ]
