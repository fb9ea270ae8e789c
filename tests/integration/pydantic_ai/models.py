"""Models that give a test's answers, one after another."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from pydantic_ai import ModelMessage, ModelRequest, ModelResponse, RequestUsage, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

type Answer = str | BaseException | ModelResponse | list[ToolCallPart] | Callable[[], Awaitable[Any]]
"""A text, tool calls, a whole response; an exception is raised; a function is awaited and returns one of these."""

USAGE = RequestUsage(input_tokens=10, output_tokens=5)


def call(tool: str, call_id: str | None = None, **arguments: Any) -> ToolCallPart:
    return ToolCallPart(tool, arguments) if call_id is None else ToolCallPart(tool, arguments, tool_call_id=call_id)


def answers(*script: Answer, name: str = "small", heard: list[Any] | None = None) -> FunctionModel:
    """A model that does not stream; `heard` collects what each request told it, the newest part last."""
    left = list(script)

    async def respond(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if heard is not None:
            heard.append([part for message in messages if isinstance(message, ModelRequest) for part in message.parts])
        answer = left.pop(0)
        while callable(answer):
            answer = await answer()
        if isinstance(answer, BaseException):
            raise answer
        if isinstance(answer, ModelResponse):
            return answer
        parts = [TextPart(answer)] if isinstance(answer, str) else answer
        return ModelResponse(parts=parts, usage=USAGE)

    return FunctionModel(respond, model_name=name)


def streams(*script: list[Any], name: str = "small") -> FunctionModel:
    """A model that streams: each answer is a list of pieces, texts or calls; functions among them are awaited."""
    left = list(script)

    async def respond(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        for index, piece in enumerate(left.pop(0)):
            if isinstance(piece, BaseException):
                raise piece
            if isinstance(piece, ToolCallPart):
                yield {index: DeltaToolCall(piece.tool_name, piece.args_as_json_str(), tool_call_id=piece.tool_call_id)}
            elif callable(piece):
                await piece()
            else:
                yield piece

    return FunctionModel(stream_function=respond, model_name=name)


def texts(messages: list[Any]) -> list[str]:
    """The texts that the model was told."""
    return [part.content if isinstance(part.content, str) else str(part.content) for part in messages]
