"""Tokens, calls, and who is credited with them."""

import asyncio
import operator
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import FakeMessagesListChatModel, GenericFakeChatModel, LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.func import entrypoint, task
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Send
from tests.integration.langgraph.streaming import Streaming, callers, cancelled_as_it_waits, chunk

from trackside import RunStatus, current_run
from trackside.app.pricing import GenaiPrices


def answer(text: str = "yes", tokens: tuple[int, int] = (10, 2), model: str = "small", **usage: Any) -> AIMessage:
    metadata = {"input_tokens": tokens[0], "output_tokens": tokens[1], "total_tokens": sum(tokens), **usage}
    return AIMessage(text, usage_metadata=metadata, response_metadata={"model_name": model})


def model(*answers: AIMessage) -> FakeMessagesListChatModel:
    return FakeMessagesListChatModel(responses=list(answers or [answer()]))


def asking(llm: BaseChatModel, *, name: str | None = None, node: str = "model", **compiled: Any) -> Any:
    """A graph of one node that asks a model."""

    async def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await llm.ainvoke(state["messages"])]}

    return StateGraph(MessagesState).add_node(node, ask).add_edge(START, node).compile(name=name, **compiled)


def calls(outcome: Any) -> list[tuple[str, str, str]]:
    """The calls, as kind, name and caller, in the order in which they started; each has returned without an error."""
    listed = outcome.usage["calls"]
    assert [call for call in listed if "error_type" in call] == []
    return [(call["kind"], call["name"], call["caller"]) for call in listed]


@pytest.mark.parametrize(
    ("of_input", "of_output"),
    [
        ({"cache_read": 60}, {"reasoning": 5}),
        # as langchain-openai reports them with a service tier; the tier's own key has the rest
        ({"flex_cache_read": 60, "flex": 40}, {"flex_reasoning": 5, "flex": 15}),
        ({"priority_cache_read": 60, "priority": 40}, {"priority_reasoning": 5, "priority": 15}),
    ],
)
async def test_a_model_call_is_counted_by_model_and_credited_to_the_lead_agent(
    stage: Any, of_input: dict[str, int], of_output: dict[str, int]
) -> None:
    llm = model(answer(tokens=(100, 20), input_token_details=of_input, output_token_details=of_output))
    outcome = await stage.play(asking(llm), "hello")
    used = {
        "input_tokens": 100,
        "output_tokens": 20,
        "total_tokens": 120,
        "cache_read_tokens": 60,
        "reasoning_tokens": 5,
    }
    assert outcome.usage["token_usage_by_model"] == {"small": used}
    assert outcome.usage["token_usage_by_caller"] == {"lead_agent": used}
    assert outcome.usage["llm_call_count"] == 1


@pytest.mark.parametrize(
    "details",
    [
        {"cache_creation": 60},
        {"flex_cache_creation": 60, "flex": 40},
        {"cache_creation": 0, "ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 40},
        {"cache_creation": 60, "ephemeral_5m_input_tokens": 60},
    ],
)
async def test_tokens_that_were_written_to_a_cache_are_counted(stage: Any, details: dict[str, int]) -> None:
    outcome = await stage.play(asking(model(answer(tokens=(100, 20), input_token_details=details))), "hello")
    assert outcome.usage["token_usage_by_model"]["small"]["cache_write_tokens"] == 60
    assert outcome.usage["calls"][0]["cache_write_tokens"] == 60
    assert "request_model" not in outcome.usage["calls"][0]  # of what was asked, only its class is known


class OfProvider(FakeMessagesListChatModel):
    """A model that says who bills for it, as LangChain's integrations do."""

    provider: str

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return LangSmithParams(ls_provider=self.provider, ls_model_name="asked")


@pytest.fixture(scope="module")
def prices() -> GenaiPrices:
    """Read from disk, which nothing does on the loop."""
    prices = GenaiPrices()
    prices.load()
    return prices


@pytest.mark.parametrize(
    ("provider", "name", "usd"),
    [
        ("groq", "openai/gpt-oss-120b", 0.15),
        ("groq", "llama-3.3-70b-versatile", 0.59),
        ("openai", "gpt-4.1", 2.0),
        ("ollama", "deepseek-r1", None),
    ],
)
async def test_a_call_costs_what_the_provider_takes_that_was_called(
    open_stage: Any, prices: GenaiPrices, provider: str, name: str, usd: float | None
) -> None:
    llm = OfProvider(responses=[answer(tokens=(1_000_000, 0), model=name)], provider=provider)
    stage = await open_stage(prices=prices)
    outcome = await stage.play(asking(llm), "hello", max_cost_usd=0.1)
    assert outcome.usage["token_usage_by_model"][name].get("cost_usd") == pytest.approx(usd)
    assert outcome.status is (RunStatus.success if usd is None else RunStatus.error)
    (called,) = outcome.usage["calls"]
    assert (called["name"], called["request_model"]) == (name, "asked")


async def test_a_sync_node_in_a_thread_is_counted_too(stage: Any) -> None:
    llm = model()

    def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [llm.invoke(state["messages"])]}

    graph = StateGraph(MessagesState).add_node("ask", ask).add_edge(START, "ask").compile()
    outcome = await stage.play(graph, "hello")
    assert callers(outcome) == {"lead_agent": 12}


async def test_a_model_that_reports_no_usage_still_counts_as_called(stage: Any) -> None:
    outcome = await stage.play(asking(GenericFakeChatModel(messages=iter(["hi"]))), "hello")
    assert outcome.usage["llm_call_count"] == 1
    assert outcome.usage["total_tokens"] == 0
    assert list(outcome.usage["token_usage_by_model"]) == ["GenericFakeChatModel"]


async def test_counts_that_make_no_sense_are_left_out_and_the_call_counts(stage: Any) -> None:
    outcome = await stage.play(asking(model(answer(tokens=(2**64 - 1, 2)))), "hello")
    assert (outcome.usage["llm_call_count"], outcome.usage["total_tokens"]) == (1, 2)


async def test_a_plain_text_model_is_counted(stage: Any) -> None:
    llm = FakeListLLM(responses=["hi"])

    async def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(await llm.ainvoke("hello"))]}

    graph = StateGraph(MessagesState).add_node("ask", ask).add_edge(START, "ask").compile()
    outcome = await stage.play(graph, "hello")
    assert outcome.usage["llm_call_count"] == 1
    assert list(outcome.usage["token_usage_by_model"]) == ["FakeListLLM"]


async def test_an_answer_from_the_cache_is_not_a_call(stage: Any) -> None:
    llm = FakeMessagesListChatModel(responses=[answer()], cache=InMemoryCache())
    graph = asking(llm)
    message = {"role": "user", "content": "same", "id": "m1"}
    first = await stage.play(graph, {"messages": [message]})
    second = await stage.play(graph, {"messages": [message]})
    assert first.usage["total_tokens"] == 12
    assert second.usage["total_tokens"] == 0
    assert second.usage["llm_call_count"] == 0


async def test_a_subgraph_as_a_node_is_credited_to_its_name(stage: Any) -> None:
    lead = (
        StateGraph(MessagesState)
        .add_node("research", asking(model(answer(tokens=(5, 5))), name="researcher"))
        .add_node("write", asking(model(answer(tokens=(1, 1)))))
        .add_node("finish", _ask_node(model(answer(tokens=(100, 0)))))
        .add_edge(START, "research")
        .add_edge("research", "write")
        .add_edge("write", "finish")
        .compile(name="lead")
    )
    outcome = await stage.play(lead, "go")
    assert callers(outcome) == {"researcher": 10, "write": 2, "lead_agent": 100}
    assert calls(outcome) == [
        ("invoke_agent", "researcher", "lead_agent"),
        ("chat", "small", "researcher"),
        ("invoke_agent", "write", "lead_agent"),
        ("chat", "small", "write"),
        ("chat", "small", "lead_agent"),
    ]


def _ask_node(llm: BaseChatModel) -> Any:
    async def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await llm.ainvoke(state["messages"])]}

    return ask


async def test_a_graph_inside_a_graph_inside_is_credited_by_the_path_to_it(stage: Any) -> None:
    inner = asking(model())
    middle = StateGraph(MessagesState).add_node("search", inner).add_edge(START, "search").compile()
    lead = StateGraph(MessagesState).add_node("team", middle).add_edge(START, "team").compile()
    outcome = await stage.play(lead, "go")
    assert callers(outcome) == {"team/search": 12}
    assert calls(outcome) == [
        ("invoke_agent", "team", "lead_agent"),
        ("invoke_agent", "team/search", "team"),
        ("chat", "small", "team/search"),
    ]


async def test_a_graph_called_in_a_node_is_credited_to_its_name_also_in_a_thread_of_its_own(stage: Any) -> None:
    named = asking(model(answer(tokens=(1, 0)), answer(tokens=(2, 0))), name="critic")

    async def node(state: MessagesState) -> dict[str, Any]:
        await named.ainvoke(state)
        await named.ainvoke(state, {"configurable": {"thread_id": "elsewhere"}})
        return {}

    lead = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").compile()
    outcome = await stage.play(lead, "go")
    assert callers(outcome) == {"critic": 3}
    assert calls(outcome) == [("invoke_agent", "critic", "lead_agent"), ("chat", "small", "critic")] * 2


@pytest.mark.parametrize(("name", "credited"), [("searcher", "searcher"), (None, "look_up")])
async def test_a_graph_inside_a_tool_is_credited_to_its_name_or_the_tool(
    stage: Any, name: str | None, credited: str
) -> None:
    helper = asking(model(answer(tokens=(30, 3))), name=name)

    @tool
    async def look_up(question: str) -> str:
        """Look something up."""
        state = await helper.ainvoke({"messages": question})
        return str(state["messages"][-1].content)

    call = AIMessage("", tool_calls=[{"name": "look_up", "args": {"question": "?"}, "id": "1"}])
    lead = (
        StateGraph(MessagesState)
        .add_node("model", _ask_node(model(call)))
        .add_node("tools", ToolNode([look_up]))
        .add_edge(START, "model")
        .add_edge("model", "tools")
        .compile()
    )
    outcome = await stage.play(lead, "go")
    assert callers(outcome) == {"lead_agent": 0, credited: 33}
    assert outcome.usage["tool_call_count"] == 1
    assert calls(outcome)[1:] == [
        ("execute_tool", "look_up", "lead_agent"),
        ("invoke_agent", credited, "lead_agent"),
        ("chat", "small", credited),
    ]


class Fan(TypedDict, total=False):
    topics: list[str]
    found: Annotated[list[str], operator.add]


async def test_sub_agents_in_parallel_are_each_credited_to_themselves(stage: Any) -> None:
    agents = {n: asking(model(answer(tokens=(n, 0))), name=f"researcher-{n}") for n in range(1, 9)}

    async def research(topic: dict[str, int]) -> Fan:
        state = await agents[topic["n"]].ainvoke({"messages": "?"})
        return {"found": [str(state["messages"][-1].content)]}

    graph = (
        StateGraph(Fan)
        .add_node("research", research)
        .add_conditional_edges(START, lambda _: [Send("research", {"n": n}) for n in agents], ["research"])
        .compile()
    )
    outcome = await stage.play(graph, {"topics": []})
    assert callers(outcome) == {f"researcher-{n}": n for n in agents}
    assert outcome.usage["total_tokens"] == 36


async def test_an_agent_name_in_the_metadata_names_the_sub_agent_as_create_agent_does(stage: Any) -> None:
    planner = asking(model(answer(tokens=(1, 0)))).with_config(metadata={"lc_agent_name": "planner"})
    loop = StateGraph(MessagesState).add_node("loop", asking(model(answer(tokens=(2, 0))))).add_edge(START, "loop")
    worker = loop.compile().with_config(metadata={"lc_agent_name": "worker"})
    own = model(answer(tokens=(4, 0)))

    async def lead(state: MessagesState) -> dict[str, Any]:
        for part in (planner, worker):
            await part.ainvoke(state)
        return {"messages": [await own.ainvoke("?")]}

    graph = StateGraph(MessagesState).add_node("lead", lead).add_edge(START, "lead").compile()
    outcome = await stage.play(graph.with_config(metadata={"lc_agent_name": "lead"}), "go")
    assert callers(outcome) == {"planner": 1, "worker": 2, "lead_agent": 4}


async def test_middleware_is_credited_to_itself_and_a_tag_says_it_of_any_call(stage: Any) -> None:
    marked = model(answer(tokens=(2, 0))).with_config(metadata={"lc_source": "tool_selection"})
    tagged = model(answer(tokens=(3, 0))).with_config(tags=["middleware:title"])
    helper = model(answer(tokens=(4, 0))).with_config(tags=["subagent:clerk"])

    async def ask(state: MessagesState) -> dict[str, Any]:
        for llm in (marked, tagged, helper):
            await llm.ainvoke("?")
        return {}

    hook = "SummarizationMiddleware.before_model"
    graph = (
        StateGraph(MessagesState)
        .add_node(hook, _ask_node(model(answer(tokens=(1, 0)))))
        .add_node("model", ask)
        .add_edge(START, hook)
        .add_edge(hook, "model")
        .compile()
    )
    outcome = await stage.play(graph, "go")
    assert callers(outcome) == {
        "middleware:SummarizationMiddleware": 1,
        "middleware:tool_selection": 2,
        "middleware:title": 3,
        "clerk": 4,
    }


async def test_tasks_of_the_functional_api_belong_to_the_lead_agent(stage: Any) -> None:
    llm = model(answer(tokens=(1, 1)))

    @task
    async def inner(text: str) -> str:
        return str((await llm.ainvoke(text)).content)

    @task
    async def outer(text: str) -> str:
        return await inner(text)

    @entrypoint()
    async def flow(text: str) -> str:
        return await outer(text)

    outcome = await stage.play(flow, "go")
    assert callers(outcome) == {"lead_agent": 2}


CHUNKS = [chunk("a", (50, 1)), chunk("b", (0, 2)), chunk("c", (0, 3), model_name="streamer")]


@pytest.mark.parametrize("modes", [("values",), ("messages",)])
async def test_a_streamed_answer_counts_once_with_the_sum_of_what_its_chunks_report(stage: Any, modes: Any) -> None:
    class Whole(Streaming):
        def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
            return ChatResult(generations=[ChatGeneration(message=answer("abc", (50, 6), "streamer"))])

    outcome = await stage.play(asking(Whole(chunks=CHUNKS)), "go", stream_mode=modes)
    assert outcome.usage["token_usage_by_model"]["streamer"]["total_tokens"] == 56
    assert outcome.usage["llm_call_count"] == 1


@pytest.mark.parametrize("modes", [("values",), ("messages",)])
async def test_a_stream_that_fails_counts_as_far_as_it_had_reported(stage: Any, modes: Any) -> None:
    llm = Streaming(chunks=CHUNKS[:2], then=ConnectionError("gone"))

    async def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [part async for part in llm.astream("?")]}

    graph = StateGraph(MessagesState).add_node("ask", ask).add_edge(START, "ask").compile()
    outcome = await stage.play(graph, "go", stream_mode=modes)
    assert outcome.status is RunStatus.error
    assert outcome.end["error_type"] == "ConnectionError"
    assert outcome.usage["total_tokens"] == 53


@pytest.mark.parametrize("streamed_by_node", [True, False])
async def test_a_cancelled_stream_counts_as_far_as_it_had_reported(stage: Any, streamed_by_node: bool) -> None:
    llm = Streaming(chunks=CHUNKS, waits=True)

    async def ask(state: MessagesState) -> dict[str, Any]:
        if streamed_by_node:
            return {"messages": [part async for part in llm.astream("?")]}
        return {"messages": [await llm.ainvoke("?")]}

    graph = StateGraph(MessagesState).add_node("ask", ask).add_edge(START, "ask").compile()
    outcome = await cancelled_as_it_waits(stage, graph, "messages", "custom")
    assert outcome.status is RunStatus.cancelled
    assert callers(outcome) == {"lead_agent": 56}


async def test_two_runs_of_one_graph_at_once_keep_their_usage_apart(stage: Any) -> None:
    graph = asking(model(answer(tokens=(7, 0))))
    outcomes = await asyncio.gather(*(stage.play(graph, "go") for _ in range(5)))
    assert [outcome.usage["total_tokens"] for outcome in outcomes] == [7] * 5


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "thread"])
async def test_a_budget_of_tool_calls_stops_the_next_before_it_runs(stage: Any, is_async: bool) -> None:
    ran: list[str] = []

    def act(what: str) -> str:
        """Act."""
        ran.append(what)
        return "ok"

    async def act_async(what: str) -> str:
        """Act."""
        return act(what)

    acting = tool("act")(act_async if is_async else act)
    calls = [{"name": "act", "args": {"what": what}, "id": what} for what in "ab"]
    llm = model(answer(), answer())

    async def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [(await llm.ainvoke(state["messages"])).model_copy(update={"tool_calls": calls})]}

    builder = StateGraph(MessagesState).add_node("model", ask).add_node("tools", ToolNode([acting]))
    graph = builder.add_edge(START, "model").add_edge("model", "tools").compile()
    outcome = await stage.play(graph, "go", max_tool_calls=1)
    assert outcome.end["error_type"] == "budget_exceeded"
    async with asyncio.timeout(60):
        while not ran:  # a thread that has begun its call goes on after the run's end
            await asyncio.sleep(0)
    assert ran == ["a"] or (ran == ["b"] and not is_async)  # threads may begin in any order
    assert outcome.usage["tool_call_count"] == 2


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "thread"])
async def test_a_run_that_shall_stop_calls_no_model_any_more_and_no_fallback(
    stage: Any, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    llm = model().with_fallbacks([model()])

    def overspend(state: MessagesState) -> dict[str, Any]:
        run = current_run()
        assert run is not None
        run.record_usage("bought", input_tokens=100, output_tokens=1)
        return {"messages": [llm.invoke("once more")]}

    async def overspend_async(state: MessagesState) -> dict[str, Any]:
        return overspend(state)

    builder = StateGraph(MessagesState).add_node("over", overspend_async if is_async else overspend)
    outcome = await stage.play(builder.add_edge(START, "over").compile(), "go", max_tokens=100)
    assert outcome.end["error_type"] == "budget_exceeded"
    assert (outcome.usage["llm_call_count"], outcome.usage["total_tokens"]) == (1, 101)
    assert not caplog.records
