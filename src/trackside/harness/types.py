"""What a run is: statuses, what is asked for (`RunSpec`), what is known about it (`RunRecord`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, make_dataclass
from dataclasses import fields as fields_of
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import msgspec

type Json = Any
"""A value as JSON has it: None, bool, int, float, str, a list of these, or a dict from str to these."""

type JsonObject = dict[str, Any]
"""A JSON object."""


class RunStatus(StrEnum):
    """Where a run stands. All but `pending` and `running` are final."""

    pending = "pending"
    running = "running"
    success = "success"
    error = "error"
    timeout = "timeout"
    interrupted = "interrupted"
    cancelled = "cancelled"


class ThreadStatus(StrEnum):
    """Where a thread stands: at rest, with a run, waiting for a human, or left by a failure."""

    idle = "idle"
    busy = "busy"
    interrupted = "interrupted"
    error = "error"


class LifecycleEventType(StrEnum):
    """The six events that a run announces; there are no others."""

    RUN_STARTED = "run_started"
    RUN_COMPLETED = "run_completed"
    RUN_FAILED = "run_failed"
    RUN_CANCELLED = "run_cancelled"
    HUMAN_MESSAGE = "human_message"
    THREAD_STATUS_UPDATED = "thread_status_updated"


class MultitaskStrategy(StrEnum):
    """What to do with a new run for a thread that is busy."""

    reject = "reject"
    """Refuse it with `ThreadBusyError`."""
    enqueue = "enqueue"
    """Let it wait its turn, first come, first served."""
    interrupt = "interrupt"
    """Stop the active run and keep what it did, drop runs that wait or are not due, then start."""
    rollback = "rollback"
    """As `interrupt`, and also restore the thread's state to what it was before the stopped run."""

    @property
    def displaces(self) -> CancelAction | None:
        """What the thread's other runs, which have to make room, are asked to do; None: they need not."""
        return _DISPLACES.get(self)


class CancelAction(StrEnum):
    """What a cancelled run leaves behind: its partial work, or the thread as it was before the run."""

    interrupt = "interrupt"
    rollback = "rollback"


_DISPLACES: Final = {
    MultitaskStrategy.interrupt: CancelAction.interrupt,
    MultitaskStrategy.rollback: CancelAction.rollback,
}


class CancelMode(StrEnum):
    """Why a run was cancelled, as `run_cancelled` says."""

    interrupt = "interrupt"
    rollback = "rollback"
    shutdown = "shutdown"
    task_cancelled = "task_cancelled"


class AgentStanding(StrEnum):
    """Where the agent of a run stands that is executed."""

    goes_on = "goes_on"
    """It has not come to its end, whether it shall or not."""
    stopped = "stopped"
    """It has, since it was told to: what is left is to tell of that."""
    finished = "finished"
    """The same, by itself, before anybody wanted that."""


class FailureReason(StrEnum):
    """What a run failed of where it was no exception: the `error_type` of its end."""

    budget_exceeded = "budget_exceeded"
    """It had used more than it may, and was stopped."""
    worker_lost = "worker_lost"
    """Its process went away."""
    process_crashed = "process_crashed"
    """The process that it had for itself crashed, or was left by its agent."""
    memory_limit = "memory_limit"
    """The process that it had for itself had more memory than it may, and was ended."""
    stuck = "stuck"
    """It had used more than it may and did not stop, so the process that it had for itself was ended."""


class _Asked(msgspec.Struct, frozen=True):
    """The part of a `RunSpec` that may go without names: the agent, and what it is given."""

    agent: Any
    input: Any = None


ON_BEHALF_OF: Final = "on_behalf_of"
"""Among the options of a run that another has started, and that says nobody itself: on whose behalf that one was. It is kept
with the rest of what is asked for, and no thread becomes anybody's by it.
"""
OF_USERS: Final = "langgraph_auth_"
"""With this begins what a config's `configurable` says of who asks, as graphs look for it that know LangGraph's server."""
USER: Final = f"{OF_USERS}user"
"""Under this it has him: an object with his `identity`, and whatever the authentication says of him besides."""
USER_ID: Final = f"{USER}_id"
"""And under this his `identity` alone."""
USER_PERMISSIONS: Final = f"{OF_USERS}permissions"
"""And under this the names of what he may do, as the authentication says them."""


class RunSpec(_Asked, frozen=True, kw_only=True):
    """A request for a run.

    * `agent` is a name that the manager knows, or an agent object.
    * `command` takes the place of `input`: `{"resume": answer}`, for LangGraph also `update` and `goto`. An answer that
      names no question answers the one that is open when the run is asked for. A run that answers what nobody asks
      fails; with `strict_resume` it fails as `UnknownInterruptError`, by which LangGraph's clients recognise it.
    * `stream_mode` lists what the agent should stream besides its lifecycle.
    * `durability` is LangGraph's: when checkpoints are written (`sync`, `async`, `exit`).
    * `timeout` (seconds) and the budgets (`max_tokens`, `max_cost_usd`, `max_llm_calls`, `max_tool_calls`) end the run
      when they are used up; None means what the agent's `AgentLimits` say.
    * `max_attempts` is how often the run is tried in all if its worker is lost or shut down. Each further attempt is a
      run of its own: `attempt` and `retry_of` say which attempt it is, and of which run.

    `multitask` says what happens if the thread is busy; with `after_seconds` the run takes its place on the thread only
    after that time. Until it is due, it holds up nobody. `reject` refuses a run because of runs that hold the thread or
    wait for it, but never a run with `after_seconds`, which waits instead. With `interrupt` and `rollback`, those runs
    make room when the new one takes its place. Runs that are not due make room at once, even for a run that is itself
    for later.

    `owner` is on whose behalf the run is asked for. A thread belongs to the owner of its first run; for other owners
    there is no such thread (`UnknownThreadError`). Without an owner, a run may use every thread, and a new thread is
    nobody's. A coordinator with a store sees to this and to the following, in the step that lets the run in:

    * With `any_owner` the thread may be anybody's, and stays theirs.
    * With `thread_exists` the run is refused if its thread does not exist yet.
    * With `thread_ends` a new thread is gone for everybody when its last run has ended; the log keeps what happened.
    * `thread_metadata` is the metadata of a new thread.
    * With `thread_ttl` the thread, new or not, is removed that many minutes later.

    `options` is what the app wants to know again about the request. The harness adds one thing: if another run started
    this one, and this one names no owner, it adds on whose behalf that run was.
    """

    # A frozen data class with as many fields takes sixty times as long to make, and there is one spec for each run.

    thread_id: str | None = None
    run_id: str | None = None
    metadata: Mapping[str, Any] | None = None
    config: Mapping[str, Any] | None = None
    context: Any = None
    command: Mapping[str, Any] | None = None
    multitask: MultitaskStrategy | str = MultitaskStrategy.enqueue
    timeout: float | None = None
    max_tokens: int | None = None
    max_cost_usd: float | None = None
    max_llm_calls: int | None = None
    max_tool_calls: int | None = None
    max_attempts: int | None = None
    attempt: int = 1
    retry_of: str | None = None
    after_seconds: float | None = None
    idempotency_key: str | None = None
    parent_run_id: str | None = None
    trigger: str | None = None
    stream_mode: Sequence[str] | str = ("values",)
    stream_subgraphs: bool = False
    interrupt_before: Sequence[str] | str | None = None
    interrupt_after: Sequence[str] | str | None = None
    durability: str | None = None
    strict_resume: bool = False
    owner: str | None = None
    any_owner: bool = False
    thread_exists: bool = False
    thread_ends: bool = False
    thread_metadata: Mapping[str, Any] | None = None
    thread_ttl: float | None = None
    options: Mapping[str, Any] | None = None


def _as_of_a_data_class(kind: type[msgspec.Struct]) -> dict[str, Field[Any]]:
    """The fields of a struct as `dataclasses` looks for them."""
    fields = [
        (one.name, one.type, field() if one.required else field(default=one.default))
        for one in msgspec.structs.fields(kind)
    ]
    return {one.name: one for one in fields_of(make_dataclass(kind.__name__, fields))}


# What callers make counts as a data class: `replace`, `fields` and `asdict` of `dataclasses` take a spec, too.
RunSpec.__dataclass_fields__ = _as_of_a_data_class(RunSpec)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentLimits:
    """What each run of one agent may use, unless the run's spec says otherwise; None: no limit.

    A spec cannot change `max_running`; as with the manager's, runs started by runs come on top.
    """

    max_running: int | None = None
    """How many of the agent's runs execute at once in a process."""
    timeout: float | None = None
    """Seconds after which a run ends as `timeout`."""
    max_tokens: int | None = None
    """How many tokens a run may use."""
    max_cost_usd: float | None = None
    """What the model calls of a run may cost, in US dollars."""
    max_llm_calls: int | None = None
    """How many model calls a run may make."""
    max_tool_calls: int | None = None
    """How many tool calls a run may make."""
    max_attempts: int = 1
    """How many times a run is tried in all, if its process is lost or shut down."""


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about a run right now. Times are aware UTC."""

    # A struct, as `RunSpec`, because of the time it takes to make one.

    run_id: str
    thread_id: str
    agent: str
    status: RunStatus
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    metadata: Mapping[str, Any] = msgspec.field(default_factory=dict)
    multitask: MultitaskStrategy = MultitaskStrategy.enqueue
    due_at: datetime | None = None
    """The earliest time at which a run with `after_seconds` may start."""
    parent_run_id: str | None = None
    trigger: str | None = None
    attempt: int = 1
    retry_of: str | None = None
    """The run of which this one is another attempt."""
    cancel_requested: CancelAction | None = None
    stuck_since: datetime | None = None
    """Since when the agent has kept running after it was cancelled; the run still has its place and its thread."""
    error: str | None = None
    title: str | None = None
    completion_data: Mapping[str, Any] = msgspec.field(default_factory=dict)
