"""Crons on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from trackside.app.server.schedules import InvalidScheduleError
from trackside.app.server.wire.runs import RunCreate, StreamMode
from trackside.app.storage.crons import Cron, CronOrder
from trackside.harness.ids import assistant_id_of
from trackside.harness.payload import whole
from trackside.harness.types import JsonObject

type Moment = Annotated[datetime, Meta(description="ISO 8601; UTC if it has no offset")]
type OnCompleted = Literal["delete", "keep"]
type Multitask = Literal["reject", "enqueue", "interrupt", "rollback"]
type Durability = Literal["sync", "async", "exit"]
type SortBy = Literal["cron_id", "assistant_id", "thread_id", "created_at", "updated_at", "next_run_date", "end_time"]
type CronField = Literal[
    "cron_id",
    "assistant_id",
    "thread_id",
    "end_time",
    "schedule",
    "timezone",
    "created_at",
    "updated_at",
    "user_id",
    "payload",
    "next_run_date",
    "metadata",
    "now",
    "on_run_completed",
    "enabled",
    "disabled_because",
]

_ORDERS: Final[Mapping[SortBy, CronOrder]] = {
    "cron_id": "cron_id",
    "assistant_id": "agent",
    "thread_id": "thread_id",
    "created_at": "created_at",
    "updated_at": "updated_at",
    "next_run_date": "next_run_at",
    "end_time": "end_time",
}


class CronOptions(Struct, forbid_unknown_fields=True, kw_only=True):
    """What a cron asks for each time. What is left out, or null, has its default, or stays."""

    input: Any = None
    config: dict[str, Any] | None = None
    context: Any = None
    interrupt_before: str | list[str] | None = None
    interrupt_after: str | list[str] | None = None
    webhook: str | None = None
    stream_mode: StreamMode | list[StreamMode] | None = None
    stream_subgraphs: bool | None = None
    stream_resumable: bool | None = None
    durability: Durability | None = None


SHARED: Final = "shared_thread"
"""In the payload of a cron whose thread is not its owner's: an authorization handler lets the owner use it, or the
thread is nobody's, and the owner an admin.
"""
_NAMES: Final = CronOptions.__struct_fields__
_HANDLED: Final = ("input", "config", "context")


class CronCreate(CronOptions, forbid_unknown_fields=True, kw_only=True):
    """A cron to create: which assistant's runs it starts, when, and until when."""

    assistant_id: str
    schedule: str
    timezone: str | None = None
    end_time: Moment | None = None
    enabled: bool | None = None
    metadata: dict[str, Any] | None = None
    on_run_completed: OnCompleted | None = None
    multitask_strategy: Multitask | None = None
    checkpoint_during: bool | None = None


class CronUpdate(CronOptions, forbid_unknown_fields=True, kw_only=True):
    """What to change in a cron. Metadata is merged; an `end_time` that is null removes the one that is there."""

    schedule: str | None = None
    timezone: str | None = None
    end_time: Moment | UnsetType | None = UNSET
    enabled: bool | None = None
    metadata: dict[str, Any] | None = None
    on_run_completed: OnCompleted | None = None


class CronCount(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which crons to count."""

    assistant_id: str | None = None
    thread_id: str | None = None
    metadata: dict[str, Any] | None = None


class CronSearch(CronCount, forbid_unknown_fields=True, kw_only=True):
    """Which crons to return, and which page of them. `select` names the fields that are wanted."""

    enabled: bool | None = None
    limit: Annotated[int, Meta(ge=1, le=1_000)] | None = None
    offset: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    sort_by: SortBy | None = None
    sort_order: Literal["asc", "desc"] | None = None
    select: list[CronField] | None = None

    @property
    def order(self) -> CronOrder:
        """What the crons are sorted by."""
        return _ORDERS[self.sort_by or "created_at"]


class CronInfo(Struct, frozen=True, kw_only=True):
    """A cron, as clients see it. Times are ISO 8601."""

    cron_id: str
    assistant_id: str
    thread_id: str | None
    schedule: str
    timezone: str | None
    end_time: datetime | None
    enabled: bool
    disabled_because: str | None
    """Why it was disabled without anybody asking for it."""
    on_run_completed: OnCompleted | None
    payload: Mapping[str, Any]
    metadata: Mapping[str, Any]
    user_id: str | None
    next_run_date: datetime | None
    created_at: datetime
    updated_at: datetime


def cron_on_wire(cron: Cron) -> CronInfo:
    """A cron as clients see it."""
    return CronInfo(
        cron_id=cron.cron_id,
        assistant_id=assistant_id_of(cron.agent),
        thread_id=cron.thread_id,
        schedule=cron.schedule,
        timezone=cron.timezone,
        end_time=cron.end_time,
        enabled=cron.enabled,
        disabled_because=cron.disabled_because,
        on_run_completed=cron.on_run_completed,  # type: ignore[arg-type]  # nothing else is stored
        payload=cron.payload,
        metadata=cron.metadata,
        user_id=cron.owner,
        next_run_date=cron.next_run_at,
        created_at=cron.created_at,
        updated_at=cron.updated_at,
    )


def utc_of(when: datetime | None) -> datetime | None:
    """When a cron ends, in UTC; a time without an offset is in UTC already.

    Raises:
        InvalidScheduleError: there is no such time in UTC.
    """
    if when is None or when.tzinfo is None:
        return None if when is None else when.replace(tzinfo=UTC)
    try:
        return when.astimezone(UTC)
    except OverflowError:
        why = "in UTC its year is not 1 to 9999"
        raise InvalidScheduleError(field="end_time", value=when.isoformat(), why=why) from None


def payload_of(asked: CronCreate, thread_id: str | None, *, is_shared: bool = False) -> JsonObject:
    """What is stored of what a cron asks for; `is_shared` if its thread is not its owner's, who may use it."""
    payload = _options(asked, (*_NAMES, "assistant_id", "multitask_strategy", "checkpoint_during"))
    if thread_id is None:
        return payload
    return {**payload, "thread_id": thread_id, **({SHARED: True} if is_shared else {})}


def with_changes(cron: Cron, changes: CronUpdate) -> Cron:
    """A cron that asks for something else, or at other times; the caller works out when it is due."""
    changed = replace(
        cron,
        payload={**cron.payload, **_options(changes, _NAMES)},
        metadata={**cron.metadata, **whole(changes.metadata or {})},
    )
    for name in ("schedule", "timezone", "enabled", "on_run_completed"):
        if (value := getattr(changes, name)) is not None:
            changed = replace(changed, **{name: value})
    if changes.end_time is not UNSET:
        changed = replace(changed, end_time=utc_of(changes.end_time))
    return changed


def with_run(cron: Cron, before: Cron, asked: RunCreate) -> Cron:
    """A changed cron with what a handler made of what is new in it; what it made of the rest is there."""
    made = _options(asked, _HANDLED)
    new = {name for name in _HANDLED if cron.payload.get(name) != before.payload.get(name)}
    payload = {name: value for name, value in cron.payload.items() if name not in new}
    payload |= {name: value for name, value in made.items() if name in new}
    if cron.metadata == before.metadata:
        return replace(cron, payload=payload)
    return replace(cron, payload=payload, metadata={**before.metadata, **whole(asked.metadata or {})})


def is_more_than_switched(cron: Cron, before: Cron) -> bool:
    """Whether a cron's runs get something other than before, which an authorization handler may change."""
    was, now = ([one.metadata, *(one.payload.get(name) for name in _HANDLED)] for one in (before, cron))
    return was != now


def asked_of(cron: Cron) -> RunCreate:
    """What a client that starts a cron's run itself would ask for.

    Raises:
        msgspec.ValidationError: another version has stored what this one does not know.
    """
    options = {name: value for name, value in cron.payload.items() if name not in {"thread_id", SHARED}}
    options |= {"assistant_id": cron.agent, "metadata": dict(cron.metadata)}
    if cron.thread_id is None:
        options["on_completion"] = cron.on_run_completed or "delete"
    return msgspec.convert(options, RunCreate)


def _options(said: Struct, names: tuple[str, ...]) -> JsonObject:
    """The options that were given, as JSON."""
    named = {name: getattr(said, name) for name in names}
    options: JsonObject = whole({name: value for name, value in named.items() if value is not None})
    return options
