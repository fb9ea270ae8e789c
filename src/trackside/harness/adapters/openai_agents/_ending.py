"""Sees the SDK's tasks to their end, and finds out what went wrong where the SDK does not say it."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import agents
from agents import (
    FunctionTool,
    InputGuardrailTripwireTriggered,
    OutputGuardrailTripwireTriggered,
    RunResultStreaming,
    StreamEvent,
    Tool,
    ToolCallOutputItem,
    ToolErrorFormatter,
    ToolErrorFormatterArgs,
    ToolInputGuardrailTripwireTriggered,
    ToolOutputGuardrailTripwireTriggered,
    UserError,
)
from agents.tool import default_tool_error_function, default_tool_timeout_error_message

from trackside.harness.adapters.openai_agents._usage import UsageRecorder
from trackside.harness.foreign.failures import line_of
from trackside.harness.payload import whole

_SDK = f"{Path(agents.__file__).parent}/"
_OUTLIVING = (f"{_SDK}mcp/", f"{_SDK}sandbox/sandboxes/", f"{_SDK}extensions/sandbox/")
"""Code whose tasks outlive runs: server connections, and a sandbox session's processes, which end with the session."""
_CHECKING = "_input_guardrails_task"  # private: the task of the guardrails that check an input beside the model


async def see_through(result: RunResultStreaming, take: Callable[[StreamEvent], None], recorder: UsageRecorder) -> None:
    """Hand over what a run streams until it ends; however it ends, nothing of the SDK's still runs for it afterwards.

    Raises:
        asyncio.CancelledError: this was cancelled, and the run has stopped.
        BaseException: what the run raised.
    """
    try:
        async with aclosing(cast("AsyncGenerator[StreamEvent]", result.stream_events())) as events:
            async for event in events:
                try:
                    take(event)
                except BaseException:
                    result.cancel()  # before the stream is closed, which would wait for the run to come to its own end
                    raise
        if (running := result.run_loop_task) is not None and running.cancelled():
            running.result()  # raises the cancel that code of the run has raised, which the SDK's stream leaves out
        if (checking := getattr(result, _CHECKING, None)) is not None and checking.done():
            checking.result()  # the same for guardrails, and for what else is no `Exception`, as a pause
    except BaseException:
        await _all_ended(recorder)
        raise


async def _all_ended(recorder: UsageRecorder) -> None:
    """Wait until the SDK's tasks for a run have ended; each cancel meanwhile is passed on to them."""
    cancel: asyncio.CancelledError | None = None
    while tasks := {task for task in asyncio.all_tasks() if recorder.owns(task) and _is_of_sdk(task)}:
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError as exc:
            for task in tasks:
                task.cancel()
            cancel = exc
    if cancel is not None:
        raise cancel


def _is_of_sdk(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    path = getattr(code, "co_filename", "")
    return path.startswith(_SDK) and not path.startswith(_OUTLIVING)


def as_raised(error: BaseException) -> BaseException:
    """What went wrong: for a failed tool what it raised, for a tripped guardrail which one it is and what it found.

    The SDK wraps the former, and for the latter it names a class of its own.
    """
    match error:
        case UserError() if error.__cause__ is not None and str(error).startswith("Error running tool "):
            return error.__cause__
        case InputGuardrailTripwireTriggered() | OutputGuardrailTripwireTriggered():
            name, found = error.guardrail_result.guardrail.get_name(), error.guardrail_result.output.output_info
        case ToolInputGuardrailTripwireTriggered() | ToolOutputGuardrailTripwireTriggered():
            name, found = error.guardrail.get_name(), error.output.output_info
        case _:
            return error
    error.args = (f"The guardrail {name} stopped the run{_said(found)}",)
    return error


def _said(found: Any) -> str:
    if found is None:
        return "."
    return f": {found if isinstance(found, str) else json.dumps(whole(found), ensure_ascii=False)}"


class FailedTools:
    """Remembers which tools failed: a formatter of the texts into which the SDK turns their errors for the model.

    Args:
        then: the formatter that the SDK's user has set.
        errors: where to remember, by the id of the call.
    """

    def __init__(self, then: ToolErrorFormatter | None, errors: dict[str, Exception]) -> None:
        self._then = then
        self._errors = errors

    async def __call__(self, failure: ToolErrorFormatterArgs[Any]) -> str | None:
        """The text that the user wants; None: the SDK's own."""
        if failure.kind == "tool_exception" and failure.error is not None:
            self._errors[failure.call_id] = failure.error
        if self._then is None:
            return None
        text = self._then(failure)
        return await text if inspect.isawaitable(text) else text

    def behind(self, result: RunResultStreaming, tools: Mapping[str, Tool]) -> str | None:
        """What has failed if a run's output is what a failed tool left; else None. `tools` are by call id."""
        for item in reversed(result.new_items):
            if not isinstance(item, ToolCallOutputItem):
                break  # a model had the last word
            if item.output == result.final_output and (why := self._failure(item, tools)) is not None:
                return why
        return None

    def _failure(self, output: ToolCallOutputItem, tools: Mapping[str, Tool]) -> str | None:
        call_id = output.call_id or ""
        tool = tools.get(call_id)
        name = tool.name if tool is not None else "that was called"
        if (error := self._errors.get(call_id)) is not None:
            return f"the tool {name} failed with {type(error).__qualname__}: {line_of(error)}"
        if isinstance(tool, FunctionTool) and tool.timeout_seconds is not None:
            timed_out = default_tool_timeout_error_message(tool_name=tool.name, timeout_seconds=tool.timeout_seconds)
            if output.output == timed_out:
                return f"the tool {name} took longer than its {tool.timeout_seconds:g} s"
        if output.output == _DEFAULT_TEXT:  # an agent as a tool
            return f"the tool {name} failed"
        return None


_DEFAULT_TEXT = default_tool_error_function(agents.RunContextWrapper(None), Exception())
