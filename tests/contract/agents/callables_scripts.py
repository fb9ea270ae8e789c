"""Agents that are plain functions, with a one-line model."""

import asyncio
from collections.abc import Callable
from typing import Any

from trackside import RunContext
from trackside.testing.contracts.scripted import INPUT_TOKENS, OUTPUT_TOKENS


class CallablesScripts:
    """Plain functions, which report to their run themselves what they use."""

    model = "small"

    never_ends = None  # a function has no step limit
    asks_several = None  # it stops at its first question

    def says(self, text: str) -> Any:
        async def agent(input: Any, run: RunContext) -> str:
            self.call_model(run)
            return text

        return agent

    def remembers(self) -> Any:
        async def agent(input: Any, run: RunContext) -> dict[str, Any]:
            self.call_model(run)
            heard = run.values.get("heard", 0) + 1
            return {"heard": heard, "messages": [{"type": "ai", "content": str(heard)}]}

        return agent

    def calls_tool(self, name: str, times: int = 1) -> Any:
        async def agent(input: Any, run: RunContext) -> str:
            for _ in range(times):
                self.call_model(run)
                await asyncio.sleep(0)
                run.record_tool_call(name)
                await asyncio.sleep(0)
            self.call_model(run)
            return "done"

        return agent

    def fails(self, error: BaseException) -> Any:
        async def agent(input: Any, run: RunContext) -> None:
            self.call_model(run)
            raise error

        return agent

    def loses_model(self, error: Exception, *, swallows: bool) -> Any:
        async def agent(input: Any, run: RunContext) -> str:
            run.record_model_failure(error)
            if not swallows:
                raise error
            return f"sorry: {error}"

        return agent

    def waits(self, began: Callable[[], None]) -> Any:
        async def agent(input: Any, run: RunContext) -> None:
            self.call_model(run)
            began()
            await asyncio.Event().wait()

        return agent

    def asks(self, question: str) -> Any:
        def agent(input: Any, run: RunContext) -> str:  # runs in a thread: an agent may ask a question there, too
            run.interrupt(question)
            self.call_model(run)
            return "answered"

        return agent

    def delegates(self, to: str) -> Any:
        async def agent(input: Any, run: RunContext) -> str:
            self.call_model(run)
            self.call_model(run, caller=to)
            return "done"

        return agent

    def call_model(self, run: RunContext, caller: str = "lead_agent") -> None:
        run.record_usage(self.model, input_tokens=INPUT_TOKENS, output_tokens=OUTPUT_TOKENS, caller=caller)
