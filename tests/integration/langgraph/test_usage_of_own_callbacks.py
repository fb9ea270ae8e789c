"""Models and tools called with their own callbacks, with which LangChain replaces those around them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackHandler
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatResult
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from tests.integration.langgraph.streaming import Streaming, callers, cancelled_as_it_waits, chunk

from trackside import RunStatus, current_run, run_agent


class Tracer(BaseCallbackHandler):
    """A third party's tracer, which hears the calls of models and tools."""

    run_inline = True

    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self.heard.append("chat")

    def on_tool_start(self, *args: Any, **kwargs: Any) -> None:
        self.heard.append("execute_tool")


def model(tokens: int = 10) -> FakeMessagesListChatModel:
    usage = {"input_tokens": tokens, "output_tokens": 0, "total_tokens": tokens}
    said = AIMessage("yes", usage_metadata=usage, response_metadata={"model_name": "small"})
    return FakeMessagesListChatModel(responses=[said])


def making(*calls: Callable[[], Awaitable[Any]]) -> Any:
    """A node that makes calls, one after another."""

    async def make(state: MessagesState) -> dict[str, Any]:
        for call in calls:
            await call()
        return {}

    return make


def calling(*calls: Callable[[], Awaitable[Any]], name: str | None = None) -> Any:
    """A graph of one such node."""
    return StateGraph(MessagesState).add_node("node", making(*calls)).add_edge(START, "node").compile(name=name)


def kinds(outcome: Any) -> list[tuple[str, str]]:
    """Which kind of call each caller made, in the order in which the calls started."""
    return [(call["kind"], call["caller"]) for call in outcome.usage["calls"]]


def in_call(llm: BaseChatModel, config: RunnableConfig) -> Awaitable[Any]:
    return llm.ainvoke("?", config)


def bound(llm: BaseChatModel, config: RunnableConfig) -> Awaitable[Any]:
    return llm.with_config(config).ainvoke("?")


def in_thread(llm: BaseChatModel, config: RunnableConfig) -> Awaitable[Any]:
    return asyncio.to_thread(llm.invoke, "?", config)


def in_sequence(llm: BaseChatModel, config: RunnableConfig) -> Awaitable[Any]:
    """Called by a sequence, which is what gets the callbacks."""
    return (RunnableLambda(lambda said: said) | llm).ainvoke("?", config)


def twice(llm: BaseChatModel, config: RunnableConfig) -> Awaitable[Any]:
    """Called with callbacks of its own, within a sequence that has some."""

    async def ask(said: str) -> Any:
        return await llm.ainvoke(said, {"callbacks": config["callbacks"], "metadata": {"mine": 2}})

    return (RunnableLambda(lambda said: said) | ask).ainvoke("?", config)


def streamed(llm: BaseChatModel, config: RunnableConfig) -> Awaitable[Any]:
    async def read() -> list[Any]:
        return [part async for part in llm.astream("?", config)]

    return read()


@pytest.mark.parametrize("brought", ["callbacks", "manager", "callbacks and metadata", "no callbacks"])
@pytest.mark.parametrize("call", [in_call, bound, in_thread, in_sequence, twice, streamed])
async def test_a_model_with_callbacks_of_its_own_is_counted_once_and_credited_as_any_other(
    stage: Any, call: Any, brought: str
) -> None:
    tracer = Tracer()
    configs: dict[str, RunnableConfig] = {
        "callbacks": {"callbacks": [tracer]},
        "manager": {"callbacks": AsyncCallbackManager([tracer], [tracer])},
        "callbacks and metadata": {"callbacks": [tracer], "metadata": {"mine": 1}},
        "no callbacks": {"callbacks": []},
    }

    def ask(llm: BaseChatModel) -> Callable[[], Awaitable[Any]]:
        return lambda: call(llm, configs[brought])

    helper = calling(ask(model(2)), name="helper")
    lead = (
        StateGraph(MessagesState)
        .add_node("inside", calling(ask(model(1)), name="inside"))
        .add_node("lead", making(lambda: helper.ainvoke({"messages": []}), ask(model(4))))
        .add_node("Hook.before_model", making(ask(model(8))))
        .add_edge(START, "inside")
        .add_edge("inside", "lead")
        .add_edge("lead", "Hook.before_model")
        .compile(name="graph")
    )
    outcome = await stage.play(lead, "go")
    assert callers(outcome) == {"inside": 1, "helper": 2, "lead_agent": 4, "middleware:Hook": 8}
    assert kinds(outcome) == [
        ("invoke_agent", "lead_agent"),
        ("chat", "inside"),
        ("invoke_agent", "lead_agent"),
        ("chat", "helper"),
        ("chat", "lead_agent"),
        ("chat", "middleware:Hook"),
    ]
    assert outcome.usage["llm_call_count"] == 4
    assert tracer.heard == ([] if brought == "no callbacks" else ["chat"] * 4)


async def test_tags_around_a_call_with_callbacks_and_tags_of_its_own_say_who_makes_it(stage: Any) -> None:
    helper = calling(lambda: model().ainvoke("?", {"callbacks": [Tracer()], "tags": ["mine"]}))
    tagged = calling(lambda: helper.ainvoke({"messages": []}, {"tags": ["subagent:clerk"]}))
    assert callers(await stage.play(tagged, "go")) == {"clerk": 10}


async def test_a_tool_with_callbacks_of_its_own_counts_once_and_what_it_calls_is_credited_to_its_graph(
    stage: Any,
) -> None:
    tracer = Tracer()

    @tool
    async def look_up(question: str) -> str:
        """Look something up."""
        return str((await model().ainvoke(question)).content)

    inside = calling(lambda: look_up.ainvoke({"question": "?"}, {"callbacks": [tracer]}), name="inside")
    lead = StateGraph(MessagesState).add_node("inside", inside).add_edge(START, "inside").compile()
    outcome = await stage.play(lead, "go")
    assert kinds(outcome) == [("invoke_agent", "lead_agent"), ("execute_tool", "inside"), ("chat", "inside")]
    assert outcome.usage["tool_call_count"] == 1
    assert callers(outcome) == {"inside": 10}
    assert tracer.heard == ["execute_tool", "chat"]


@pytest.mark.parametrize("budget", [{"max_tokens": 15}, {"max_llm_calls": 1}])
@pytest.mark.parametrize("call", [in_call, in_thread, in_sequence])
async def test_a_budget_stops_calls_with_callbacks_of_their_own(stage: Any, call: Any, budget: Any) -> None:
    graph = calling(*[lambda: call(model(), {"callbacks": [Tracer()]})] * 5)
    outcome = await stage.play(graph, "go", **budget)
    assert outcome.end["error_type"] == "budget_exceeded"
    assert (outcome.usage["llm_call_count"], outcome.usage["total_tokens"]) == (2, 20)


@pytest.mark.parametrize("kind", ["chat", "execute_tool"])
async def test_a_run_that_shall_stop_begins_no_call_with_callbacks_of_its_own(stage: Any, kind: str) -> None:
    ran: list[str] = []

    @tool
    def act() -> str:
        """Act."""
        ran.append("tool")
        return "done"

    class Costly(FakeMessagesListChatModel):
        def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
            ran.append("model")
            return super()._generate(*args, **kwargs)

    def overspend(state: MessagesState) -> dict[str, Any]:
        run = current_run()
        assert run is not None
        run.record_usage("bought", input_tokens=100, output_tokens=1)
        config = RunnableConfig(callbacks=[Tracer()])
        if kind == "chat":
            Costly(responses=[AIMessage("yes")]).invoke("?", config)
        else:
            act.invoke({}, config)
        return {}

    graph = StateGraph(MessagesState).add_node("over", overspend).add_edge(START, "over").compile()
    outcome = await stage.play(graph, "go", max_tokens=100)
    assert outcome.end["error_type"] == "budget_exceeded"
    assert ran == []
    assert outcome.usage["total_tokens"] == 101


async def test_a_cancelled_stream_with_callbacks_of_its_own_counts_as_far_as_it_had_reported(stage: Any) -> None:
    llm = Streaming(chunks=[chunk("a", (50, 3))], waits=True)
    outcome = await cancelled_as_it_waits(stage, calling(lambda: streamed(llm, {"callbacks": [Tracer()]})), "custom")
    assert outcome.status is RunStatus.cancelled
    assert callers(outcome) == {"lead_agent": 53}


async def test_runs_that_a_node_starts_count_their_calls_with_callbacks_for_themselves(stage: Any) -> None:
    def ask(tokens: int) -> Callable[[], Awaitable[Any]]:
        return lambda: model(tokens).ainvoke("?", {"callbacks": [Tracer()]})

    used: dict[str, Any] = {}

    async def function(question: str) -> str:
        await ask(2)()
        return "done"

    async def in_place() -> None:
        for name, agent in {"graph": calling(ask(1)), "function": function, "again": calling(ask(4))}.items():
            used[name] = (await run_agent(agent, "?")).completion_data["total_tokens"]
            await ask(100)()

    async def started() -> None:
        used["started"] = (await stage.play(calling(ask(8)), "?")).usage["total_tokens"]

    outcome = await stage.play(calling(in_place, started), "go")
    assert outcome.status is RunStatus.success
    assert used == {"graph": 1, "function": 0, "again": 4, "started": 8}  # nobody listens to what a function calls
    assert callers(outcome) == {"lead_agent": 300}


async def test_a_graph_that_a_function_runs_leaves_nothing_behind_that_counts_for_it(stage: Any) -> None:
    totals: list[int] = []

    async def function(question: str) -> str:
        for _ in range(2):
            graph = calling(lambda: model().ainvoke("?", {"callbacks": [Tracer()]}))
            result = await run_agent(graph, question)
            await model().ainvoke("?", {"callbacks": [Tracer()]})
            totals.append(result.completion_data["total_tokens"])
        return "done"

    outcome = await stage.play(function, "go")
    assert (outcome.status, totals, outcome.usage["total_tokens"]) == (RunStatus.success, [10, 10], 0)
