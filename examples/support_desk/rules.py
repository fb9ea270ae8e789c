"""Stands in for a language model when there is none: one function for each agent, which says what to do next.

The SDK does all the rest as it would with a model: it streams the text, makes the handoffs, calls the tools and asks
for approvals. No tokens are used, and none are reported.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, override
from uuid import uuid4

from agents import Model, ModelResponse, TResponseInputItem, Usage
from agents.items import TResponseStreamEvent
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseCreatedEvent,
    ResponseFunctionToolCall,
    ResponseOutputItem,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseTextDeltaEvent,
)

_ORDER_NUMBER = re.compile(r"\b\d{4}\b")
_WANTS_MONEY = re.compile(r"refund|money back|return|broken", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Call:
    """Call a tool with these arguments."""

    tool: str
    arguments: dict[str, Any]


type Decision = str | Call
"""What an agent does next: say something, or call a tool."""


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation so far: what the customer said, and what the tools have answered since the customer last spoke."""

    said: list[str]
    answers: dict[str, str]

    @property
    def order(self) -> str | None:
        """The number of the order that the conversation is about: the one named last."""
        numbers = [number for text in self.said for number in _ORDER_NUMBER.findall(text)]
        return numbers[-1] if numbers else None

    @classmethod
    def of(cls, items: str | list[TResponseInputItem]) -> Talk:
        """Read the items of a conversation."""
        said: list[str] = []
        answers: dict[str, str] = {}
        tools: dict[str, str] = {}
        given: list[Any] = [{"role": "user", "content": items}] if isinstance(items, str) else list(items)
        for item in given:
            match item:
                case {"role": "user", "content": content}:
                    said.append(content if isinstance(content, str) else " ".join(part["text"] for part in content))
                    answers.clear()
                case {"type": "function_call", "call_id": call_id, "name": name}:
                    tools[call_id] = name
                case {"type": "function_call_output", "call_id": call_id, "output": output}:
                    answers[tools.get(call_id, "")] = str(output)
                case _:
                    pass
        return cls(said, answers)


def at_the_front(talk: Talk) -> Decision:
    """Send the customer to whoever can help."""
    text = talk.said[-1]
    if _WANTS_MONEY.search(text):
        return Call("transfer_to_refunds", {})
    if talk.order or "order" in text.lower():
        return Call("transfer_to_orders", {})
    return "Hello! I can look up an order, or ask for a refund. Which order is it about?"


def at_orders(talk: Talk) -> Decision:
    """Look the order up and report it."""
    if talk.order is None:
        return "Gladly. What is the number of your order? It has four digits."
    return talk.answers.get("look_up_order") or Call("look_up_order", {"number": talk.order})


def at_refunds(talk: Talk) -> Decision:
    """Look the order up, ask for the whole price back, and say what came of it."""
    if talk.order is None:
        return "I am sorry to hear that. What is the number of your order? It has four digits."
    found = talk.answers.get("look_up_order")
    if found is None:
        return Call("look_up_order", {"number": talk.order})
    price = re.search(r"(\d+\.\d\d) €", found)
    if price is None:
        return found
    refunded = talk.answers.get("refund")
    return refunded or Call("refund", {"number": talk.order, "amount": float(price[1])})


class RuleModel(Model):
    """Decides with a function of the conversation."""

    def __init__(self, decide: Callable[[Talk], Decision]) -> None:
        self.model = "rules"
        self._decide = decide

    @override
    async def get_response(self, system_instructions: Any, input: Any, *_: Any, **__: Any) -> ModelResponse:
        return ModelResponse(output=[_item(self._decide(Talk.of(input)))], usage=Usage(requests=1), response_id=None)

    @override
    async def stream_response(
        self, system_instructions: Any, input: Any, *_: Any, **__: Any
    ) -> AsyncIterator[TResponseStreamEvent]:
        response = Response(
            id=f"resp_{uuid4().hex}",
            created_at=0,
            model=self.model,
            object="response",
            output=[],
            parallel_tool_calls=False,
            tool_choice="auto",
            tools=[],
        )
        yield ResponseCreatedEvent(response=response, sequence_number=0, type="response.created")
        item, number = _item(self._decide(Talk.of(input))), 1
        if isinstance(item, ResponseOutputMessage):
            for word in re.findall(r"\S+\s*", item.content[0].text if item.content[0].type == "output_text" else ""):
                yield ResponseTextDeltaEvent(
                    content_index=0,
                    delta=word,
                    item_id=item.id,
                    logprobs=[],
                    output_index=0,
                    sequence_number=number,
                    type="response.output_text.delta",
                )
                number += 1
        done = response.model_copy(update={"output": [item]})
        yield ResponseCompletedEvent(response=done, sequence_number=number, type="response.completed")


def _item(decision: Decision) -> ResponseOutputItem:
    if isinstance(decision, Call):
        return ResponseFunctionToolCall(
            call_id=f"call_{uuid4().hex}",
            name=decision.tool,
            arguments=json.dumps(decision.arguments),
            type="function_call",
        )
    text = ResponseOutputText(annotations=[], text=decision, type="output_text")
    return ResponseOutputMessage(
        id=f"msg_{uuid4().hex}", content=[text], role="assistant", status="completed", type="message"
    )
