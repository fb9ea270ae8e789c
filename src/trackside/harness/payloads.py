"""What the payloads of events have in them, for type checkers and for the JSON Schemas of the reference.

A payload is a plain mapping at run time. Keys that are not here may be in it, and have to survive a round trip. An emitter
that is not ours may leave out `status` of an end, which follows from the type of the event then, and what it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NotRequired, TypedDict

from trackside.harness.types import Json, JsonObject, LifecycleEventType


class TokenUsage(TypedDict):
    """What was used of one model, or by one caller."""

    input_tokens: int
    """Tokens that models read, those from a cache among them."""
    output_tokens: int
    """Tokens that models wrote, those for reasoning among them."""
    total_tokens: int
    """Both together."""
    cache_read_tokens: NotRequired[int]
    """Of the input, what came from a cache, if anything did."""
    cache_write_tokens: NotRequired[int]
    """Of the input, what was written to a cache, if anything was."""
    reasoning_tokens: NotRequired[int]
    """Of the output, what was reasoning, if anything was."""
    cost_usd: NotRequired[float]
    """US dollars, of those calls whose price is known; not there if none is."""


class CallMade(TypedDict):
    """One call of a model, a tool or another agent."""

    kind: Literal["chat", "execute_tool", "invoke_agent"]
    """What was called: a model, a tool, another agent."""
    name: str
    """The tool, the agent, or the model: the one that answered, as far as anybody knows."""
    caller: str
    """Who called it: `lead_agent`, or the name of an agent or a middleware inside."""
    at: float
    """Seconds from the start of the run to that of the call."""
    seconds: float
    """How long it took; 0 where nobody has measured it."""
    request_model: NotRequired[str]
    """The model that was asked, if that has another name than the one that answered."""
    input_tokens: NotRequired[int]
    """Tokens that the model read."""
    output_tokens: NotRequired[int]
    """Tokens that the model wrote."""
    cache_read_tokens: NotRequired[int]
    """Of the input, what came from a cache."""
    cache_write_tokens: NotRequired[int]
    """Of the input, what was written to a cache."""
    reasoning_tokens: NotRequired[int]
    """Of the output, what was reasoning."""
    error_type: NotRequired[str]
    """What it failed with: the type of an exception, or `cancelled`, `unanswered`, `unfinished`."""


class CompletionData(TypedDict):
    """What a run used and said, also one that failed, timed out, waits or was cancelled."""

    total_input_tokens: int
    """Tokens that models read."""
    total_output_tokens: int
    """Tokens that models wrote."""
    total_tokens: int
    """Both together."""
    llm_call_count: int
    """How many calls of models gave an answer, or used something."""
    tool_call_count: int
    """How many calls of tools there were."""
    message_count: int
    """How many messages there were, each counted once."""
    token_usage_by_model: dict[str, TokenUsage]
    """What was used, by the name of the model."""
    token_usage_by_caller: dict[str, TokenUsage]
    """What was used, by who called."""
    first_human_message: str | None
    """The text of the first human message, at most 2,000 characters of it."""
    last_ai_message: str | None
    """The text of the last message of a model, at most 2,000 characters of it."""
    duration_seconds: float
    """How long the run took; 0 if it never started."""
    cost_usd: NotRequired[float]
    """US dollars, of those calls whose price is known; not there if none is."""
    llm_error_count: NotRequired[int]
    """How many calls of models failed, if any did."""
    calls: NotRequired[list[CallMade]]
    """The calls in the order of their starts, the first 1,000 that were told of; not there if there were none."""
    calls_omitted: NotRequired[int]
    """How many more there were."""


class HumanMessage(TypedDict):
    """What a human said. It may have more keys, as its framework has them."""

    id: str
    """Which message it is."""
    type: Literal["human"]
    """Whose message it is."""
    content: Json
    """A text, or a list of blocks as models take them."""
    sanitized: NotRequired[bool]
    """True if something of it could not be kept as it was."""


class _Payload(TypedDict):
    """What every payload may have."""

    sanitized: NotRequired[bool]
    """True if something of it could not be kept as it was: values that JSON lacks, or more than there is room for."""


class RunStartedPayload(_Payload):
    """A run has started."""

    agent: str
    """The name of its agent."""
    metadata: JsonObject
    """What it was asked for with."""
    parent_run_id: NotRequired[str]
    """The run that started it."""
    trigger: NotRequired[str]
    """What it was started by, as who asked for it calls that: a cron, for example."""
    attempt: NotRequired[int]
    """Which attempt it is, from 2 on."""
    retry_of: NotRequired[str]
    """The run that it is another attempt of."""


class HumanMessagePayload(_Payload):
    """A human has said something to a run; the answer to a question counts, too."""

    message: HumanMessage
    """The message."""


class RunCompletedPayload(_Payload):
    """A run has come to a result, or to a question for a human."""

    agent: NotRequired[str]
    """The name of its agent."""
    status: NotRequired[Literal["success", "interrupted"]]
    """`interrupted`: it waits for answers."""
    title: str | None
    """The title of its thread."""
    completion_data: CompletionData
    """What it used and said."""
    interrupts: NotRequired[list[JsonObject]]
    """The questions that it waits for: each has an `id` and a `value`, which is what the agent asks. A graph that has
    stopped at a breakpoint asks nothing: it says which nodes are `next`, and in `interrupt_before` and `interrupt_after`
    where its run was asked to stop, if it was."""


class Refusal(TypedDict):
    """Why a strict answer (`strict_resume`) was not taken, as LangGraph's `UnknownInterruptError` says it."""

    reason: str
    """`not_pending`: it names questions that are not open."""
    interrupt_ids: list[str]
    """These questions."""
    pending_ids: list[str]
    """The questions that are open."""


class RunFailedPayload(_Payload):
    """A run has failed, or took longer than it may."""

    agent: NotRequired[str]
    """The name of its agent."""
    status: NotRequired[Literal["error", "timeout"]]
    """`timeout`: it took longer than it may."""
    error: str
    """What went wrong, for people."""
    error_type: str
    """The type of the exception, or `budget_exceeded`, `memory_limit`, `process_crashed`, `stuck`, `worker_lost`."""
    traceback: NotRequired[str]
    """Where the exception came from."""
    refused: NotRequired[Refusal]
    """Why its answer was not taken, if it had said that it is a strict one."""
    retried_as: NotRequired[str]
    """The run that is another attempt of it."""
    title: NotRequired[str | None]
    """The title of its thread, if it has one."""
    completion_data: CompletionData
    """What it used and said until then."""


class RunCancelledPayload(_Payload):
    """A run was stopped; its code has ended."""

    agent: NotRequired[str]
    """The name of its agent."""
    cancel_mode: Literal["interrupt", "rollback", "shutdown", "task_cancelled"]
    """Who stopped it, and what is left: what it did stays, the thread is as before the run, the process ends, its task was
    cancelled."""
    reason: NotRequired[str | None]
    """Why, if somebody said so."""
    pre_run_checkpoint_id: NotRequired[str | None]
    """The checkpoint of the thread before the run."""
    retried_as: NotRequired[str]
    """The run that is another attempt of it."""
    title: NotRequired[str | None]
    """The title of its thread, if it has one."""
    completion_data: CompletionData
    """What it used and said until then."""


class ThreadStatusUpdatedPayload(_Payload):
    """The status of a run's thread has changed."""

    status: Literal["idle", "busy", "interrupted", "error"]
    """What it is now: at rest, with a run, waiting for a human, left by a failure."""
    previous: Literal["idle", "busy", "interrupted", "error"] | None
    """What it was before."""
    title: NotRequired[str | None]
    """The title of the thread, if it has one."""


PAYLOADS: Mapping[LifecycleEventType, type] = {
    LifecycleEventType.RUN_STARTED: RunStartedPayload,
    LifecycleEventType.HUMAN_MESSAGE: HumanMessagePayload,
    LifecycleEventType.RUN_COMPLETED: RunCompletedPayload,
    LifecycleEventType.RUN_FAILED: RunFailedPayload,
    LifecycleEventType.RUN_CANCELLED: RunCancelledPayload,
    LifecycleEventType.THREAD_STATUS_UPDATED: ThreadStatusUpdatedPayload,
}
"""What the payload of each event is."""
