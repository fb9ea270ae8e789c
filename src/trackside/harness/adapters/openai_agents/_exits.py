"""Gets a `SystemExit` or Ctrl-C of a tool past the task in which the SDK calls it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Awaitable, Callable
from typing import Any

from agents import FunctionTool
from agents.run_internal import tool_execution

from trackside.harness.adapters.openai_agents._usage import UsageRecorder
from trackside.harness.foreign.exits import carrying_exits

_INVOKE = "_invoke_function_tool_with_metadata"  # private, but nothing public stands between a tool and its task

type _Invoke = Callable[..., Awaitable[Any]]


def carry_exits_of_tools() -> None:
    """Have what the SDK calls of our runs' tools raise `CarriedExit` instead; once for the process.

    This wraps the SDK's step that calls a tool, as its default runner is wrapped for usage: outside our runs the
    wrapper does nothing.
    """
    invoke: _Invoke | None = getattr(tool_execution, _INVOKE, None)
    if invoke is not None and not isinstance(invoke, _Carrying):
        setattr(tool_execution, _INVOKE, _Carrying(invoke))


class _Carrying:
    """Gives the step it wraps a copy of the tool that carries exits, even if the SDK runs it in a further task."""

    def __init__(self, invoke: _Invoke) -> None:
        self._invoke = invoke

    async def __call__(self, *, function_tool: FunctionTool, **call: Any) -> Any:
        if UsageRecorder.current() is not None:
            carried = _carried(function_tool.on_invoke_tool)
            function_tool = copy.copy(function_tool)
            function_tool.on_invoke_tool = carried
        return await self._invoke(function_tool=function_tool, **call)


def _carried(call_tool: _Invoke) -> _Invoke:
    @functools.wraps(call_tool)  # the SDK reads from the signature which context the tool takes
    async def carried(*arguments: Any) -> Any:
        with carrying_exits():
            return await call_tool(*arguments)

    return carried
