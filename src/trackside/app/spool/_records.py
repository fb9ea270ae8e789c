"""The lines of a spool's files: one record each, as JSON, with a checksum that tells a whole line from a torn one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, Self

import msgspec

from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.payload import MAX_CHARS, MAX_DEPTH, canonical_payload
from trackside.harness.types import LifecycleEventType

# More than any log keeps of a payload, so that only the log cuts anything, as if the event had never been here.
_MAX_CHARS = 8 * MAX_CHARS
_MAX_DEPTH = 3 * MAX_DEPTH


class DamagedLineError(ValueError):
    """A line is not what was written: it is torn, or somebody changed it."""


class SpooledEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event with the fields of the contract."""

    event_id: str
    event_type: LifecycleEventType
    run_id: str
    thread_id: str
    sequence: int
    occurred_at: datetime
    payload: dict[str, Any]

    @classmethod
    def of(cls, event: RunLifecycleEvent) -> Self:
        """The event in the form in which it is kept, its payload made canonical."""
        return cls(
            event_id=event.event_id,
            event_type=event.event_type,
            run_id=event.run_id,
            thread_id=event.thread_id,
            sequence=event.sequence,
            occurred_at=event.occurred_at,
            payload=canonical_payload(event.payload, max_chars=_MAX_CHARS, max_depth=_MAX_DEPTH),
        )

    def event(self) -> RunLifecycleEvent:
        """The event as it was."""
        return RunLifecycleEvent(
            self.event_id,
            self.event_type,
            self.run_id,
            self.thread_id,
            self.sequence,
            self.occurred_at,
            self.payload,
        )


class Waiting(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="waiting"):
    """Events that wait for the log, in order."""

    spooled_at: datetime
    events: tuple[SpooledEvent, ...]

    @property
    def thread_ids(self) -> set[str]:
        """The threads that the events are of."""
        return {event.thread_id for event in self.events}


class Done(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="done"):
    """Lines further up, by id, that need not be looked at again."""

    ids: tuple[str, ...]


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="refused"):
    """Events that the log will never take, and what it said."""

    refused_at: datetime
    reason: str
    spooled_at: datetime
    events: tuple[SpooledEvent, ...]


type Record = Waiting | Done | Refused


class _Line(msgspec.Struct, frozen=True):
    sha256: str
    record: msgspec.Raw


_encode = msgspec.json.Encoder().encode
_decode_line = msgspec.json.Decoder(_Line).decode
_decode_record = msgspec.json.Decoder(Waiting | Done | Refused).decode


def waiting(events: Sequence[RunLifecycleEvent], now: datetime) -> Waiting:
    """A record of these events."""
    return Waiting(spooled_at=now, events=tuple(SpooledEvent.of(event) for event in events))


def encode(record: Record) -> tuple[str, bytes]:
    """The id of a record, which is its checksum, and the line that holds it."""
    text = _encode(record)
    checksum = sha256(text).hexdigest()
    return checksum, b'{"sha256":"%b","record":%b}\n' % (checksum.encode(), text)


def decode(line: bytes) -> tuple[str, Record]:
    """The id and the record of a line.

    Raises:
        DamagedLineError: the line is not as it was written.
    """
    if not line.endswith(b"\n"):
        raise DamagedLineError("it ends in the middle")
    try:
        outer = _decode_line(line)
        if sha256(outer.record).hexdigest() != outer.sha256:
            raise DamagedLineError("its checksum does not fit")
        return outer.sha256, _decode_record(outer.record)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise DamagedLineError(str(exc)) from exc


def id_of_damaged(line: bytes) -> str:
    """What to call a line that has no id which could be trusted."""
    return sha256(line.rstrip(b"\n")).hexdigest()
