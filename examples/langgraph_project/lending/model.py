"""Stands in for a model when there is none: rules that call tools and speak word by word.

With a real model nothing else changes: `ChatOpenAI(model="…")` in `desk.py` instead of `OfflineModel()`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from lending.books import find


class OfflineModel(BaseChatModel):
    """Uses tools to do what the last message asks for, and says what they found."""

    @property
    def _llm_type(self) -> str:
        return "offline"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> OfflineModel:
        """Ignore the tools: this model already knows those of the desk."""
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        chunks = [generation.message for generation in self._stream(messages)]
        whole = chunks[0]
        for chunk in chunks[1:]:
            whole += chunk
        said = AIMessage(content=whole.content, tool_calls=getattr(whole, "tool_calls", []))
        return ChatResult(generations=[ChatGeneration(message=said)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        last = messages[-1]
        book = find(last.text)
        if isinstance(last, ToolMessage):
            yield from _words(last.text)
        elif book is None:
            yield from _words("I know about books. Which one do you mean?")
        else:
            tool = "lend" if re.search(r"\b(lend|borrow)\b", last.text, re.IGNORECASE) else "look_up"
            call = tool_call_chunk(
                name=tool, args=json.dumps({"title": book.title}), id=f"call-{len(messages)}", index=0
            )
            yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[call]))


def _words(text: str) -> Iterator[ChatGenerationChunk]:
    for word in re.findall(r"\S+\s*", text):
        yield ChatGenerationChunk(message=AIMessageChunk(content=word))
