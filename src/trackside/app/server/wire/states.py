"""States of threads on the wire."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from trackside.app.server.failures import HttpError
from trackside.app.server.wire.runs import CheckpointRef
from trackside.harness.states import StateSnapshot
from trackside.harness.types import Json, JsonObject

type HistoryLimit = Annotated[int, Meta(ge=1, le=1_000)]

_VALUES = "values."


class ThreadTask(Struct, kw_only=True):
    """What a thread is about to do, waits for, or has failed at. `path` is LangGraph's path of what called for it."""

    id: str
    name: str
    path: Annotated[list[Any], Meta(extra_json_schema={"items": {}})]  # client generators ask for `items`
    error: str | None
    interrupts: list[JsonObject]
    checkpoint: JsonObject | None
    state: JsonObject | None
    result: Any


class ThreadState(Struct, kw_only=True):
    """The state of a thread, now or at a checkpoint. Only what was selected is there."""

    values: Any = UNSET
    next: list[str] | UnsetType = UNSET
    tasks: list[ThreadTask] | UnsetType = UNSET
    checkpoint: JsonObject | UnsetType = UNSET
    parent_checkpoint: JsonObject | UnsetType | None = UNSET
    metadata: JsonObject | UnsetType = UNSET
    created_at: str | UnsetType | None = UNSET
    interrupts: list[JsonObject] | UnsetType = UNSET


class StateQuery(Struct, forbid_unknown_fields=True):
    """Which state is wanted, and what of it: its fields, or `values.<key>`."""

    subgraphs: bool = False
    select: list[str] | None = None


class StateAt(Struct, forbid_unknown_fields=True):
    """Which checkpoint's state is wanted, and what of it: its fields, or `values.<key>`."""

    checkpoint: CheckpointRef
    subgraphs: bool | None = None
    select: list[str] | None = None


class HistoryQuery(Struct, forbid_unknown_fields=True):
    """Which states are wanted, by a browser."""

    limit: HistoryLimit = 10
    before: str | None = None


class PlaceInConfig(Struct):
    """What a config says of a checkpoint. The config may have other keys, too."""

    thread_id: str | None = None
    checkpoint_ns: str | None = None
    checkpoint_id: str | None = None
    checkpoint_map: dict[str, Any] | None = None


class Before(CheckpointRef, forbid_unknown_fields=True):
    """A checkpoint, given itself or as the config that leads to it."""

    configurable: PlaceInConfig | None = None

    @property
    def named(self) -> str | None:
        """The checkpoint's id."""
        if self.checkpoint_id is None and self.configurable is not None:
            return self.configurable.checkpoint_id
        return self.checkpoint_id


class HistorySearch(Struct, forbid_unknown_fields=True):
    """Which states to return, newest first: those older than `before`, with all of this metadata, of a checkpoint."""

    limit: HistoryLimit | None = None
    before: str | Before | None = None
    metadata: dict[str, Any] | None = None
    checkpoint: CheckpointRef | None = None
    select: list[str] | None = None


class StateChange(Struct, forbid_unknown_fields=True):
    """What a node is taken to have returned, at the newest state or at a checkpoint."""

    values: Any = None
    as_node: str | None = None
    checkpoint: CheckpointRef | None = None
    checkpoint_id: str | None = None


class StateChanged(Struct, kw_only=True):
    """The checkpoint of the new state. `configurable` is the same, for clients that go on with a config."""

    checkpoint: JsonObject
    configurable: JsonObject


def empty_state(thread_id: str, namespace: str) -> StateSnapshot:
    """The state of a thread on which nothing has run, or of an agent inside that has not run on it."""
    checkpoint = {"thread_id": thread_id, "checkpoint_ns": namespace, "checkpoint_id": None}
    return StateSnapshot(values={}, checkpoint=checkpoint, created_at=None)


def selected(state: StateSnapshot, select: Collection[str] | None) -> Mapping[str, Json]:
    """What was selected of a state; all of it if nothing was.

    Raises:
        HttpError: there is no such field.
    """
    whole = state.as_json()
    if not select:
        return whole
    keys = [name.removeprefix(_VALUES) for name in select if name.startswith(_VALUES)]
    fields = [name for name in select if not name.startswith(_VALUES)]
    if unknown := [name for name in fields if name not in whole]:
        why = f"select: a state has {', '.join(whole)}, and values.<key>, but no {', '.join(unknown):.200}"
        raise HttpError(status=422, detail=why)
    chosen = {name: whole[name] for name in fields}
    if keys and "values" not in chosen:
        chosen["values"] = _some_of(whole["values"], keys)
    return chosen


def _some_of(values: Json, keys: Sequence[str]) -> Json:
    return {key: values[key] for key in keys if key in values} if isinstance(values, dict) else values
