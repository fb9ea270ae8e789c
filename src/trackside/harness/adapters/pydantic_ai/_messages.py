"""Pydantic AI's messages as plain JSON: as they are, for threads to keep; and flat, as other frameworks show messages."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from pydantic_ai import ModelMessagesTypeAdapter
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    ToolCallPart,
    ToolCallPartDelta,
    ToolReturnPart,
)

from trackside.harness.adapters.pydantic_ai._errors import ThreadHistoryError
from trackside.harness.ids import new_id
from trackside.harness.payload import whole
from trackside.harness.types import Json, JsonObject


def kept(messages: Sequence[ModelMessage]) -> list[Json]:
    """Messages in the form in which a thread keeps them.

    What a tool has left for the program itself, beside its result, may be anything, and is kept as far as it is JSON.
    """
    plain: list[Json] = whole(ModelMessagesTypeAdapter.dump_python(list(messages), mode="json", fallback=whole))
    return plain


def recalled(history: Any, *, thread_id: str) -> list[ModelMessage]:
    """The messages that a thread has kept.

    Raises:
        ThreadHistoryError: it has kept something else.
    """
    try:
        return ModelMessagesTypeAdapter.validate_python(history or [])
    except ValueError as exc:
        raise ThreadHistoryError(thread_id=thread_id, why=str(exc).partition("\n")[0]) from exc


def complete_steps(messages: Sequence[ModelMessage]) -> list[Json]:
    """Messages in that form up to the last step that is complete: an answer with the results of all tools that it calls."""
    whole = list(messages)
    while whole and _is_cut_off(whole[-1]):
        whole.pop()
    return kept(whole)


def _is_cut_off(last: ModelMessage) -> bool:
    return last.state == "interrupted" or (isinstance(last, ModelResponse) and bool(last.tool_calls))


def is_compaction(message: ModelMessage) -> bool:
    """Whether this stands for what was said before: the answer to a call that did nothing but compact that."""
    return isinstance(message, ModelResponse) and (message.provider_details or {}).get("compaction") is True


def ai_message(response: ModelResponse, message_id: str, output_tools: Collection[str]) -> JsonObject:
    """What a model answered. A call of an output tool is its answer, not a call."""
    calls = [part for part in response.parts if isinstance(part, ToolCallPart)]
    answers = [call.args_as_json_str() for call in calls if call.tool_name in output_tools]
    usage = response.usage
    return {
        "type": "ai",
        "id": message_id,
        "name": None,
        "content": response.text or "\n".join(answers),
        "tool_calls": [_call(call) for call in calls if call.tool_name not in output_tools],
        "response_metadata": {"model_name": response.model_name, "finish_reason": response.finish_reason},
        "usage_metadata": {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "total_tokens": usage.input_tokens + usage.output_tokens,
        },
    }


def tool_messages(request: ModelRequest, output_tools: Collection[str]) -> list[JsonObject]:
    """The results of tools in a request to a model, including that a call was refused or has to be made again.

    That an output tool has been called is not a result.
    """
    return [
        {
            "type": "tool",
            "id": new_id(),
            "name": part.tool_name,
            "content": part.model_response_str(wrap_if_error=False),
            "tool_call_id": part.tool_call_id,
            "status": "success" if part.outcome == "success" else "error",
        }
        for part in request.parts
        if isinstance(part, ToolReturnPart) and not (part.tool_name in output_tools and part.outcome == "success")
    ]


def chunk_of(event: Any, message_id: str, output_calls: set[int], output_tools: Collection[str]) -> JsonObject | None:
    """What an event adds to the message that a model is giving; None if it adds nothing that can be shown.

    `output_calls` are the parts of this message that call an output tool, whose arguments are its text; updated here.
    """
    match event:
        case PartStartEvent(part=TextPart(content=text)) | PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
            return chunk(message_id, content=text) if text else None
        case (
            PartStartEvent(part=ThinkingPart(content=thought))
            | PartDeltaEvent(delta=ThinkingPartDelta(content_delta=thought))
        ):
            return chunk(message_id, additional_kwargs={"reasoning_content": thought}) if thought else None
        case PartStartEvent(part=ToolCallPart() as call, index=index):
            arguments = call.args if isinstance(call.args, str) else call.args_as_json_str() if call.args else ""
            if call.tool_name in output_tools:
                output_calls.add(index)
                return chunk(message_id, content=arguments) if arguments else None
            return _call_chunk(message_id, index, call.tool_name, call.tool_call_id, arguments)
        case PartDeltaEvent(delta=ToolCallPartDelta(args_delta=str() as arguments), index=index):
            if index in output_calls:
                return chunk(message_id, content=arguments)
            return _call_chunk(message_id, index, None, None, arguments)
        case _:
            return None


def chunk(message_id: str, **fields: Any) -> JsonObject:
    """A piece of a message, in LangChain's form."""
    return {
        "type": "AIMessageChunk",
        "id": message_id,
        "name": None,
        "content": "",
        "tool_calls": [],
        "tool_call_chunks": [],
        "additional_kwargs": {},
        **fields,
    }


def _call(part: ToolCallPart) -> JsonObject:
    return {"type": "tool_call", "id": part.tool_call_id, "name": part.tool_name, "args": whole(part.args_as_dict())}


def _call_chunk(message_id: str, index: int, name: str | None, call_id: str | None, arguments: str) -> JsonObject:
    call = {"type": "tool_call_chunk", "index": index, "id": call_id, "name": name, "args": arguments}
    return chunk(message_id, tool_call_chunks=[call])
