"""How times, JSON and events look in a database, and which events can be kept at all (I9)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from trackside.app.storage.errors import DamagedDatabaseError, InvalidEventError
from trackside.harness.admission import MAX_ID_BYTES, MAX_ID_CHARS, is_too_heavy
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.payload import MAX_CHARS, MAX_DEPTH, canonical_text
from trackside.harness.types import Json, LifecycleEventType

MAX_PAYLOAD_CHARS = 4 * MAX_CHARS
"""How much text one event keeps: more than our own emitter lets through, so its mark of a cut is never cut again."""

MAX_PAYLOAD_DEPTH = 2 * MAX_DEPTH
"""How deep one event may be nested: a part that our own emitter cut at its limit lies a little deeper in the whole."""

_TIME_CHARS = len("2026-01-31T09:30:00.123456")

_encode_json = msgspec.json.Encoder().encode
_encode_sorted_json = msgspec.json.Encoder(order="sorted").encode
_decode_json = msgspec.json.Decoder().decode


def time_text(when: datetime) -> str:
    """An aware time as UTC text that sorts like the time."""
    return _text_of_utc(when.astimezone(UTC))


class UndecodableError(ValueError):
    """A text that should be what a function of this module made, and is not."""


def undecodable(database: str, exc: UndecodableError) -> DamagedDatabaseError:
    """The error to raise where a database has such a text."""
    return DamagedDatabaseError(database=database, why=f"{exc} (`trackside db check --all` says where)")


def time_of(text: str) -> datetime:
    """The time in what `time_text` made.

    Raises:
        UndecodableError: it is something else.
    """
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError) as exc:
        raise UndecodableError(f"{text!r:.60} is not a time") from exc


def json_text(value: Json) -> str:
    """A canonical JSON value as compact text."""
    return _encode_json(value).decode()


def json_identity(value: Json) -> bytes:
    """What only canonical JSON values that are the same JSON have in common, whatever the order of their names.

    Python's own comparison does not tell: True == 1 == 1.0.
    """
    return _encode_sorted_json(value)


def json_of(text: str) -> Json:
    """The value in what `json_text` made.

    Raises:
        UndecodableError: it is something else.
    """
    try:
        return _decode_json(text)
    except (TypeError, msgspec.DecodeError) as exc:
        raise UndecodableError(f"{text!r:.60} is not JSON") from exc


class EventRow(msgspec.Struct, eq=False):
    """An event in the form in which it is stored; `position` is 0 until it has one.

    `run_created_at` is known where the event is written. `is_of_store` says that the store itself announces it, for a
    process that cannot: the observers of that process do not hear of it.
    """

    event: RunLifecycleEvent
    occurred_at: str
    payload: str
    position: int = 0
    run_created_at: str = ""
    is_of_store: bool = False

    def tells_the_same_as(self, other: EventRow) -> bool:
        """Whether the other row is this event once more, and not another one under the same id."""
        return self._content() == other._content()

    def _content(self) -> tuple[Any, ...]:
        event = self.event
        payload = json_identity(event.payload)
        return event.run_id, event.thread_id, event.sequence, event.event_type, self.occurred_at, payload


def encode_events(events: Iterable[RunLifecycleEvent]) -> list[EventRow]:
    """The events in the form in which they are stored, payloads made canonical.

    Raises:
        InvalidEventError: one of them is not an event, or has a field that cannot be kept; the message names it.
        PayloadError: a payload is not a mapping, or its own code failed while it was read.
    """
    return [_encode_event(event) for event in events]


def _encode_event(event: RunLifecycleEvent) -> EventRow:
    if not isinstance(event, RunLifecycleEvent):
        raise InvalidEventError(field="type", value=type(event).__name__, why="a store takes RunLifecycleEvent only")
    _check_id("event_id", event.event_id)
    _check_id("run_id", event.run_id)
    _check_id("thread_id", event.thread_id)
    if type(event.sequence) is not int or event.sequence < 1:
        raise InvalidEventError(field="sequence", value=event.sequence, why="sequence numbers are 1, 2, 3 …")
    occurred_at, written = _utc(event.occurred_at)
    payload, text = canonical_text(event.payload, max_chars=MAX_PAYLOAD_CHARS, max_depth=MAX_PAYLOAD_DEPTH)
    # A copy: what has been stored does not change with what the emitter still holds.
    kept = RunLifecycleEvent(
        event.event_id,
        _event_type(event.event_type),
        event.run_id,
        event.thread_id,
        event.sequence,
        occurred_at,
        payload,
    )
    return EventRow(kept, written, text)


def _check_id(field: str, value: Any) -> None:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_CHARS:
        raise InvalidEventError(field=field, value=value, why=f"an id is a text of 1 to {MAX_ID_CHARS} characters")
    if not is_plain_text(value):
        raise InvalidEventError(field=field, value=value, why="an id has neither NUL nor half characters in it")
    if is_too_heavy(value):
        raise InvalidEventError(field=field, value=value, why=f"an id has {MAX_ID_BYTES} bytes at most")


def is_plain_text(text: str) -> bool:
    """Whether every database can hold this text: no NUL and no half of a character in it."""
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _event_type(value: Any) -> LifecycleEventType:
    if type(value) is LifecycleEventType:
        return value
    try:
        return LifecycleEventType(value)
    except ValueError:
        known = ", ".join(LifecycleEventType)
        raise InvalidEventError(field="event_type", value=value, why=f"the types are {known}") from None


def _utc(when: Any) -> tuple[datetime, str]:
    """A time in UTC, and as text."""
    if type(when) is datetime and when.tzinfo is UTC:  # as our own harness tells it
        return when, _text_of_utc(when)
    if not isinstance(when, datetime) or when.utcoffset() is None:
        raise InvalidEventError(field="occurred_at", value=when, why="it is a datetime with a time zone")
    try:
        when = when.astimezone(UTC)
    except OverflowError:
        raise InvalidEventError(field="occurred_at", value=when, why="in UTC its year is not 1 to 9999") from None
    return when, _text_of_utc(when)


def _text_of_utc(when: datetime) -> str:
    return f"{when.isoformat(timespec='microseconds')[:_TIME_CHARS]}Z"
