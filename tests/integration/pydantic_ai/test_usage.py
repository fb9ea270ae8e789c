"""The tokens and calls of agents' runs: by model and by caller, whatever becomes of the run."""

import asyncio
import json
from decimal import Decimal
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI
from pydantic_ai import (
    Agent,
    ApprovalRequired,
    DeferredToolRequests,
    ModelHTTPError,
    ModelResponse,
    ModelRetry,
    RequestUsage,
    TextPart,
)
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.models import Model
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAICompaction, OpenAIResponsesModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.providers.cerebras import CerebrasProvider
from pydantic_ai.providers.ollama import OllamaProvider
from pydantic_ai.providers.openai import OpenAIProvider
from tests.contract.ways_to_run import virtual
from tests.integration.pydantic_ai.models import USAGE, Answer, answers, call, streams

from trackside import RunStatus, run_agent
from trackside.app.pricing import GenaiPrices

LEAD = "lead_agent"
EVENT_STREAM = {"content-type": "text/event-stream"}


def by(outcome: Any, what: str) -> dict[str, int]:
    return {name: usage["total_tokens"] for name, usage in outcome.usage[f"token_usage_by_{what}"].items()}


def http_error(model: str) -> ModelHTTPError:
    return ModelHTTPError(500, model)


def calls(outcome: Any) -> list[tuple[str, str, str]]:
    """The calls, as kind, name and caller, in the order in which they started; each has returned without an error."""
    listed = outcome.usage["calls"]
    assert [call for call in listed if "error_type" in call] == []
    return [(call["kind"], call["name"], call["caller"]) for call in listed]


@pytest.mark.parametrize("tokens", [-1, 2**64 - 1])
async def test_counts_that_make_no_sense_are_left_out_and_the_run_goes_on(stage: Any, tokens: int) -> None:
    usage = RequestUsage(
        input_tokens=tokens, output_tokens=20, cache_read_tokens=tokens, output_reasoning_tokens=tokens
    )
    outcome = await stage.play(Agent(answers(ModelResponse(parts=[TextPart("done")], usage=usage))), "go")
    assert (outcome.status, outcome.usage["llm_call_count"]) == (RunStatus.success, 1)
    assert outcome.usage["total_tokens"] == 20


async def test_each_request_counts_under_the_model_that_answered(stage: Any) -> None:
    usage = RequestUsage(
        input_tokens=100, output_tokens=50, cache_read_tokens=80, output_reasoning_tokens=30, cost=Decimal("0.25")
    )
    answer = ModelResponse(parts=[TextPart("done")], usage=usage)
    outcome = await stage.play(Agent(answers([call("ok")], answer), tools=[ok]), "go")
    assert outcome.usage["llm_call_count"] == 2
    assert outcome.usage["token_usage_by_model"] == {
        "small": {
            "input_tokens": 110,
            "output_tokens": 55,
            "total_tokens": 165,
            "cache_read_tokens": 80,
            "reasoning_tokens": 30,
            "cost_usd": 0.25,
        }
    }


async def test_tokens_that_were_written_to_a_cache_are_counted(stage: Any) -> None:
    usage = RequestUsage(input_tokens=100, output_tokens=9, cache_write_tokens=70)
    outcome = await stage.play(Agent(answers(ModelResponse(parts=[TextPart("done")], usage=usage))), "go")
    assert outcome.usage["token_usage_by_caller"][LEAD]["cache_write_tokens"] == 70


@pytest.mark.parametrize("modes", [("values",), ("messages",)], ids=["whole", "streamed"])
@pytest.mark.parametrize(("provider", "usd"), [(OllamaProvider, None), (CerebrasProvider, 0.85)])
async def test_a_call_costs_what_the_provider_takes_that_was_called(
    open_stage: Any, provider: Any, usd: float | None, modes: Any
) -> None:
    def serve(request: httpx.Request) -> httpx.Response:
        answer = {"id": "1", "created": 1, "model": "llama-3.3-70b", "usage": used}
        if b'"stream":true' not in request.content:
            said = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "done"}}
            return httpx.Response(200, json={**answer, "object": "chat.completion", "choices": [said]})
        delta = {"index": 0, "finish_reason": "stop", "delta": {"role": "assistant", "content": "done"}}
        part = json.dumps({**answer, "object": "chat.completion.chunk", "choices": [delta]})
        return httpx.Response(200, text=f"data: {part}\n\ndata: [DONE]\n\n", headers=EVENT_STREAM)

    used = {"prompt_tokens": 1_000_000, "completion_tokens": 0, "total_tokens": 1_000_000}
    async with httpx.AsyncClient(transport=httpx.MockTransport(serve)) as http:
        client = AsyncOpenAI(base_url="http://provider/v1", api_key="key", http_client=http)
        model = OpenAIChatModel("llama-3.3-70b", provider=provider(openai_client=client))
        stage = await open_stage(prices=GenaiPrices())
        outcome = await stage.play(Agent(model), "go", max_cost_usd=0.1, stream_mode=modes)
    assert outcome.usage["token_usage_by_model"]["llama-3.3-70b"].get("cost_usd") == pytest.approx(usd)
    assert outcome.status is (RunStatus.success if usd is None else RunStatus.error)


async def test_reasoning_tokens_that_are_a_detail_count(stage: Any) -> None:
    usage = RequestUsage(input_tokens=1, output_tokens=9, details={"reasoning_tokens": 7})
    outcome = await stage.play(Agent(answers(ModelResponse(parts=[TextPart("done")], usage=usage))), "go")
    assert outcome.usage["token_usage_by_caller"][LEAD]["reasoning_tokens"] == 7


USED_ON_OPENAI = {
    "input_tokens": 10,
    "output_tokens": 5,
    "total_tokens": 15,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens_details": {"reasoning_tokens": 0},
}


def response(said: str, used: dict[str, Any]) -> dict[str, Any]:
    text = {"type": "output_text", "text": said, "annotations": []}
    message = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [text]}
    answer = {"id": "resp_1", "object": "response", "created_at": 0, "status": "completed", "model": "gpt-5"}
    return {**answer, "output": [message], "usage": used}


def answered(request: httpx.Request, answer: dict[str, Any]) -> httpx.Response:
    """An answer of OpenAI's Responses API, in one piece or as a stream."""
    if b'"stream":true' not in request.content:
        return httpx.Response(200, json=answer)
    (message,) = answer["output"]
    said = {"output_index": 0, "item_id": message["id"], "content_index": 0, "delta": message["content"][0]["text"]}
    events = [
        {"type": "response.created", "response": {**answer, "status": "in_progress", "output": [], "usage": None}},
        {"type": "response.output_item.added", "output_index": 0, "item": {**message, "content": []}},
        {"type": "response.output_text.delta", **said},
        {"type": "response.completed", "response": answer},
    ]
    text = "".join(
        f"event: {event['type']}\ndata: {json.dumps({**event, 'sequence_number': number})}\n\n"
        for number, event in enumerate(events)
    )
    return httpx.Response(200, text=text, headers=EVENT_STREAM)


@pytest.mark.parametrize("modes", [("values",), ("messages",)], ids=["whole", "streamed"])
async def test_a_count_that_a_server_sends_as_null_is_none(stage: Any, modes: Any) -> None:
    nothing = {"input_tokens_details": {"cached_tokens": None}, "output_tokens_details": {"reasoning_tokens": None}}

    def serve(request: httpx.Request) -> httpx.Response:
        return answered(request, response("42", {**USED_ON_OPENAI, **nothing}))

    async with httpx.AsyncClient(transport=httpx.MockTransport(serve)) as http:
        client = AsyncOpenAI(base_url="http://provider/v1", api_key="key", http_client=http)
        model = OpenAIResponsesModel("gpt-5", provider=OpenAIProvider(openai_client=client))
        outcome = await stage.play(Agent(model), "go", thread_id="t", stream_mode=modes)
    assert (outcome.status, outcome.usage["last_ai_message"]) == (RunStatus.success, "42")
    assert outcome.usage["token_usage_by_model"] == {
        "gpt-5": {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    }


@pytest.mark.parametrize("modes", [("values",), ("values", "messages")], ids=["whole", "streamed"])
async def test_a_call_that_compacts_the_conversation_counts_once(stage: Any, modes: Any) -> None:
    asked: list[str] = []

    def serve(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path.rpartition("/")[2])
        if asked[-1] == "responses":
            return answered(request, response("42", USED_ON_OPENAI))
        shrunk = {"type": "compaction", "id": f"c{len(asked)}", "encrypted_content": f"secret {len(asked)}"}
        used = {**USED_ON_OPENAI, "input_tokens": 900, "output_tokens": 70, "total_tokens": 970}
        return httpx.Response(
            200, json={"id": "k", "object": "response.compaction", "created_at": 0, "output": [shrunk], "usage": used}
        )

    async with httpx.AsyncClient(transport=httpx.MockTransport(serve)) as http:
        client = AsyncOpenAI(base_url="http://provider/v1", api_key="key", http_client=http)
        model = OpenAIResponsesModel("gpt-5", provider=OpenAIProvider(openai_client=client))

        def agent(threshold: int) -> Agent[None, str]:
            return Agent(model, capabilities=[OpenAICompaction(message_count_threshold=threshold)], name="long")

        counted = []
        for threshold in (2, 2, 9):  # the last run has the second one's compaction in its history
            outcome = await stage.play(agent(threshold), "?", thread_id="t", stream_mode=modes)
            assert outcome.values["output"] == "42"
            assert len(calls(outcome)) == outcome.usage["llm_call_count"]
            counted.append((outcome.usage["llm_call_count"], outcome.usage["total_tokens"]))
        assert counted == [(1, 15), (2, 985), (1, 15)]
        outcome = await stage.play(agent(2), "?", thread_id="t", stream_mode=modes, max_tokens=900)
    assert outcome.end["error_type"] == "budget_exceeded"
    assert asked == ["responses", "compact", "responses", "responses", "compact"]


def ok() -> str:
    return "ok"


def delegating(*script: Answer, delegate: Agent[None, Any], way: str = "run") -> Agent[None, str]:
    async def ask() -> str:
        if way == "run":
            return (await delegate.run("go")).output
        if way == "run_stream":
            async with delegate.run_stream("go") as result:
                return await result.get_output()
        async with delegate.iter("go") as run:
            async for _ in run:
                pass
        assert run.result is not None
        return run.result.output

    def ask_in_thread() -> str:  # the framework refuses `run_sync` here
        return asyncio.run(delegate.run("go")).output

    agent = Agent(answers(*script, name="large"), name="boss")
    agent.tool_plain(name="ask")(ask_in_thread if way == "thread" else ask)
    return agent


@pytest.mark.parametrize("way", ["run", "thread", "run_stream", "iter"])
async def test_agents_that_tools_call_count_under_their_name(stage: Any, way: str) -> None:
    delegate: Agent[None, str] = Agent(TestModel(), name="expert")
    outcome = await stage.play(delegating([call("ask")], "done", delegate=delegate, way=way), "go")
    assert outcome.status is RunStatus.success
    assert set(by(outcome, "caller")) == {LEAD, "expert"}
    assert by(outcome, "caller")[LEAD] == by(outcome, "model")["large"] == 30
    assert by(outcome, "caller")["expert"] == by(outcome, "model")["test"] > 0
    assert ("invoke_agent", "expert", LEAD) in calls(outcome)
    assert outcome.usage["llm_call_count"] == 3
    assert outcome.usage["message_count"] == 4  # what agents say to each other does not count


async def test_a_delegate_that_is_not_heard_out_counts_with_what_it_had_said(stage: Any) -> None:
    talker = Agent(streams(["one ", "two ", "three"]), name="talker")

    async def listen() -> str:
        async with talker.run_stream("go") as result:
            async for text in result.stream_text(delta=True, debounce_by=None):
                return text
        return ""

    outcome = await stage.play(Agent(answers([call("listen")], "done"), tools=[listen]), "go")
    assert outcome.status is RunStatus.success
    assert outcome.usage["token_usage_by_caller"]["talker"]["output_tokens"] > 0


async def test_agents_at_once_and_deep_down_are_told_apart(stage: Any) -> None:
    inner = Agent(answers("inner"), name="inner")
    middle = Agent(answers([call("ask_inner")], "middle"), name="middle")
    side = Agent(answers("side"), name="side")
    agent = Agent(answers([call("ask_middle"), call("ask_side")], "done"))

    @middle.tool_plain
    async def ask_inner() -> str:
        return (await inner.run("go")).output

    @agent.tool_plain
    async def ask_middle() -> str:
        return (await middle.run("go")).output

    @agent.tool_plain
    async def ask_side() -> str:
        return (await side.run("go")).output

    outcome = await stage.play(agent, "go")
    assert by(outcome, "caller") == {LEAD: 30, "middle": 30, "inner": 15, "side": 15}
    assert outcome.usage["tool_call_count"] == 3
    assert sorted(calls(outcome)) == sorted(
        [
            ("chat", "small", LEAD),
            ("execute_tool", "ask_middle", LEAD),
            ("execute_tool", "ask_side", LEAD),
            ("invoke_agent", "middle", LEAD),
            ("invoke_agent", "side", LEAD),
            ("chat", "small", "middle"),
            ("chat", "small", "side"),
            ("execute_tool", "ask_inner", "middle"),
            ("invoke_agent", "inner", "middle"),
            ("chat", "small", "inner"),
            ("chat", "small", "middle"),
            ("chat", "small", LEAD),
        ]
    )


@pytest.mark.parametrize("through_function", [False, True], ids=["agent", "function"])
async def test_what_is_used_in_a_run_that_a_tool_starts_is_not_the_outer_runs(
    stage: Any, through_function: bool
) -> None:
    inner = Agent(answers("inner"), name="inner")
    agent = Agent(answers([call("start")], "done"))
    results: list[Any] = []

    async def ask_inner(text: str) -> str:
        return (await inner.run(text)).output

    @agent.tool_plain
    async def start() -> str:
        results.append(await run_agent(ask_inner if through_function else inner, "go"))
        return "ok"

    outcome = await stage.play(agent, "go")
    assert by(outcome, "caller") == {LEAD: 30}
    assert results[0].status is RunStatus.success
    assert results[0].completion_data["total_tokens"] == (0 if through_function else 15)


async def test_an_agent_that_runs_outside_of_any_run_counts_nowhere(stage: Any) -> None:
    outcome = await stage.play(Agent(answers("done")), "go")
    assert (await Agent(answers("alone")).run("go")).output == "alone"
    assert outcome.usage["llm_call_count"] == 1


@pytest.mark.parametrize("mode", ["values", "messages"], ids=["whole", "streamed"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "wrapped"])
async def test_a_fallback_counts_each_model_for_itself(stage: Any, wrapped: bool, mode: str) -> None:
    model = FallbackModel(answers(http_error("first"), name="first"), answers("done", name="second"))
    outcome = await stage.play(Agent(WrapperModel(model) if wrapped else model), "go", stream_mode=mode)
    assert outcome.status is RunStatus.success
    assert by(outcome, "model") == {"second": 15}
    assert outcome.usage["llm_error_count"] == 1


async def test_a_fallback_that_finds_no_model_is_an_error(stage: Any) -> None:
    model = FallbackModel(answers(http_error("first")), answers(http_error("second")))
    outcome = await stage.play(Agent(model), "go")
    assert outcome.end["error_type"] == "FallbackExceptionGroup"
    assert outcome.usage["llm_error_count"] == 2


async def test_an_answer_that_a_fallback_rejects_has_been_paid_for(stage: Any) -> None:
    def empty(response: ModelResponse) -> bool:
        return not response.text

    model = FallbackModel(answers("", name="first"), answers("done", name="second"), fallback_on=[empty])
    outcome = await stage.play(Agent(model), "go")
    assert by(outcome, "model") == {"first": 15, "second": 15}


async def test_what_a_failed_run_used_counts(stage: Any) -> None:
    agent = Agent(answers([call("ok")], http_error("small")), tools=[ok])
    outcome = await stage.play(agent, "go")
    assert outcome.end["error_type"] == "ModelHTTPError"
    assert (outcome.usage["total_tokens"], outcome.usage["llm_error_count"]) == (15, 1)


async def test_what_a_cancelled_run_used_counts_its_delegates_included(stage: Any) -> None:
    reached = asyncio.Event()

    async def wait() -> None:
        reached.set()
        await asyncio.Event().wait()

    delegate = Agent(answers([call("ok")], wait), tools=[ok], name="expert")
    handle = await stage.start(delegating([call("ask")], delegate=delegate), "go")
    await reached.wait()
    await handle.cancel()
    outcome = await stage.outcome(handle)
    assert outcome.status is RunStatus.cancelled
    assert by(outcome, "caller") == {LEAD: 15, "expert": 15}


@virtual
async def test_what_a_run_used_counts_that_took_too_long() -> None:
    agent = Agent(answers([call("wait")], "done"), tools=[asyncio.Event().wait])
    result = await run_agent(agent, "go", timeout=60)
    assert result.status is RunStatus.timeout
    assert result.completion_data["total_tokens"] == 15


@pytest.mark.parametrize("end", ["cancel", "error"])
async def test_a_stream_that_is_cut_off_counts_what_it_had_reported(stage: Any, end: str) -> None:
    reached = asyncio.Event()

    async def wait() -> None:
        reached.set()
        await asyncio.Event().wait()

    script = ["It is ", wait if end == "cancel" else http_error("small")]
    handle = await stage.start(Agent(streams(script)), "How is Rome?", stream_mode="messages")
    if end == "cancel":
        await reached.wait()
        await handle.cancel()
    outcome = await stage.outcome(handle)
    assert outcome.status is (RunStatus.cancelled if end == "cancel" else RunStatus.error)
    assert outcome.usage["llm_call_count"] == 1
    assert outcome.usage["total_output_tokens"] > 0
    assert outcome.usage.get("llm_error_count", 0) == (end == "error")


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "thread"])
async def test_a_budget_of_tool_calls_stops_the_next_before_it_runs(stage: Any, is_async: bool) -> None:
    ran: list[str] = []

    def act(what: str) -> str:
        ran.append(what)
        return "ok"

    async def act_async(what: str) -> str:
        return act(what)

    agent = Agent(answers([call("act", what="a")], [call("act", what="b")], "done"))
    agent.tool_plain(name="act")(act_async if is_async else act)
    outcome = await stage.play(agent, "go", max_tool_calls=1)
    assert outcome.end["error_type"] == "budget_exceeded"
    assert ran == ["a"]
    assert outcome.usage["tool_call_count"] == 2


async def test_a_budget_of_tokens_stops_the_run_before_the_tools_of_that_answer(stage: Any) -> None:
    ran: list[str] = []

    def act() -> str:
        ran.append("ran")
        return "ok"

    outcome = await stage.play(Agent(answers([call("act")], "done"), tools=[act]), "go", max_tokens=14)
    assert outcome.end["error_type"] == "budget_exceeded"
    assert outcome.usage["total_tokens"] == 15
    assert ran == []


async def test_a_budget_counts_what_delegates_use(stage: Any) -> None:
    delegate = Agent(answers([call("ok")], "found"), tools=[ok], name="expert")
    outcome = await stage.play(delegating([call("ask")], "done", delegate=delegate), "go", max_llm_calls=1)
    assert outcome.end["error_type"] == "budget_exceeded"
    assert outcome.usage["llm_call_count"] == 2


async def test_an_answer_that_took_no_call_of_a_model_counts_as_a_message_alone(stage: Any) -> None:
    class Remembering(AbstractCapability[Any]):
        async def wrap_model_request(self, ctx: Any, *, request_context: Any, handler: Any) -> ModelResponse:
            return ModelResponse(parts=[TextPart("as I said")], usage=USAGE)

    outcome = await stage.play(Agent(answers(), capabilities=[Remembering()]), "go")
    assert outcome.status is RunStatus.success
    assert (outcome.usage["llm_call_count"], outcome.usage["message_count"]) == (0, 2)
    assert outcome.usage["last_ai_message"] == "as I said"


async def test_requests_that_a_capability_sends_in_its_own_way_count(stage: Any) -> None:
    class Elsewhere(WrapperModel):
        async def request(self, *request: Any) -> ModelResponse:
            return ModelResponse(parts=[TextPart("from afar")], usage=USAGE, model_name="remote")

    class Sending(AbstractCapability[Any]):
        def get_wrapper_model(self, model: Model) -> Model:
            return Elsewhere(model)

    outcome = await stage.play(Agent(answers(), capabilities=[Sending()]), "go")
    assert by(outcome, "model") == {"remote": 15}


async def test_a_tool_that_is_tried_again_has_failed_once_and_one_that_waits_for_an_approval_has_not(
    stage: Any,
) -> None:
    tries = iter([True, False])
    agent = Agent(answers([call("look")], [call("look")], [call("ask")]), output_type=[str, DeferredToolRequests])

    @agent.tool_plain(retries=2)
    def look() -> str:
        if next(tries):
            raise ModelRetry("look again")
        return "seen"

    @agent.tool_plain
    def ask() -> str:
        raise ApprovalRequired

    outcome = await stage.play(agent, "go")
    assert outcome.status is RunStatus.interrupted
    tools = [call for call in outcome.usage["calls"] if call["kind"] == "execute_tool"]
    seen = [(tool["name"], tool.get("error_type")) for tool in tools]
    assert seen == [("look", "ModelRetry"), ("look", None), ("ask", None)]
