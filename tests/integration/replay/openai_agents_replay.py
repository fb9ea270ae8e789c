"""Conversations with agents of the OpenAI Agents SDK, with a model that implements the SDK's own interface."""

import itertools
import json
from collections.abc import AsyncIterator, Callable
from inspect import Parameter, Signature
from typing import Any

from agents import Agent, FunctionTool, Model, ModelResponse, RunContextWrapper, Usage, function_tool
from agents.tool_context import ToolContext
from openai.types.responses import Response, ResponseCompletedEvent
from tests.integration.replay.recorded import Item, Message, Script, ToolFailure, Trajectory, call_item

SOLO_INPUT: Any = {"type": "item_reference", "id": "ticket"}
"""The SDK's agents have to be given something; this is no message, and nobody said it."""

CONFIG: dict[str, Any] = {"max_turns": 100}
"""The SDK gives up after ten turns; some conversations took more."""

EXTRA_CALLS = (2, 1)
"""The calls of the lead itself, which calls the agent as a tool and says that it is done."""

ASKED = "See to the ticket."
_LEAD_MODEL = "lead-model"
_LEFT_OUT = "-"

_numbers = itertools.count(1)


def agent(trajectory: Trajectory) -> Any:
    return _agent(Script(trajectory))


def delegating(trajectory: Trajectory, to: str) -> Any:
    """An agent that has another agent as a tool."""
    below = _agent(Script(trajectory, asked=ASKED), to)
    tool = below.as_tool("delegate", "Sees to it.", max_turns=100)
    return Agent("lead", model=_ScriptedModel(_LEAD_MODEL, _delegate), tools=[tool])


def _agent(script: Script, name: str = "recorded") -> Agent[Any]:
    tools: list[Any] = [_tool(script, tool, parameters) for tool, parameters in script.trajectory.tools.items()]
    return Agent(name, model=_ScriptedModel(script.trajectory.model, script.answer), tools=tools)


class _ScriptedModel(Model):
    """Gives each answer in one piece, even when it should stream, as it should for all but agents that are tools.

    Args:
        name: what it is called.
        answer: returns its answer to what it has heard.
    """

    def __init__(self, name: str, answer: Callable[[list[Item]], Message]) -> None:
        self.model = name
        self._answer = answer

    async def get_response(self, system_instructions: Any, input: Any, *_: Any, **__: Any) -> ModelResponse:
        response = self._respond(input)
        assert response.usage is not None
        used = Usage(
            requests=1,
            input_tokens=response.usage.input_tokens,
            output_tokens=response.usage.output_tokens,
            total_tokens=response.usage.total_tokens,
        )
        return ModelResponse(output=response.output, usage=used, response_id=response.id)

    async def stream_response(self, system_instructions: Any, input: Any, *_: Any, **__: Any) -> AsyncIterator[Any]:
        yield ResponseCompletedEvent(response=self._respond(input), sequence_number=0, type="response.completed")

    def _respond(self, input: Any) -> Response:
        given = [{"role": "user", "content": input}] if isinstance(input, str) else input
        return _response(self._answer([part for item in given for part in _items_of(item)]))


def _delegate(heard: list[Item]) -> Message:
    """Delegate, and then say that it is done."""
    usage = {"input_tokens": 100, "output_tokens": 2}
    if heard:
        return {"content": "done", "usage": usage, "model": _LEAD_MODEL}
    call = {"id": "delegated", "name": "delegate", "arguments": {"input": ASKED}}
    return {"content": None, "tool_calls": [call], "usage": usage, "model": _LEAD_MODEL}


def _items_of(item: Any) -> list[Item]:
    if item.get("role") in {"user", "assistant"}:
        content = item["content"]
        return [(item["role"], content if isinstance(content, str) else "".join(part["text"] for part in content))]
    match item.get("type"):
        case "function_call":
            return [call_item(item["call_id"], item["name"], json.loads(item["arguments"]))]
        case "function_call_output":
            return [("result", item["call_id"], item["output"])]
        case _:
            assert item == SOLO_INPUT, f"the model hears {item}"
            return []


def _response(answer: Message) -> Response:
    number, used = next(_numbers), answer["usage"]
    text = {"type": "output_text", "text": answer["content"], "annotations": []}
    message = {"id": f"msg_{number}", "type": "message", "role": "assistant", "status": "completed", "content": [text]}
    calls = [
        {
            "type": "function_call",
            "call_id": call["id"],
            "name": call["name"],
            "arguments": json.dumps(call["arguments"]),
        }
        for call in answer.get("tool_calls", ())
    ]
    return Response.model_validate(
        {
            "id": f"resp_{number}",
            "created_at": 0,
            "model": answer["model"],
            "object": "response",
            "output": [*([message] if answer["content"] else []), *calls],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": {
                **used,
                "total_tokens": used["input_tokens"] + used["output_tokens"],
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens_details": {"reasoning_tokens": 0},
            },
        }
    )


def _tool(script: Script, name: str, parameters: set[str]) -> FunctionTool:
    async def call(context: ToolContext[Any], **arguments: Any) -> str:
        given = {parameter: value for parameter, value in arguments.items() if value is not _LEFT_OUT}
        return script.result(context.tool_call_id, given)

    places = [Parameter(one, Parameter.KEYWORD_ONLY, default=_LEFT_OUT, annotation=Any) for one in sorted(parameters)]
    context = Parameter("context", Parameter.POSITIONAL_OR_KEYWORD, annotation=ToolContext[Any])
    setattr(call, "__signature__", Signature([context, *places]))  # noqa: B010  # functions have no such attribute to mypy
    call.__annotations__ = {"context": ToolContext[Any], **dict.fromkeys(parameters, Any)}
    return function_tool(call, name_override=name, strict_mode=False, failure_error_function=_said_by)


def _said_by(context: RunContextWrapper[Any], error: Exception) -> str:
    """What the model sees of a tool that has failed."""
    assert isinstance(error, ToolFailure), f"{error!r}"
    return str(error)
