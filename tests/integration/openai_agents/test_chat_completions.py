"""The SDK's model of OpenAI's older interface, which many servers have: what it streams and counts."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, function_tool, handoff
from openai import AsyncOpenAI, omit

from trackside import RunStatus


def chunk(delta: dict[str, Any], **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice], **more}


USAGE = chunk({}, choices=[]) | {
    "usage": {
        "prompt_tokens": 12,
        "completion_tokens": 3,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }
}
CALL = {"index": 0, "id": "call-1", "type": "function", "function": {"name": "look", "arguments": "{}"}}


class Server:
    """Answers each request with the next of these lists of chunks, or with an error status."""

    def __init__(self, *answers: list[dict[str, Any]] | int) -> None:
        self.asked: list[Any] = []
        self._answers = list(answers)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(json.loads(request.content))
        answer = self._answers.pop(0)
        if isinstance(answer, int):
            return httpx.Response(answer, json={"error": {"message": "no such model"}})
        lines = [f"data: {json.dumps(part)}\n\n" for part in answer]
        return httpx.Response(
            200, headers={"content-type": "text/event-stream"}, text="".join([*lines, "data: [DONE]\n\n"])
        )


@pytest.fixture
async def client() -> AsyncIterator[Any]:
    clients = []

    def made(server: Server) -> OpenAIChatCompletionsModel:
        http = httpx.AsyncClient(transport=httpx.MockTransport(server), verify=False)
        clients.append(http)
        openai = AsyncOpenAI(api_key="none", base_url="http://model.invalid/v1", http_client=http, max_retries=0)
        return OpenAIChatCompletionsModel("tiny", openai)

    yield made
    for http in clients:
        await http.aclose()


async def test_text_tools_and_tokens_come_through(stage: Any, client: Any) -> None:
    first = [chunk({"content": "I "}), chunk({"content": "look."}), chunk({"tool_calls": [CALL]}), USAGE]
    second = [chunk({"content": "A "}), chunk({"content": "cat."}), USAGE]
    server = Server(first, second)
    look = function_tool(lambda: "a cat", name_override="look")
    agent = Agent("lead", model=client(server), tools=[look])
    outcome = await stage.play(agent, "what is it?", thread_id="thread", stream_mode=["messages", "values"])
    assert outcome.status is RunStatus.success
    assert outcome.values["output"] == "A cat."
    assert [asked["stream_options"] for asked in server.asked] == [{"include_usage": True}] * 2
    texts: dict[str, str] = {}
    for message, _ in outcome.streamed("messages"):
        texts[message["id"]] = texts.get(message["id"], "") + message["content"]
    assert [text for text in texts.values() if text] == ["I look.", "a cat", "A cat."]
    assert outcome.usage["token_usage_by_model"] == {
        "tiny": {
            "input_tokens": 24,
            "output_tokens": 6,
            "total_tokens": 30,
            "cache_read_tokens": 8,
            "reasoning_tokens": 2,
        }
    }
    server._answers.append([chunk({"content": "Black."}), USAGE])
    more = await stage.play(agent, "which colour?", thread_id="thread")
    assert more.values["output"] == "Black."
    roles = [message["role"] for message in server.asked[-1]["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]


HELPER = Agent[Any]("helper", model_settings=ModelSettings(include_usage=False))
IN_ITS_WORDS = {"include_usage": True, "continuous_usage_stats": True}


@pytest.mark.parametrize(
    ("config", "own", "asked"),
    [
        ({}, {"model_settings": ModelSettings(temperature=0.5)}, {"include_usage": True}),
        ({"model_settings": ModelSettings(temperature=0.5)}, {}, {"include_usage": True}),
        ({"model_settings": ModelSettings(include_usage=False)}, {}, {"include_usage": False}),
        ({}, {"model_settings": ModelSettings(include_usage=False)}, {"include_usage": False}),
        ({"model_settings": ModelSettings(extra_args={"stream_options": omit})}, {}, None),
        ({}, {"model_settings": ModelSettings(extra_args={"stream_options": omit})}, None),
        ({}, {"model_settings": ModelSettings(extra_args={"stream_options": IN_ITS_WORDS})}, IN_ITS_WORDS),
        ({}, {"handoffs": [HELPER]}, None),
        ({}, {"handoffs": [handoff(HELPER)]}, None),
        ({}, {"tools": [HELPER.as_tool(tool_name="helper", tool_description="Helps.")]}, None),
    ],
)
async def test_a_server_is_asked_for_usage_unless_agents_or_config_say_otherwise(
    stage: Any, client: Any, config: dict[str, Any], own: dict[str, Any], asked: Any
) -> None:
    server = Server([chunk({"content": "Hello."})])
    outcome = await stage.play(Agent("lead", model=client(server), **own), "hello", config=config)
    assert outcome.status is RunStatus.success
    (sent,) = server.asked
    assert sent.get("stream_options") == asked
    assert sent.get("temperature") == (0.5 if "temperature=0.5" in repr({**config, **own}) else None)


async def test_a_server_that_refuses_is_a_failure_in_its_own_words(stage: Any, client: Any) -> None:
    outcome = await stage.play(Agent("lead", model=client(Server(404))), "hello")
    assert outcome.status is RunStatus.error
    assert outcome.end["error_type"] == "NotFoundError"
    assert "no such model" in outcome.end["error"]
    assert outcome.usage["llm_error_count"] == 1
