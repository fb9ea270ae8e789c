"""Conversations with agents of Pydantic AI, whose model is a `FunctionModel`."""

from typing import Any

from pydantic_ai import (
    Agent,
    ModelMessage,
    ModelRequestPart,
    ModelResponse,
    ModelResponsePart,
    RequestUsage,
    RunContext,
    TextPart,
    Tool,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.exceptions import ToolFailed
from pydantic_ai.models.function import AgentInfo, FunctionModel
from tests.integration.replay.recorded import Item, Script, ToolFailure, Trajectory, call_item

SOLO_INPUT: Any = None
CONFIG: dict[str, Any] = {}
EXTRA_CALLS = (2, 1)
"""The calls of the lead itself, whose tool runs the agent, and which says that it is done."""

_INSTRUCTIONS = "See to what you find."  # without a prompt, an agent needs instructions
ASKED = "See to the ticket."


def agent(trajectory: Trajectory) -> Any:
    return _agent(Script(trajectory))


def delegating(trajectory: Trajectory, to: str) -> Any:
    """An agent with a tool that runs another agent."""
    below = _agent(Script(trajectory, asked=ASKED), to)

    async def respond(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        done = len(messages) > 1
        return ModelResponse(parts=[TextPart("done") if done else ToolCallPart("delegate", {})], usage=RequestUsage())

    lead = Agent(FunctionModel(respond, model_name="lead-model"), name="lead", instructions=_INSTRUCTIONS)

    @lead.tool_plain
    async def delegate() -> str:
        return (await below.run(ASKED)).output

    return lead


def _agent(script: Script, name: str = "recorded") -> Agent[None, str]:
    async def respond(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        answer = script.answer([item for message in messages for part in message.parts for item in _items_of(part)])
        parts: list[ModelResponsePart] = [TextPart(answer["content"])] if answer["content"] else []
        parts += [
            ToolCallPart(call["name"], call["arguments"], tool_call_id=call["id"])
            for call in answer.get("tool_calls", ())
        ]
        return ModelResponse(parts=parts, usage=RequestUsage(**answer["usage"]))

    tools = [_tool(script, tool, parameters) for tool, parameters in script.trajectory.tools.items()]
    model = FunctionModel(respond, model_name=script.trajectory.model)
    return Agent(model, name=name, instructions=_INSTRUCTIONS, tools=tools)


def _items_of(part: ModelRequestPart | ModelResponsePart) -> list[Item]:
    match part:
        case UserPromptPart():
            return [("user", str(part.content))]
        case TextPart():
            return [("assistant", part.content)]
        case ToolCallPart():
            return [call_item(part.tool_call_id, part.tool_name, part.args_as_dict())]
        case ToolReturnPart():
            return [("result", part.tool_call_id, part.model_response_str(wrap_if_error=False))]
        case _:
            raise AssertionError(f"the model hears {part!r}")


def _tool(script: Script, name: str, parameters: set[str]) -> Tool[None]:
    async def call(context: RunContext[None], **arguments: Any) -> str:
        assert context.tool_call_id is not None
        try:
            return script.result(context.tool_call_id, arguments)
        except ToolFailure as exc:
            raise ToolFailed(str(exc)) from exc

    schema: dict[str, Any] = {"type": "object", "properties": {parameter: {} for parameter in sorted(parameters)}}
    return Tool.from_schema(call, name, name, schema, takes_ctx=True)
