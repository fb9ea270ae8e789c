"""What is sent for an event: the same bytes whenever it is sent again (I26)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from trackside.app.event_json import EventData, data_of, encode
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.payload import canonical_payload

__all__ = ["BodyTooLargeError", "BodyWriter", "Format"]


class Format(StrEnum):
    """What the body is."""

    trackside = "trackside"
    """`type`, `timestamp` and `data`, as Standard Webhooks recommends."""
    cloudevents = "cloudevents"
    """A CloudEvent 1.0 in structured mode, JSON; its `data` is the same."""


class _Message(msgspec.Struct, frozen=True):
    type: str
    timestamp: datetime
    data: EventData


class _Writer(Protocol):
    content_type: str

    def write(self, data: EventData) -> bytes: ...


class BodyTooLargeError(Exception):
    """An event does not fit even without its payload."""


class BodyWriter:
    """Writes events as bodies of at most `max_bytes`.

    Keys are sorted, so that equal events have equal bytes, wherever they were read from. A payload that does not fit
    is cut and marked as the harness does it (`… [truncated: n characters]`, and `"sanitized": true`), which also gives
    the same bytes each time.
    """

    def __init__(self, kind: Format, max_bytes: int) -> None:
        self._writer: _Writer = _CloudEvents() if kind is Format.cloudevents else _Trackside()
        self._max_bytes = max_bytes
        self.content_type = self._writer.content_type

    def write(self, event: RunLifecycleEvent) -> bytes | None:
        """The body for an event; None if the whole event does not fit."""
        body = self._writer.write(data_of(event))
        return body if len(body) <= self._max_bytes else None

    def cut(self, event: RunLifecycleEvent) -> bytes:
        """The body for an event that does not fit whole. This may take seconds for a payload with very many parts.

        Raises:
            BodyTooLargeError: its ids alone do not fit.
        """
        chars = self._max_bytes
        while chars:
            chars //= 2
            body = self._writer.write(data_of(event, canonical_payload(event.payload, max_chars=chars)))
            if len(body) <= self._max_bytes:
                return body
        raise BodyTooLargeError


class _Trackside:
    content_type = "application/json"

    def write(self, data: EventData) -> bytes:
        return encode(_Message(data.event_type, data.occurred_at, data))


class _CloudEvents:
    def __init__(self) -> None:
        try:
            from cloudevents.core.bindings.http import to_structured
            from cloudevents.core.formats.json import JSONFormat
            from cloudevents.core.v1.event import CloudEvent
        except ModuleNotFoundError as missing:
            raise ModuleNotFoundError(
                "CloudEvents need the package cloudevents: pip install 'trackside[webhook]'", name=missing.name
            ) from missing
        json_format = JSONFormat()
        self.content_type = json_format.get_content_type()
        self._body: Callable[[dict[str, Any], dict[str, Any]], bytes] = lambda attributes, data: (
            to_structured(CloudEvent(attributes, data), json_format).body
        )

    def write(self, data: EventData) -> bytes:
        attributes = {
            "specversion": "1.0",
            "id": data.event_id,
            "source": "/trackside",
            "type": f"trackside.{data.event_type}",
            "subject": data.run_id,
            "time": data.occurred_at,
            "datacontenttype": "application/json",
        }
        return self._body(attributes, msgspec.to_builtins(data, order="deterministic"))
