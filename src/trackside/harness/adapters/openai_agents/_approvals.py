"""Asks a human about the tool calls that need an approval, and goes on with what was said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agents import Agent, RunResultStreaming, RunState, ToolApprovalItem

from trackside.harness.adapters.openai_agents._config import RunnerOptions
from trackside.harness.agents.approvals import Approval, approval_of
from trackside.harness.agents.kept_context import CONTEXT_AGAIN
from trackside.harness.context import RunContext
from trackside.harness.errors import InvalidSpecError
from trackside.harness.payload import canonical, whole
from trackside.harness.types import Json, JsonObject

_NO_OTHER_ARGUMENTS = (
    "the OpenAI Agents SDK calls an approved tool with the arguments that the model gave; reject the call and say in the "
    '"message" what the model should change'
)

_SAID_IN = ("arguments", "params", "input", "action", "operation")
"""Where the items of calls say what a tool would be called with."""


def questions_in(result: RunResultStreaming) -> list[JsonObject]:
    """One question for each tool call that waits for an approval."""
    return [
        {
            "id": _id_of(item, nth),
            "value": {
                "tool": item.qualified_name or item.name,
                "arguments": arguments_of(whole(item.raw_item)),
                "agent": item.agent.name,
            },
        }
        for nth, item in enumerate(result.interruptions)
    ]


def paused_state(result: RunResultStreaming) -> JsonObject:
    """What is remembered until the answers come: the SDK's state, and whether the context has to be given again."""
    context = result.context_wrapper.context
    lost = context is not None and (not isinstance(context, Mapping) or canonical(dict(context))[1])
    state = result.to_state().to_json(context_serializer=(lambda _: {}) if lost else None)
    return {"state": whole(state), "needs_context": lost}


def approvals_of(run: RunContext) -> dict[str, Approval]:
    """What a run's answers say, by the ids of the questions.

    Raises:
        InvalidSpecError: an answer is neither an approval nor a rejection.
    """
    approvals = {question: approval_of(answer) for question, answer in run.answers_by_id.items()}
    for approval in approvals.values():
        if approval.arguments is not None:
            raise InvalidSpecError(field="command.resume", value=dict(approval.arguments), why=_NO_OTHER_ARGUMENTS)
    return approvals


async def answered_state(run: RunContext, agent: Agent[Any], options: RunnerOptions) -> RunState[Any]:
    """The state of the run that asked, with the answers in it; what was not answered will be asked again.

    Raises:
        InvalidSpecError: an answer is not one, or the run lacks the context that the run which asked had.
    """
    assert run.paused is not None, "a run that resumes is only called with what was remembered"
    approvals = approvals_of(run)
    kept = run.paused.state
    if kept["needs_context"] and run.context is None:
        raise InvalidSpecError(field="context", value=None, why=CONTEXT_AGAIN)
    saved = {**kept["state"], "max_turns": options.max_turns} if options.names_max_turns else kept["state"]
    state: RunState[Any] = await RunState.from_json(agent, saved, context_deserializer=dict)
    for nth, item in enumerate(state.get_interruptions()):
        approval = approvals.get(_id_of(item, nth))
        if approval is None:
            continue
        if approval.approved:
            state.approve(item)
        else:
            state.reject(item, rejection_message=approval.message)
    return state


def waiting_tools(state: RunState[Any]) -> dict[str, str]:
    """The names of the tools that wait for an approval, by the id of the call."""
    return {item.call_id: item.name for item in state.get_interruptions() if item.call_id and item.name}


def arguments_of(call: JsonObject) -> Json:
    """What a tool would be called with, by the item of the call: an object, or the text if that is not JSON.

    A shell call has it in its action, a call that changes files in its operation.
    """
    said: Json = next((call[name] for name in _SAID_IN if call.get(name)), {})
    if isinstance(said, dict):  # of the SDK's own types, which have None for what was not said
        return {name: value for name, value in said.items() if value is not None}
    try:
        return whole(json.loads(said)) if isinstance(said, str) else said
    except ValueError:
        return said


def _id_of(item: ToolApprovalItem, nth: int) -> str:
    return item.call_id or f"approval-{nth}"
