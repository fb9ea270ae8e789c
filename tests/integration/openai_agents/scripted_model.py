"""A model of the SDK's own interface that follows a script and needs no network."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from agents import Model, ModelResponse, Usage, set_trace_processors
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseCreatedEvent,
    ResponseFunctionToolCall,
    ResponseOutputItem,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseTextDeltaEvent,
    ResponseUsage,
)
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails

_numbers = itertools.count(1)
set_trace_processors([])  # no test sends anything, and the SDK makes its tracing before a loop runs


@dataclass(frozen=True)
class Calls:
    """A turn in which the model calls a tool. `id` is generated if no test cares about it."""

    tool: str
    arguments: dict[str, Any] = field(default_factory=dict)
    id: str = ""


type Said = str | Calls | Sequence[str | Calls]
type Turn = Said | BaseException | Callable[[list[Any]], Awaitable[Said]]
"""What a model does when called: speak, call tools, both, fail, or do what a function makes of the items."""


class ScriptedModel(Model):
    """Takes one turn after the other, and repeats the last one.

    Args:
        turns: what to do.
        name: what it is called.
        usage: input and output tokens of each call, and how many of these are cached and reasoning tokens.
        early: the usage that it reports in the first event of a stream, before it says anything.
    """

    def __init__(
        self,
        *turns: Turn,
        name: str = "scripted-1",
        usage: tuple[int, int, int, int] = (10, 5, 0, 0),
        early: tuple[int, int, int, int] | None = None,
    ) -> None:
        self.model = name
        self.heard: list[list[Any]] = []
        """The items that each call got."""
        self._turns = list(turns)
        self._usage = usage
        self._early = early

    async def get_response(self, system_instructions: Any, input: Any, *_: Any, **__: Any) -> ModelResponse:
        output = await self._take_turn(input)
        read, written, cached, reasoned = self._usage
        usage = Usage(
            requests=1,
            input_tokens=read,
            output_tokens=written,
            total_tokens=read + written,
            input_tokens_details=InputTokensDetails.model_validate({"cached_tokens": cached, "cache_write_tokens": 0}),
            output_tokens_details=OutputTokensDetails(reasoning_tokens=reasoned),
        )
        return ModelResponse(output=output, usage=usage, response_id=f"resp_{next(_numbers)}")

    async def stream_response(self, system_instructions: Any, input: Any, *_: Any, **__: Any) -> AsyncIterator[Any]:
        number = itertools.count()
        begun = self._response([], self._early)
        yield ResponseCreatedEvent(response=begun, sequence_number=next(number), type="response.created")
        output = await self._take_turn(input)
        for index, item in enumerate(output):
            if isinstance(item, ResponseOutputMessage):
                for piece in _pieces(item.content[0].text):  # type: ignore[union-attr]  # it says only texts
                    yield ResponseTextDeltaEvent(
                        content_index=0,
                        delta=piece,
                        item_id=item.id,
                        logprobs=[],
                        output_index=index,
                        sequence_number=next(number),
                        type="response.output_text.delta",
                    )
        done = self._response(output, self._usage)
        yield ResponseCompletedEvent(response=done, sequence_number=next(number), type="response.completed")

    async def _take_turn(self, input: Any) -> list[ResponseOutputItem]:
        items = [{"role": "user", "content": input}] if isinstance(input, str) else list(input)
        self.heard.append(items)
        turn = self._turns.pop(0) if len(self._turns) > 1 else self._turns[0]
        if isinstance(turn, BaseException):
            raise turn
        said = await turn(items) if callable(turn) else turn
        parts = [said] if isinstance(said, str | Calls) else said
        return [_message(part) if isinstance(part, str) else _call(part) for part in parts]

    def _response(self, output: list[ResponseOutputItem], used: tuple[int, int, int, int] | None) -> Response:
        return Response(
            id=f"resp_{next(_numbers)}",
            created_at=0,
            model=self.model,
            object="response",
            output=output,
            parallel_tool_calls=True,
            tool_choice="auto",
            tools=[],
            usage=None if used is None else _usage(*used),
        )


def _usage(read: int, written: int, cached: int, reasoned: int) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=read,
        input_tokens_details=InputTokensDetails.model_validate({"cached_tokens": cached, "cache_write_tokens": 0}),
        output_tokens=written,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=reasoned),
        total_tokens=read + written,
    )


def _pieces(text: str) -> list[str]:
    words = text.split(" ")
    return [word if last else f"{word} " for last, word in zip([*[False] * (len(words) - 1), True], words, strict=True)]


def _message(text: str) -> ResponseOutputMessage:
    content = ResponseOutputText(annotations=[], text=text, type="output_text")
    return ResponseOutputMessage(
        id=f"msg_{next(_numbers)}", content=[content], role="assistant", status="completed", type="message"
    )


def _call(call: Calls) -> ResponseFunctionToolCall:
    return ResponseFunctionToolCall(
        call_id=call.id or f"call_{next(_numbers)}",
        name=call.tool,
        arguments=json.dumps(call.arguments),
        type="function_call",
    )
