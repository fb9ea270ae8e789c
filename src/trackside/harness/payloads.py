"""What the payloads of events contain, for type checkers and for the JSON Schemas of the reference.

A payload is a plain mapping at run time. It may have keys that are not listed here, which have to survive a round trip.
An emitter other than Trackside may leave out what it does not know, and the `status` of an end, which then follows from
the type of the event.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NotRequired, TypedDict

from trackside.harness.types import Json, JsonObject, LifecycleEventType


class TokenUsage(TypedDict):
    """What one model, or one caller, used."""

    input_tokens: int
    """Tokens that models read, including those from a cache."""
    output_tokens: int
    """Tokens that models wrote, including those for reasoning."""
    total_tokens: int
    """Input and output together."""
    cache_read_tokens: NotRequired[int]
    """Input tokens that came from a cache, if any did."""
    cache_write_tokens: NotRequired[int]
    """Input tokens that were written to a cache, if any were."""
    reasoning_tokens: NotRequired[int]
    """Output tokens that were reasoning, if any were."""
    cost_usd: NotRequired[float]
    """What the calls cost whose price is known, in US dollars; absent if none is."""


class CallMade(TypedDict):
    """One call of a model, a tool or another agent."""

    kind: Literal["chat", "execute_tool", "invoke_agent"]
    """What was called: a model, a tool or another agent."""
    name: str
    """The name of the tool, the agent, or the model: the one that answered, as far as that is known."""
    caller: str
    """Who made the call: `lead_agent`, or the name of an agent or a middleware inside."""
    at: float
    """Seconds from the start of the run to the start of the call."""
    seconds: float
    """How many seconds the call took; 0 where nobody has measured it."""
    request_model: NotRequired[str]
    """The model that was asked for, if it has another name than the one that answered."""
    input_tokens: NotRequired[int]
    """Tokens that the model read."""
    output_tokens: NotRequired[int]
    """Tokens that the model wrote."""
    cache_read_tokens: NotRequired[int]
    """Input tokens that came from a cache."""
    cache_write_tokens: NotRequired[int]
    """Input tokens that were written to a cache."""
    reasoning_tokens: NotRequired[int]
    """Output tokens that were reasoning."""
    error_type: NotRequired[str]
    """What the call failed with: the type of an exception, or `cancelled`, `unanswered` or `unfinished`."""


class CompletionData(TypedDict):
    """What a run used and said, even if it failed, timed out, waits or was cancelled."""

    total_input_tokens: int
    """Tokens that models read."""
    total_output_tokens: int
    """Tokens that models wrote."""
    total_tokens: int
    """Input and output together."""
    llm_call_count: int
    """How many model calls gave an answer or used something."""
    tool_call_count: int
    """How many tool calls there were."""
    message_count: int
    """How many messages there were, each counted once."""
    token_usage_by_model: dict[str, TokenUsage]
    """What was used, by the name of the model."""
    token_usage_by_caller: dict[str, TokenUsage]
    """What was used, by the caller."""
    first_human_message: str | None
    """The text of the first human message, at most its first 2,000 characters."""
    last_ai_message: str | None
    """The text of the last message of a model, at most its first 2,000 characters."""
    duration_seconds: float
    """How many seconds the run took; 0 if it never started."""
    cost_usd: NotRequired[float]
    """What the calls cost whose price is known, in US dollars; absent if none is."""
    llm_error_count: NotRequired[int]
    """How many model calls failed, if any did."""
    calls: NotRequired[list[CallMade]]
    """The calls, in the order in which they started: the first 1,000 that were reported. Absent if there were none."""
    calls_omitted: NotRequired[int]
    """How many more calls there were."""


class HumanMessage(TypedDict):
    """What a human said. It may have more keys, depending on its framework."""

    id: str
    """The id of the message."""
    type: Literal["human"]
    """Who said it."""
    content: Json
    """A text, or a list of blocks as models take them."""
    sanitized: NotRequired[bool]
    """True if something in it could not be kept as it was."""


class _Payload(TypedDict):
    """What every payload may have."""

    sanitized: NotRequired[bool]
    """True if something in it could not be kept as it was: values that JSON lacks, or more than there is room for."""


class RunStartedPayload(_Payload):
    """A run has started."""

    agent: str
    """The name of the run's agent."""
    metadata: JsonObject
    """The metadata with which the run was asked for."""
    parent_run_id: NotRequired[str]
    """The run that started this one."""
    trigger: NotRequired[str]
    """What started the run, in the words of the caller that asked for it: a cron, for example."""
    attempt: NotRequired[int]
    """Which attempt the run is, from 2 on."""
    retry_of: NotRequired[str]
    """The run of which this one is another attempt."""


class HumanMessagePayload(_Payload):
    """A human has said something to a run. The answer to a question counts, too."""

    message: HumanMessage
    """The message."""


class RunCompletedPayload(_Payload):
    """A run has come to a result, or to a question for a human."""

    agent: NotRequired[str]
    """The name of the run's agent."""
    status: NotRequired[Literal["success", "interrupted"]]
    """`interrupted`: the run waits for answers."""
    title: str | None
    """The title of the run's thread."""
    completion_data: CompletionData
    """What the run used and said."""
    interrupts: NotRequired[list[JsonObject]]
    """The questions that the run waits for. Each has an `id` and a `value`, which is what the agent asks. A graph that
    has stopped at a breakpoint asks nothing: it says which nodes are `next`, and in `interrupt_before` and
    `interrupt_after` where the run was asked to stop, if it was."""


class Refusal(TypedDict):
    """Why a strict answer (`strict_resume`) was refused, as LangGraph's `UnknownInterruptError` says it."""

    reason: str
    """`not_pending`: the answer names questions that are not open."""
    interrupt_ids: list[str]
    """The questions that the answer names and that are not open."""
    pending_ids: list[str]
    """The questions that are open."""


class RunFailedPayload(_Payload):
    """A run has failed, or took longer than it may."""

    agent: NotRequired[str]
    """The name of the run's agent."""
    status: NotRequired[Literal["error", "timeout"]]
    """`timeout`: the run took longer than it may."""
    error: str
    """What went wrong, in words for people."""
    error_type: str
    """The type of the exception, or `budget_exceeded`, `memory_limit`, `process_crashed`, `stuck` or `worker_lost`."""
    traceback: NotRequired[str]
    """Where the exception came from."""
    refused: NotRequired[Refusal]
    """Why the run's answer was refused, if the run had said that it is a strict one."""
    retried_as: NotRequired[str]
    """The run that is another attempt of this one."""
    title: NotRequired[str | None]
    """The title of the run's thread, if it has one."""
    completion_data: CompletionData
    """What the run used and said until then."""


class RunCancelledPayload(_Payload):
    """A run was stopped, and its code has ended."""

    agent: NotRequired[str]
    """The name of the run's agent."""
    cancel_mode: Literal["interrupt", "rollback", "shutdown", "task_cancelled"]
    """Who stopped the run, and what is left: what it did stays (`interrupt`), the thread is as it was before the run
    (`rollback`), its process ends (`shutdown`), or its task was cancelled (`task_cancelled`)."""
    reason: NotRequired[str | None]
    """Why the run was stopped, if somebody said so."""
    pre_run_checkpoint_id: NotRequired[str | None]
    """The checkpoint of the thread before the run."""
    retried_as: NotRequired[str]
    """The run that is another attempt of this one."""
    title: NotRequired[str | None]
    """The title of the run's thread, if it has one."""
    completion_data: CompletionData
    """What the run used and said until then."""


class ThreadStatusUpdatedPayload(_Payload):
    """The status of a run's thread has changed."""

    status: Literal["idle", "busy", "interrupted", "error"]
    """The status now: at rest (`idle`), with a run (`busy`), waiting for a human (`interrupted`), or left by a failure
    (`error`)."""
    previous: Literal["idle", "busy", "interrupted", "error"] | None
    """The status before."""
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
"""The payload of each event."""
