"""A model that streams its usage on the way, and what a run is said to have used."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from trackside import current_run


class Streaming(BaseChatModel):
    """Streams chunks that report usage on the way; waits for ever, or fails, after the last."""

    chunks: list[AIMessageChunk]
    then: Exception | None = None
    waits: bool = False

    @property
    def _llm_type(self) -> str:
        return "streaming"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage("never"))])

    def _stream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        yield from (ChatGenerationChunk(message=chunk.model_copy()) for chunk in self.chunks)
        if self.then is not None:
            raise self.then

    async def _astream(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._stream(messages):
            yield chunk
        if self.waits:
            run = current_run()
            assert run is not None
            run.send("waiting")
            await asyncio.Event().wait()


def chunk(text: str, tokens: tuple[int, int], **metadata: str) -> AIMessageChunk:
    usage = {"input_tokens": tokens[0], "output_tokens": tokens[1], "total_tokens": sum(tokens)}
    return AIMessageChunk(text, usage_metadata=usage, response_metadata=metadata)


async def cancelled_as_it_waits(stage: Any, graph: Any, *modes: str) -> Any:
    """The outcome of a run that is cancelled once its `Streaming` model has said everything."""
    handle = await stage.start(graph, "go", stream_mode=modes)
    async for part in handle.stream(modes=["custom"]):
        assert part.data == "waiting"
        await handle.cancel()
    return await stage.outcome(handle)


def callers(outcome: Any) -> dict[str, int]:
    return {name: used["total_tokens"] for name, used in outcome.usage["token_usage_by_caller"].items()}
