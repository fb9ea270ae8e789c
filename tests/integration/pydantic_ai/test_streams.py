"""What followers of a run see of its agent while the run goes on."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import (
    Agent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryModelRequest,
    SystemPromptPart,
    TextPart,
    ThinkingPart,
    ToolReturnPart,
)
from pydantic_ai.capabilities import Hooks, ProcessEventStream, ProcessHistory
from pydantic_ai.models import Model
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.models.test import TestModel
from tests.integration.pydantic_ai.models import USAGE, answers, call, streams

from trackside import RunStatus, StreamPart


def weather(city: str) -> str:
    return f"sunny in {city}"


def forecaster() -> Agent[None, str]:
    return Agent(
        streams([call("weather", "c1", city="Rome")], ["It is ", "sunny."]), tools=[weather], name="forecaster"
    )


@pytest.mark.parametrize("mode", ["messages", "messages-tuple"])
async def test_text_and_calls_come_in_chunks_of_one_message_each_and_results_whole(stage: Any, mode: str) -> None:
    outcome = await stage.play(forecaster(), "How is Rome?", stream_mode=mode)
    pieces = [message for message, _ in outcome.streamed(mode)]
    calling = [piece for piece in pieces if piece["id"] == pieces[0]["id"]]
    assert [piece["tool_call_chunks"] for piece in calling if piece["tool_call_chunks"]] == [
        [{"type": "tool_call_chunk", "index": 0, "id": "c1", "name": "weather", "args": '{"city":"Rome"}'}]
    ]
    result = next(piece for piece in pieces if piece["type"] == "tool")
    assert (result["name"], result["content"], result["tool_call_id"]) == ("weather", "sunny in Rome", "c1")
    answer = [piece for piece in pieces if piece["id"] == pieces[-1]["id"]]
    assert [piece["content"] for piece in answer] == ["It is ", "sunny.", ""]
    assert [piece.get("chunk_position") for piece in answer] == [None, None, "last"]
    assert {metadata["agent"] for _, metadata in outcome.streamed(mode)} == {"forecaster"}


async def test_chunks_come_while_the_model_goes_on(stage: Any) -> None:
    goes_on = asyncio.Event()
    handle = await stage.start(
        Agent(streams(["It is ", goes_on.wait, "sunny."])), "How is Rome?", stream_mode="messages"
    )
    async for part in handle.stream():
        if isinstance(part, StreamPart) and part.data[0]["content"] == "It is ":
            break
    assert not goes_on.is_set()
    goes_on.set()
    assert (await handle.result()).status is RunStatus.success


async def test_updates_show_what_the_model_and_the_tools_came_to(stage: Any) -> None:
    outcome = await stage.play(forecaster(), "How is Rome?", stream_mode="updates")
    first, second, third = outcome.streamed("updates")
    (calling,) = first["model"]["messages"]
    assert calling["tool_calls"] == [{"type": "tool_call", "id": "c1", "name": "weather", "args": {"city": "Rome"}}]
    (result,) = second["tools"]["messages"]
    assert (result["content"], result["status"]) == ("sunny in Rome", "success")
    (answer,) = third["model"]["messages"]
    assert (answer["type"], answer["content"]) == ("ai", "It is sunny.")


async def test_values_come_at_the_end(stage: Any) -> None:
    outcome = await stage.play(forecaster(), "How is Rome?", stream_mode=["updates", "values"])
    assert [part.mode for part in outcome.parts] == ["updates", "updates", "updates", "values"]
    assert outcome.values["output"] == "It is sunny."


async def test_events_are_the_frameworks_own(stage: Any) -> None:
    outcome = await stage.play(forecaster(), "How is Rome?", stream_mode="events")
    kinds = [event["event_kind"] for event in outcome.streamed("events")]
    assert kinds.index("function_tool_call") < kinds.index("function_tool_result") < kinds.index("final_result")
    assert {part.mode for part in outcome.parts} == {"events"}


async def test_everything_streamed_is_plain_json(stage: Any) -> None:
    modes = ["values", "updates", "messages", "events"]
    outcome = await stage.play(forecaster(), "How is Rome?", stream_mode=modes)
    for part in outcome.parts:
        assert json.loads(json.dumps(part.data, allow_nan=False)) == part.data
    assert {part.mode for part in outcome.parts} == set(modes)


async def test_nothing_is_streamed_that_was_not_asked_for(stage: Any) -> None:
    outcome = await stage.play(forecaster(), "How is Rome?", stream_mode=[])
    assert outcome.parts == []
    assert outcome.status is RunStatus.success


async def test_a_mode_that_agents_do_not_stream_is_refused(stage: Any) -> None:
    outcome = await stage.play(forecaster(), "How is Rome?", stream_mode=["values", "checkpoints"])
    assert outcome.end["error_type"] == "InvalidSpecError"
    assert outcome.end["error"].startswith("stream_mode = ['checkpoints']")


async def test_a_model_that_does_not_stream_gives_its_answer_to_the_stream_all_the_same(stage: Any) -> None:
    outcome = await stage.play(Agent(answers("It is sunny.")), "How is Rome?", stream_mode="messages")
    assert "".join(message["content"] for message, _ in outcome.streamed("messages")) == "It is sunny."
    assert outcome.usage["total_tokens"] == 15
    assert outcome.usage["llm_call_count"] == 1


async def test_thoughts_are_no_text(stage: Any) -> None:
    thinking = ModelResponse(parts=[ThinkingPart("Rome is in Italy."), TextPart("It is sunny.")], usage=USAGE)
    outcome = await stage.play(Agent(answers(thinking)), "How is Rome?", stream_mode="messages")
    pieces = [message for message, _ in outcome.streamed("messages")]
    assert "".join(piece["content"] for piece in pieces) == "It is sunny."
    thoughts = "".join(piece["additional_kwargs"].get("reasoning_content", "") for piece in pieces)
    assert thoughts == "Rome is in Italy."


class Forecast(BaseModel):
    city: str
    sunny: bool


async def test_the_call_of_an_output_tool_is_the_answers_text(stage: Any) -> None:
    agent = Agent(TestModel(custom_output_args={"city": "Rome", "sunny": True}), output_type=Forecast)
    outcome = await stage.play(agent, "How is Rome?", stream_mode=["messages", "updates"])
    pieces = [message for message, _ in outcome.streamed("messages")]
    assert json.loads("".join(piece["content"] for piece in pieces)) == {
        "city": "Rome",
        "sunny": True,
    }
    assert {piece["type"] for piece in pieces} == {"AIMessageChunk"}
    assert not any(piece["tool_call_chunks"] for piece in pieces)
    assert outcome.usage["message_count"] == 2
    assert outcome.streamed("updates")[0]["model"]["messages"][0]["tool_calls"] == []


class Number(BaseModel):
    n: int


def in_pieces() -> FunctionModel:
    """A model that streams the arguments of its first call in pieces, the first of which is not JSON by itself."""

    async def respond(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        if any(isinstance(part, ToolReturnPart) for part in messages[-1].parts):
            yield "done"
            return
        name = info.output_tools[0].name if info.output_tools else "double"
        yield {0: DeltaToolCall(name, '{"n"', tool_call_id="c1")}
        yield {0: DeltaToolCall(json_args=": 4")}
        yield {0: DeltaToolCall(json_args="2}")}

    return FunctionModel(stream_function=respond)


async def test_pieces_of_a_calls_arguments_are_streamed_as_they_come(stage: Any) -> None:
    def double(n: int) -> int:
        return 2 * n

    outcome = await stage.play(Agent(in_pieces(), tools=[double]), "42?", stream_mode="messages")
    calls = [call for message, _ in outcome.streamed("messages") for call in message.get("tool_call_chunks", ())]
    assert [call["args"] for call in calls] == ['{"n"', ": 4", "2}"]


async def test_pieces_of_a_structured_answer_are_streamed_as_they_come(stage: Any) -> None:
    outcome = await stage.play(Agent(in_pieces(), output_type=Number), "42?", stream_mode="messages")
    assert [message["content"] for message, _ in outcome.streamed("messages")] == ['{"n"', ": 4", "2}", ""]
    assert outcome.result.output == {"n": 42}


def newest(messages: list[ModelMessage]) -> list[ModelMessage]:
    return messages[-1:] if len(messages) < 3 else messages[-3:]


def with_hint(messages: list[ModelMessage]) -> list[ModelMessage]:
    return [ModelRequest([SystemPromptPart("Be brief.")]), *messages]


def copied(messages: list[ModelMessage]) -> list[ModelMessage]:
    return [replace(message) for message in messages]


@pytest.mark.parametrize("process", [newest, with_hint, copied])
async def test_processing_the_history_changes_nothing_of_what_is_seen(
    stage: Any, process: Callable[[list[ModelMessage]], list[ModelMessage]]
) -> None:
    async def seen(capabilities: list[ProcessHistory[None]]) -> Any:
        turns = [[call("weather", f"c{nth}", city=f"Rome {nth}")] for nth in range(3)]
        script = [*turns, ["sunny"], [call("weather", "c3", city="Oslo")], ["cold"]]
        agent = Agent(streams(*script), tools=[weather], capabilities=capabilities)
        thread = f"thread-{len(capabilities)}"
        runs = [await stage.play(agent, "And now?", thread_id=thread, stream_mode=modes) for _ in range(2)]
        return [(run.usage["message_count"], [told(part) for part in run.parts]) for run in runs]

    def told(part: StreamPart) -> Any:
        if part.mode == "messages":
            message, _ = part.data
            return message["type"], message["content"], message.get("tool_call_chunks"), message.get("tool_call_id")
        return {node: [message["content"] for message in said["messages"]] for node, said in part.data.items()}

    modes = ["updates", "messages"]
    plain = await seen([])
    assert [count for count, _ in plain] == [8, 4]
    assert await seen([ProcessHistory(process)]) == plain


@pytest.mark.parametrize("subgraphs", [False, True])
async def test_agents_that_tools_call_stream_under_their_name_if_asked_for(stage: Any, subgraphs: bool) -> None:
    meteorologist = Agent(streams(["clear ", "sky"]), name="meteorologist")

    async def ask() -> str:
        return (await meteorologist.run("How is Rome?")).output

    agent = Agent(streams([call("ask")], ["It is sunny."]), tools=[ask])
    outcome = await stage.play(agent, "How is Rome?", stream_mode=["messages", "updates"], stream_subgraphs=subgraphs)
    inside = [part for part in outcome.parts if part.namespace]
    said = "".join(part.data[0]["content"] for part in inside if part.mode == "messages")
    assert said == ("clear sky" if subgraphs else "")
    assert {part.namespace[0].partition(":")[0] for part in inside} == ({"meteorologist"} if subgraphs else set())


async def test_what_was_said_before_is_not_streamed_again(stage: Any) -> None:
    expert = Agent(streams([call("weather", city="Rome")], ["sunny"], ["still sunny"]), tools=[weather], name="expert")

    async def ask_twice() -> str:
        first = await expert.run("How is Rome?")
        return (await expert.run("And now?", message_history=first.all_messages())).output

    agent = Agent(streams([call("ask_twice")], ["It is sunny."], ["It is."]), tools=[ask_twice])
    first = await stage.play(agent, "?", thread_id="t", stream_mode="updates", stream_subgraphs=True)
    assert [(next(iter(part.data)), bool(part.namespace)) for part in first.parts] == [
        ("model", False),
        *[("model", True), ("tools", True), ("model", True)],
        ("model", True),
        *[("tools", False), ("model", False)],
    ]
    second = await stage.play(agent, "?", thread_id="t", stream_mode="updates")
    assert [next(iter(part.data)) for part in second.parts] == ["model"]
    assert second.usage["message_count"] == 2


async def test_an_agents_own_handler_of_events_gets_them_too(stage: Any) -> None:
    seen: list[str] = []

    async def handle(ctx: Any, events: Any) -> None:
        seen.extend([event.event_kind async for event in events])

    agent = Agent(streams(["It is ", "sunny."]), capabilities=[ProcessEventStream(handle)])
    outcome = await stage.play(agent, "How is Rome?", stream_mode="messages")
    assert "part_delta" in seen
    assert "".join(message["content"] for message, _ in outcome.streamed("messages")) == "It is sunny."


class Unstreamed(Model):
    """A model whose streaming method exists only to refuse, like that of MCP's sampling model."""

    model_name, system = "unstreamed", "here"

    def __init__(self, *script: Any) -> None:
        super().__init__()
        self._answers = answers(*script)

    async def request(self, *asked: Any) -> ModelResponse:
        return await self._answers.request(*asked)

    @asynccontextmanager
    async def request_stream(self, *asked: Any) -> AsyncIterator[Any]:
        raise NotImplementedError("no streams here")
        yield


@pytest.mark.parametrize("modes", [["values"], ["messages", "values"], ["events", "values"]])
async def test_a_model_that_refuses_to_stream_answers_in_one_piece(stage: Any, modes: list[str]) -> None:
    agent = Agent(Unstreamed([call("weather", city="Rome")], "sunny"), tools=[weather])
    outcome = await stage.play(agent, "How is Rome?", stream_mode=modes)
    assert (outcome.status, outcome.values["output"]) == (RunStatus.success, "sunny")
    assert (outcome.usage["llm_call_count"], outcome.usage["total_tokens"]) == (2, 30)
    assert "llm_error_count" not in outcome.usage
    assert [(call["kind"], call.get("error_type")) for call in outcome.usage["calls"]] == [
        ("chat", None),
        ("execute_tool", None),
        ("chat", None),
    ]
    if "messages" in modes:
        assert "sunny" in [message["content"] for message, _ in outcome.streamed("messages")]


@pytest.mark.parametrize("mode", ["values", "messages"])
async def test_a_model_that_refuses_to_stream_and_then_fails_has_failed_once(stage: Any, mode: str) -> None:
    outcome = await stage.play(Agent(Unstreamed(ConnectionError("reset by peer"))), "go", stream_mode=mode)
    assert (outcome.status, outcome.end["error"]) == (RunStatus.error, "reset by peer")
    assert (outcome.usage["llm_call_count"], outcome.usage["llm_error_count"]) == (0, 1)
    assert [call["error_type"] for call in outcome.usage["calls"]] == ["ConnectionError"]


@pytest.mark.parametrize("live", [False, True])
async def test_an_answer_is_told_as_the_agents_own_capabilities_leave_it(stage: Any, live: bool) -> None:
    hooks: Hooks[None] = Hooks()

    @hooks.on.after_model_request
    async def take_out(ctx: Any, *, request_context: Any, response: ModelResponse) -> ModelResponse:
        return replace(response, parts=[TextPart("card [gone]") if response.text else part for part in response.parts])

    model = streams([call("weather", "c1", city="Rome")], ["card 4111"]) if live else answers("card 4111")
    agent = Agent(model, tools=[weather], capabilities=[hooks])
    outcome = await stage.play(
        agent, "which card?", thread_id="t", stream_mode=["values", "updates", *["messages"] * live]
    )
    said = [update["model"]["messages"][0]["content"] for update in outcome.streamed("updates") if "model" in update]
    assert said[-1] == outcome.usage["last_ai_message"] == outcome.values["output"] == "card [gone]"
    assert outcome.usage["message_count"] == (4 if live else 2)


@pytest.mark.parametrize("live", [False, True])
async def test_an_answer_is_told_as_a_wrapper_of_the_request_leaves_it(stage: Any, live: bool) -> None:
    hooks: Hooks[None] = Hooks()

    @hooks.on.model_request
    async def take_out(ctx: Any, *, request_context: Any, handler: Any) -> ModelResponse:
        response: ModelResponse = await handler(request_context)
        return replace(response, parts=[TextPart("card [gone]") if response.text else part for part in response.parts])

    script: list[list[Any]] = [[call("weather", "c1", city="Rome")], ["card 4111"]]
    model = streams(*script) if live else answers(script[0], "card 4111")
    agent = Agent(model, tools=[weather], capabilities=[hooks])
    outcome = await stage.play(
        agent, "which card?", thread_id="t", stream_mode=["values", "updates", *["messages"] * live]
    )
    told = [(node, update[node]["messages"][0]["content"]) for update in outcome.streamed("updates") for node in update]
    assert told == [("model", ""), ("tools", "sunny in Rome"), ("model", "card [gone]")]
    assert outcome.usage["last_ai_message"] == outcome.values["output"] == "card [gone]"
    assert (outcome.usage["message_count"], outcome.usage["llm_call_count"]) == (4, 2)


@pytest.mark.parametrize("live", [False, True])
async def test_an_answer_in_a_models_place_is_told_behind_what_tools_have_brought(stage: Any, live: bool) -> None:
    hooks: Hooks[None] = Hooks()

    @hooks.on.model_request
    async def from_a_cache(ctx: Any, *, request_context: Any, handler: Any) -> ModelResponse:
        if ctx.run_step == 2:
            return ModelResponse(parts=[TextPart("as ever")])
        response: ModelResponse = await handler(request_context)
        return response

    model = streams([call("weather", city="Rome")]) if live else answers([call("weather", city="Rome")])
    agent = Agent(model, tools=[weather], capabilities=[hooks])
    outcome = await stage.play(agent, "How is Rome?", thread_id="t", stream_mode=["updates", *["messages"] * live])
    told = [(node, update[node]["messages"][0]["content"]) for update in outcome.streamed("updates") for node in update]
    assert told == [("model", ""), ("tools", "sunny in Rome"), ("model", "as ever")]
    assert outcome.usage["message_count"] == 4


async def test_an_answer_that_a_capability_rejects_is_counted_and_not_told(stage: Any) -> None:
    hooks: Hooks[None] = Hooks()

    @hooks.on.after_model_request
    async def reject(ctx: Any, *, request_context: Any, response: ModelResponse) -> ModelResponse:
        if response.text == "bad":
            raise RetryModelRequest
        return response

    agent = Agent(answers("bad", "good"), capabilities=[hooks])
    outcome = await stage.play(agent, "well?", thread_id="t", stream_mode="updates")
    assert [update["model"]["messages"][0]["content"] for update in outcome.streamed("updates")] == ["good"]
    assert (outcome.usage["message_count"], outcome.usage["llm_call_count"]) == (2, 2)


async def test_an_answer_below_is_told_as_the_capabilities_of_its_agent_leave_it(stage: Any) -> None:
    hooks: Hooks[None] = Hooks()

    @hooks.on.after_model_request
    async def take_out(ctx: Any, *, request_context: Any, response: ModelResponse) -> ModelResponse:
        return replace(response, parts=[TextPart("card [gone]")])

    below = Agent(answers("card 4111"), name="below", capabilities=[hooks])
    above = Agent(answers([call("ask")], "done"))

    @above.tool_plain
    async def ask() -> str:
        return (await below.run("which card?")).output

    outcome = await stage.play(above, "go", stream_mode="updates", stream_subgraphs=True)
    assert "4111" not in json.dumps([part.data for part in outcome.parts])
