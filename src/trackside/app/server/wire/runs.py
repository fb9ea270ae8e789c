"""Runs on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from trackside.app.server.wire.assistants import assistant_id_of
from trackside.app.storage import StoredRun
from trackside.harness.types import RunRecord, RunStatus

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


class CheckpointRef(Struct, forbid_unknown_fields=True):
    """A checkpoint of a thread, as clients name it."""

    thread_id: str | None = None
    checkpoint_ns: str | None = None
    checkpoint_id: str | None = None
    checkpoint_map: dict[str, Any] | None = None


class Command(Struct, forbid_unknown_fields=True):
    """What a run brings instead of an input."""

    resume: Any = UNSET
    update: Any = UNSET
    goto: Any = UNSET


class RunCreate(Struct, forbid_unknown_fields=True):
    """What a client asks for. What is left out, or null, has its default."""

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
    ttl: Any = None


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


_ON_THE_WIRE = {RunStatus.interrupted: "success", RunStatus.cancelled: "interrupted"}


def status_of(status: RunStatus) -> str:
    """The word that clients know for a run's status: one that waits for a human has succeeded, its thread says more."""
    return _ON_THE_WIRE.get(status, status.value)


def run_on_wire(run: RunRecord | StoredRun, request: Mapping[str, Any] | None = None) -> Run:
    """A run as clients see it, with what was asked for, if that is known."""
    asked = request or {}
    multitask = asked.get("multitask") or getattr(run, "multitask", None) or "enqueue"
    return Run(
        run_id=run.run_id,
        thread_id=run.thread_id,
        assistant_id=assistant_id_of(run.agent or ""),
        created_at=run.created_at,
        updated_at=run.ended_at or run.started_at or run.created_at,
        status=status_of(run.status),
        metadata=run.metadata,
        multitask_strategy=str(multitask),
        kwargs=UNSET if request is None else _kwargs(asked),
    )


def _kwargs(asked: Mapping[str, Any]) -> dict[str, Any]:
    names = ("input", "command", "config", "context", "stream_mode", "interrupt_before", "interrupt_after")
    return {name: asked[name] for name in names if asked.get(name) is not None}
