"""What can be said of a subscription: which events it wants, where it stands, what it could not handle."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal, Self

from sqlalchemy import ColumnElement, exists

from trackside.app.storage._rows.arguments import AnyOf, name_of
from trackside.app.storage._rows.records import StoredEvent
from trackside.app.storage._rows.tables import events, runs
from trackside.app.storage.errors import InvalidSubscriptionError
from trackside.harness.types import LifecycleEventType

_MAX_NUMBER = 2**63 - 1
_ERROR_CHARS = 2_000

type Start = Literal["beginning", "now"] | int
"""Where a subscription begins: with the oldest event that there is, with the next one that comes, or after a position."""

_NAMED_STARTS: Final[Mapping[str, Start]] = {"beginning": "beginning", "now": "now"}


class OnFailure(StrEnum):
    """What becomes of an event that keeps failing."""

    park = "park"
    """It is put aside, where operators can see it and have it tried again, and the next ones are handled."""
    block = "block"
    """It is tried again for ever, and nothing overtakes it."""


class SubscriptionState(StrEnum):
    """Whether a subscription goes on or is paused."""

    active = "active"
    paused = "paused"


class ParkedState(StrEnum):
    """Whether a parked event waits for somebody to decide, or for the consumer to try it again."""

    parked = "parked"
    retry = "retry"


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionFilter:
    """Which events a subscription wants; None wants all.

    Only what never changes for an event can be chosen. If events were chosen by a run's status, which moves on, they
    would not be the same another time (I27).
    """

    types: tuple[LifecycleEventType, ...] | None = None
    run_id: str | None = None
    thread_id: str | None = None
    agent: str | None = None

    @classmethod
    def of(
        cls,
        *,
        types: AnyOf[LifecycleEventType] | None = None,
        run_id: str | None = None,
        thread_id: str | None = None,
        agent: str | None = None,
    ) -> Self:
        """Make a filter of what callers pass.

        Raises:
            InvalidSubscriptionError: a value does not fit; the message names it.
        """
        for field, value in (("run_id", run_id), ("thread_id", thread_id), ("agent", agent)):
            if value is not None:
                check_text(field, value)
        return cls(
            types=None if types is None else _types(types),
            run_id=run_id,
            thread_id=thread_id,
            agent=agent,
        )

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """The filter in what `to_json` made."""
        types = stored.get("types")
        return cls(
            types=None if types is None else tuple(map(LifecycleEventType, types)),
            run_id=stored.get("run_id"),
            thread_id=stored.get("thread_id"),
            agent=stored.get("agent"),
        )

    def to_json(self) -> dict[str, Any]:
        """The filter as JSON; two filters that want the same events look the same."""
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if name == "types" else value for name, value in said.items() if value is not None}

    def conditions(self) -> list[ColumnElement[bool]]:
        """The conditions for the rows of the events that it wants."""
        conditions: list[ColumnElement[bool]] = []
        if self.types is not None:
            conditions.append(events.c.event_type.in_([kind.value for kind in self.types]))
        if self.run_id is not None:
            conditions.append(events.c.run_id == self.run_id)
        if self.thread_id is not None:
            conditions.append(events.c.thread_id == self.thread_id)
        if self.agent is not None:
            # The expression hides the index of agents: the run of each event is looked at, in the order of the log.
            conditions.append(exists().where(runs.c.run_id == events.c.run_id, runs.c.agent.concat("") == self.agent))
        return conditions


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A subscription as it stands. Times are aware UTC."""

    name: str
    filter: SubscriptionFilter
    on_failure: OnFailure
    state: SubscriptionState
    cursor: int
    """All events up to this position were handled, are parked, or are not wanted."""
    behind: int
    """How many positions the log has after the cursor, wanted or not."""
    oldest_at: datetime | None
    """When the first event after the cursor occurred, wanted or not; None if there is none."""
    parked: int
    """How many events are parked."""
    last_parked_at: datetime | None = None
    """When the last of them was parked, or tried once more in vain; None if there are none.

    By the clock of the process that parked it: passed as `until`, it decides on just those that are counted here.
    """
    to_retry: int = 0
    """How many of them are to be tried again."""
    consumer: str | None
    """Who reads it now; None if nobody has a lease."""
    failures: int
    """How often in a row the last failing event has failed, or found its receiver away; 0 once more is handled."""
    last_error: str | None
    last_error_at: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedEvent:
    """An event that a subscription could not handle, and what the last try of it raised."""

    stored: StoredEvent
    state: ParkedState
    attempts: int
    error: str
    parked_at: datetime


@dataclass(frozen=True, slots=True)
class Batch:
    """The next events, in order. Up to position `through` no others are wanted.

    `at_end` says that the log had no more when it was read.
    """

    events: tuple[StoredEvent, ...]
    through: int
    at_end: bool


def check_text(field: str, value: Any) -> str:
    """A text that names something.

    Raises:
        InvalidSubscriptionError: it is not such a text.
    """
    return name_of(field, value, InvalidSubscriptionError)


def check_number(field: str, value: Any, *, least: int = 0) -> int:
    """A whole number that a database can have.

    Raises:
        InvalidSubscriptionError: it is not such a number.
    """
    if type(value) is not int or not least <= value <= _MAX_NUMBER:
        raise InvalidSubscriptionError(field=field, value=value, why=f"it is a whole number from {least} up")
    return value


def check_start(field: str, value: Any) -> Start:
    """A place in the log that a subscription can begin at.

    Raises:
        InvalidSubscriptionError: it is not such a place.
    """
    if not isinstance(value, str):
        return check_number(field, value)
    if value not in _NAMED_STARTS:
        raise InvalidSubscriptionError(field=field, value=value, why='it is "beginning", "now", or a position')
    return _NAMED_STARTS[value]


def check_seconds(field: str, value: Any, *, least: float, most: float) -> float:
    """A number of seconds.

    Raises:
        InvalidSubscriptionError: it is not a number, or too few or too many.
    """
    if type(value) not in {int, float} or not least <= value <= most:
        why = f"it is a number of seconds from {least:g} to {most:g}"
        raise InvalidSubscriptionError(field=field, value=value, why=why)
    return float(value)


def kept_text(said: Any) -> str:
    """What is kept of an error message: its beginning, without what a database cannot hold."""
    text = str(said)[:_ERROR_CHARS].replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text.encode(errors="replace").decode()


def check_member[K: StrEnum](kinds: type[K], field: str, value: Any) -> K:
    """A member of an enumeration, from its value.

    Raises:
        InvalidSubscriptionError: there is no member with this value.
    """
    try:
        return kinds(value)
    except ValueError:
        raise InvalidSubscriptionError(field=field, value=value, why=f"it is one of {', '.join(kinds)}") from None


def _types(said: AnyOf[LifecycleEventType]) -> tuple[LifecycleEventType, ...]:
    listed: Collection[Any] = [said] if isinstance(said, str) else said
    known = ", ".join(LifecycleEventType)
    try:
        named = {LifecycleEventType(value) for value in listed}
    except (TypeError, ValueError):
        raise InvalidSubscriptionError(field="types", value=said, why=f"there are {known}") from None
    if not named:
        raise InvalidSubscriptionError(field="types", value=said, why=f"it names one at least, of {known}")
    return tuple(sorted(named))
