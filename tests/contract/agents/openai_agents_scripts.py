"""Agents of the OpenAI Agents SDK, with a model that implements the SDK's own interface."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from agents import Agent, FunctionTool, Tool, function_tool
from tests.integration.openai_agents.scripted_model import Calls, Said, ScriptedModel, Turn

from trackside.testing.contracts.scripted import INPUT_TOKENS, OUTPUT_TOKENS

MODEL = "small"


class OpenAIAgentsScripts:
    """An agent, its model and its tools."""

    model = MODEL

    def says(self, text: str) -> Any:
        return agent(text)

    def remembers(self) -> Any:
        async def count(items: list[Any]) -> str:
            return str(sum(item.get("role") == "user" for item in items))

        return agent(count)

    def calls_tool(self, name: str, times: int = 1) -> Any:
        return agent(*[Calls(name)] * times, "done", tools=[tool(nothing, name)])

    def never_ends(self) -> Any:
        return agent(Calls("look"), tools=[tool(nothing, "look")])

    def fails(self, error: BaseException) -> Any:
        async def fail() -> str:
            raise error

        return agent(Calls("fail"), tools=[tool(fail, "fail", failure_error_function=None)])

    def loses_model(self, error: Exception, *, swallows: bool) -> Any:
        if swallows:
            pytest.skip("the SDK lets no failure of a model pass, but of an agent that another's model has called")
        return agent(error)

    def waits(self, began: Callable[[], None]) -> Any:
        async def wait() -> str:
            began()
            await asyncio.Event().wait()
            return ""

        return agent(Calls("wait"), tools=[tool(wait, "wait")])

    def asks(self, question: str) -> Any:
        return self.asks_several([question])

    def asks_several(self, questions: Sequence[str]) -> Any:
        async def ask_first(items: list[Any]) -> Said:
            if any(item.get("type") == "function_call_output" for item in items):
                return "answered"
            return [Calls("ask", {"question": question}) for question in questions]

        return agent(ask_first, tools=[tool(ask, "ask", needs_approval=True)])

    def delegates(self, to: str) -> Any:
        helper = agent("it is done", name=to)
        as_tool = helper.as_tool(tool_name="helper", tool_description="Does it.")
        return agent(Calls("helper", {"input": "do it"}), "it was done", tools=[as_tool])


def agent(*turns: Turn, name: str = "lead", tools: Sequence[Tool] = ()) -> Agent[Any]:
    return Agent(
        name, model=ScriptedModel(*turns, name=MODEL, usage=(INPUT_TOKENS, OUTPUT_TOKENS, 0, 0)), tools=[*tools]
    )


def tool(function: Any, name: str, **options: Any) -> FunctionTool:
    return function_tool(function, name_override=name, **options)


async def nothing() -> str:
    """See nothing."""
    return "nothing"


async def ask(question: str) -> str:
    """Ask a human."""
    return "yes"
