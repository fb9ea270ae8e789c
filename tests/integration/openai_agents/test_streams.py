"""What a follower sees of an agent's run."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from agents import Agent, function_tool
from openai.types.responses import ResponseTextDeltaEvent
from tests.integration.openai_agents.scripted_model import Calls, ScriptedModel

from trackside import InvalidSpecError
from trackside.harness.adapters.openai_agents import OpenAIAgent


def looking() -> Agent[Any]:
    look = function_tool(lambda place: f"a cat in {place}", name_override="look", strict_mode=False)
    return Agent(
        "lead",
        model=ScriptedModel(["I look.", Calls("look", {"place": "Oslo"}, id="c1")], "It is a cat."),
        tools=[look],
    )


async def test_text_comes_in_pieces_that_share_an_id_then_tools_and_their_output(stage: Any) -> None:
    outcome = await stage.play(looking(), "what is it?", stream_mode=["messages", "values"])
    messages = [message for message, _ in outcome.streamed("messages")]
    assert {metadata["agent"] for _, metadata in outcome.streamed("messages")} == {"lead"}
    shown = [(message["type"], message["content"]) for message in messages]
    assert shown == [
        ("AIMessageChunk", "I "),
        ("AIMessageChunk", "look."),
        ("AIMessageChunk", ""),
        ("ai", ""),
        ("tool", "a cat in Oslo"),
        ("AIMessageChunk", "It "),
        ("AIMessageChunk", "is "),
        ("AIMessageChunk", "a "),
        ("AIMessageChunk", "cat."),
        ("AIMessageChunk", ""),
    ]
    assert messages[3]["tool_calls"] == [{"name": "look", "args": {"place": "Oslo"}, "id": "c1"}]
    assert (messages[4]["name"], messages[4]["tool_call_id"]) == ("look", "c1")
    first, second = {m["id"] for m in messages[:3]}, {m["id"] for m in messages[5:]}
    assert len(first) == len(second) == 1
    assert first != second
    assert [m.get("chunk_position") for m in messages[:3]] == [None, None, "last"]
    assert outcome.usage["message_count"] == 4
    assert outcome.usage["last_ai_message"] == "It is a cat."


async def test_both_names_of_messages_get_them_under_their_own(stage: Any) -> None:
    outcome = await stage.play(looking(), "x", stream_mode=["messages", "messages-tuple"])
    assert outcome.streamed("messages") == outcome.streamed("messages-tuple") != []


async def test_updates_say_what_happened_to_which_item(stage: Any) -> None:
    specialist = Agent("specialist", model=ScriptedModel("I know."))
    agent = Agent("lead", model=ScriptedModel(Calls("transfer_to_specialist")), handoffs=[specialist])
    outcome = await stage.play(agent, "who knows?", stream_mode="updates")
    seen = [(update["agent"], update["event"]) for update in outcome.streamed("updates")]
    assert seen == [
        ("lead", "handoff_requested"),
        ("lead", "handoff_occured"),
        ("specialist", "message_output_created"),
    ]
    assert outcome.streamed("updates")[-1]["item"]["content"][0]["text"] == "I know."
    assert {part.mode for part in outcome.parts} == {"updates"}


async def test_a_follower_sees_who_speaks_after_a_handoff(stage: Any) -> None:
    specialist = Agent("specialist", model=ScriptedModel("I know."))
    agent = Agent("lead", model=ScriptedModel(Calls("transfer_to_specialist")), handoffs=[specialist])
    outcome = await stage.play(agent, "who knows?", stream_mode="messages")
    speakers = [(message["name"], message["content"]) for message, _ in outcome.streamed("messages")]
    assert ("specialist", "know.") in speakers
    assert not any(name == "lead" and content for name, content in speakers)


async def test_a_handoff_is_a_call_that_gets_its_result(stage: Any) -> None:
    specialist = Agent("specialist", model=ScriptedModel("I know."))
    agent = Agent("lead", model=ScriptedModel(Calls("transfer_to_specialist", id="c1")), handoffs=[specialist])
    outcome = await stage.play(agent, "who knows?", stream_mode="messages")
    messages = [message for message, _ in outcome.streamed("messages")]
    (called,) = [message["tool_calls"] for message in messages if message.get("tool_calls")]
    (result,) = [message for message in messages if message["type"] == "tool"]
    assert (
        (result["tool_call_id"], result["name"])
        == (called[0]["id"], "transfer_to_specialist")
        == ("c1", called[0]["name"])
    )
    assert json.loads(result["content"]) == {"assistant": "specialist"}
    assert outcome.usage["message_count"] == 4
    assert outcome.usage["tool_call_count"] == 0


async def test_events_are_the_models_own_and_come_only_if_asked_for(stage: Any) -> None:
    outcome = await stage.play(looking(), "x", stream_mode=["events"])
    kinds = [event["type"] for event in outcome.streamed("events")]
    assert kinds[0] == "response.created"
    assert kinds.count("response.completed") == 2
    assert "response.output_text.delta" in kinds
    assert {part.mode for part in outcome.parts} == {"events"}


async def test_values_come_once_at_the_end(stage: Any) -> None:
    outcome = await stage.play(looking(), "x")
    (values,) = outcome.streamed("values")
    assert values["output"] == "It is a cat."
    assert outcome.parts[-1].mode == "values"


async def test_a_mode_that_an_agent_does_not_stream_is_refused(run_context: Any) -> None:
    with pytest.raises(InvalidSpecError, match=r"checkpoints.* streams custom, events, messages"):
        await OpenAIAgent(looking()).run(run_context("x", stream_mode=["values", "checkpoints"]))


async def test_text_that_came_to_nothing_is_not_taken_for_the_beginning_of_the_next_message(stage: Any) -> None:
    class Stammering(ScriptedModel):
        async def stream_response(self, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
            async for event in super().stream_response(*arguments, **options):
                yield event
                if event.type == "response.created" and len(self.heard) == 0:
                    yield ResponseTextDeltaEvent(
                        content_index=0,
                        delta="er",
                        item_id="msg",
                        logprobs=[],
                        output_index=0,
                        sequence_number=0,
                        type="response.output_text.delta",
                    )

    look = function_tool(lambda: "a cat", name_override="look")
    agent = Agent("lead", model=Stammering(Calls("look"), "cat"), tools=[look])
    outcome = await stage.play(agent, "x", stream_mode="messages")
    ids = {message["content"]: message["id"] for message, _ in outcome.streamed("messages")}
    assert ids["er"] != ids["cat"]


async def test_a_tool_that_was_rejected_is_named_in_the_run_that_says_so(stage: Any) -> None:
    look = function_tool(lambda: "a cat", name_override="look", needs_approval=True)
    agent = Agent("lead", model=ScriptedModel(Calls("look"), "well"), tools=[look])
    await stage.play(agent, "x", thread_id="thread")
    outcome = await stage.play(agent, thread_id="thread", command={"resume": "no"}, stream_mode="messages")
    (said,) = [message for message, _ in outcome.streamed("messages") if message["type"] == "tool"]
    assert said["name"] == "look"
