"""The scripted agents of Pydantic AI."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from pydantic_ai import (
    Agent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RequestUsage,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.capabilities import Hooks
from pydantic_ai.messages import ModelRequestPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from trackside.testing.contracts.scripted import INPUT_TOKENS, OUTPUT_TOKENS

type Answer = str | list[tuple[str, dict[str, Any]]]
"""What a scripted model answers: a text, or the tools it calls with their arguments."""


class PydanticAIScripts:
    """Agents whose model is a `FunctionModel`."""

    model = "scripted-model"

    def says(self, text: str) -> Agent[None, str]:
        return self._agent(lambda messages: text)

    def remembers(self) -> Agent[None, str]:
        return self._agent(lambda messages: str(sum(isinstance(part, UserPromptPart) for part in _said(messages))))

    def calls_tool(self, name: str, times: int = 1) -> Agent[None, str]:
        agent = self._agent(lambda messages: "done" if len(_results(messages)) == times else [(name, {})])

        @agent.tool_plain(name=name)
        async def tool() -> str:
            return "ok"

        return agent

    def fails(self, error: BaseException) -> Agent[None, str]:
        agent = self._agent(lambda messages: [("fail", {})])

        @agent.tool_plain
        async def fail() -> str:
            raise error

        return agent

    def loses_model(self, error: Exception, *, swallows: bool) -> Agent[None, str]:
        def lose(messages: list[ModelMessage]) -> Answer:
            raise error

        hooks: Hooks[None] = Hooks()
        if swallows:

            @hooks.on.model_request_error
            async def make_do(ctx: Any, *, request_context: Any, error: Exception) -> ModelResponse:
                return ModelResponse(parts=[TextPart("Sorry, something went wrong.")])

        return self._agent(lose, capabilities=[hooks])

    def waits(self, began: Callable[[], None]) -> Agent[None, str]:
        agent = self._agent(lambda messages: [("wait", {})])

        @agent.tool_plain
        async def wait() -> str:
            began()
            await asyncio.Event().wait()
            return "never"

        return agent

    def asks(self, question: str) -> Agent[None, str]:
        return self.asks_several([question])

    def asks_several(self, questions: Sequence[str]) -> Agent[None, str]:
        calls = [("confirm", {"question": question}) for question in questions]
        agent = self._agent(lambda messages: "answered" if _results(messages) else calls)

        @agent.tool_plain(requires_approval=True)
        async def confirm(question: str) -> str:
            return "yes"

        return agent

    def delegates(self, to: str) -> Agent[None, str]:
        delegate = self._agent(lambda messages: "found", name=to)
        agent = self._agent(lambda messages: "delegated" if _results(messages) else [("ask", {})])

        @agent.tool_plain
        async def ask() -> str:
            return (await delegate.run("go")).output

        return agent

    def never_ends(self) -> Agent[None, str]:
        agent = self._agent(lambda messages: [("again", {})])

        @agent.tool_plain
        async def again() -> str:
            return "ok"

        return agent

    def _agent(
        self, answer: Callable[[list[ModelMessage]], Answer], *, name: str = "scripted", **options: Any
    ) -> Agent[None, str]:
        async def respond(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            answered = answer(messages)
            usage = RequestUsage(input_tokens=INPUT_TOKENS, output_tokens=OUTPUT_TOKENS)
            if isinstance(answered, str):
                return ModelResponse(parts=[TextPart(answered)], usage=usage)
            return ModelResponse(parts=[ToolCallPart(tool, arguments) for tool, arguments in answered], usage=usage)

        return Agent(FunctionModel(respond, model_name=self.model), name=name, **options)


def _said(messages: Sequence[ModelMessage]) -> list[ModelRequestPart]:
    """What the model was told."""
    return [part for message in messages if isinstance(message, ModelRequest) for part in message.parts]


def _results(messages: Sequence[ModelMessage]) -> list[ToolReturnPart]:
    """What the tools have returned since a human last spoke."""
    said = _said(messages)
    spoken = max((index for index, part in enumerate(said) if isinstance(part, UserPromptPart)), default=-1)
    return [part for part in said[spoken + 1 :] if isinstance(part, ToolReturnPart)]
