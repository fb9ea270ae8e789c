"""Reads what the SDK streams: passes on what was asked for, counts the messages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from agents import (
    AgentUpdatedStreamEvent,
    HandoffCallItem,
    HandoffOutputItem,
    ItemHelpers,
    MessageOutputItem,
    RawResponsesStreamEvent,
    RunItemStreamEvent,
    StreamEvent,
    ToolCallItem,
    ToolCallOutputItem,
)
from agents.items import TResponseOutputItem, TResponseStreamEvent

from trackside.harness.adapters.openai_agents._approvals import arguments_of
from trackside.harness.adapters.openai_agents._usage import CallWatch
from trackside.harness.agents.asked import check_modes
from trackside.harness.context import RunContext
from trackside.harness.ids import new_id
from trackside.harness.payload import whole
from trackside.harness.types import Json, JsonObject

_MESSAGES = frozenset({"messages", "messages-tuple"})  # two names of one thing: what a client asks for is what it gets

STREAM_MODES = frozenset({"values", "updates", "custom", "events", *_MESSAGES})
"""What an agent of the SDK can stream."""


class AgentStream:
    """One run's stream, from the SDK to the run's followers.

    `messages` are `[chunk or message, metadata]`, as a LangGraph graph streams them: a model's text piece by piece, as
    chunks that share an id, then its tool calls and what came of them. `updates` are `{"agent", "event", "item"}` for each
    item of the conversation, with the SDK's name of the event. `events` are the model's own. `values` come at the end.

    Args:
        run: whose stream this is.
        agent: the name of the agent that begins.
        watch: what is told the usage that the model reports on the way.
        waiting: the names of the tools that earlier calls wait for, by the id of the call.

    Raises:
        InvalidSpecError: a mode is not one that an agent streams.
    """

    def __init__(self, run: RunContext, agent: str, watch: CallWatch, waiting: Mapping[str, str]) -> None:
        check_modes(run, STREAM_MODES, "an agent of the OpenAI Agents SDK")
        self._run = run
        self._agent = agent
        self._watch = watch
        self._tools = dict(waiting)  # names, by the id of the call
        self._message_modes = sorted(run.stream_modes & _MESSAGES)
        self._answers: list[JsonObject] = []  # texts of the response that came last, which a guardrail may still block
        self._streamed: dict[int, str] = {}  # the ids of messages that were streamed, by their place in the response

    def take(self, event: StreamEvent) -> None:
        """Pass an event on to whatever it concerns."""
        match event:
            case RawResponsesStreamEvent():
                self._take_raw(event.data)
            case RunItemStreamEvent():
                self._take_item(event)
            case AgentUpdatedStreamEvent():
                self._agent = event.new_agent.name

    def settle(self, *, blocked: bool = False) -> None:
        """Count the texts of the last response, as the run goes on or is over; if they are `blocked`, without them."""
        for message in self._answers:
            self._run.record_message({**message, "content": ""} if blocked else message)
        self._answers.clear()

    def show(self, values: JsonObject) -> None:
        """Stream what the thread remembers now."""
        self._send("values", values)

    def _take_raw(self, event: TResponseStreamEvent) -> None:
        if "events" in self._run.stream_modes:
            self._run.send(whole(event), "events")
        match event.type:
            case "response.created" | "response.in_progress" | "response.failed" | "response.incomplete":
                self._watch.reported(event.response.usage)
                if event.type == "response.created":
                    self.settle()
                    self._streamed.clear()
            case "response.completed":
                self._count_calls(event.response.output)
            case "response.output_text.delta" | "response.refusal.delta":
                message_id = self._streamed.setdefault(event.output_index, new_id())
                self._say({"type": "AIMessageChunk", "content": event.delta, "id": message_id})
            case _:
                pass

    def _count_calls(self, output: Sequence[TResponseOutputItem]) -> None:
        """An answer that only calls tools is a message, too: one, however many it calls."""
        types = {item.type for item in output}
        if "message" not in types and any(kind.endswith("_call") for kind in types):
            self._run.record_message({"type": "ai", "content": ""})

    def _take_item(self, event: RunItemStreamEvent) -> None:
        item = event.item
        agent = item.agent.name
        if "updates" in self._run.stream_modes:
            self._run.send({"agent": agent, "event": event.name, "item": whole(item.raw_item)}, "updates")
        match item:
            case MessageOutputItem():
                self._take_message(item)
            case ToolCallItem() | HandoffCallItem():
                call = _call_of(item)
                self._tools[call["id"]] = call["name"]
                self._say({"type": "ai", "content": "", "id": new_id(), "tool_calls": [call]})
            case ToolCallOutputItem():
                self._take_output(item.call_id or "", item.output)
            case HandoffOutputItem():
                raw = whole(item.raw_item)
                self._take_output(raw.get("call_id") or "", raw.get("output"))
            case _:
                pass

    def _take_output(self, call_id: str, output: Any) -> None:
        named = {"name": self._tools[call_id]} if call_id in self._tools else {}
        said = {"type": "tool", "content": _text(output), "id": new_id(), "tool_call_id": call_id, **named}
        self.settle()
        self._run.record_message(said)
        self._say(said)

    def _take_message(self, item: MessageOutputItem) -> None:
        """Take a message that is whole now; one that was streamed is not sent again."""
        text = ItemHelpers.text_message_output(item) or ItemHelpers.extract_refusal(item.raw_item) or ""
        first = next(iter(self._streamed), None)
        message_id = new_id() if first is None else self._streamed.pop(first)
        self._answers.append({"type": "ai", "content": text, "id": message_id})
        if first is None:
            self._say({"type": "ai", "content": text, "id": message_id})
        else:
            self._say({"type": "AIMessageChunk", "content": "", "id": message_id, "chunk_position": "last"})

    def _say(self, message: JsonObject) -> None:
        for mode in self._message_modes:
            self._run.send([{"name": self._agent, **message}, {"agent": self._agent}], mode)

    def _send(self, mode: str, data: Json) -> None:
        if mode in self._run.stream_modes:
            self._run.send(data, mode)


def _call_of(item: ToolCallItem | HandoffCallItem) -> JsonObject:
    raw: JsonObject = whole(item.raw_item)
    name = raw.get("name") or str(raw.get("type")).removesuffix("_call")
    return {"name": name, "args": arguments_of(raw), "id": raw.get("call_id") or raw.get("id")}


def _text(output: Any) -> str:
    return output if isinstance(output, str) else json.dumps(whole(output), ensure_ascii=False)
