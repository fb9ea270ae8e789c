"""Threads on the wire."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from trackside.app.server.failures import HttpError
from trackside.app.server.wire.assistants import agent_of
from trackside.app.server.wire.lifetimes import Minutes, Ttl
from trackside.app.server.wire.runs import MOST_IDS, config_shown
from trackside.app.storage import StoredThread
from trackside.app.storage.threads import SortBy
from trackside.harness.ids import assistant_id_of
from trackside.harness.types import Json, JsonObject, ThreadStatus

type ThreadField = Literal[
    "thread_id",
    "created_at",
    "updated_at",
    "state_updated_at",
    "metadata",
    "config",
    "context",
    "status",
    "values",
    "interrupts",
    "error",
    "ttl",
]
type Status = Literal["idle", "busy", "interrupted", "error"]
type PathText = Annotated[str, Meta(max_length=1_000)]

GRAPH: Final = "graph_id"
ASSISTANT: Final = "assistant_id"
"""What clients call a thread's agent in its metadata."""

_MOST_PATHS = 10


class NodeUpdate(Struct, forbid_unknown_fields=True):
    """What a node is taken to have returned."""

    values: Any = None
    command: Any = None
    as_node: str | None = None


class Superstep(Struct, forbid_unknown_fields=True):
    """What several nodes are taken to have returned at once."""

    updates: list[NodeUpdate]


class ThreadCreate(Struct, forbid_unknown_fields=True):
    """A thread to create."""

    thread_id: str | None = None
    metadata: dict[str, Any] | None = None
    if_exists: Literal["raise", "do_nothing"] | None = None
    ttl: Ttl | Minutes | None = None
    supersteps: list[Superstep] | None = None


class ThreadChange(Struct, forbid_unknown_fields=True):
    """What to change in a thread. Metadata is added to what the thread has."""

    metadata: dict[str, Any] | None = None
    ttl: Ttl | Minutes | None = None


class ThreadGet(Struct, forbid_unknown_fields=True):
    """What of a thread is wanted besides the usual: `ttl`, which is there anyway."""

    include: list[Literal["ttl", ""]] | None = None


class ThreadCount(Struct, forbid_unknown_fields=True):
    """Which threads to count. The thread's metadata and values must contain these."""

    metadata: dict[str, Any] | None = None
    values: dict[str, Any] | None = None
    status: Status | None = None
    ids: Annotated[list[str], Meta(max_length=MOST_IDS)] | None = None


class ThreadSearch(ThreadCount, forbid_unknown_fields=True):
    """Which threads to return, what of them, and in which order."""

    limit: Annotated[int, Meta(ge=1, le=1_000)] = 10
    offset: Annotated[int, Meta(ge=0, le=2_147_483_647)] = 0
    sort_by: SortBy | None = None
    sort_order: Literal["asc", "desc"] | None = None
    select: list[ThreadField] | None = None
    extract: Annotated[dict[str, PathText], Meta(max_length=_MOST_PATHS)] | None = None


class ThreadPrune(Struct, forbid_unknown_fields=True):
    """Which threads to remove, or of which to keep only the latest state."""

    thread_ids: Annotated[list[str], Meta(max_length=MOST_IDS)]
    strategy: Literal["delete", "keep_latest"] = "delete"


class Pruned(Struct):
    """How many threads were pruned."""

    pruned_count: int


class LastError(Struct):
    """What a thread's last run failed with."""

    error: str
    message: str


class Thread(Struct, kw_only=True):
    """A thread, as clients see it. Times are ISO 8601. Only what was selected is there."""

    thread_id: str | UnsetType = UNSET
    created_at: datetime | UnsetType = UNSET
    updated_at: datetime | UnsetType = UNSET
    state_updated_at: datetime | UnsetType = UNSET
    metadata: JsonObject | UnsetType = UNSET
    status: Status | UnsetType = UNSET
    config: JsonObject | UnsetType = UNSET
    context: JsonObject | UnsetType = UNSET
    values: Any = UNSET
    interrupts: dict[str, list[JsonObject]] | UnsetType = UNSET
    error: LastError | UnsetType | None = UNSET
    ttl: JsonObject | UnsetType = UNSET
    extracted: JsonObject | UnsetType = UNSET


class ThreadView(Struct, frozen=True, kw_only=True):
    """What is shown of a thread besides its row."""

    values: Json = None
    interrupts: Mapping[str, Sequence[Mapping[str, Any]]] = {}
    config: Mapping[str, Any] = {}
    error: LastError | None = None
    is_held: bool = False
    """Whether a run has it, which may not have started yet."""


def thread_on_wire(thread: StoredThread, view: ThreadView, select: Collection[str] | None = None) -> Thread:
    """A thread as clients see it, or what is selected of it."""
    shown = Thread(
        thread_id=thread.thread_id,
        created_at=thread.created_at,
        updated_at=thread.updated_at,
        state_updated_at=thread.updated_at,
        metadata=metadata_shown(thread),
        status=ThreadStatus.busy.value if view.is_held else thread.status.value,
        config=dict(config_shown(view.config)),
        context={},
        values=view.values,
        interrupts={task: [dict(one) for one in interrupts] for task, interrupts in view.interrupts.items()},
        error=view.error,
        ttl=_ttl(thread),
    )
    if select is None:
        return shown
    return Thread(**{name: getattr(shown, name) for name in select})


def metadata_shown(thread: StoredThread) -> JsonObject:
    """What clients and handlers find in a thread's metadata: their own, and which agent it had last."""
    if thread.agent is None:
        return dict(thread.metadata)
    return {**thread.metadata, GRAPH: thread.agent, ASSISTANT: assistant_id_of(thread.agent)}


def _ttl(thread: StoredThread) -> JsonObject | UnsetType:
    if thread.expires_at is None:
        return UNSET
    return {"strategy": "delete", "ttl_minutes": thread.ttl_minutes, "expires_at": thread.expires_at.isoformat()}


def agent_meant(metadata: Mapping[str, Any] | None, agents: Collection[str]) -> str | None:
    """The agent that metadata name, by its name or by its assistant's id."""
    said = metadata or {}
    if isinstance(name := said.get(GRAPH), str):
        return name
    return agent_of(said[ASSISTANT], agents) if isinstance(said.get(ASSISTANT), str) else None


def agents_saying(metadata: Mapping[str, Any], agents: Collection[str]) -> dict[str, list[str]]:
    """Those of these metadata that a thread has because of its agent, and which agents give them."""
    said: dict[str, list[str]] = {}
    if GRAPH in metadata:
        said[GRAPH] = [metadata[GRAPH]] if isinstance(metadata[GRAPH], str) else []
    if ASSISTANT in metadata:
        said[ASSISTANT] = [agent for agent in agents if assistant_id_of(agent) == metadata[ASSISTANT]]
    return said


_STEP: Final = re.compile(r"\.?([^.\[\]]+)|\[(-?\d{1,9})\]")


class JsonPath:
    """The path of something in a thread, as `values.messages[-1].content`.

    Raises:
        HttpError: it is no path.
    """

    def __init__(self, text: str) -> None:
        self._steps: list[str | int] = []
        place = 0
        while place < len(text):
            step = _STEP.match(text, place)
            if step is None or (place == 0 and not step[1]):
                raise HttpError(
                    status=422, detail=f"extract: {text!r:.120} is not a path, as values.messages[-1].content"
                )
            self._steps.append(step[1] if step[2] is None else int(step[2]))
            place = step.end()
        if not self._steps or self._steps[0] not in Thread.__struct_fields__:
            raise HttpError(status=422, detail=f"extract: {text!r:.120} does not begin with a field of a thread")

    @property
    def field(self) -> str:
        """The field of the thread that it is in."""
        return str(self._steps[0])

    def of(self, thread: JsonObject) -> Json:
        """What is there; None if nothing is."""
        found: Any = thread
        for step in self._steps:
            if found is None:
                break
            if isinstance(step, str):
                found = found.get(step) if isinstance(found, dict) else None
            else:
                is_there = isinstance(found, list) and -len(found) <= step < len(found)
                found = found[step] if is_there else None
        return found


def with_extracts(thread: Thread, whole: Thread, paths: Mapping[str, JsonPath]) -> Thread:
    """The thread, with what these paths name in the whole one."""
    fields = msgspec.to_builtins(whole)
    thread.extracted = {name: path.of(fields) for name, path in paths.items()}
    return thread
