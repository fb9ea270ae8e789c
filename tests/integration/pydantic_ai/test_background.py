"""Answers that a provider works on in the background, and for which the framework asks until they are there."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI
from pydantic_ai import Agent, ModelResponse, TextPart
from pydantic_ai.models import Model
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.openai import OpenAIResponsesModel, OpenAIResponsesModelSettings
from pydantic_ai.output import PendingModelResponse
from pydantic_ai.providers.openai import OpenAIProvider
from tests.contract.ways_to_run import virtual
from tests.integration.pydantic_ai.models import USAGE, answers, call

from trackside import RunManager, RunResult, RunSpec, RunStatus
from trackside.testing import VirtualClock

IN_BACKGROUND = OpenAIResponsesModelSettings(openai_background=True)
WHOLE, STREAMED = ("values",), ("messages",)
SAID = {
    "type": "message",
    "id": "msg_1",
    "status": "completed",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "42", "annotations": []}],
}
USED = {
    "input_tokens": 10,
    "output_tokens": 5,
    "total_tokens": 15,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens_details": {"reasoning_tokens": 0},
}

modes = pytest.mark.parametrize("modes", [WHOLE, STREAMED], ids=["whole", "streamed"])
pinned = pytest.mark.parametrize("pinned", [False, True], ids=["bare", "fallback"])


class Provider:
    """Speaks OpenAI's API, and has an answer at the fifth poll, or never, or loses it."""

    def __init__(self, *, ready_at: int = 5, fails_at: int = 0) -> None:
        self.polls = 0
        self.cancelled = 0
        self._ready_at = ready_at
        self._fails_at = fails_at

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/cancel"):
            self.cancelled += 1
            return httpx.Response(200, json=_response("cancelled"))
        if request.method == "POST":
            return self._say("queued", b'"stream":true' in request.content)
        self.polls += 1
        if self.polls == self._fails_at:
            return httpx.Response(500, json={"error": {"message": "it is lost"}})
        status = "completed" if self.polls == self._ready_at else "in_progress"
        return self._say(status, request.url.params.get("stream") == "true")

    def _say(self, status: str, streamed: bool) -> httpx.Response:
        ready: Any = {"output": [SAID], "usage": USED} if status == "completed" else {}
        response = _response(status, **ready)
        if not streamed:
            return httpx.Response(200, json=response)
        kind = "created" if status == "queued" else status
        told: list[Any] = [{"type": f"response.{kind}", "response": response}]
        if ready:
            at = {"output_index": 0, "content_index": 0, "item_id": "msg_1"}
            said = {"type": "response.output_text.delta", "delta": "42", "logprobs": [], **at}
            told = [
                {"type": "response.output_item.added", "output_index": 0, "item": {**SAID, "content": []}},
                said,
                *told,
            ]
        text = "".join(f"data: {json.dumps({'sequence_number': self.polls, **event})}\n\n" for event in told)
        return httpx.Response(200, text=text, headers={"content-type": "text/event-stream"})


def _response(status: str, **more: Any) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_764_500_000,
        "status": status,
        "background": True,
        "model": "gpt-5",
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": None,
        **more,
    }


@contextlib.asynccontextmanager
async def asked(provider: Provider, *, pinned: bool = False) -> AsyncIterator[Agent[None, str]]:
    async with httpx.AsyncClient(transport=httpx.MockTransport(provider)) as http:
        client = AsyncOpenAI(base_url="http://provider/v1", api_key="key", http_client=http, max_retries=0)
        model: Model = OpenAIResponsesModel("gpt-5", provider=OpenAIProvider(openai_client=client))
        yield Agent(FallbackModel(model, answers()) if pinned else model, model_settings=IN_BACKGROUND, name="deep")


async def ended(agent: Any, **spec: Any) -> RunResult:
    async with RunManager(clock=VirtualClock()) as manager:
        handle = await manager.start(RunSpec(agent, "What is the answer?", **spec))
        return await handle.result()


def chats(result: RunResult) -> list[tuple[str, str | None]]:
    """The model calls, each as its caller and the error it failed with, if any."""
    listed = result.completion_data["calls"]
    return [(one["caller"], one.get("error_type")) for one in listed if one["kind"] == "chat"]


@modes
@pinned
@virtual
async def test_an_answer_that_is_worked_on_in_the_background_is_one_call(modes: Any, pinned: bool) -> None:
    provider = Provider()
    async with asked(provider, pinned=pinned) as agent:
        result = await ended(agent, stream_mode=modes, max_llm_calls=1)
    assert (result.status, result.output, provider.polls) == (RunStatus.success, "42", 5)
    (told,) = result.completion_data["calls"]
    assert (told["name"], told["input_tokens"], told["output_tokens"]) == ("gpt-5", 10, 5)
    assert told["seconds"] >= 10  # the provider is asked every two seconds of the test's own time
    assert (result.completion_data["llm_call_count"], result.completion_data["total_tokens"]) == (1, 15)


@modes
@virtual
async def test_an_answer_that_a_run_does_not_wait_for_is_one_call_that_has_come_back(modes: Any) -> None:
    async with asked(Provider()) as agent:
        unhurried = Agent(agent.model, output_type=[str, PendingModelResponse], model_settings=IN_BACKGROUND)
        result = await ended(unhurried, stream_mode=modes)
    assert (result.status, chats(result)) == (RunStatus.success, [("lead_agent", None)])
    assert result.completion_data["llm_call_count"] == 1


@modes
@virtual
async def test_a_run_that_is_stopped_between_two_looks_broke_its_call_off(modes: Any) -> None:
    provider = Provider(ready_at=0)
    async with asked(provider) as agent:
        result = await ended(agent, stream_mode=modes, timeout=5)
    assert (result.status, provider.cancelled) == (RunStatus.timeout, 1)
    assert chats(result) == [("lead_agent", "cancelled")]
    assert result.completion_data["llm_call_count"] == 0


@modes
@virtual
async def test_an_answer_that_is_lost_while_it_is_worked_on_is_one_call_that_failed(modes: Any) -> None:
    async with asked(Provider(fails_at=3)) as agent:
        result = await ended(agent, stream_mode=modes)
    assert (result.status, chats(result)) == (RunStatus.error, [("lead_agent", "ModelServerError")])
    counts = (result.completion_data["llm_call_count"], result.completion_data["llm_error_count"])
    assert counts == (0, 1)


@modes
@virtual
async def test_a_delegate_that_waits_no_longer_has_broken_its_call_off(modes: Any) -> None:
    async with asked(Provider(ready_at=0)) as delegate:

        async def ask() -> str:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(delegate.run("What is the answer?"), 5)
            await asyncio.sleep(60)
            return "never"

        lead = Agent(answers([call("ask")], "done"), tools=[ask])
        result = await ended(lead, stream_mode=modes, stream_subgraphs=True)
    assert (result.status, chats(result)) == (
        RunStatus.success,
        [("lead_agent", None), ("deep", "cancelled"), ("lead_agent", None)],
    )
    (given_up,) = [one for one in result.completion_data["calls"] if one["caller"] == "deep"]
    assert given_up["seconds"] < 60


async def test_a_turn_that_a_model_has_only_paused_is_a_call_for_each_part() -> None:
    paused = ModelResponse([TextPart("4")], usage=USAGE, provider_response_id="msg_1", state="suspended")
    rest = ModelResponse([TextPart("2")], usage=USAGE, provider_response_id="msg_2")
    result = await ended(Agent(answers(paused, rest)))
    assert result.status is RunStatus.success
    assert chats(result) == [("lead_agent", None)] * 2
    assert (result.completion_data["llm_call_count"], result.completion_data["total_tokens"]) == (2, 30)
