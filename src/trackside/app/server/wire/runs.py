"""Runs on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, get_args

from msgspec import UNSET, Meta, Struct, UnsetType

from trackside.app.server.wire.lifetimes import Minutes, Ttl
from trackside.app.storage import StoredRun
from trackside.app.streams.live_messages import BY_COMMAND
from trackside.harness.ids import assistant_id_of
from trackside.harness.questions import answers_said
from trackside.harness.types import OF_USERS, ON_BEHALF_OF, RunRecord, RunSpec, RunStatus

type StreamMode = Literal[
    "values",
    "updates",
    "messages",
    "messages-tuple",
    "custom",
    "events",
    "debug",
    "tasks",
    "checkpoints",
    "tools",
    "lifecycle",
]
STREAM_MODES: Final[frozenset[str]] = frozenset(get_args(StreamMode.__value__))
"""The modes that clients may ask for; each agent has some of them."""


class CheckpointRef(Struct, forbid_unknown_fields=True):
    """A checkpoint of a thread, as clients name it."""

    thread_id: str | None = None
    checkpoint_ns: str | None = None
    checkpoint_id: str | None = None
    checkpoint_map: dict[str, Any] | None = None


class Command(Struct, forbid_unknown_fields=True):
    """A command that a run brings. Beside it, the server reads no `input`; nor does it read `lg_name`, which
    JavaScript's `RemoteGraph` sends in each command.
    """

    resume: Any = UNSET
    update: Any = UNSET
    goto: Any = UNSET
    lg_name: Any = UNSET


class RunCreate(Struct, forbid_unknown_fields=True):
    """The run that a client asks for. A field that is left out, or null, has its default."""

    assistant_id: str
    input: Any = None
    command: Command | None = None
    config: dict[str, Any] | None = None
    context: Any = None
    metadata: dict[str, Any] | None = None
    checkpoint: CheckpointRef | None = None
    checkpoint_id: str | None = None
    stream_mode: StreamMode | list[StreamMode] | None = None
    stream_subgraphs: bool | None = None
    stream_resumable: bool | None = None
    interrupt_before: str | list[str] | None = None
    interrupt_after: str | list[str] | None = None
    multitask_strategy: Literal["reject", "enqueue", "interrupt", "rollback"] | None = None
    if_not_exists: Literal["reject", "create"] | None = None
    on_disconnect: Literal["continue", "cancel"] | None = None
    on_completion: Literal["delete", "keep"] | None = None
    after_seconds: float | None = None
    webhook: str | None = None
    durability: Literal["sync", "async", "exit"] | None = None
    checkpoint_during: bool | None = None
    feedback_keys: list[str] | None = None
    strict_resume: bool | None = None
    langsmith_tracer: dict[str, Any] | None = None
    ttl: Ttl | Minutes | None = None


class BatchedRun(RunCreate, forbid_unknown_fields=True):
    """One of several runs that are asked for at once."""

    thread_id: str | None = None
    """Of a thread that is there; left out: a thread of the run's own."""


_BATCH: Final = Meta(max_length=1_000)
"""How many runs may be asked for at once: one turn of the event loop looks at all of them."""

type Batch = Annotated[list[dict[str, Any]], _BATCH]
"""Several runs that are asked for at once, in whatever case their fields are."""
type DescribedBatch = Annotated[list[BatchedRun], _BATCH]


class Run(Struct, kw_only=True):
    """A run, as clients see it. Times are ISO 8601."""

    run_id: str
    thread_id: str
    assistant_id: str
    created_at: Any
    updated_at: Any
    status: str
    metadata: Mapping[str, Any]
    multitask_strategy: str
    kwargs: Mapping[str, Any] | UnsetType = UNSET


type CancelAction = Literal["interrupt", "rollback"]
type RunField = Literal[
    "run_id",
    "thread_id",
    "assistant_id",
    "created_at",
    "updated_at",
    "status",
    "metadata",
    "kwargs",
    "multitask_strategy",
    "cancel_reason",
]
type WireStatus = Literal["pending", "running", "success", "error", "timeout", "interrupted"]


class RunsQuery(Struct, forbid_unknown_fields=True):
    """Which runs of a thread. `select` names the fields that are wanted."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 10
    offset: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    status: WireStatus | None = None
    select: list[RunField] | None = None


class JoinQuery(Struct, forbid_unknown_fields=True):
    """How to wait for a run."""

    cancel_on_disconnect: bool = False


class StreamQuery(Struct, forbid_unknown_fields=True):
    """How to join a run's stream.

    `namespace` names the agents inside whose parts are wanted; empty is the one that runs. Without `past` it begins with
    what comes from now on, unless `Last-Event-ID` says where. `checkpoint_id` is what the client shows already, as
    `useStream` says it when a page is opened again; what came before is sent all the same.
    """

    cancel_on_disconnect: bool = False
    stream_mode: list[StreamMode | Literal[""]] | None = None
    namespace: list[str] | None = None
    checkpoint_id: str | None = None
    past: bool = True


class ThreadStreamQuery(Struct, forbid_unknown_fields=True):
    """What of a thread is wanted."""

    stream_mode: list[Literal["run_modes", "lifecycle", "state_update"]] | None = None


class CreateStreamQuery(Struct, forbid_unknown_fields=True):
    """Of which agents inside parts are wanted; empty is the one that runs."""

    namespace: list[str] | None = None


class CancelQuery(Struct, forbid_unknown_fields=True):
    """How to cancel."""

    wait: bool = False
    action: CancelAction = "interrupt"
    reason: str | None = None


class CancelManyQuery(Struct, forbid_unknown_fields=True):
    """How to cancel."""

    action: CancelAction = "interrupt"


MOST_IDS: Final = 10_000
"""How many runs or threads one request may name."""


class CancelMany(Struct, forbid_unknown_fields=True):
    """Which runs to stop: some of one thread, or all that have a status."""

    thread_id: str | None = None
    run_ids: Annotated[list[str], Meta(max_length=MOST_IDS)] | None = None
    status: Literal["pending", "running", "all"] | None = None


class RetryMany(Struct, forbid_unknown_fields=True):
    """Which runs to retry."""

    run_ids: Annotated[list[str], Meta(min_length=1, max_length=1_000)]


class RetriedRun(Struct, frozen=True, kw_only=True):
    """What became of one of several runs that were to be retried."""

    run_id: str
    new_run_id: str | None = None
    error: str | None = None
    """Why there is no new run."""


_ON_THE_WIRE = {RunStatus.interrupted: "success", RunStatus.cancelled: "interrupted"}
_ASKED: Final = (
    "input",
    "command",
    "config",
    "context",
    "stream_mode",
    "stream_subgraphs",
    "interrupt_before",
    "interrupt_after",
    "durability",
    "strict_resume",
    "after_seconds",
)


def status_of(status: RunStatus) -> str:
    """The word that clients know for a run's status: one that waits for a human has succeeded; its thread says more."""
    return _ON_THE_WIRE.get(status, status.value)


def statuses_meant(status: str) -> list[RunStatus]:
    """The statuses that clients mean by this word."""
    return [ours for ours in RunStatus if status_of(ours) == status]


def run_on_wire(
    run: RunRecord | StoredRun, request: Mapping[str, Any] | None = None, *, multitask: str | None = None
) -> Run:
    """A run as clients see it, with what was asked for, if that is known; else `multitask` says its strategy."""
    asked = request or {}
    multitask = asked.get("multitask") or multitask or getattr(run, "multitask", None) or "enqueue"
    return Run(
        run_id=run.run_id,
        thread_id=run.thread_id,
        assistant_id=assistant_id_of(run.agent or str(asked.get("agent", ""))),
        created_at=run.created_at,
        updated_at=run.ended_at or run.started_at or run.created_at,
        status=status_of(run.status),
        metadata=run.metadata,
        multitask_strategy=str(multitask),
        kwargs=UNSET if request is None else _kwargs(asked),
    )


def asked_of(spec: RunSpec) -> dict[str, Any]:
    """What was asked for, as it is kept (`Store.request_of`), for a run that has just been let in."""
    return {name: getattr(spec, name) for name in (*_ASKED, "multitask", "options")}


def config_shown(config: Any) -> Any:
    """A run's config without what the server has added for the agent about who asks, which is nobody else's business."""
    if not isinstance(config, Mapping) or not isinstance(own := config.get("configurable"), Mapping):
        return config
    return {**config, "configurable": {name: own[name] for name in own if not name.startswith(OF_USERS)}}


def request_shown(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What a run was asked for, without what the server keeps with it: who asks, a mark of how answers are addressed, and
    modes that no client may ask for.
    """
    shown = dict(asked)
    if isinstance(modes := shown.get("stream_mode"), list | tuple):
        shown["stream_mode"] = [mode for mode in modes if mode in STREAM_MODES]
    if "config" in shown:
        shown["config"] = config_shown(shown["config"])
    if isinstance(command := shown.get("command"), Mapping) and "resume" in command:
        shown["command"] = {**command, "resume": answers_said(command["resume"])}
    return shown


def said_of(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What a run was asked for, as a body that starts one says it; what was not said is left out."""
    # As inputs, 0 and false are as good as any, though they are equal in Python.
    values = {name: asked.get(name) for name in _ASKED}
    return {name: said for name, said in values.items() if said is not None and (said is not False or name == "input")}


def _kwargs(asked: Mapping[str, Any]) -> dict[str, Any]:
    options = asked.get("options") or {}
    shown = {name: value for name, value in options.items() if name not in {ON_BEHALF_OF, BY_COMMAND}}
    return {**request_shown(said_of(asked)), **shown}
